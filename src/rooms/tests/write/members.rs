//! Memberships: who may change whose, and the rows that follow.

use rooms::{Membership, Preset, RoomsError};
use ruma::RoomVersionId;
use serde_json::{Map, Value, json};
use store::Position;

use crate::world::{World, raw};

#[tokio::test]
async fn private_rooms_are_by_invite() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.room(&alice, Preset::PrivateChat, &RoomVersionId::V12).await;
    let refused = world.rooms.join(&bob, &room, None).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
    world.rooms.invite(&alice, &room, &bob, None).await.expect("invited");
    world.rooms.join(&bob, &room, None).await.expect("joined");
    assert_eq!(world.membership(&room, &bob).await, Membership::Join);
}

#[tokio::test]
async fn joining_twice_is_joining_once() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.public_room(&alice).await;
    let profile = raw(json!({ "displayname": "Bob" }));
    let first = world.rooms.join(&bob, &room, Some(&profile)).await.expect("joined");
    let again = world.rooms.join(&bob, &room, Some(&profile)).await.expect("joined");
    assert_eq!(first.event_id, again.event_id);
    let renamed = raw(json!({ "displayname": "Robert" }));
    let changed = world.rooms.join(&bob, &room, Some(&renamed)).await.expect("changed");
    assert_ne!(first.event_id, changed.event_id);
}

#[tokio::test]
async fn a_changed_profile_does_not_bring_back_who_leaves() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.public_room(&alice).await;
    for round in 0..20 {
        world.rooms.join(&bob, &room, None).await.expect("joined");
        let rename = |content: &mut Map<String, Value>| {
            content.insert("displayname".to_owned(), format!("Bob {round}").into());
        };
        let (left, updated) =
            tokio::join!(world.rooms.leave(&bob, &room, None), world.rooms.update_member(&bob, &room, rename));
        left.expect("left");
        updated.expect("told, or not in the room");
        assert_eq!(world.membership(&room, &bob).await, Membership::Leave, "round {round}");
    }
    assert!(!world.rooms.update_member(&bob, &room, |_| {}).await.expect("no failure"));
}

#[tokio::test]
async fn the_rows_tell_the_whole_way() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.room(&alice, Preset::PrivateChat, &RoomVersionId::V12).await;
    world.rooms.invite(&alice, &room, &bob, None).await.expect("invited");
    world.rooms.join(&bob, &room, None).await.expect("joined");
    world.rooms.leave(&bob, &room, None).await.expect("left");
    world.rooms.leave(&bob, &room, None).await.expect("leaving twice changes nothing");
    world.rooms.ban(&alice, &room, &bob, Some("spam")).await.expect("banned");
    let refused = world.rooms.forget(&alice, &room).await;
    assert!(matches!(refused, Err(RoomsError::StillInRoom)), "{refused:?}");
    world.rooms.forget(&bob, &room).await.expect("forgotten");

    let view = world.view().await;
    let log = world.rooms.membership_log(&view, &bob, Position::ZERO, view.position()).await.expect("a read");
    let steps: Vec<(Membership, bool)> = log.iter().map(|(_, row)| (row.membership, row.forgotten)).collect();
    let expected = [
        (Membership::Invite, false),
        (Membership::Join, false),
        (Membership::Leave, false),
        (Membership::Ban, false),
        (Membership::Ban, true),
    ];
    assert_eq!(steps, expected);
    assert!(log.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let row = world.rooms.membership(&view, &bob, &room).await.expect("a read").expect("a row");
    assert!(row.forgotten && row.membership == Membership::Ban);
    assert!(world.rooms.joined_rooms(&view, &bob).await.expect("a read").is_empty());
    assert!(!world.rooms.shares_room(&view, &alice, &bob).await.expect("a read"));
    assert_eq!(world.rooms.local_members(&view, &room).await.expect("a read"), std::slice::from_ref(&alice));
    let all = world.rooms.all_local_members(&view, None, 10).await.expect("a read");
    assert_eq!(all, [(room.clone(), alice)]);
    // Each change of state has its root.
    let (first, root) = (log[1].0, log[1].1.event);
    let at_join = world.rooms.root_at(&view, &room, first).await.expect("a read").expect("a root");
    let event = world.rooms.state(&view, &room, at_join).event("m.room.member", bob.as_str()).await.expect("a read");
    assert_eq!(event.map(|event| event.num), root);
}

#[tokio::test]
async fn kicks_bans_and_their_end() {
    let world = World::new().await;
    let (alice, bob, carol) = (world.user("alice"), world.user("bob"), world.user("carol"));
    let room = world.public_room(&alice).await;
    world.rooms.join(&bob, &room, None).await.expect("joined");
    world.rooms.join(&carol, &room, None).await.expect("joined");
    let refused = world.rooms.kick(&bob, &room, &carol, None).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
    let refused = world.rooms.kick(&alice, &room, &world.user("nobody"), None).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
    let outside = world.rooms.kick(&world.user("nobody"), &room, &bob, None).await;
    assert!(matches!(outside, Err(RoomsError::NotJoined)), "{outside:?}");

    world.rooms.kick(&alice, &room, &carol, Some("bye")).await.expect("kicked");
    let member = world.state(&room, "m.room.member", carol.as_str()).await.expect("a member");
    assert_eq!(member, json!({ "membership": "leave", "reason": "bye" }));
    world.rooms.join(&carol, &room, None).await.expect("a kick is no ban");

    world.rooms.ban(&alice, &room, &carol, None).await.expect("banned");
    let refused = world.rooms.join(&carol, &room, None).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
    let refused = world.rooms.unban(&alice, &room, &bob, None).await;
    assert!(matches!(refused, Err(RoomsError::NotBanned)), "{refused:?}");
    world.rooms.unban(&alice, &room, &carol, None).await.expect("unbanned");
    world.rooms.join(&carol, &room, None).await.expect("joined");
}

#[tokio::test]
async fn knocking_where_the_room_allows_it() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.room(&alice, Preset::PrivateChat, &RoomVersionId::V7).await;
    let refused = world.rooms.knock(&bob, &room, None).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
    world.set(&alice, &room, ("m.room.join_rules", ""), json!({ "join_rule": "knock" })).await.expect("set");
    world.rooms.knock(&bob, &room, Some(&raw(json!({ "reason": "please" })))).await.expect("knocked");
    assert_eq!(world.membership(&room, &bob).await, Membership::Knock);
    world.rooms.invite(&alice, &room, &bob, None).await.expect("invited");
    world.rooms.join(&bob, &room, None).await.expect("joined");

    let old = world.room(&alice, Preset::PrivateChat, &RoomVersionId::V6).await;
    let refused = world.rooms.knock(&bob, &old, None).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
}

#[tokio::test]
async fn restricted_rooms_let_members_of_other_rooms_in() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let space = world.public_room(&alice).await;
    for (version, rule) in [(RoomVersionId::V8, "restricted"), (RoomVersionId::V12, "knock_restricted")] {
        let room = world.room(&alice, Preset::PrivateChat, &version).await;
        let rules = json!({ "join_rule": rule, "allow": [{ "type": "m.room_membership", "room_id": space }] });
        world.set(&alice, &room, ("m.room.join_rules", ""), rules).await.expect("set");
        let carol = world.user("carol");
        let refused = world.rooms.join(&carol, &room, None).await;
        assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
        world.rooms.join(&bob, &space, None).await.expect("joined");
        // A client can't vouch for itself.
        let forged = raw(json!({ "join_authorised_via_users_server": bob }));
        world.rooms.join(&bob, &room, Some(&forged)).await.expect("joined");
        let member = world.state(&room, "m.room.member", bob.as_str()).await.expect("a member");
        assert_eq!(member["join_authorised_via_users_server"], alice.as_str());

        let elsewhere = json!({ "join_rule": rule, "allow": [{ "type": "m.room_membership", "room_id": "!x:far" }] });
        world.set(&alice, &room, ("m.room.join_rules", ""), elsewhere).await.expect("set");
        let unknown = world.rooms.join(&carol, &room, None).await;
        assert!(matches!(unknown, Err(RoomsError::UnableToAuthoriseJoin)), "{unknown:?}");
    }
}

#[tokio::test]
async fn a_member_event_says_which_membership() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.room(&alice, Preset::PublicChat, &RoomVersionId::V12).await;
    for content in [json!({}), json!({ "membership": "away" }), json!({ "membership": 5 })] {
        let refused = world.set(&alice, &room, ("m.room.member", bob.as_str()), content).await;
        assert!(matches!(refused, Err(RoomsError::BadEvent(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn power_levels_are_numbers_and_guard_themselves() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.room(&alice, Preset::PublicChat, &RoomVersionId::V9).await;
    world.rooms.join(&bob, &room, None).await.expect("joined");
    let mut levels = world.state(&room, "m.room.power_levels", "").await.expect("levels");
    levels["users"][bob.as_str()] = "50".into();
    let refused = world.set(&alice, &room, ("m.room.power_levels", ""), levels.clone()).await;
    assert!(matches!(refused, Err(RoomsError::BadEvent(_))), "{refused:?}");
    levels["users"][bob.as_str()] = 50.into();
    let refused = world.set(&bob, &room, ("m.room.power_levels", ""), levels.clone()).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
    world.set(&alice, &room, ("m.room.power_levels", ""), levels).await.expect("set");
    world.set(&bob, &room, ("m.room.topic", ""), json!({ "topic": "by bob" })).await.expect("bob has the power");
}
