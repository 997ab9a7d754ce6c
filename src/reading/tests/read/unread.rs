//! Unread counts.

use event::push::PushRules;
use reading::{Count, UnreadCounts, Viewer};
use ruma::{RoomId, UserId, push::Ruleset};
use serde_json::json;

use crate::{
    receipts::read,
    world::{World, alice, bob, carol},
};

async fn count_by(world: &World, user: &UserId, room: &RoomId, rules: &PushRules) -> UnreadCounts {
    world.reading.room(&world.view().await, Viewer::new(user), room).unread(rules).await.expect("counted")
}

async fn count(world: &World, user: &UserId, room: &RoomId) -> UnreadCounts {
    count_by(world, user, room, &PushRules::server_default(user)).await
}

async fn main_of(world: &World, user: &UserId, room: &RoomId) -> (u64, u64) {
    let Count { notifications, highlights } = count(world, user, room).await.main;
    (notifications, highlights)
}

/// Rules that say the same as the default ones, but aren't equal to them.
fn own_rules(user: &UserId) -> PushRules {
    let mut rules = Ruleset::server_default(user);
    let rule = json!({
        "rule_id": "cheese", "pattern": "cheese", "default": false, "enabled": true,
        "actions": ["notify", { "set_tweak": "highlight" }]
    });
    rules.content.insert(serde_json::from_value(rule).expect("a rule"));
    PushRules::compile(&rules, user)
}

#[tokio::test]
async fn messages_of_others_count_until_they_are_read() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    world.say(alice(), &room, "1").await;
    assert_eq!(main_of(&world, bob(), &room).await, (1, 0));
    let second = world.say(alice(), &room, "2").await;
    world.say(alice(), &room, "3").await;
    assert_eq!(main_of(&world, bob(), &room).await, (3, 0));
    assert_eq!(main_of(&world, alice(), &room).await, (0, 0));
    read(&world, bob(), &room, &second, None).await;
    assert_eq!(main_of(&world, bob(), &room).await, (1, 0));
    world.say(bob(), &room, "answer").await;
    assert_eq!(main_of(&world, bob(), &room).await, (0, 0));
    assert_eq!(main_of(&world, alice(), &room).await, (1, 0));
}

#[tokio::test]
async fn who_reacts_has_read() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let first = world.say(alice(), &room, "1").await;
    let reply = world.relate(alice(), &room, "2", "m.thread", &first).await;
    let all = async || count(&world, bob(), &room).await.total().notifications;
    assert_eq!(all().await, 2);
    let react = async |to: &ruma::EventId| {
        let content = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": to, "key": "+" } });
        world.send(bob(), &room, "m.reaction", content).await;
    };
    // In a thread it says nothing of the rest.
    react(&reply).await;
    assert_eq!((all().await, main_of(&world, bob(), &room).await), (1, (1, 0)));
    // State says nothing, and what others send neither.
    world.set(alice(), &room, ("m.room.name", ""), json!({ "name": "Reef" })).await;
    assert_eq!(all().await, 1);
    react(&first).await;
    assert_eq!(all().await, 0);
    assert_eq!(count_by(&world, bob(), &room, &own_rules(bob())).await.total().notifications, 0);
}

#[tokio::test]
async fn rules_decide_what_counts() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let original = world.say(alice(), &room, "1").await;
    world.edit(alice(), &room, "one", &original).await;
    world.send(alice(), &room, "m.room.message", json!({ "msgtype": "m.notice", "body": "beep" })).await;
    world.set(alice(), &room, ("m.room.topic", ""), json!({ "topic": "t" })).await;
    assert_eq!(main_of(&world, bob(), &room).await, (1, 0));
    let mention = json!({ "msgtype": "m.text", "body": "bob!", "m.mentions": { "user_ids": [bob()] } });
    world.send(alice(), &room, "m.room.message", mention).await;
    assert_eq!(main_of(&world, bob(), &room).await, (2, 1));
    let all = json!({ "msgtype": "m.text", "body": "all!", "m.mentions": { "room": true } });
    world.send(alice(), &room, "m.room.message", all).await;
    assert_eq!(main_of(&world, bob(), &room).await, (3, 2));

    // The same by looking at each event.
    assert_eq!(
        count_by(&world.restarted().await, bob(), &room, &own_rules(bob())).await,
        count(&world, bob(), &room).await
    );
    world.say(alice(), &room, "I like cheese").await;
    let own = count_by(&world, bob(), &room, &own_rules(bob())).await;
    assert_eq!(own.main, Count { notifications: 4, highlights: 3 });
}

#[tokio::test]
async fn threads_are_counted_apart() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let root = world.say(alice(), &room, "root").await;
    let reply = world.relate(alice(), &room, "reply", "m.thread", &root).await;
    world.relate(alice(), &room, "reply 2", "m.thread", &root).await;
    let in_thread = |counts: &UnreadCounts| counts.threads.get(&root).map(|count| count.notifications);
    let counts = count(&world, bob(), &room).await;
    assert_eq!((counts.main.notifications, in_thread(&counts)), (1, Some(2)));
    assert_eq!(counts.total().notifications, 3);

    // A receipt in one thread leaves the others alone.
    read(&world, bob(), &room, &reply, Some(root.as_str())).await;
    let counts = count(&world, bob(), &room).await;
    assert_eq!((counts.main.notifications, in_thread(&counts)), (1, Some(1)));
    read(&world, bob(), &room, &root, Some("main")).await;
    let counts = count(&world, bob(), &room).await;
    assert_eq!((counts.main.notifications, in_thread(&counts)), (0, Some(1)));
    world.say(alice(), &room, "main again").await;
    let last = world.relate(alice(), &room, "reply 3", "m.thread", &root).await;
    read(&world, bob(), &room, &last, None).await;
    assert_eq!(count(&world, bob(), &room).await, UnreadCounts::default());
}

#[tokio::test]
async fn private_receipts_count_as_much() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let first = world.say(alice(), &room, "1").await;
    let second = world.say(alice(), &room, "2").await;
    let private = rooms::NewReceipt {
        user: bob(),
        room: &room,
        receipt_type: rooms::ReceiptType::ReadPrivate,
        event: &second,
        thread: None,
    };
    world.rooms.set_receipt(private).await.expect("a receipt");
    assert_eq!(main_of(&world, bob(), &room).await, (0, 0));
    read(&world, bob(), &room, &first, None).await;
    assert_eq!(main_of(&world, bob(), &room).await, (0, 0));
}

#[tokio::test]
async fn counting_starts_with_the_present_stay() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    world.say(alice(), &room, "before").await;
    world.join(carol(), &room).await;
    assert_eq!(main_of(&world, carol(), &room).await, (0, 0));
    world.say(alice(), &room, "joined").await;
    assert_eq!(main_of(&world, carol(), &room).await, (1, 0));
    world.leave(carol(), &room).await;
    world.say(alice(), &room, "away").await;
    assert_eq!(main_of(&world, carol(), &room).await, (0, 0));
    world.join(carol(), &room).await;
    assert_eq!(main_of(&world, carol(), &room).await, (0, 0));
    world.say(alice(), &room, "back").await;
    assert_eq!(main_of(&world, carol(), &room).await, (1, 0));
    assert_eq!(main_of(&world.restarted().await, carol(), &room).await, (1, 0));
}

#[tokio::test]
async fn redacted_messages_dont_count() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let gone = world.say(alice(), &room, "1").await;
    world.say(alice(), &room, "2").await;
    world.redact(alice(), &room, &gone).await;
    assert_eq!(main_of(&world, bob(), &room).await, (1, 0));
    let fresh = world.restarted().await;
    assert_eq!(count_by(&fresh, bob(), &room, &own_rules(bob())).await.main.notifications, 1);
}

#[tokio::test]
async fn what_was_counted_survives_a_restart() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    for number in 0..150 {
        world.say(alice(), &room, &number.to_string()).await;
    }
    assert_eq!(main_of(&world, bob(), &room).await, (150, 0));
    world.say(alice(), &room, "one more").await;
    let again = world.restarted().await;
    assert_eq!(main_of(&again, bob(), &room).await, (151, 0));
}
