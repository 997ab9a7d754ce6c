//! Reading back over gaps in the timeline.

#[path = "../../rooms/tests/write/world.rs"]
#[expect(dead_code, reason = "shared with the tests of rooms, which use more of it")]
mod world;

use std::sync::Arc;

use reading::{MessagesQuery, Reading, TimelineToken, Viewer};
use rooms::{KeyAnswer, Preset};
use ruma::{OwnedRoomId, RoomId, RoomVersionId, UserId};
use serde_json::Value;
use testkit::ManualClock;

use world::{Others, World};

/// Memory for what is read.
const CACHE_BYTES: u64 = 1 << 20;

fn reading(world: &World) -> Reading {
    Reading::new(world.rooms.clone(), world.store.clone(), world.clock.clone(), CACHE_BYTES)
}

async fn two() -> (World, World) {
    let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
    let here = World::named("here", others.clone(), clock.clone()).await;
    let there = World::named("there", others, clock).await;
    (here, there)
}

/// What a user reads in a room, oldest first, page by page.
async fn heard(world: &World, user: &UserId, room: &RoomId) -> Vec<String> {
    let reading = reading(world);
    let mut heard = Vec::new();
    let mut from: Option<TimelineToken> = None;
    loop {
        let query = MessagesQuery { from, limit: 30, ..Default::default() };
        let page = reading.room(&world.view().await, Viewer::new(user), room).messages(&query).await.expect("a page");
        for event in page.chunk {
            let event: Value = serde_json::from_str(event.get()).expect("JSON");
            heard.extend(event["content"]["body"].as_str().map(str::to_owned));
        }
        from = page.end;
        if from.is_none() {
            heard.reverse();
            return heard;
        }
    }
}

async fn talk(world: &World, user: &UserId, room: &RoomId, count: usize) -> Vec<String> {
    let mut said = Vec::new();
    for number in 0..count {
        let text = format!("{} {number}", world.now_ms());
        world.say(user, room, &text).await.expect("said");
        said.push(text);
    }
    said
}

async fn room_with_history(here: &World, version: &RoomVersionId, count: usize) -> (OwnedRoomId, Vec<String>) {
    let room = here.room(&here.user("alice"), Preset::PublicChat, version).await;
    let said = talk(here, &here.user("alice"), &room, count).await;
    (room, said)
}

#[tokio::test]
async fn history_from_before_the_join_is_fetched_in_pages() {
    for version in [RoomVersionId::V1, RoomVersionId::V10, RoomVersionId::V12] {
        let (here, there) = two().await;
        // More than one answer brings.
        let (room, mut said) = room_with_history(&here, &version, 230).await;
        let bob = there.user("bob");
        there.join_from(&here, &room, &bob).await;
        let after = there.say(&bob, &room, "hello").await.expect("said");
        there.deliver(&here, &room, &[&after]).await;
        said.push("hello".to_owned());
        assert_eq!(heard(&there, &bob, &room).await, said, "{version}");
        // It is there now, whoever asks.
        here.others.down.lock().expect("not poisoned").insert(here.name.clone());
        assert_eq!(heard(&there, &bob, &room).await, said, "{version}");
    }
}

#[tokio::test]
async fn a_hole_in_the_middle_is_filled() {
    let (here, there) = two().await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let (room, mut said) = room_with_history(&here, &RoomVersionId::V12, 3).await;
    there.join_from(&here, &room, &bob).await;
    said.extend(talk(&here, &alice, &room, 90).await);
    let last = here.say(&alice, &room, "last").await.expect("said");
    said.push("last".to_owned());
    here.deliver(&there, &room, &[&last]).await;
    assert_eq!(heard(&there, &bob, &room).await, said);
}

#[tokio::test]
async fn without_an_answer_the_gap_stays() {
    let (here, there) = two().await;
    let (room, said) = room_with_history(&here, &RoomVersionId::V12, 5).await;
    let bob = there.user("bob");
    there.join_from(&here, &room, &bob).await;
    here.others.down.lock().expect("not poisoned").insert(here.name.clone());
    assert_eq!(heard(&there, &bob, &room).await, Vec::<String>::new());
    here.others.down.lock().expect("not poisoned").clear();
    assert_eq!(heard(&there, &bob, &room).await, said);
}

#[tokio::test]
async fn what_may_not_be_seen_is_not_seen_in_history_either() {
    let (here, there) = two().await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let (room, _) = room_with_history(&here, &RoomVersionId::V12, 3).await;
    let key = ("m.room.history_visibility", "");
    here.set(&alice, &room, key, serde_json::json!({ "history_visibility": "joined" })).await.expect("set");
    talk(&here, &alice, &room, 3).await;
    here.set(&alice, &room, key, serde_json::json!({ "history_visibility": "shared" })).await.expect("set");
    let open = talk(&here, &alice, &room, 3).await;
    there.join_from(&here, &room, &bob).await;
    let heard = heard(&there, &bob, &room).await;
    assert_eq!(heard[heard.len() - open.len()..], open);
    assert_eq!(heard.len(), 6);
}

#[tokio::test]
async fn redactions_and_relations_in_history_count() {
    let (here, there) = two().await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let (room, _) = room_with_history(&here, &RoomVersionId::V12, 1).await;
    let gone = here.say(&alice, &room, "gone").await.expect("said");
    let sender = rooms::Sender::user(&alice);
    here.rooms.redact(&sender, &room, &gone, None, &|_| {}).await.expect("redacted");
    let root = here.say(&alice, &room, "root").await.expect("said");
    let reply = serde_json::json!({
        "msgtype": "m.text", "body": "reply", "m.relates_to": { "rel_type": "m.thread", "event_id": root }
    });
    let content = world::raw(reply);
    here.rooms.send(&sender, &room, "m.room.message", content, Default::default()).await.expect("sent");
    there.join_from(&here, &room, &bob).await;
    let texts = heard(&there, &bob, &room).await;
    assert_eq!(texts[1..], ["root", "reply"]);
    let view = there.view().await;
    let event = reading(&there).room(&view, Viewer::new(&bob), &room).one_event(&root).await.expect("an event");
    let event: Value = serde_json::from_str(event.get()).expect("JSON");
    assert_eq!(event["unsigned"]["m.relations"]["m.thread"]["count"], 1);
}

#[tokio::test]
async fn history_behind_an_event_that_can_not_be_checked_is_read() {
    let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
    let here = World::named("here", others.clone(), clock.clone()).await;
    let dead = World::named("dead", others.clone(), clock.clone()).await;
    let there = World::named("there", others.clone(), clock).await;
    let (alice, carol, bob) = (here.user("alice"), dead.user("carol"), there.user("bob"));
    let room = here.public_room(&alice).await;
    dead.join_from(&here, &room, &carol).await;
    here.say(&alice, &room, "early").await.expect("said");
    let between = dead.say(&carol, &room, "between").await.expect("said");
    dead.deliver(&here, &room, &[&between]).await;
    here.say(&alice, &room, "late").await.expect("said");
    others.keys.lock().expect("not poisoned").insert(dead.name.clone(), KeyAnswer::NotNow);
    there.join_from(&here, &room, &bob).await;
    assert_eq!(heard(&there, &bob, &room).await, ["early", "late"]);
}
