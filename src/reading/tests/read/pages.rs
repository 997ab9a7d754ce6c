//! Paging, context and points in time.

use reading::{MessagesQuery, RoomEventFilter, TimelineToken, Viewer};
use rooms::{Direction, RoomsError, TimelineIndex, TimelineRange};
use ruma::RoomId;
use serde_json::json;

use crate::world::{World, alice, bob, bodies, carol, value};

async fn talk(world: &World, room: &RoomId, count: usize) -> Vec<String> {
    let mut said = Vec::new();
    for number in 0..count {
        let body = number.to_string();
        world.say(alice(), room, &body).await;
        said.push(body);
    }
    said
}

fn filter(json: serde_json::Value) -> RoomEventFilter {
    serde_json::from_value(json).expect("a filter")
}

#[tokio::test]
async fn pages_of_any_size_cover_the_timeline_once_in_both_directions() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let said = talk(&world, &room, 23).await;
    for limit in [1, 2, 5, 22, 23, 100] {
        for direction in [Direction::Backward, Direction::Forward] {
            let mut query = MessagesQuery { direction, limit, ..Default::default() };
            let mut heard = Vec::new();
            let mut events = 0;
            loop {
                let page = world.page(alice(), &room, &query).await;
                assert!(page.chunk.len() <= limit);
                events += page.chunk.len();
                heard.extend(bodies(&page.chunk));
                assert!(page.end.is_some() || page.chunk.is_empty(), "limit {limit} {direction:?}");
                let Some(end) = page.end else { break };
                let token: TimelineToken = end.to_string().parse().expect("a token");
                query.from = Some(token);
            }
            if direction == Direction::Backward {
                heard.reverse();
            }
            assert_eq!(heard, said, "limit {limit} {direction:?}");
            // The events of the room's making are there too.
            assert_eq!(events, said.len() + 6, "limit {limit} {direction:?}");
        }
    }
}

#[tokio::test]
async fn a_token_between_two_pages_fits_either_way() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    talk(&world, &room, 10).await;
    let back = world.page(alice(), &room, &MessagesQuery { limit: 4, ..Default::default() }).await;
    assert_eq!(bodies(&back.chunk), ["9", "8", "7", "6"]);
    let forward = MessagesQuery { from: back.end, direction: Direction::Forward, limit: 100, ..Default::default() };
    let forward = world.page(alice(), &room, &forward).await;
    assert_eq!(bodies(&forward.chunk), ["6", "7", "8", "9"]);
    // What has events goes on; nothing comes after it.
    let after = MessagesQuery { from: forward.end, direction: Direction::Forward, limit: 100, ..Default::default() };
    assert!(after.from.is_some());
    let after = world.page(alice(), &room, &after).await;
    assert!(after.chunk.is_empty() && after.end.is_none());

    let between = MessagesQuery { from: Some(back.start), to: back.end, limit: 100, ..Default::default() };
    assert_eq!(bodies(&world.page(alice(), &room, &between).await.chunk), ["9", "8", "7", "6"]);
}

#[tokio::test]
async fn a_position_of_the_log_is_a_point_in_the_timeline() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    talk(&world, &room, 3).await;
    let since = world.view().await.position();
    talk(&world, &room, 2).await;
    let range = TimelineRange {
        after: Some(TimelineIndex::after_position(since)),
        before: None,
        direction: Direction::Backward,
        limit: 10,
    };
    let page = world.rooms.timeline(&world.view().await, &room, range).await.expect("a page");
    assert_eq!(page.events.len(), 2);
    assert!(!page.more && page.gap.is_none());
    let less = TimelineRange { limit: 1, ..range };
    let page = world.rooms.timeline(&world.view().await, &room, less).await.expect("a page");
    assert!(page.more);
}

#[tokio::test]
async fn filters_choose_events() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    world.say(alice(), &room, "a").await;
    world.say(bob(), &room, "b").await;
    let picture = json!({ "msgtype": "m.image", "body": "p", "url": "mxc://here/p" });
    world.send(bob(), &room, "m.room.message", picture).await;
    let rooted = world.say(alice(), &room, "root").await;
    world.relate(bob(), &room, "reply", "m.thread", &rooted).await;
    let get = async |json: serde_json::Value| {
        let query = MessagesQuery { limit: 50, filter: filter(json), ..Default::default() };
        let mut heard = bodies(&world.page(alice(), &room, &query).await.chunk);
        heard.reverse();
        heard
    };
    assert_eq!(get(json!({ "types": ["m.room.mess*"] })).await, ["a", "b", "p", "root", "reply"]);
    assert_eq!(get(json!({ "senders": [bob()] })).await, ["b", "p", "reply"]);
    assert_eq!(get(json!({ "not_senders": [bob()] })).await, ["a", "root"]);
    assert_eq!(get(json!({ "contains_url": true })).await, ["p"]);
    assert_eq!(get(json!({ "related_by_rel_types": ["m.thread"] })).await, ["root"]);
    assert_eq!(get(json!({ "related_by_senders": [alice()] })).await, Vec::<String>::new());
    assert_eq!(get(json!({ "not_rooms": [room] })).await, Vec::<String>::new());
    assert_eq!(get(json!({ "limit": 2, "types": ["m.room.message"] })).await, ["root", "reply"]);
}

#[tokio::test]
async fn lazy_loading_brings_the_members_who_spoke() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob(), carol()]).await;
    world.say(bob(), &room, "hi").await;
    let query = MessagesQuery { limit: 1, filter: filter(json!({ "lazy_load_members": true })), ..Default::default() };
    let page = world.page(alice(), &room, &query).await;
    let members: Vec<_> = page.state.iter().map(|event| value(event)["state_key"].clone()).collect();
    assert_eq!(members, [json!(bob())]);
}

#[tokio::test]
async fn lazy_members_are_as_they_were_when_they_spoke() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let member = ("m.room.member", bob().as_str());
    world.set(bob(), &room, member, json!({ "membership": "join", "displayname": "Old" })).await;
    world.say(bob(), &room, "hi").await;
    let then = TimelineToken::at(world.view().await.position());
    world.set(bob(), &room, member, json!({ "membership": "join", "displayname": "New" })).await;
    let filter = filter(json!({ "lazy_load_members": true }));
    let query = MessagesQuery { from: Some(then), limit: 1, filter, ..Default::default() };
    let page = world.page(alice(), &room, &query).await;
    assert_eq!(bodies(&page.chunk), ["hi"]);
    assert_eq!(value(&page.state[0])["content"]["displayname"], "Old");
}

#[tokio::test]
async fn context_shows_what_was_around() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let mut ids = Vec::new();
    for number in 0..9 {
        ids.push(world.say(alice(), &room, &number.to_string()).await);
    }
    let view = world.view().await;
    let reader = world.reading.room(&view, Viewer::new(alice()), &room);
    let none = RoomEventFilter::default();
    let context = reader.context(&ids[4], 5, &none).await.expect("context");
    assert_eq!(value(&context.event)["content"]["body"], "4");
    assert_eq!(bodies(&context.events_before), ["3", "2"]);
    assert_eq!(bodies(&context.events_after), ["5", "6", "7"]);
    let has_create = context.state.iter().any(|event| value(event)["type"] == "m.room.create");
    assert!(has_create);

    let before = MessagesQuery { from: Some(context.start), limit: 2, ..Default::default() };
    assert_eq!(bodies(&world.page(alice(), &room, &before).await.chunk), ["1", "0"]);
    let forward =
        MessagesQuery { from: Some(context.end), direction: Direction::Forward, limit: 9, ..Default::default() };
    assert_eq!(bodies(&world.page(alice(), &room, &forward).await.chunk), ["8"]);

    let lazy = filter(json!({ "lazy_load_members": true }));
    let alone = reader.context(&ids[4], 0, &lazy).await.expect("context");
    assert!(alone.events_before.is_empty() && alone.events_after.is_empty());
    let kinds: Vec<_> = alone.state.iter().map(|event| value(event)["type"].clone()).collect();
    assert!(kinds.contains(&json!("m.room.create")));
    assert_eq!(kinds.iter().filter(|kind| **kind == "m.room.member").count(), 1);

    let elsewhere = filter(json!({ "not_rooms": [room] }));
    let elsewhere = reader.context(&ids[4], 5, &elsewhere).await.expect("context");
    assert!(elsewhere.events_before.is_empty() && elsewhere.events_after.is_empty() && elsewhere.state.is_empty());

    let stranger = Viewer::new(carol());
    let hidden = world.reading.room(&view, stranger, &room).context(&ids[4], 5, &none).await;
    assert!(matches!(hidden, Err(RoomsError::EventNotFound)));
}

#[tokio::test]
async fn the_event_nearest_to_a_time_is_found() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let start = world.now_ms() - 10;
    world.pass(1_000);
    let early = world.say(alice(), &room, "early").await;
    let early = (early, world.now_ms());
    world.pass(1_000);
    let late = world.say(alice(), &room, "late").await;
    let late = (late, world.now_ms());
    let view = world.view().await;
    let reader = world.reading.room(&view, Viewer::new(alice()), &room);
    let find = async |ts, direction| reader.event_by_timestamp(ts, direction).await.expect("looked");
    let between = early.1 + 500;
    assert_eq!(find(between, Direction::Backward).await, Some(early));
    assert_eq!(find(between, Direction::Forward).await, Some(late.clone()));
    assert_eq!(find(late.1, Direction::Forward).await, Some(late.clone()));
    assert_eq!(find(late.1 + 1, Direction::Forward).await, None);
    assert_eq!(find(start, Direction::Backward).await, None);
}
