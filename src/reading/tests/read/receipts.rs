//! Receipts and typing.

use rooms::{NewReceipt, Receipt, ReceiptType, RoomsError};
use ruma::{EventId, RoomId, UserId};
use store::Position;

use crate::world::{World, alice, bob, carol};

pub async fn read(world: &World, user: &UserId, room: &RoomId, event: &EventId, thread: Option<&str>) {
    let receipt = NewReceipt { user, room, receipt_type: ReceiptType::Read, event, thread };
    world.rooms.set_receipt(receipt).await.expect("a receipt");
}

#[tokio::test]
async fn receipts_go_forward_only() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let first = world.say(alice(), &room, "1").await;
    let second = world.say(alice(), &room, "2").await;
    let before = world.view().await.position();
    read(&world, bob(), &room, &second, None).await;
    let moved = world.view().await.position();
    read(&world, bob(), &room, &first, None).await;
    let view = world.view().await;
    assert_eq!(view.position(), moved);
    let receipts = world.rooms.receipts(&view, alice(), &room).await.expect("receipts");
    let expected = Receipt {
        user: bob().to_owned(),
        receipt_type: ReceiptType::Read,
        thread: None,
        event: second,
        ts: world.now_ms(),
        position: moved,
    };
    assert_eq!(receipts, std::slice::from_ref(&expected));
    let since = async |since| {
        world.rooms.receipts_since(&view, alice(), &room, (since, view.position()), 10).await.expect("receipts")
    };
    assert_eq!(since(before).await, Some(vec![expected]));
    assert_eq!(since(moved).await, None);
}

#[tokio::test]
async fn each_kind_and_thread_has_its_own_receipt() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let root = world.say(alice(), &room, "root").await;
    let reply = world.relate(alice(), &room, "reply", "m.thread", &root).await;
    read(&world, bob(), &room, &root, None).await;
    read(&world, bob(), &room, &root, Some("main")).await;
    read(&world, bob(), &room, &reply, Some(root.as_str())).await;
    let private =
        NewReceipt { user: bob(), room: &room, receipt_type: ReceiptType::ReadPrivate, event: &reply, thread: None };
    world.rooms.set_receipt(private).await.expect("a receipt");
    let view = world.view().await;
    assert_eq!(world.rooms.receipts(&view, bob(), &room).await.expect("receipts").len(), 4);
    let of_alice = world.rooms.receipts(&view, alice(), &room).await.expect("receipts");
    assert_eq!(of_alice.len(), 3);
    assert!(of_alice.iter().all(|receipt| receipt.receipt_type == ReceiptType::Read));
    let now = view.position();
    let since = world.rooms.receipts_since(&view, alice(), &room, (Position::ZERO, now), 10).await;
    assert_eq!(since.expect("receipts").map(|receipts| receipts.len()), Some(3));
}

#[tokio::test]
async fn receipts_that_make_no_sense_are_refused() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let other = world.room(&[alice(), bob()]).await;
    let root = world.say(alice(), &room, "root").await;
    let reply = world.relate(alice(), &room, "reply", "m.thread", &root).await;
    let elsewhere = world.say(alice(), &other, "elsewhere").await;
    let set = async |user, event: &EventId, thread| {
        let receipt = NewReceipt { user, room: &room, receipt_type: ReceiptType::Read, event, thread };
        world.rooms.set_receipt(receipt).await
    };
    assert!(matches!(set(carol(), &root, None).await, Err(RoomsError::NotJoined)));
    assert!(matches!(set(bob(), &elsewhere, None).await, Err(RoomsError::EventNotFound)));
    assert!(matches!(set(bob(), &root, Some("")).await, Err(RoomsError::BadValue(_))));
    assert!(matches!(set(bob(), &reply, Some("main")).await, Err(RoomsError::BadValue(_))));
    assert!(matches!(set(bob(), &root, Some(reply.as_str())).await, Err(RoomsError::BadValue(_))));
}

#[tokio::test]
async fn only_members_type() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let view = world.view().await;
    assert!(matches!(world.rooms.set_typing(&view, bob(), &room, Some(9)).await, Err(RoomsError::NotJoined)));
    world.rooms.set_typing(&view, alice(), &room, Some(1_000)).await.expect("typing");
    assert_eq!(world.rooms.typing().users(&room), [alice()]);
    world.rooms.set_typing(&view, alice(), &room, None).await.expect("typing");
    assert!(world.rooms.typing().users(&room).is_empty());
}

#[tokio::test]
async fn who_is_gone_types_no_more() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let typing = world.rooms.typing();
    for way in ["leave", "kick", "ban"] {
        let view = world.view().await;
        world.rooms.set_typing(&view, alice(), &room, Some(9_000)).await.expect("typing");
        world.rooms.set_typing(&view, bob(), &room, Some(9_000)).await.expect("typing");
        let before = typing.sequence();
        match way {
            "leave" => world.leave(bob(), &room).await,
            "kick" => drop(world.rooms.kick(alice(), &room, bob(), None).await.expect("a kick")),
            _ => drop(world.rooms.ban(alice(), &room, bob(), None).await.expect("a ban")),
        }
        assert_eq!(typing.users(&room), [alice()], "{way}");
        assert!(typing.changed_at(&room) > before, "{way}");
        // What was under way when they went.
        let late = world.rooms.set_typing(&view, bob(), &room, Some(9_000)).await;
        assert!(matches!(late, Err(RoomsError::NotJoined)));
        assert_eq!(typing.users(&room), [alice()], "{way}");
        if way != "ban" {
            world.join(bob(), &room).await;
        }
    }
}
