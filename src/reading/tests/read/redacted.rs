//! What a redaction took away is told by no reader and comes back by no way.

use event::push::PushRules;
use reading::{HierarchyQuery, MembersQuery, MessagesQuery, PublicRoomsQuery, RoomEventFilter, Viewer};
use rooms::{CreateRoom, Direction, Preset, RoomsError, UpgradeRoom};
use ruma::{EventId, OwnedRoomId, RoomId, RoomVersionId, push::Ruleset, room_alias_id, server_name};
use serde_json::{Map, Value, json};

use crate::world::{World, alice, bob, carol, value};

/// What nobody is to read any more.
const SLUR: &str = "slur";

/// A state event whose content says it.
struct Case {
    event_type: &'static str,
    state_key: &'static str,
    content: Value,
}

fn cases() -> Vec<Case> {
    let state = |event_type, content| Case { event_type, state_key: "", content };
    vec![
        state("m.room.name", json!({ "name": SLUR })),
        state("m.room.topic", json!({ "topic": SLUR, "m.topic": { "m.text": [{ "body": SLUR }] } })),
        state("m.room.avatar", json!({ "url": format!("mxc://here/{SLUR}") })),
        state("m.room.canonical_alias", json!({ "alias": "#slur:here", "alt_aliases": ["#other:here"] })),
        state("m.room.encryption", json!({ "algorithm": SLUR })),
        state("m.room.server_acl", json!({ "allow": ["*"], "deny": [SLUR] })),
        state("m.room.pinned_events", json!({ "pinned": [SLUR] })),
        state("m.room.guest_access", json!({ "guest_access": "can_join", "why": SLUR })),
        state("m.room.history_visibility", json!({ "history_visibility": "world_readable", "why": SLUR })),
        state("m.room.join_rules", json!({ "join_rule": "public", "why": SLUR })),
        Case {
            event_type: "m.space.child",
            state_key: "!child:here",
            content: json!({ "via": ["here", SLUR], "order": SLUR }),
        },
        Case {
            event_type: "m.room.member",
            state_key: "@alice:here",
            content: json!({ "membership": "join", "displayname": SLUR, "reason": SLUR }),
        },
    ]
}

async fn space(world: &World, version: &RoomVersionId) -> OwnedRoomId {
    let mut create = CreateRoom::new(alice().to_owned());
    create.preset = Some(Preset::PublicChat);
    create.version = Some(version.clone());
    create.visibility = true;
    create.creation_content = Some(crate::world::raw(json!({ "type": "m.space" })));
    let room = world.create(&create).await;
    world.join(bob(), &room).await;
    room
}

/// All that anybody is told of a room, as one text.
async fn told(world: &World, room: &RoomId) -> String {
    let (rooms, reading, view) = (&world.rooms, &world.reading, world.view().await);
    let reader = reading.room(&view, Viewer::new(bob()), room);
    let mut told = Vec::new();
    let description = reading.describe(&view, room).await.expect("described");
    told.push(serde_json::to_string(&*description).expect("JSON"));
    let query = PublicRoomsQuery::default();
    for found in reading.public_rooms(&view, &query).await.expect("a page").chunk {
        if found.room_id == room {
            told.push(serde_json::to_string(&*found).expect("JSON"));
        }
    }
    let page = reader.hierarchy(&HierarchyQuery::default()).await.expect("a hierarchy");
    for room in page.rooms {
        told.push(serde_json::to_string(&*room.description).expect("JSON"));
        told.extend(room.children_state.iter().map(|child| child.get().to_owned()));
    }
    let head = rooms.head(&view, room).await.expect("read").expect("a room");
    told.extend(
        rooms
            .state(&view, room, head.root)
            .shown_to_invited(None)
            .await
            .expect("stripped")
            .iter()
            .map(|event| event.json().get().to_owned()),
    );
    told.push(format!("{:?}", reader.joined_profiles().await.expect("members")));
    let members = reader.members(MembersQuery::default()).await.expect("members");
    told.extend(members.iter().map(|member| member.get().to_owned()));
    let state = reader.current_state().await.expect("a state");
    told.extend(state.iter().map(|event| event.get().to_owned()));
    let query = MessagesQuery { direction: Direction::Forward, limit: 100, ..MessagesQuery::default() };
    let messages = world.page(bob(), room, &query).await;
    told.extend(messages.chunk.iter().map(|event| event.get().to_owned()));
    told.join("\n")
}

async fn upgrade(world: &World, room: &RoomId) -> OwnedRoomId {
    world.pass(1);
    let request = UpgradeRoom {
        user: alice().to_owned(),
        version: RoomVersionId::V12,
        additional_creators: Vec::new(),
        member_content: None,
    };
    let new = world.rooms.upgrade(room, &request).await.expect("upgraded");
    world.rooms.join(bob(), &new, None).await.expect("joined");
    new
}

/// What members do in a room afterwards, and what might write old content anew.
async fn live_on(world: &World, room: &RoomId) {
    let avatar = |content: &mut Map<String, Value>| {
        content.insert("avatar_url".to_owned(), "mxc://here/new".into());
    };
    assert!(world.rooms.update_member(alice(), room, avatar).await.expect("told"));
    world.rooms.delete_alias(alice(), room_alias_id!("#other:here"), false).await.expect("deleted");
    world.say(bob(), room, "hello").await;
}

#[tokio::test]
async fn what_was_redacted_is_told_by_nobody_and_never_comes_back() {
    for version in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        for case in cases() {
            let name = format!("{} in version {version}", case.event_type);
            let world = World::new().await;
            let room = space(&world, &version).await;
            for alias in [room_alias_id!("#slur:here"), room_alias_id!("#other:here")] {
                world.rooms.create_alias(alice(), alias, &room).await.expect("an alias");
            }
            let event = world.set(alice(), &room, (case.event_type, case.state_key), case.content).await;
            assert!(told(&world, &room).await.contains(SLUR), "{name}: nothing to take away");
            world.redact(alice(), &room, &event).await;
            let check = async |world: &World, room: &RoomId, when: &str| {
                let told = told(world, room).await;
                assert!(!told.contains(SLUR), "{name}, {when}: {told}");
            };
            check(&world, &room, "redacted").await;
            live_on(&world, &room).await;
            check(&world, &room, "later").await;
            let world = world.restarted().await;
            check(&world, &room, "after a restart").await;
            let new = upgrade(&world, &room).await;
            check(&world, &new, "upgraded").await;
            check(&world, &room, "replaced").await;
        }
    }
}

#[tokio::test]
async fn what_was_redacted_no_longer_decides() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let access = json!({ "guest_access": "can_join" });
    let access = world.set(alice(), &room, ("m.room.guest_access", ""), access).await;
    let acl = json!({ "allow": ["*"], "deny": ["there"] });
    let acl = world.set(alice(), &room, ("m.room.server_acl", ""), acl).await;
    let name = world.set(alice(), &room, ("m.room.name", ""), json!({ "name": "Tea" })).await;
    let guests = async || world.reading.describe(&world.view().await, &room).await.expect("described").guest_can_join;
    let allows = async |server| world.rooms.acl_allows(&world.view().await, &room, server).await.expect("read");
    let heroes = async || {
        let head = world.rooms.head(&world.view().await, &room).await.expect("read").expect("a room");
        let view = world.view().await;
        let reader = world.reading.room(&view, Viewer::new(bob()), &room);
        reader.member_summary(head.root).await.expect("a summary").heroes
    };
    assert!(guests().await && allows(server_name!("elsewhere")).await && !allows(server_name!("there")).await);
    assert_eq!(heroes().await, None);
    for event in [&access, &acl, &name] {
        world.redact(alice(), &room, event).await;
    }
    assert!(!guests().await);
    // A list that allows nobody in particular allows nobody.
    assert!(!allows(server_name!("elsewhere")).await);
    assert_eq!(heroes().await, Some(vec![alice().to_owned()]));
}

/// Before version 11 a redaction takes the level of invites away, and then everybody may invite.
#[tokio::test]
async fn levels_are_what_a_redaction_left_of_them() {
    for (version, left) in [(RoomVersionId::V10, false), (RoomVersionId::V11, true)] {
        let world = World::new().await;
        let mut create = CreateRoom::new(alice().to_owned());
        create.preset = Some(Preset::PublicChat);
        create.version = Some(version);
        create.power_level_content_override = Some(crate::world::raw(json!({ "invite": 50 })));
        let room = world.create(&create).await;
        world.join(bob(), &room).await;
        let invite = async || {
            world.pass(1);
            world.rooms.invite(bob(), &room, carol(), None).await
        };
        assert!(matches!(invite().await, Err(RoomsError::Forbidden(_))));
        let levels =
            world.rooms.current_event(&world.view().await, &room, "m.room.power_levels", "").await.expect("read");
        world.redact(alice(), &room, levels.expect("levels").pdu.event_id()).await;
        assert_eq!(matches!(invite().await, Err(RoomsError::Forbidden(_))), left);
    }
}

#[tokio::test]
async fn filters_judge_by_what_is_left() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let picture = json!({ "msgtype": "m.image", "body": "a picture", "url": "mxc://here/picture" });
    let picture = world.send(alice(), &room, "m.room.message", picture).await;
    let found = async |contains_url: bool, event: &EventId| {
        let filter = RoomEventFilter { contains_url: Some(contains_url), ..RoomEventFilter::default() };
        let query = MessagesQuery { limit: 100, filter, ..MessagesQuery::default() };
        let page = world.page(bob(), &room, &query).await;
        page.chunk.iter().any(|found| value(found)["event_id"] == event.as_str())
    };
    assert!(found(true, &picture).await && !found(false, &picture).await);
    world.redact(alice(), &room, &picture).await;
    assert!(!found(true, &picture).await && found(false, &picture).await);
}

#[tokio::test]
async fn a_redacted_name_mentions_nobody() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let mut rules = Ruleset::new();
    let rule = json!({
        "rule_id": "by_name", "default": false, "enabled": true, "conditions": [{ "kind": "contains_display_name" }],
        "actions": ["notify", { "set_tweak": "highlight" }]
    });
    rules.override_.insert(serde_json::from_value(rule).expect("a rule"));
    let rules = PushRules::compile(&rules, bob());
    let highlights = async || {
        let counts = world.reading.room(&world.view().await, Viewer::new(bob()), &room).unread(&rules).await;
        counts.expect("counted").main.highlights
    };
    let content = json!({ "membership": "join", "displayname": "Kraken" });
    let member = world.set(bob(), &room, ("m.room.member", bob().as_str()), content).await;
    world.say(alice(), &room, "Kraken!").await;
    assert_eq!(highlights().await, 1);
    world.redact(alice(), &room, &member).await;
    world.say(alice(), &room, "Kraken?").await;
    assert_eq!(highlights().await, 1);
}
