//! Real clients that encrypt: matrix-sdk, and vodozemac where a client would hide what is looked at.

mod attachments;
mod crash;
mod olm;
mod recovery;
mod rooms;
mod verification;

use matrix_sdk::{
    Client,
    deserialized_responses::ProcessedToDeviceEvent,
    room::MessagesOptions,
    ruma::{
        OwnedEventId, OwnedRoomId, UserId,
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
    sdk::{client, sync},
    support::{Server, password},
};

/// How many syncs clients may take until they agree on something.
const SYNCS_MAX: usize = 10;

/// Another device of somebody.
async fn log_in(server: &Server, name: &str, device: &str) -> Client {
    let client = client(server).await;
    client.matrix_auth().login_username(name, &password(name)).device_id(device).send().await.expect("log in");
    sync(&client).await;
    client
}

/// Gives a user cross-signing keys; the first ones need no password.
async fn bootstrap(client: &Client) {
    sync(client).await;
    client.encryption().bootstrap_cross_signing(None).await.expect("the first keys need no password");
    sync(client).await;
}

fn me(client: &Client) -> &UserId {
    client.user_id().expect("logged in")
}

/// The password of a user, as an answer to being asked for it.
fn by_password(client: &Client, password: &str, session: Option<String>) -> uiaa::AuthData {
    let mut auth = uiaa::Password::new(me(client).to_owned().into(), password.to_owned());
    auth.session = session;
    uiaa::AuthData::Password(auth)
}

/// Encryption as clients set it up.
fn usual() -> RoomEncryptionEventContent {
    RoomEncryptionEventContent::with_recommended_defaults()
}

/// Encryption with a new key for each message, so that each message sends one to every device.
fn rotating() -> RoomEncryptionEventContent {
    let mut content = usual();
    content.rotation_period_msgs = Some(1u32.into());
    content
}

/// A room of both users, known to the two devices given.
async fn encrypted_room(alice: &Client, bob: &Client, encryption: RoomEncryptionEventContent) -> OwnedRoomId {
    let mut request = CreateRoomRequest::new();
    request.preset = Some(RoomPreset::PrivateChat);
    request.invite = vec![me(bob).to_owned()];
    request.initial_state = vec![InitialStateEvent::new(EmptyStateKey, encryption).to_raw_any()];
    let room = alice.create_room(request).await.expect("room").room_id().to_owned();
    sync(bob).await;
    bob.get_room(&room).expect("invited").join().await.expect("join");
    for client in [bob, alice, bob] {
        sync(client).await;
    }
    room
}

async fn say(client: &Client, room: &OwnedRoomId, text: &str) -> OwnedEventId {
    let room = client.get_room(room).expect("room");
    assert!(room.latest_encryption_state().await.expect("state").is_encrypted());
    room.send(RoomMessageEventContent::text_plain(text)).await.expect("send").response.event_id
}

/// What a client can read of a room, oldest first, and how many events it can't.
async fn reads(client: &Client, room: &OwnedRoomId) -> (Vec<String>, usize) {
    let room = client.get_room(room).expect("room");
    let mut options = MessagesOptions::backward();
    options.limit = 100u32.into();
    let messages = room.messages(options).await.expect("messages");
    let mut texts = Vec::new();
    let mut unreadable = 0;
    for event in messages.chunk.iter().rev() {
        unreadable += usize::from(event.kind.is_utd());
        let Ok(Some(content)) = event.raw().get_field::<serde_json::Value>("content") else { continue };
        texts.extend(content["body"].as_str().map(str::to_owned));
    }
    (texts, unreadable)
}

/// What keys of rooms a sync brings, by the names of their sessions.
async fn sync_keys(client: &Client) -> Vec<String> {
    let settings = matrix_sdk::config::SyncSettings::new().timeout(std::time::Duration::ZERO);
    let answer = client.sync_once(settings).await.expect("sync");
    let mut sessions = Vec::new();
    for event in answer.to_device {
        let ProcessedToDeviceEvent::Decrypted { raw, .. } = event else { panic!("can't be read: {event:?}") };
        let content: serde_json::Value = raw.get_field("content").expect("JSON").expect("content");
        sessions.push(content["session_id"].as_str().expect("a key of a room").to_owned());
    }
    sessions
}
