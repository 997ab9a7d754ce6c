//! Upgrades: one successor, whole or not at all.

use rooms::{CreateRoom, Membership, Preset, RoomsError, UpgradeRoom};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId, room_alias_id};
use serde_json::{Value, json};

use crate::{
    receiving::{shared, two},
    world::World,
};

const VERSIONS: [RoomVersionId; 2] = [RoomVersionId::V11, RoomVersionId::V12];

fn request(user: &UserId, version: &RoomVersionId) -> UpgradeRoom {
    UpgradeRoom {
        user: user.to_owned(),
        version: version.clone(),
        additional_creators: Vec::new(),
        member_content: None,
    }
}

/// A public room in the directory, with an alias.
async fn named(world: &World, creator: &UserId) -> OwnedRoomId {
    let mut create = CreateRoom::new(creator.to_owned());
    create.preset = Some(Preset::PublicChat);
    create.version = Some(RoomVersionId::V10);
    create.alias = Some(room_alias_id!("#reef:here").to_owned());
    create.visibility = true;
    world.rooms.create(&create).await.expect("a room")
}

async fn successor(world: &World, room: &RoomId) -> Option<Value> {
    world.state(room, "m.room.tombstone", "").await.map(|tombstone| tombstone["replacement_room"].clone())
}

#[tokio::test]
async fn a_room_is_replaced_once() {
    for version in VERSIONS {
        let world = World::new().await;
        let alice = world.user("alice");
        let room = named(&world, &alice).await;
        let request = request(&alice, &version);
        let (one, two) = tokio::join!(world.rooms.upgrade(&room, &request), world.rooms.upgrade(&room, &request));
        let (new, refused) = match (one, two) {
            (Ok(new), refused) | (refused, Ok(new)) => (new, refused),
            (Err(one), Err(two)) => panic!("{one} {two}"),
        };
        let Err(RoomsError::Forbidden(reason)) = refused else { panic!("{refused:?}") };
        assert!(reason.contains(new.as_str()), "{reason}");
        assert_eq!(successor(&world, &room).await, Some(json!(new)));
        let again = world.rooms.upgrade(&room, &request).await;
        assert!(matches!(again, Err(RoomsError::Forbidden(_))), "{again:?}");
        assert_eq!(successor(&world, &room).await, Some(json!(new)));
        let view = world.view().await;
        let (found, _) =
            world.rooms.resolve_alias(&view, room_alias_id!("#reef:here")).await.expect("read").expect("one");
        assert_eq!(found, new);
        assert!(world.rooms.is_published(&view, &new).await.expect("read"));
        // The successor can be replaced in turn.
        world.rooms.upgrade(&new, &request).await.expect("upgraded");
    }
}

#[tokio::test]
async fn the_new_room_names_the_tombstone_where_it_can() {
    for version in VERSIONS {
        let world = World::new().await;
        let alice = world.user("alice");
        let room = named(&world, &alice).await;
        let new = world.rooms.upgrade(&room, &request(&alice, &version)).await.expect("upgraded");
        let tombstone =
            world.rooms.current_event(&world.view().await, &room, "m.room.tombstone", "").await.expect("read");
        let tombstone = tombstone.expect("a tombstone").pdu.event_id().to_string();
        let create = world.state(&new, "m.room.create", "").await.expect("a create event");
        // In version 12 each would have to name the other's id.
        let event_id = (version == RoomVersionId::V11).then_some(tombstone);
        assert_eq!(create["predecessor"].get("event_id").and_then(Value::as_str), event_id.as_deref());
        assert_eq!(create["predecessor"]["room_id"], room.as_str());
    }
}

#[tokio::test]
async fn nobody_finds_an_open_room_that_has_lost_its_names() {
    for version in VERSIONS {
        let world = World::new().await;
        let alice = world.user("alice");
        let room = named(&world, &alice).await;
        let request = request(&alice, &version);
        let upgrade = world.rooms.upgrade(&room, &request);
        let watch = async {
            let mut looks = 0;
            loop {
                let view = world.view().await;
                let alias = world.rooms.resolve_alias(&view, room_alias_id!("#reef:here")).await.expect("read");
                let moved = alias.is_none_or(|(found, _)| found != room);
                let head = world.rooms.head(&view, &room).await.expect("read").expect("a room");
                let levels = world.rooms.state(&view, &room, head.root).shown("m.room.power_levels", "").await;
                let levels: Value = levels.expect("read").expect("levels").content_as().expect("JSON");
                let closed = levels["events_default"] == 50;
                let published = world.rooms.is_published(&view, &room).await.expect("read");
                assert_eq!((moved, !published), (closed, closed), "after {looks} looks");
                looks += 1;
                if closed {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let (upgraded, ()) = tokio::join!(upgrade, watch);
        upgraded.expect("upgraded");
    }
}

#[tokio::test]
async fn bans_move_along() {
    for version in VERSIONS {
        let world = World::new().await;
        let alice = world.user("alice");
        let room = named(&world, &alice).await;
        // More than go into one batch.
        let banned: Vec<OwnedUserId> = (0..120).map(|number| world.user(&format!("spammer{number}"))).collect();
        for user in &banned {
            world.rooms.ban(&alice, &room, user, Some("spam")).await.expect("banned");
        }
        world.rooms.unban(&alice, &room, &banned[0], None).await.expect("let in");
        let new = world.rooms.upgrade(&room, &request(&alice, &version)).await.expect("upgraded");
        assert_eq!(world.membership(&new, &banned[0]).await, Membership::Leave);
        for user in &banned[1..] {
            assert_eq!(world.membership(&new, user).await, Membership::Ban);
        }
        let content = world.state(&new, "m.room.member", banned[1].as_str()).await.expect("a member event");
        assert_eq!(content["reason"], "spam");
    }
}

#[tokio::test]
async fn bans_with_long_reasons_move_along() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.room(&alice, Preset::PublicChat, &RoomVersionId::V12).await;
    let banned: Vec<OwnedUserId> = (0..30).map(|number| world.user(&format!("spammer{number:02}"))).collect();
    for user in &banned {
        world.rooms.ban(&alice, &room, user, Some(&"spam".repeat(15_000))).await.expect("banned");
    }
    // As large as an event can be. In the other version it would be larger still.
    let last = world.user("z");
    let mut length = event::PDU_SIZE_BYTES_MAX - 400;
    while world.rooms.ban(&alice, &room, &last, Some(&"!".repeat(length))).await.is_err() {
        length -= 1;
    }
    let new = world.rooms.upgrade(&room, &request(&alice, &RoomVersionId::V11)).await.expect("upgraded");
    for user in banned.iter().chain([&last]) {
        assert_eq!(world.membership(&new, user).await, Membership::Ban);
    }
}

#[tokio::test]
async fn a_successor_that_nobody_signs_for_is_left_again() {
    let (here, there) = two().await;
    let room = shared(&here, &there, &RoomVersionId::V12).await;
    let alice = here.user("alice");
    let key = event::SigningKey::from_seed(&[7; 32], "policy_server").expect("a key");
    let content = json!({ "via": "there", "public_keys": { "ed25519": key.public_key_base64() } });
    here.set(&alice, &room, ("m.room.policy", ""), content).await.expect("set");
    let joined = here.rooms.joined_rooms(&here.view().await, &alice).await.expect("read");
    here.rooms.upgrade(&room, &request(&alice, &RoomVersionId::V12)).await.expect_err("not signed");
    assert_eq!(successor(&here, &room).await, None);
    assert_eq!(here.rooms.joined_rooms(&here.view().await, &alice).await.expect("read"), joined);
}

/// With a policy server each event is signed by itself; the names go after the door is closed.
#[tokio::test]
async fn a_room_with_a_policy_server_is_replaced_too() {
    for version in VERSIONS {
        let (here, there) = two().await;
        let room = shared(&here, &there, &RoomVersionId::V12).await;
        let alice = here.user("alice");
        let key = event::SigningKey::from_seed(&[7; 32], "policy_server").expect("a key");
        let content = json!({ "via": "there", "public_keys": { "ed25519": key.public_key_base64() } });
        here.set(&alice, &room, ("m.room.policy", ""), content).await.expect("set");
        *here.others.policy.lock().expect("not poisoned") = Some(key);
        here.rooms.create_alias(&alice, room_alias_id!("#reef:here"), &room).await.expect("made");
        let new = here.rooms.upgrade(&room, &request(&alice, &version)).await.expect("upgraded");
        assert_eq!(successor(&here, &room).await, Some(json!(new)));
        let tombstone =
            here.rooms.current_event(&here.view().await, &room, "m.room.tombstone", "").await.expect("read");
        let tombstone = here.event(tombstone.expect("a tombstone").pdu.event_id()).await;
        let tombstone: Value = serde_json::from_str(tombstone.get()).expect("JSON");
        assert!(tombstone["signatures"]["there"]["ed25519:policy_server"].is_string());
        let alias = here.rooms.resolve_alias(&here.view().await, room_alias_id!("#reef:here")).await.expect("read");
        assert_eq!(alias.expect("resolved").0, new);
        assert_eq!(here.state(&room, "m.room.power_levels", "").await.expect("levels")["events_default"], 50);
        let again = here.rooms.upgrade(&room, &request(&alice, &version)).await;
        assert!(matches!(again, Err(RoomsError::Forbidden(_))), "{again:?}");
    }
}

#[tokio::test]
async fn a_room_that_everybody_left_leaves_the_directory() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = named(&world, &alice).await;
    world.rooms.join(&bob, &room, None).await.expect("joined");
    world.rooms.leave(&alice, &room, None).await.expect("left");
    assert!(world.rooms.is_published(&world.view().await, &room).await.expect("read"));
    world.rooms.leave(&bob, &room, None).await.expect("left");
    assert!(!world.rooms.is_published(&world.view().await, &room).await.expect("read"));
}
