//! Real clients that encrypt: matrix-sdk publishes its keys, verifies itself and others with cross-signing, and talks
//! in encrypted rooms, also to devices that come later.

use matrix_sdk::{
    Client,
    encryption::CrossSigningResetAuthType,
    room::MessagesOptions,
    ruma::{
        OwnedRoomId, UserId,
        api::client::{
            room::create_room::v3::{Request as CreateRoomRequest, RoomPreset},
            uiaa,
        },
        events::{
            EmptyStateKey, InitialStateEvent,
            room::{encryption::RoomEncryptionEventContent, message::RoomMessageEventContent},
        },
    },
};

use crate::{
    sdk::{client, register, sync},
    support::{Server, password},
};

/// Another device of somebody.
async fn log_in(server: &Server, name: &str) -> Client {
    let client = client(server).await;
    client.matrix_auth().login_username(name, &password(name)).send().await.expect("log in");
    client
}

fn me(client: &Client) -> &UserId {
    client.user_id().expect("logged in")
}

async fn create_encrypted_room(client: &Client, invite: &[&Client]) -> OwnedRoomId {
    let mut request = CreateRoomRequest::new();
    request.preset = Some(RoomPreset::PrivateChat);
    request.invite = invite.iter().map(|other| me(other).to_owned()).collect();
    let content = RoomEncryptionEventContent::with_recommended_defaults();
    request.initial_state = vec![InitialStateEvent::new(EmptyStateKey, content).to_raw_any()];
    client.create_room(request).await.expect("room").room_id().to_owned()
}

async fn say(client: &Client, room: &OwnedRoomId, text: &str) {
    let room = client.get_room(room).expect("room");
    assert!(room.latest_encryption_state().await.expect("state").is_encrypted());
    room.send(RoomMessageEventContent::text_plain(text)).await.expect("send");
}

/// What a client can read of a room, and how many events it can't.
async fn reads(client: &Client, room: &OwnedRoomId) -> (String, usize) {
    let room = client.get_room(room).expect("room");
    let mut options = MessagesOptions::backward();
    options.limit = 100u32.into();
    let messages = room.messages(options).await.expect("messages");
    let mut text = String::new();
    let mut unreadable = 0;
    for event in messages.chunk {
        unreadable += usize::from(event.kind.is_utd());
        text.push_str(event.raw().json().get());
    }
    (text, unreadable)
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_messages_are_read_by_those_who_are_there() {
    let mut server = Server::start();
    let (alice, bob) = (register(&server, "alice").await, register(&server, "bob").await);
    for client in [&alice, &bob] {
        sync(client).await;
        client.encryption().bootstrap_cross_signing(None).await.expect("the first keys need no password");
        sync(client).await;
    }
    let room = create_encrypted_room(&alice, &[&bob]).await;
    sync(&bob).await;
    bob.get_room(&room).expect("invited").join().await.expect("join");
    for client in [&bob, &alice, &bob] {
        sync(client).await;
    }
    say(&alice, &room, "to the reef").await;
    say(&bob, &room, "on my way").await;
    for client in [&alice, &bob] {
        sync(client).await;
        let (text, unreadable) = reads(client, &room).await;
        assert!(text.contains("to the reef") && text.contains("on my way"), "{text}");
        assert_eq!(unreadable, 0);
    }

    // Bob's new device is told to Alice, who gives it the keys of what she says from then on.
    let tablet = log_in(&server, "bob").await;
    sync(&tablet).await;
    sync(&alice).await;
    let seen = alice.encryption().get_user_devices(me(&bob)).await.expect("devices");
    assert_eq!(seen.devices().count(), 2);
    say(&alice, &room, "welcome, tablet").await;
    sync(&tablet).await;
    let (text, unreadable) = reads(&tablet, &room).await;
    assert!(text.contains("welcome, tablet") && !text.contains("to the reef"), "{text}");
    assert_eq!(unreadable, 2, "what was said before it came");

    // A crash loses no keys, and no message to a device.
    server.kill();
    server.restart();
    let phone = log_in(&server, "alice").await;
    sync(&phone).await;
    say(&phone, &room, "from my phone").await;
    server.kill();
    server.restart();
    sync(&tablet).await;
    let (text, unreadable) = reads(&tablet, &room).await;
    assert!(text.contains("from my phone"), "{text}");
    assert_eq!(unreadable, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_are_verified_by_signatures() {
    let server = Server::start();
    let (alice, bob) = (register(&server, "alice").await, register(&server, "bob").await);
    for client in [&alice, &bob] {
        sync(client).await;
        client.encryption().bootstrap_cross_signing(None).await.expect("the first keys need no password");
        sync(client).await;
    }
    let own = alice.encryption().get_own_device().await.expect("store").expect("a device");
    assert!(own.is_cross_signed_by_owner());
    let room = create_encrypted_room(&alice, &[&bob]).await;
    sync(&bob).await;
    bob.get_room(&room).expect("invited").join().await.expect("join");
    sync(&alice).await;
    let bobs = alice.encryption().request_user_identity(me(&bob)).await.expect("query").expect("an identity");
    assert!(!bobs.is_verified());
    bobs.verify().await.expect("signed");
    let bobs = alice.encryption().request_user_identity(me(&bob)).await.expect("query").expect("an identity");
    assert!(bobs.is_verified(), "the server gives Alice her signature back");
    let alices = bob.encryption().request_user_identity(me(&alice)).await.expect("query").expect("an identity");
    assert!(!alices.is_verified());

    // Bob begins anew, with his password; Alice sees that it isn't who she verified.
    let reset = bob.encryption().reset_cross_signing().await.expect("answer").expect("the password is asked for");
    let CrossSigningResetAuthType::Uiaa(asked) = reset.auth_type() else { panic!("user-interactive") };
    let mut auth = uiaa::Password::new(me(&bob).to_owned().into(), password("bob"));
    auth.session = asked.session.clone();
    reset.auth(Some(uiaa::AuthData::Password(auth))).await.expect("with the password");
    sync(&alice).await;
    let bobs = alice.encryption().request_user_identity(me(&bob)).await.expect("query").expect("an identity");
    assert!(!bobs.is_verified() && bobs.has_verification_violation());
}
