//! The form of events (client-server API, "Room event format", "Redactions").

use reading::{ClientFormat, EventForm, Viewer};
use rooms::{CreateRoom, Preset, SendOptions, Sender};
use ruma::{RoomVersionId, device_id};
use serde_json::json;

use crate::world::{World, alice, bob, raw, value};

#[tokio::test]
async fn events_have_all_fields_of_the_specification_and_no_others() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let id = world.say(alice(), &room, "hi").await;
    world.pass(250);
    let event = world.event(alice(), &room, &id).await.expect("an event");
    assert_eq!(
        event,
        json!({
            "content": { "msgtype": "m.text", "body": "hi" },
            "event_id": id,
            "origin_server_ts": world.now_ms() - 250,
            "room_id": room,
            "sender": alice(),
            "type": "m.room.message",
            "unsigned": { "age": 250, "membership": "join" },
        })
    );
}

#[tokio::test]
async fn one_rendering_serves_all_for_a_moment() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let id = world.say(alice(), &room, "hi").await;
    let view = world.view().await;
    let num = world.rooms.num(&view, &id).await.expect("read").expect("a number");
    let deliver = async |user| {
        let viewer = Viewer::new(user);
        let events = world.reading.room(&view, viewer, &room).deliver(&[num], ClientFormat::sync(false)).await;
        events.expect("delivered").remove(0).json
    };
    let (first, second) = (deliver(alice()).await, deliver(bob()).await);
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    assert_eq!(value(&first).get("room_id"), None);
    world.pass(1_000);
    assert_eq!(value(&deliver(bob()).await)["unsigned"]["age"], 1_000);
}

#[tokio::test]
async fn the_transaction_id_is_for_the_device_that_sent() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let sender = Sender { user: alice(), device: Some(device_id!("PHONE")), txn_id: Some("t1") };
    let content = raw(json!({ "msgtype": "m.text", "body": "hi" }));
    let sent = world.rooms.send(&sender, &room, "m.room.message", content, SendOptions::default()).await;
    let id = sent.expect("sent").event_id;
    let see = async |user, device| {
        let viewer = Viewer { device: Some(device), ..Viewer::new(user) };
        let event = world.reading.room(&world.view().await, viewer, &room).one_event(&id).await.expect("an event");
        value(&event)["unsigned"]["transaction_id"].clone()
    };
    assert_eq!(see(alice(), device_id!("PHONE")).await, "t1");
    assert_eq!(see(alice(), device_id!("LAPTOP")).await, json!(null));
    assert_eq!(see(bob(), device_id!("PHONE")).await, json!(null));
}

#[tokio::test]
async fn state_tells_what_it_replaced_to_those_who_may_know() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let first = world.set(alice(), &room, ("m.room.topic", ""), json!({ "topic": "one" })).await;
    world.set_history(alice(), &room, "joined").await;
    let hidden = world.set(alice(), &room, ("m.room.topic", ""), json!({ "topic": "two" })).await;
    world.join(bob(), &room).await;
    let third = world.set(alice(), &room, ("m.room.topic", ""), json!({ "topic": "three" })).await;

    let unsigned = |event: Option<serde_json::Value>| event.expect("an event")["unsigned"].clone();
    let of_alice = unsigned(world.event(alice(), &room, &third).await);
    assert_eq!(of_alice["prev_content"], json!({ "topic": "two" }));
    assert_eq!(of_alice["replaces_state"], hidden.as_str());
    let of_bob = unsigned(world.event(bob(), &room, &third).await);
    assert_eq!(of_bob.get("prev_content"), None);
    assert_eq!(of_bob["replaces_state"], hidden.as_str());

    world.redact(alice(), &room, &first).await;
    let of_alice = unsigned(world.event(alice(), &room, &hidden).await);
    assert_eq!(of_alice["prev_content"], json!({}));
}

async fn redacted_in(version: RoomVersionId) -> (serde_json::Value, serde_json::Value) {
    let world = World::new().await;
    let mut create = CreateRoom::new(alice().to_owned());
    create.preset = Some(Preset::PublicChat);
    create.version = Some(version);
    let room = world.create(&create).await;
    let target = world.say(alice(), &room, "oops").await;
    // Once before, so that what is kept of it must give way.
    assert!(world.event(alice(), &room, &target).await.is_some());
    let redaction = world.redact(alice(), &room, &target).await;
    let event = world.event(alice(), &room, &target).await.expect("an event");
    assert_eq!(event["content"], json!({}));
    assert_eq!(event["unsigned"]["redacted_because"]["event_id"], redaction.as_str());
    assert_eq!(event["unsigned"]["redacted_because"]["content"]["reason"], "because");
    let redaction = world.event(alice(), &room, &redaction).await.expect("an event");
    (json!(target), redaction)
}

#[tokio::test]
async fn redactions_name_their_target_in_both_places() {
    for version in [RoomVersionId::V1, RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        let (target, redaction) = redacted_in(version.clone()).await;
        assert_eq!(redaction["redacts"], target, "{version}");
        assert_eq!(redaction["content"]["redacts"], target, "{version}");
    }
}

#[tokio::test]
async fn the_federation_form_is_the_event_itself() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let id = world.say(alice(), &room, "hi").await;
    let view = world.view().await;
    let num = world.rooms.num(&view, &id).await.expect("read").expect("a number");
    let format = ClientFormat { form: EventForm::Federation, ..ClientFormat::default() };
    let events = world.reading.room(&view, Viewer::new(alice()), &room).deliver(&[num], format).await;
    let event = value(&events.expect("delivered")[0].json);
    assert!(event["auth_events"].is_array());
    assert!(event["hashes"].is_object());
    assert_eq!(event.get("unsigned"), None);
}
