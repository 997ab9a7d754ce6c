//! Relations, their aggregations, and threads.

use std::collections::HashSet;

use reading::{RelationsPage, RelationsQuery, ThreadsInclude, Viewer};
use rooms::{Direction, RoomsError};
use ruma::{EventId, RoomId, UserId};
use serde_json::{Value, json};

use crate::world::{World, alice, bob, bodies, carol, raw, value};

async fn related(world: &World, room: &RoomId, event: &EventId, query: RelationsQuery) -> RelationsPage {
    let page = world.reading.room(&world.view().await, Viewer::new(alice()), room).relations(event, &query).await;
    page.expect("relations")
}

async fn bundle(world: &World, user: &UserId, room: &RoomId, event: &EventId) -> Value {
    world.event(user, room, event).await.expect("an event")["unsigned"]["m.relations"].clone()
}

async fn react(world: &World, user: &UserId, room: &RoomId, key: &str, to: &EventId) -> ruma::OwnedEventId {
    let content = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": to, "key": key } });
    world.send(user, room, "m.reaction", content).await
}

#[tokio::test]
async fn children_are_found_by_kind_and_type_in_pages() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let parent = world.say(alice(), &room, "parent").await;
    for number in 0..5 {
        world.relate(bob(), &room, &number.to_string(), "m.thread", &parent).await;
        react(&world, bob(), &room, &number.to_string(), &parent).await;
    }
    let query = |limit| RelationsQuery { limit, ..RelationsQuery::default() };
    assert_eq!(related(&world, &room, &parent, query(100)).await.chunk.len(), 10);

    let threads = |limit, from, direction| RelationsQuery {
        rel_type: Some("m.thread".to_owned()),
        from,
        direction,
        ..query(limit)
    };
    let first = related(&world, &room, &parent, threads(2, None, Direction::Backward)).await;
    assert_eq!(bodies(&first.chunk), ["4", "3"]);
    assert!(first.prev.is_none());
    let second = related(&world, &room, &parent, threads(3, first.next, Direction::Backward)).await;
    assert_eq!(bodies(&second.chunk), ["2", "1", "0"]);
    assert_eq!(second.prev, first.next);
    let forward = related(&world, &room, &parent, threads(2, None, Direction::Forward)).await;
    assert_eq!(bodies(&forward.chunk), ["0", "1"]);
    let forward = related(&world, &room, &parent, threads(9, forward.next, Direction::Forward)).await;
    assert_eq!(bodies(&forward.chunk), ["2", "3", "4"]);

    let typed = RelationsQuery {
        rel_type: Some("m.annotation".to_owned()),
        event_type: Some("m.room.message".to_owned()),
        ..query(9)
    };
    assert!(related(&world, &room, &parent, typed).await.chunk.is_empty());

    let stranger = Viewer::new(carol());
    let hidden = world.reading.room(&world.view().await, stranger, &room).relations(&parent, &query(9)).await;
    assert!(matches!(hidden, Err(RoomsError::EventNotFound)));
}

#[tokio::test]
async fn recursion_follows_three_steps() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let root = world.say(alice(), &room, "root").await;
    let one = world.relate(alice(), &room, "one", "m.thread", &root).await;
    let two = world.relate(alice(), &room, "two", "m.reference", &one).await;
    let three = world.relate(alice(), &room, "three", "m.reference", &two).await;
    world.relate(alice(), &room, "four", "m.reference", &three).await;
    let query = |recurse, rel_type: Option<&str>| RelationsQuery {
        recurse,
        rel_type: rel_type.map(str::to_owned),
        direction: Direction::Forward,
        limit: 10,
        ..RelationsQuery::default()
    };
    let flat = related(&world, &room, &root, query(false, None)).await;
    assert_eq!((bodies(&flat.chunk), flat.recursion_depth), (vec!["one".to_owned()], None));
    let deep = related(&world, &room, &root, query(true, None)).await;
    assert_eq!(bodies(&deep.chunk), ["one", "two", "three"]);
    assert_eq!(deep.recursion_depth, Some(3));
    let references = related(&world, &room, &root, query(true, Some("m.reference"))).await;
    assert_eq!(bodies(&references.chunk), ["two", "three"]);
}

#[tokio::test]
async fn a_redacted_child_relates_to_nothing() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let parent = world.say(alice(), &room, "parent").await;
    let child = world.relate(bob(), &room, "child", "m.reference", &parent).await;
    assert_eq!(
        bundle(&world, alice(), &room, &parent).await,
        json!({ "m.reference": { "chunk": [{ "event_id": child }] } })
    );
    world.redact(bob(), &room, &child).await;
    assert_eq!(bundle(&world, alice(), &room, &parent).await, json!(null));
    let query = RelationsQuery { limit: 10, ..RelationsQuery::default() };
    assert!(related(&world, &room, &parent, query).await.chunk.is_empty());
}

#[tokio::test]
async fn the_latest_valid_edit_counts() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let original = world.say(alice(), &room, "original").await;
    let first = world.edit(alice(), &room, "first", &original).await;
    let second = world.edit(alice(), &room, "second", &original).await;
    // None of these is an edit of it.
    world.edit(bob(), &room, "of another", &original).await;
    world.relate(alice(), &room, "without content", "m.replace", &original).await;
    world.edit(alice(), &room, "of an edit", &second).await;

    let replaced = bundle(&world, bob(), &room, &original).await["m.replace"].clone();
    assert_eq!(replaced["event_id"], second.as_str());
    assert_eq!(replaced["content"]["m.new_content"]["body"], "second");
    assert_eq!(bundle(&world, bob(), &room, &second).await, json!(null));

    world.redact(alice(), &room, &second).await;
    let replaced = bundle(&world, bob(), &room, &original).await["m.replace"].clone();
    assert_eq!(replaced["event_id"], first.as_str());

    world.redact(alice(), &room, &original).await;
    assert_eq!(bundle(&world, bob(), &room, &original).await, json!(null));
}

#[tokio::test]
async fn threads_are_summed_up_for_their_reader() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob(), carol()]).await;
    let root = world.say(alice(), &room, "root").await;
    let reply = world.relate(bob(), &room, "reply", "m.thread", &root).await;
    world.edit(bob(), &room, "reply, edited", &reply).await;

    let thread = bundle(&world, carol(), &room, &root).await["m.thread"].clone();
    assert_eq!(thread["count"], 1);
    assert_eq!(thread["current_user_participated"], false);
    assert_eq!(thread["latest_event"]["event_id"], reply.as_str());
    let inner = &thread["latest_event"]["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(inner["content"]["m.new_content"]["body"], "reply, edited");
    assert_eq!(bundle(&world, alice(), &room, &root).await["m.thread"]["current_user_participated"], true);
    assert_eq!(bundle(&world, bob(), &room, &root).await["m.thread"]["current_user_participated"], true);

    world.relate(carol(), &room, "from carol", "m.thread", &root).await;
    let ignored = HashSet::from([carol().to_owned()]);
    let viewer = Viewer { ignored: &ignored, ..Viewer::new(bob()) };
    let event = world.reading.room(&world.view().await, viewer, &room).one_event(&root).await.expect("an event");
    let thread = value(&event)["unsigned"]["m.relations"]["m.thread"].clone();
    assert_eq!((&thread["count"], &thread["latest_event"]["event_id"]), (&json!(1), &json!(reply)));
}

#[tokio::test]
async fn threads_stand_where_their_newest_reply_is() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob(), carol()]).await;
    let mut roots = Vec::new();
    for name in ["a", "b", "c"] {
        roots.push(world.say(alice(), &room, name).await);
    }
    for root in [&roots[0], &roots[1], &roots[2], &roots[0]] {
        world.relate(bob(), &room, "reply", "m.thread", root).await;
    }
    // A thread can't start from an event that relates to another.
    let reply = world.relate(carol(), &room, "odd", "m.thread", &roots[1]).await;
    let relates_to = json!({ "rel_type": "m.thread", "event_id": reply });
    let odder = raw(json!({ "msgtype": "m.text", "body": "odder", "m.relates_to": relates_to }));
    let sender = rooms::Sender::user(carol());
    let refused = world.rooms.send(&sender, &room, "m.room.message", odder, Default::default()).await;
    assert!(matches!(refused, Err(RoomsError::BadRelation(_))), "{refused:?}");

    let list = async |user, include, from, limit| {
        let viewer = Viewer::new(user);
        let page = world.reading.room(&world.view().await, viewer, &room).threads(include, from, limit).await;
        let page = page.expect("threads");
        (bodies(&page.chunk), page.next)
    };
    let (all, next) = list(alice(), ThreadsInclude::All, None, 10).await;
    assert_eq!((all, next), (vec!["b".to_owned(), "a".to_owned(), "c".to_owned()], None));
    let (first, next) = list(alice(), ThreadsInclude::All, None, 2).await;
    assert_eq!(first, ["b", "a"]);
    let (second, next) = list(alice(), ThreadsInclude::All, next, 2).await;
    assert_eq!((second, next), (vec!["c".to_owned()], None));
    assert_eq!(list(carol(), ThreadsInclude::Participated, None, 10).await.0, ["b"]);

    let ignored = HashSet::from([alice().to_owned()]);
    let viewer = Viewer { ignored: &ignored, ..Viewer::new(bob()) };
    let page = world.reading.room(&world.view().await, viewer, &room).threads(ThreadsInclude::All, None, 1).await;
    let root = value(&page.expect("threads").chunk[0]);
    assert_eq!((&root["event_id"], &root["content"]), (&json!(roots[1]), &json!({})));
}

#[tokio::test]
async fn a_thread_outlives_its_root_and_edits_do_not() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let root = world.say(alice(), &room, "root").await;
    world.edit(alice(), &room, "edited", &root).await;
    let reply = world.relate(bob(), &room, "reply", "m.thread", &root).await;
    world.redact(alice(), &room, &root).await;
    let bundle = bundle(&world, alice(), &room, &root).await;
    assert_eq!(bundle["m.thread"]["latest_event"]["event_id"], reply.as_str());
    assert!(bundle.get("m.replace").is_none(), "{bundle}");
}

#[tokio::test]
async fn the_thread_of_an_ignored_user_keeps_its_summary() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob(), carol()]).await;
    let root = world.say(carol(), &room, "root").await;
    let reply = world.relate(alice(), &room, "reply", "m.thread", &root).await;
    let ignored = HashSet::from([carol().to_owned()]);
    let viewer = Viewer { ignored: &ignored, ..Viewer::new(bob()) };
    let page = world.reading.room(&world.view().await, viewer, &room).threads(ThreadsInclude::All, None, 10).await;
    let chunk = page.expect("threads").chunk;
    let root = value(&chunk[0]);
    assert_eq!(root["content"], json!({}));
    assert_eq!(root["unsigned"]["m.relations"]["m.thread"]["latest_event"]["event_id"], reply.as_str());
}

#[tokio::test]
async fn children_far_apart_come_once() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let parent = world.say(alice(), &room, "parent").await;
    world.relate(alice(), &room, "first", "org.rare", &parent).await;
    for _ in 0..255 {
        world.relate(alice(), &room, "many", "m.reference", &parent).await;
    }
    world.relate(alice(), &room, "last", "org.rare", &parent).await;
    let query = RelationsQuery { rel_type: Some("org.rare".to_owned()), limit: 10, ..RelationsQuery::default() };
    let page = related(&world, &room, &parent, query).await;
    assert_eq!(bodies(&page.chunk), ["last", "first"]);
    assert_eq!(page.next, None);
}
