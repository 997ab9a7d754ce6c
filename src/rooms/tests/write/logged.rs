//! What the log tells its followers of events in rooms.

use rooms::{
    RoomAdvanced, SendOptions, Sender,
    notable::{HIGHLIGHTS, MENTIONS, NOTIFIES, REDACTS, RELATES, SENT},
};
use ruma::{EventId, RoomId, RoomVersionId};
use serde_json::json;
use store::Position;

use crate::{
    receiving::{shared, two},
    world::{World, raw},
};

/// The most that the entry of a message takes, in bytes, besides the ids of its room and sender.
const MESSAGE_ENTRY_BYTES_MAX: usize = 120;

/// The advances of a room after a position, with the sizes of their entries in bytes.
async fn advances(world: &World, room: &RoomId, since: Position) -> Vec<(usize, RoomAdvanced)> {
    let mut log = world.store.read_log(since);
    let mut found = Vec::new();
    while log.position() < world.store.published() {
        for record in log.try_next().await.expect("the log") {
            let entry = record.decode::<RoomAdvanced>().expect("an entry");
            found.extend(entry.filter(|entry| &*entry.room == room).map(|entry| (record.payload.len(), entry)));
        }
    }
    found
}

/// What the log tells of an event.
async fn logged(world: &World, room: &RoomId, event: &EventId) -> RoomAdvanced {
    let num = world.rooms.num(&world.view().await, event).await.expect("a read").expect("a number");
    let mut entries = advances(world, room, Position::ZERO).await;
    entries.retain(|(_, entry)| entry.event.as_ref().is_some_and(|event| event.num == num));
    assert_eq!(entries.len(), 1, "one entry for each event");
    entries.remove(0).1
}

#[tokio::test]
async fn an_advance_tells_what_its_event_is() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.room(&alice, rooms::Preset::PublicChat, &RoomVersionId::V11).await;
    let send = async |event_type: &str, content| {
        let (sender, options) = (Sender::user(&alice), SendOptions::default());
        world.rooms.send(&sender, &room, event_type, raw(content), options).await.expect("sent").event_id
    };
    let message = world.say(&alice, &room, "hello").await.expect("sent");
    let relation = |rel_type: &str| json!({ "rel_type": rel_type, "event_id": message, "key": "x" });
    let mention = json!({ "msgtype": "m.text", "body": "bob", "m.mentions": { "user_ids": [bob] } });
    let redact = async |target: &EventId| {
        let sender = Sender::user(&alice);
        world.rooms.redact(&sender, &room, target, None, &|_| {}).await.expect("redacted").event_id
    };
    let said = [
        (message.clone(), "m.room.message", SENT | NOTIFIES),
        (send("m.room.message", mention).await, "m.room.message", SENT | NOTIFIES | MENTIONS),
        (send("m.reaction", json!({ "m.relates_to": relation("m.annotation") })).await, "m.reaction", SENT | RELATES),
        (send("org.example.own", json!({})).await, "org.example.own", SENT),
        (redact(&message).await, "m.room.redaction", SENT | REDACTS),
    ];
    for (event, event_type, flags) in &said {
        let RoomAdvanced { event, old_root, members, .. } = logged(&world, &room, event).await;
        let event = event.expect("an event");
        assert_eq!((&*event.event_type, event.flags, &event.sender), (*event_type, *flags, &alice));
        assert!(!event.is_state() && !event.after_gap);
        assert!(old_root.is_none() && members.is_empty(), "{event_type} is no state");
    }
    let topic = world.set(&alice, &room, ("m.room.topic", ""), json!({ "topic": "x" })).await.expect("set");
    let upgraded = json!({ "body": "gone", "replacement_room": room });
    let tombstone = world.set(&alice, &room, ("m.room.tombstone", ""), upgraded).await.expect("set");
    let mut before = None;
    for (event, event_type, flags) in
        [(topic, "m.room.topic", 0), (tombstone, "m.room.tombstone", NOTIFIES | HIGHLIGHTS)]
    {
        let RoomAdvanced { event, old_root, root, .. } = logged(&world, &room, &event).await;
        let event = event.expect("an event");
        assert_eq!((&*event.event_type, event.flags), (event_type, flags));
        assert!(event.is_state());
        let old_root = old_root.expect("another state");
        assert!(old_root != root && before.is_none_or(|before| before == old_root));
        before = Some(root);
    }
}

#[tokio::test]
async fn the_entry_of_a_message_is_small() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    let before = world.store.published();
    world.say(&alice, &room, "hello").await.expect("sent");
    let (bytes, entry) = advances(&world, &room, before).await.remove(0);
    assert_eq!(entry.event.expect("an event").event_type, "m.room.message");
    let ids = room.as_str().len() + alice.as_str().len();
    assert!(bytes <= ids + MESSAGE_ENTRY_BYTES_MAX, "{bytes} bytes with {ids} of ids");
}

#[tokio::test]
async fn an_advance_tells_of_the_gap_before_its_event() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let alice = here.user("alice");
    let mut lost = Vec::new();
    for text in ["one", "two"] {
        lost.push(here.say(&alice, &room, text).await.expect("sent"));
    }
    let late = here.say(&alice, &room, "three").await.expect("sent");
    // What was before it is told by nobody; the state is.
    here.others.hidden.lock().expect("not poisoned").extend(lost);
    here.deliver(&there, &room, &[&late]).await;
    let next = here.say(&alice, &room, "four").await.expect("sent");
    here.deliver(&there, &room, &[&next]).await;
    for (event, after_gap) in [(&late, true), (&next, false)] {
        let entry = logged(&there, &room, event).await;
        let event = entry.event.expect("an event");
        assert_eq!((event.after_gap, &event.sender), (after_gap, &alice));
        // The timeline says the same.
        let index = there.rooms.meta(&there.view().await, event.num).await.expect("a read").index.expect("an index");
        let gap = there.rooms.gap_at(&there.view().await, &room, index).await.expect("a read");
        assert_eq!(gap.is_some(), after_gap);
    }
}
