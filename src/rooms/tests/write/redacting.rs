//! Redactions and relations.

use rooms::{RoomsError, SendOptions, Sender};
use ruma::{EventId, RoomVersionId};
use serde_json::json;

use crate::world::{World, raw};

async fn meta(world: &World, event_id: &EventId) -> rooms::EventMeta {
    let view = world.view().await;
    let num = world.rooms.num(&view, event_id).await.expect("a read").expect("a number");
    world.rooms.meta(&view, num).await.expect("a read")
}

#[tokio::test]
async fn users_redact_their_own_and_moderators_all() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    for version in event::SUPPORTED_ROOM_VERSIONS {
        let room = world.room(&alice, rooms::Preset::PublicChat, &version).await;
        world.rooms.join(&bob, &room, None).await.expect("joined");
        let by_bob = world.say(&bob, &room, "mine").await.expect("sent");
        let by_alice = world.say(&alice, &room, "hers").await.expect("sent");
        let redact = |user: &ruma::UserId, target: &EventId| {
            let (rooms, room, user, target) = (world.rooms.clone(), room.clone(), user.to_owned(), target.to_owned());
            async move { rooms.redact(&Sender::user(&user), &room, &target, Some("why not"), &|_| {}).await }
        };
        let refused = redact(&bob, &by_alice).await;
        assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
        let sent = redact(&bob, &by_bob).await.expect("redacted");
        let num = world.rooms.num(&world.view().await, &sent.event_id).await.expect("a read");
        assert_eq!(meta(&world, &by_bob).await.redacted_by, num, "version {version}");
        let other = world.say(&bob, &room, "again").await.expect("sent");
        redact(&alice, &other).await.expect("redacted");
        assert!(meta(&world, &other).await.redacted_by.is_some());
        let unknown = redact(&alice, ruma::event_id!("$nothing")).await;
        assert!(matches!(unknown, Err(RoomsError::EventNotFound)), "{unknown:?}");
    }
}

#[tokio::test]
async fn a_relation_marks_its_parent() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    let parent = world.say(&alice, &room, "what do you think?").await.expect("sent");
    assert!(!meta(&world, &parent).await.has_relations);
    let mut tasks = tokio::task::JoinSet::new();
    for key in 0..10 {
        let (rooms, room, alice, parent) = (world.rooms.clone(), room.clone(), alice.clone(), parent.clone());
        tasks.spawn(async move {
            let relation = json!({ "rel_type": "m.annotation", "event_id": parent, "key": key.to_string() });
            let content = raw(json!({ "m.relates_to": relation }));
            let sender = Sender::user(&alice);
            rooms.send(&sender, &room, "m.reaction", content, SendOptions::default()).await.expect("sent");
        });
    }
    tasks.join_all().await;
    assert!(meta(&world, &parent).await.has_relations);
}

#[tokio::test]
async fn a_redaction_may_come_before_its_target() {
    let here = World::new().await;
    let there = World::named("there", here.others.clone(), here.clock.clone()).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    for version in [RoomVersionId::V3, RoomVersionId::V11, RoomVersionId::V12] {
        let room = here.room(&alice, rooms::Preset::PublicChat, &version).await;
        there.join_from(&here, &room, &bob).await;
        // Two events side by side after the join, the second redacting the first.
        let target = here.say(&alice, &room, "oops").await.expect("sent");
        let redaction =
            here.rooms.redact(&Sender::user(&alice), &room, &target, None, &|_| {}).await.expect("redacted");
        here.deliver(&there, &room, &[&redaction.event_id, &target]).await;
        let num = there.rooms.num(&there.view().await, &redaction.event_id).await.expect("a read");
        assert_eq!(meta(&there, &target).await.redacted_by, num, "version {version}");
    }
}
