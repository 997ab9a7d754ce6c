//! A real client: matrix-sdk registers, logs in, talks, and goes on from its old token after a restart.

use matrix_sdk::{
    Client, RoomState,
    authentication::matrix::MatrixSession,
    config::SyncSettings,
    room::{MessagesOptions, Receipts},
    ruma::{
        OwnedRoomId,
        api::client::{
            account::register::v3::Request as RegisterRequest,
            room::create_room::v3::{Request as CreateRoomRequest, RoomPreset},
            uiaa,
        },
        events::room::message::{ReplacementMetadata, RoomMessageEventContent, RoomMessageEventContentWithoutRelation},
    },
};

use crate::support::{REGISTRATION_TOKEN, Server, password};

pub async fn client(server: &Server) -> Client {
    Client::builder().homeserver_url(server.url()).build().await.expect("client")
}

pub async fn register(server: &Server, name: &str) -> Client {
    let client = client(server).await;
    let mut request = RegisterRequest::new();
    request.username = Some(name.to_owned());
    request.password = Some(password(name));
    let refused = client.matrix_auth().register(request.clone()).await.expect_err("a stage is asked for");
    let info = refused.as_uiaa_response().expect("user-interactive").clone();
    let mut stage = uiaa::RegistrationToken::new(REGISTRATION_TOKEN.to_owned());
    stage.session = info.session;
    request.auth = Some(uiaa::AuthData::RegistrationToken(stage));
    client.matrix_auth().register(request).await.expect("registered");
    client
}

pub async fn sync(client: &Client) {
    client.sync_once(SyncSettings::new().timeout(std::time::Duration::ZERO)).await.expect("sync");
}

/// Texts of all messages of a room that still have one, oldest first, edits in place of what they edit.
async fn history(client: &Client, room: &OwnedRoomId) -> String {
    let room = client.get_room(room).expect("room");
    let mut options = MessagesOptions::backward();
    options.limit = 100u32.into();
    let messages = room.messages(options).await.expect("messages");
    messages.chunk.iter().rev().map(|event| event.raw().json().get().to_owned()).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_talk_and_go_on_after_a_restart() {
    let mut server = Server::start();
    let alice = register(&server, "alice").await;
    let bob = {
        register(&server, "bob").await;
        let bob = client(&server).await;
        bob.matrix_auth().login_username("bob", &password("bob")).send().await.expect("log in");
        bob
    };
    let mut request = CreateRoomRequest::new();
    request.preset = Some(RoomPreset::PrivateChat);
    request.name = Some("Reef".to_owned());
    request.invite = vec![bob.user_id().expect("logged in").to_owned()];
    let room = alice.create_room(request).await.expect("room").room_id().to_owned();
    sync(&alice).await;
    sync(&bob).await;
    let invited = bob.get_room(&room).expect("invited");
    assert_eq!(invited.state(), RoomState::Invited);
    invited.join().await.expect("join");
    sync(&bob).await;
    let bobs = bob.get_room(&room).expect("room");
    assert_eq!(bobs.state(), RoomState::Joined);
    assert_eq!(bobs.name().as_deref(), Some("Reef"));

    sync(&alice).await;
    let alices = alice.get_room(&room).expect("room");
    let first = alices.send(RoomMessageEventContent::text_plain("helo")).await.expect("send").response.event_id;
    let edit = RoomMessageEventContentWithoutRelation::text_plain("hello")
        .make_replacement(ReplacementMetadata::new(first.clone(), None));
    alices.send(edit).await.expect("edit");
    let regretted =
        alices.send(RoomMessageEventContent::text_plain("regretted")).await.expect("send").response.event_id;
    alices.redact(&regretted, Some("typo"), None).await.expect("redact");
    sync(&bob).await;
    let seen = history(&bob, &room).await;
    assert!(seen.contains("hello") && !seen.contains("\"body\":\"regretted\""), "{seen}");
    assert!(seen.contains("redacted_because"));
    bobs.send_multiple_receipts(Receipts::new().fully_read_marker(first.clone()).public_read_receipt(first.clone()))
        .await
        .expect("receipts");
    sync(&alice).await;
    let (receipt, _) = alices
        .load_user_receipt(
            matrix_sdk::ruma::events::receipt::ReceiptType::Read,
            matrix_sdk::ruma::events::receipt::ReceiptThread::Unthreaded,
            bob.user_id().expect("logged in"),
        )
        .await
        .expect("store")
        .expect("a receipt");
    assert_eq!(receipt, first);

    let session: MatrixSession = bob.matrix_auth().session().expect("session");
    server.stop();
    server.restart();
    let again = client(&server).await;
    again.restore_session(session).await.expect("the old token");
    sync(&again).await;
    alices.send(RoomMessageEventContent::text_plain("still there?")).await.expect("send");
    sync(&again).await;
    let room_again = again.get_room(&room).expect("room");
    room_again.send(RoomMessageEventContent::text_plain("still here")).await.expect("send");
    assert!(history(&again, &room).await.contains("still there?"));
    sync(&bob).await;
    assert!(history(&bob, &room).await.contains("still here"));
}
