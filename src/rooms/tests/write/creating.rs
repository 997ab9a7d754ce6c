//! Making and replacing rooms.

use std::sync::Arc;

use rooms::{
    Config, CreateRoom, EncryptionByDefault, InitialState, Invitee, Membership, Ports, Preset, Rooms, RoomsError,
    UpgradeRoom,
};
use ruma::{RoomVersionId, room_alias_id};
use serde_json::{Value, json};
use testkit::SeededRandom;

use crate::world::{World, raw};

#[tokio::test]
async fn presets_decide_the_defaults() {
    let world = World::new().await;
    let alice = world.user("alice");
    let cases = [
        (Preset::PrivateChat, "invite", "can_join"),
        (Preset::TrustedPrivateChat, "invite", "can_join"),
        (Preset::PublicChat, "public", "forbidden"),
    ];
    for (preset, join_rule, guest_access) in cases {
        let room = world.room(&alice, preset, &RoomVersionId::V11).await;
        let field = |state: Option<Value>, field: &str| state.expect("a state event")[field].clone();
        assert_eq!(field(world.state(&room, "m.room.join_rules", "").await, "join_rule"), join_rule);
        assert_eq!(field(world.state(&room, "m.room.guest_access", "").await, "guest_access"), guest_access);
        let history = world.state(&room, "m.room.history_visibility", "").await;
        assert_eq!(field(history, "history_visibility"), "shared");
    }
}

#[tokio::test]
async fn everything_asked_for_is_in_the_new_room() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let mut request = CreateRoom::new(alice.clone());
    request.name = Some("Reef".to_owned());
    request.topic = Some("Seahorses".to_owned());
    let profile = Some(raw(json!({ "displayname": "Bob" })));
    let invitee = Invitee { content: profile, ..Invitee::new(bob.clone(), true) };
    request.invites = vec![invitee.clone(), invitee];
    request.alias = Some(room_alias_id!("#reef:here").to_owned());
    request.visibility = true;
    request.creation_content = Some(raw(json!({ "type": "m.space", "creator": "@mallory:here", "room_version": "1" })));
    request.member_content = Some(raw(json!({ "displayname": "Alice", "membership": "ban" })));
    request.initial_state = vec![
        InitialState {
            event_type: "m.room.name".to_owned(),
            state_key: String::new(),
            content: raw(json!({ "name": "overridden" })),
        },
        InitialState {
            event_type: "m.room.history_visibility".to_owned(),
            state_key: String::new(),
            content: raw(json!({ "history_visibility": "world_readable" })),
        },
    ];
    let room = world.rooms.create(&request).await.expect("a room");
    assert_eq!(world.state(&room, "m.room.name", "").await.expect("a name")["name"], "Reef");
    let topic = world.state(&room, "m.room.topic", "").await.expect("a topic");
    assert_eq!(topic["topic"], "Seahorses");
    assert_eq!(topic["m.topic"]["m.text"][0]["body"], "Seahorses");
    let create = world.state(&room, "m.room.create", "").await.expect("a create event");
    assert_eq!(create, json!({ "type": "m.space", "room_version": "12" }));
    let member = world.state(&room, "m.room.member", bob.as_str()).await.expect("an invite");
    assert_eq!(member, json!({ "membership": "invite", "is_direct": true, "displayname": "Bob" }));
    let member = world.state(&room, "m.room.member", alice.as_str()).await.expect("a member");
    assert_eq!(member, json!({ "membership": "join", "displayname": "Alice" }));
    let history = world.state(&room, "m.room.history_visibility", "").await.expect("history visibility");
    assert_eq!(history["history_visibility"], "world_readable");
    assert_eq!(world.state(&room, "m.room.canonical_alias", "").await.expect("an alias")["alias"], "#reef:here");
    // Version 12: tombstones need more than other state, and creators have no number.
    let levels = world.state(&room, "m.room.power_levels", "").await.expect("levels");
    assert_eq!(levels["events"]["m.room.tombstone"], 150);
    assert_eq!(levels["users"], json!({}));
    // The room's events are one batch; its rows are there.
    let view = world.view().await;
    let row = world.rooms.membership(&view, &bob, &room).await.expect("a read").expect("a row");
    assert_eq!(row.membership, Membership::Invite);
    let head = world.rooms.head(&view, &room).await.expect("a read").expect("a head");
    assert_eq!((head.joined_count, head.invited_count), (1, 1));
    assert_eq!(world.state(&room, "m.room.create", "").await.expect("create")["type"], "m.space");
    assert!(world.rooms.is_published(&view, &room).await.expect("a read"));

    request.invites.clear();
    let taken = world.rooms.create(&request).await;
    assert!(matches!(taken, Err(RoomsError::AliasTaken)), "{taken:?}");
}

#[tokio::test]
async fn trusted_invitees_have_the_creators_power() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    for (version, numbers) in [(RoomVersionId::V11, true), (RoomVersionId::V12, false)] {
        let mut request = CreateRoom::new(alice.clone());
        request.version = Some(version);
        request.preset = Some(Preset::TrustedPrivateChat);
        request.invites = vec![Invitee::new(bob.clone(), false)];
        let room = world.rooms.create(&request).await.expect("a room");
        let levels = world.state(&room, "m.room.power_levels", "").await.expect("levels");
        let create = world.state(&room, "m.room.create", "").await.expect("a create event");
        if numbers {
            assert_eq!(levels["users"][bob.as_str()], 100);
        } else {
            assert_eq!(create["additional_creators"], json!([bob]));
        }
        world.rooms.join(&bob, &room, None).await.expect("joined");
        world.set(&bob, &room, ("m.room.power_levels", ""), levels).await.expect("bob has the power");
    }
}

#[tokio::test]
async fn an_unknown_version_or_too_much_state_is_refused() {
    let world = World::new().await;
    let mut request = CreateRoom::new(world.user("alice"));
    request.version = Some(RoomVersionId::try_from("org.example.99").expect("a version"));
    let refused = world.rooms.create(&request).await;
    assert!(matches!(refused, Err(RoomsError::UnsupportedRoomVersion(_))), "{refused:?}");
    request.version = None;
    let state = InitialState { event_type: "a.b".to_owned(), state_key: String::new(), content: raw(json!({})) };
    request.initial_state = vec![state; rooms::INITIAL_STATE_MAX + 1];
    let refused = world.rooms.create(&request).await;
    assert!(matches!(refused, Err(RoomsError::TooLarge(_))), "{refused:?}");
}

#[tokio::test]
async fn first_state_that_contradicts_itself_is_refused() {
    let world = World::new().await;
    let alice = world.user("alice");
    let mut request = CreateRoom::new(alice.clone());
    request.version = Some(RoomVersionId::V11);
    request.power_level_content_override = Some(raw(json!({ "users": { (alice.as_str()): 0 } })));
    let refused = world.rooms.create(&request).await;
    assert!(matches!(refused, Err(RoomsError::InvalidRoomState(_))), "{refused:?}");
    request.power_level_content_override = Some(raw(json!({ "users": { (alice.as_str()): "100" } })));
    let refused = world.rooms.create(&request).await;
    assert!(matches!(refused, Err(RoomsError::BadEvent(_))), "{refused:?}");
    request.power_level_content_override = None;
    request.initial_state = vec![InitialState {
        event_type: "m.room.member".to_owned(),
        state_key: "@bob:here".to_owned(),
        content: raw(json!({ "membership": "invite" })),
    }];
    let refused = world.rooms.create(&request).await;
    assert!(matches!(refused, Err(RoomsError::InvalidRoomState(_))), "{refused:?}");
}

#[tokio::test]
async fn an_upgrade_moves_the_names() {
    let world = World::new().await;
    let alice = world.user("alice");
    let mut request = CreateRoom::new(alice.clone());
    request.alias = Some(room_alias_id!("#reef:here").to_owned());
    request.visibility = true;
    let room = world.rooms.create(&request).await.expect("a room");
    world.rooms.create_alias(&alice, room_alias_id!("#rock:here"), &room).await.expect("made");
    let upgrade = UpgradeRoom {
        user: alice.clone(),
        version: RoomVersionId::V12,
        additional_creators: Vec::new(),
        member_content: None,
    };
    let new_room = world.rooms.upgrade(&room, &upgrade).await.expect("upgraded");
    let view = world.view().await;
    for alias in [room_alias_id!("#reef:here"), room_alias_id!("#rock:here")] {
        let (found, _) = world.rooms.resolve_alias(&view, alias).await.expect("a read").expect("resolved");
        assert_eq!(found, new_room);
    }
    assert_eq!(world.rooms.local_aliases(&view, &alice, &new_room).await.expect("a read").len(), 2);
    assert!(world.rooms.local_aliases(&view, &alice, &room).await.expect("a read").is_empty());
    assert!(world.rooms.is_published(&view, &new_room).await.expect("a read"));
    assert!(!world.rooms.is_published(&view, &room).await.expect("a read"));
    let canonical = world.state(&new_room, "m.room.canonical_alias", "").await.expect("an alias");
    assert_eq!(canonical, json!({ "alias": "#reef:here" }));
    assert_eq!(world.state(&room, "m.room.canonical_alias", "").await.expect("an event"), json!({}));
}

#[tokio::test]
async fn an_upgrade_keeps_the_power_of_all() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    // From, levels of Alice and Bob there, to, levels in the new room; none for who stands above all numbers.
    let cases = [
        (RoomVersionId::V10, Some((json!(150), json!(120))), RoomVersionId::V11, Some(150), 120),
        (RoomVersionId::V10, Some((json!(100), json!(200))), RoomVersionId::V11, Some(100), 200),
        (RoomVersionId::V11, Some((json!(150), json!(120))), RoomVersionId::V12, None, 120),
        (RoomVersionId::V12, None, RoomVersionId::V11, Some(150), 60),
    ];
    for (from, old, to, alice_level, bob_level) in cases {
        let mut request = CreateRoom::new(alice.clone());
        request.version = Some(from.clone());
        let users = match &old {
            Some((of_alice, of_bob)) => json!({ (alice.as_str()): of_alice, (bob.as_str()): of_bob }),
            None => json!({ (bob.as_str()): bob_level }),
        };
        request.power_level_content_override = Some(raw(json!({ "users": users })));
        let room = world.rooms.create(&request).await.expect("a room");
        let upgrade = UpgradeRoom {
            user: alice.clone(),
            version: to.clone(),
            additional_creators: Vec::new(),
            member_content: None,
        };
        let new_room = world.rooms.upgrade(&room, &upgrade).await.expect("upgraded");
        let levels = world.state(&new_room, "m.room.power_levels", "").await.expect("levels");
        assert_eq!(levels["users"].get(alice.as_str()).and_then(Value::as_i64), alice_level, "{from} to {to}");
        assert_eq!(levels["users"][bob.as_str()], bob_level, "{from} to {to}");
    }
}

#[tokio::test]
async fn an_upgrade_moves_the_state_and_closes_the_old_room() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.room(&alice, Preset::PublicChat, &RoomVersionId::V10).await;
    world.set(&alice, &room, ("m.room.name", ""), json!({ "name": "Reef" })).await.expect("named");
    world.rooms.join(&bob, &room, None).await.expect("joined");
    let request = |user: &ruma::UserId| UpgradeRoom {
        user: user.to_owned(),
        version: RoomVersionId::V12,
        additional_creators: Vec::new(),
        member_content: None,
    };
    let refused = world.rooms.upgrade(&room, &request(&bob)).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");

    let new_room = world.rooms.upgrade(&room, &request(&alice)).await.expect("upgraded");
    let tombstone = world.state(&room, "m.room.tombstone", "").await.expect("a tombstone");
    assert_eq!(tombstone["replacement_room"], new_room.as_str());
    let create = world.state(&new_room, "m.room.create", "").await.expect("a create event");
    assert_eq!(create["predecessor"]["room_id"], room.as_str());
    assert_eq!(world.state(&new_room, "m.room.name", "").await.expect("a name")["name"], "Reef");
    assert_eq!(world.state(&new_room, "m.room.join_rules", "").await.expect("rules")["join_rule"], "public");
    let closed = world.say(&bob, &room, "anybody here?").await;
    assert!(matches!(closed, Err(RoomsError::Forbidden(_))), "{closed:?}");
    world.rooms.join(&bob, &new_room, None).await.expect("joined");
}

#[tokio::test]
async fn rooms_made_in_the_same_moment_are_different_rooms() {
    let world = World::new().await;
    let alice = world.user("alice");
    let mut made = std::collections::BTreeSet::new();
    for _ in 0..20 {
        made.insert(world.public_room(&alice).await);
    }
    assert_eq!(made.len(), 20);
}

/// A room that is made alike in the same moment would have the same id. Whoever writes to the first meanwhile doesn't notice.
#[tokio::test]
async fn a_room_is_written_to_while_its_maker_makes_another_alike() {
    let world = World::new().await;
    let alice = world.user("alice");
    let room = world.public_room(&alice).await;
    for round in 0..20 {
        let rename = |content: &mut serde_json::Map<String, Value>| {
            content.insert("displayname".to_owned(), format!("Alice {round}").into());
        };
        let sender = rooms::Sender::user(&alice);
        let content = raw(json!({ "body": "hi" }));
        let (made, renamed, said) = tokio::join!(
            world.public_room(&alice),
            world.rooms.update_member(&alice, &room, rename),
            world.rooms.send(&sender, &room, "m.room.message", content, rooms::SendOptions::default()),
        );
        assert_ne!(made, room);
        assert!(renamed.expect("renamed"));
        said.expect("said");
        let member = world.state(&room, "m.room.member", alice.as_str()).await.expect("a member event");
        assert_eq!(member["displayname"], format!("Alice {round}"));
    }
}

#[tokio::test]
async fn a_state_that_is_set_to_what_it_is_stays_the_event_that_it_was() {
    let world = World::new().await;
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let room = world.public_room(&alice).await;
    world.rooms.join(&bob, &room, None).await.expect("joined");
    let name = json!({ "name": "Reef", "n": 1 });
    let first = world.set(&alice, &room, ("m.room.name", ""), name.clone()).await.expect("set");
    assert_eq!(world.set(&alice, &room, ("m.room.name", ""), name.clone()).await.expect("set"), first);
    let other = world.set(&alice, &room, ("m.room.name", ""), json!({ "name": "Rock" })).await.expect("set");
    assert_ne!(other, first);
    // Back again is a change; by somebody else it is another's word; and who may not may not.
    let back = world.set(&alice, &room, ("m.room.name", ""), name.clone()).await.expect("set");
    assert!(back != first && back != other);
    let refused = world.set(&bob, &room, ("m.room.name", ""), name.clone()).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))), "{refused:?}");
    // What is left of a redacted one isn't what it was.
    world.rooms.redact(&rooms::Sender::user(&alice), &room, &back, None, &|_| {}).await.expect("redacted");
    assert_ne!(world.set(&alice, &room, ("m.room.name", ""), name).await.expect("set"), back);
}

#[tokio::test]
async fn a_replaced_room_stays_as_it_was_when_new_rooms_are_encrypted() {
    let world = World::new().await;
    let alice = world.user("alice");
    let old = world.room(&alice, Preset::PrivateChat, &RoomVersionId::V11).await;
    let config = Config {
        encryption_enabled_by_default_for_room_type: EncryptionByDefault::All,
        ..Config::new(world.name.clone())
    };
    let (clock, random) = (world.clock.clone(), Arc::new(SeededRandom::new(5)));
    let rooms = Rooms::open(config, world.store.clone(), clock, random, Ports::no_federation()).await.expect("rooms");
    let version = RoomVersionId::V12;
    let request = UpgradeRoom { user: alice.clone(), version, additional_creators: Vec::new(), member_content: None };
    let replacement = rooms.upgrade(&old, &request).await.expect("upgraded");
    let new = rooms.create(&CreateRoom::new(alice)).await.expect("a room");
    let encrypted = async |room| {
        rooms.current_event(&world.view().await, room, "m.room.encryption", "").await.expect("a read").is_some()
    };
    assert!(!encrypted(&replacement).await);
    assert!(encrypted(&new).await);
}
