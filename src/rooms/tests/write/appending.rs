//! Sending: order, transactions, many at once.

use std::{collections::BTreeSet, sync::Arc};

use rooms::{Direction, RoomsError, SendOptions, Sender, TimelineRange};
use ruma::{OwnedEventId, RoomVersionId, device_id};
use serde_json::json;
use store::Store;

use crate::world::{World, raw};

/// The ids of a room's timeline, oldest first.
async fn timeline(world: &World, room: &ruma::RoomId) -> Vec<OwnedEventId> {
    let view = world.view().await;
    let range = TimelineRange { after: None, before: None, direction: Direction::Forward, limit: 1_000 };
    let page = world.rooms.timeline(&view, room, range).await.expect("a read");
    let mut ids = Vec::new();
    for (_, num) in page.events {
        let event = world.rooms.event(&view, num).await.expect("a read").expect("an event");
        ids.push(event.pdu.owned_event_id());
    }
    ids
}

#[tokio::test]
async fn messages_stand_in_the_timeline_in_the_order_of_sending() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    let mut sent = Vec::new();
    for number in 0..5 {
        sent.push(world.say(&alice, &room, &format!("message {number}")).await.expect("sent"));
    }
    let ids = timeline(&world, &room).await;
    assert_eq!(ids[ids.len() - 5..], sent[..]);
    let head = world.rooms.head(&world.view().await, &room).await.expect("a read").expect("a head");
    assert_eq!(head.extremities.len(), 1);
    assert_eq!(Some(&head.extremities[0].event_id), sent.last());
}

#[tokio::test]
async fn all_room_versions_take_messages() {
    let world = World::new().await;
    let alice = world.user("alice");
    for version in event::SUPPORTED_ROOM_VERSIONS {
        let room = world.room(&alice, rooms::Preset::PublicChat, &version).await;
        world.say(&alice, &room, "hello").await.expect("sent");
        world.rooms.join(&world.user("bob"), &room, None).await.expect("joined");
        world.say(&world.user("bob"), &room, "hello too").await.expect("sent");
    }
}

#[tokio::test]
async fn who_is_not_in_the_room_may_not_speak() {
    let world = World::new().await;
    let room = world.public_room(&world.user("alice")).await;
    let refused = world.say(&world.user("bob"), &room, "hello").await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
    let missing = world.say(&world.user("bob"), ruma::room_id!("!none:here"), "hello").await;
    assert!(matches!(missing, Err(RoomsError::RoomNotFound)), "{missing:?}");
}

#[tokio::test]
async fn an_event_that_is_too_large_is_refused() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    let text = "x".repeat(70_000);
    let refused = world.say(&alice, &room, &text).await;
    assert!(matches!(refused, Err(RoomsError::Pdu(event::PduError::TooLarge))), "{refused:?}");
    let long = "t".repeat(256);
    let content = || raw(json!({}));
    let refused = world.rooms.send(&Sender::user(&alice), &room, &long, content(), SendOptions::default()).await;
    assert!(matches!(refused, Err(RoomsError::TooLarge(_))), "{refused:?}");
}

#[tokio::test]
async fn a_repeated_transaction_gives_the_first_event() {
    let others = Arc::default();
    let clock = Arc::default();
    let store = Store::in_memory(&[rooms::TABLES]).await.expect("a store");
    let world = World::on("here", Arc::clone(&others), Arc::clone(&clock), store.clone()).await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    let sender = |txn_id| Sender { user: &alice, device: Some(device_id!("PHONE")), txn_id: Some(txn_id) };
    let content = || raw(json!({ "body": "once" }));
    let send = |world: &World, txn_id| {
        let rooms = world.rooms.clone();
        let (sender, room) = (sender(txn_id), room.clone());
        async move { rooms.send(&sender, &room, "m.room.message", content(), SendOptions::default()).await }
    };
    let first = send(&world, "1").await.expect("sent");
    let again = send(&world, "1").await.expect("sent");
    assert_eq!(first, again);
    let other = send(&world, "2").await.expect("sent");
    assert_ne!(first.event_id, other.event_id);

    // Over a restart too.
    let world = World::on("here", others, clock, store).await;
    assert_eq!(send(&world, "1").await.expect("sent").event_id, first.event_id);

    // Another device, another endpoint: another transaction.
    let tablet = Sender { user: &alice, device: Some(device_id!("TABLET")), txn_id: Some("1") };
    let sent = world.rooms.send(&tablet, &room, "m.room.message", content(), SendOptions::default()).await;
    assert_ne!(sent.expect("sent").event_id, first.event_id);
    let sent = world.rooms.send(&sender("1"), &room, "other.type", content(), SendOptions::default()).await;
    assert_ne!(sent.expect("sent").event_id, first.event_id);

    // A day later it is forgotten.
    world.clock.advance(rooms::TXN_KEPT_MS + 1);
    assert!(world.rooms.sweep_txn_ids().await.expect("swept") >= 4);
    assert_ne!(send(&world, "1").await.expect("sent").event_id, first.event_id);
}

/// More of them, and longer, than fit into one batch.
#[tokio::test]
async fn long_transaction_ids_are_forgotten_too() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    let send = async |number: u32| {
        let txn_id = format!("{number:01024}");
        let sender = Sender { user: &alice, device: Some(device_id!("PHONE")), txn_id: Some(&txn_id) };
        let content = raw(json!({ "body": "long" }));
        let sent = world.rooms.send(&sender, &room, "m.room.message", content, SendOptions::default()).await;
        sent.expect("sent").event_id
    };
    let first = send(0).await;
    for number in 1..600 {
        send(number).await;
    }
    assert_eq!(send(0).await, first);
    world.clock.advance(rooms::TXN_KEPT_MS + 1);
    assert!(world.rooms.sweep_txn_ids().await.expect("swept") >= 600);
    assert_ne!(send(0).await, first);
}

#[tokio::test]
async fn a_transaction_sent_twice_at_once_is_one_event() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (rooms, room, alice) = (world.rooms.clone(), room.clone(), alice.clone());
        tasks.spawn(async move {
            let sender = Sender { user: &alice, device: Some(device_id!("PHONE")), txn_id: Some("1") };
            let content = raw(json!({ "body": "once" }));
            rooms.send(&sender, &room, "m.room.message", content, SendOptions::default()).await.expect("sent").event_id
        });
    }
    let ids: BTreeSet<OwnedEventId> = tasks.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_senders_at_once_make_one_chain() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    let before = timeline(&world, &room).await.len();
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..20 {
        let name = world.user(&format!("user{sender}"));
        let (rooms, room) = (world.rooms.clone(), room.clone());
        tasks.spawn(async move {
            rooms.join(&name, &room, None).await.expect("joined");
            for number in 0..10 {
                let content = raw(json!({ "body": number }));
                let sender = Sender::user(&name);
                rooms.send(&sender, &room, "m.room.message", content, SendOptions::default()).await.expect("sent");
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(timeline(&world, &room).await.len(), before + 20 * 11);
    let view = world.view().await;
    let head = world.rooms.head(&view, &room).await.expect("a read").expect("a head");
    assert_eq!(head.extremities.len(), 1);
    assert_eq!(head.joined_count, 21);
    assert_eq!(world.rooms.joined_servers(&view, &room).await.expect("a read"), [(world.name.clone(), 21)]);
    assert_eq!(world.rooms.local_members(&view, &room).await.expect("a read").len(), 21);
    assert_eq!(world.rooms.joined_members(&view, &room).await.expect("a read").len(), 21);
}

#[tokio::test]
async fn a_room_of_version_1_names_hashes() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.room(&alice, rooms::Preset::PublicChat, &RoomVersionId::V1).await;
    let id = world.say(&alice, &room, "hello").await.expect("sent");
    let json: serde_json::Value = serde_json::from_str(world.event(&id).await.get()).expect("JSON");
    assert!(json["prev_events"][0][1]["sha256"].is_string(), "{json}");
}

#[tokio::test]
async fn a_sender_that_goes_away_stops_nobody() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    for _ in 0..5 {
        let sending = world.say(&alice, &room, "dropped half way");
        let mut sending = std::pin::pin!(sending);
        // Far enough to queue the batch or not: both must be harmless.
        for _ in 0..3 {
            let done =
                std::future::poll_fn(|context| std::task::Poll::Ready(sending.as_mut().poll(context).is_ready()));
            if done.await {
                break;
            }
        }
    }
    let sent = world.say(&alice, &room, "still here").await.expect("sent");
    let head = world.rooms.head(&world.view().await, &room).await.expect("a read").expect("a head");
    assert_eq!(head.extremities.last().map(|extremity| &extremity.event_id), Some(&sent));
}
