//! Aliases, the directory, summaries, spaces.

use reading::{HierarchyQuery, PublicRoomsQuery, Viewer};
use rooms::{CreateRoom, Preset, RoomsError};
use ruma::{OwnedRoomId, RoomId, room_alias_id};
use serde_json::{Value, json};

use crate::world::{World, alice, bob, carol, raw, value};

#[tokio::test]
async fn aliases_are_made_resolved_and_deleted() {
    let world = World::new().await;
    let room = world.room(&[alice(), bob()]).await;
    let alias = room_alias_id!("#tea:here");
    world.rooms.create_alias(bob(), alias, &room).await.expect("made");
    let (found, servers) =
        world.rooms.resolve_alias(&world.view().await, alias).await.expect("read").expect("resolved");
    assert_eq!((found, servers.len()), (room.clone(), 1));
    assert_eq!(world.rooms.local_aliases(&world.view().await, alice(), &room).await.expect("read"), [alias]);
    let strange = world.rooms.local_aliases(&world.view().await, carol(), &room).await;
    assert!(matches!(strange, Err(RoomsError::NotJoined)));

    let again = world.rooms.create_alias(alice(), alias, &room).await;
    assert!(matches!(again, Err(RoomsError::AliasTaken)));
    let foreign = world.rooms.create_alias(alice(), room_alias_id!("#tea:there"), &room).await;
    assert!(matches!(foreign, Err(RoomsError::BadValue(_))));
    let long = ruma::RoomAliasId::parse(format!("#{}:here", "a".repeat(255))).expect("an alias");
    let long = world.rooms.create_alias(alice(), &long, &room).await;
    assert!(matches!(long, Err(RoomsError::BadValue(_))));
    let outsider = world.rooms.create_alias(carol(), room_alias_id!("#coffee:here"), &room).await;
    assert!(matches!(outsider, Err(RoomsError::NotJoined)));

    let outsider = world.rooms.delete_alias(carol(), alias, false).await;
    assert!(matches!(outsider, Err(RoomsError::Forbidden(_))));
    world.rooms.delete_alias(bob(), alias, false).await.expect("deleted");
    assert!(world.rooms.resolve_alias(&world.view().await, alias).await.expect("read").is_none());
    assert!(matches!(world.rooms.delete_alias(bob(), alias, false).await, Err(RoomsError::AliasNotFound)));
}

#[tokio::test]
async fn the_canonical_alias_must_name_the_room() {
    let world = World::new().await;
    let room = world.room(&[alice()]).await;
    let alias = room_alias_id!("#tea:here");
    let set = async |content: Value| {
        let sender = rooms::Sender::user(alice());
        let key = ("m.room.canonical_alias", "");
        world.rooms.send_state(&sender, &room, rooms::NewState::new(key, raw(content))?, Default::default()).await
    };
    assert!(matches!(set(json!({ "alias": alias })).await, Err(RoomsError::BadAlias(_))));
    assert!(matches!(set(json!({ "alt_aliases": ["tea"] })).await, Err(RoomsError::BadValue(_))));
    world.rooms.create_alias(alice(), alias, &room).await.expect("made");
    set(json!({ "alias": alias, "alt_aliases": [alias] })).await.expect("set");

    // Deleting it takes it out of there too.
    world.rooms.delete_alias(alice(), alias, false).await.expect("deleted");
    let event = world.rooms.current_event(&world.view().await, &room, "m.room.canonical_alias", "").await;
    let event = event.expect("read").expect("an event");
    assert_eq!(value(event.pdu.as_received().content()), json!({ "alt_aliases": [] }));
}

/// A published room with a name.
async fn publish(world: &World, name: &str, room_type: Option<&str>) -> OwnedRoomId {
    let mut create = CreateRoom::new(alice().to_owned());
    create.preset = Some(Preset::PublicChat);
    create.visibility = true;
    create.name = Some(name.to_owned());
    create.creation_content = room_type.map(|kind| raw(json!({ "type": kind })));
    world.create(&create).await
}

async fn listed(world: &World, query: PublicRoomsQuery) -> Vec<String> {
    let page = world.reading.public_rooms(&world.view().await, &query).await.expect("a page");
    page.chunk.iter().filter_map(|room| room.name.clone()).collect()
}

#[tokio::test]
async fn the_directory_lists_the_largest_rooms_first() {
    let world = World::new().await;
    let small = publish(&world, "Small", None).await;
    let large = publish(&world, "Large", None).await;
    publish(&world, "A space", Some("m.space")).await;
    world.room(&[alice(), bob(), carol()]).await;
    world.join(bob(), &large).await;
    world.join(carol(), &large).await;
    world.join(bob(), &small).await;
    assert_eq!(listed(&world, PublicRoomsQuery::default()).await, ["Large", "Small", "A space"]);
    let search = PublicRoomsQuery { search: Some("SMALL".to_owned()), ..Default::default() };
    assert_eq!(listed(&world, search).await, ["Small"]);
    let spaces = PublicRoomsQuery { room_types: Some(vec![Some("m.space".to_owned())]), ..Default::default() };
    assert_eq!(listed(&world, spaces).await, ["A space"]);
    let plain = PublicRoomsQuery { room_types: Some(vec![None]), limit: Some(1), ..Default::default() };
    assert_eq!(listed(&world, plain).await, ["Large"]);

    assert!(matches!(world.reading.set_published(bob(), &large, false).await, Err(RoomsError::Forbidden(_))));
    world.reading.set_published(alice(), &large, false).await.expect("withdrawn");
    assert!(!world.rooms.is_published(&world.view().await, &large).await.expect("read"));
    assert_eq!(listed(&world, PublicRoomsQuery::default()).await, ["Small", "A space"]);
}

#[tokio::test]
async fn a_description_says_what_the_state_says() {
    let world = World::new().await;
    let room = publish(&world, "Tea", None).await;
    world.set(alice(), &room, ("m.room.topic", ""), json!({ "topic": "Leaves" })).await;
    world.set(alice(), &room, ("m.room.avatar", ""), json!({ "url": "mxc://here/t" })).await;
    world.set_history(alice(), &room, "world_readable").await;
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    world.set(alice(), &room, ("m.room.encryption", ""), encryption).await;
    let (description, membership) =
        world.reading.room_summary(&world.view().await, Some(alice()), &room).await.expect("a summary");
    assert_eq!(membership, Some("join"));
    let description = serde_json::to_value(&*description).expect("JSON");
    assert_eq!(
        description,
        json!({
            "room_id": room, "num_joined_members": 1, "world_readable": true,
            "guest_can_join": description["guest_can_join"], "name": "Tea", "topic": "Leaves",
            "avatar_url": "mxc://here/t", "join_rule": "public", "encryption": "m.megolm.v1.aes-sha2",
            "room_version": "12",
        })
    );
}

#[tokio::test]
async fn a_redacted_name_is_shown_nowhere() {
    let world = World::new().await;
    let room = publish(&world, "Tea", None).await;
    let name = world.set(alice(), &room, ("m.room.name", ""), json!({ "name": "Insult" })).await;
    assert_eq!(listed(&world, PublicRoomsQuery::default()).await, ["Insult"]);
    world.redact(alice(), &room, &name).await;
    assert!(listed(&world, PublicRoomsQuery::default()).await.is_empty());
    let view = world.view().await;
    let root = world.rooms.head(&view, &room).await.expect("read").expect("a head").root;
    let summary = world.reading.room(&view, Viewer::new(alice()), &room).member_summary(root).await.expect("a summary");
    assert_eq!(summary.heroes, Some(Vec::new()));
}

#[tokio::test]
async fn private_rooms_show_themselves_to_those_who_could_come_in() {
    let world = World::new().await;
    let club = world.room(&[alice(), bob()]).await;
    let create = CreateRoom::new(alice().to_owned());
    let room = world.create(&create).await;
    let may = async |user| world.reading.room_summary(&world.view().await, Some(user), &room).await.is_ok();
    assert!(may(alice()).await);
    assert!(!may(bob()).await);
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    let rules = json!({ "join_rule": "restricted", "allow": allow });
    world.set(alice(), &room, ("m.room.join_rules", ""), rules).await;
    assert!(may(bob()).await);
    assert!(!may(carol()).await);
    world.rooms.invite(alice(), &room, carol(), None).await.expect("invited");
    assert!(may(carol()).await);
    assert!(world.reading.room_summary(&world.view().await, None, &room).await.is_err());
}

async fn child(world: &World, space: &RoomId, room: &RoomId, content: Value) {
    world.set(alice(), space, ("m.space.child", room.as_str()), content).await;
}

async fn tree(world: &World, room: &RoomId, mut query: HierarchyQuery) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let page =
            world.reading.room(&world.view().await, Viewer::new(bob()), room).hierarchy(&query).await.expect("a page");
        for room in &page.rooms {
            names.push(room.description.name.clone().unwrap_or_default());
        }
        match page.next {
            Some(next) => query.from = Some(next.to_string().parse().expect("a token")),
            None => return names,
        }
    }
}

#[tokio::test]
async fn spaces_are_walked_depth_first_in_their_order() {
    let world = World::new().await;
    let top = publish(&world, "top", Some("m.space")).await;
    let sub = publish(&world, "sub", Some("m.space")).await;
    let (one, two, three) =
        (publish(&world, "one", None).await, publish(&world, "two", None).await, publish(&world, "three", None).await);
    let hidden = world.create(&CreateRoom::new(alice().to_owned())).await;
    let via = json!(["here"]);
    child(&world, &top, &one, json!({ "via": via, "suggested": true })).await;
    child(&world, &top, &sub, json!({ "via": via, "order": "a" })).await;
    child(&world, &top, &hidden, json!({ "via": via, "order": "b" })).await;
    child(&world, &top, &three, json!({})).await;
    child(&world, &sub, &two, json!({ "via": via })).await;
    // A loop.
    child(&world, &sub, &top, json!({ "via": via })).await;

    for limit in [1, 2, 10] {
        let query = HierarchyQuery { limit: Some(limit), ..Default::default() };
        assert_eq!(tree(&world, &top, query).await, ["top", "sub", "two", "one"], "limit {limit}");
    }
    let shallow = HierarchyQuery { max_depth: Some(1), ..Default::default() };
    assert_eq!(tree(&world, &top, shallow).await, ["top", "sub", "one"]);
    let suggested = HierarchyQuery { suggested_only: true, ..Default::default() };
    assert_eq!(tree(&world, &top, suggested).await, ["top", "one"]);

    let (view, bob) = (world.view().await, Viewer::new(bob()));
    let page = world.reading.room(&view, bob, &top).hierarchy(&HierarchyQuery::default()).await;
    let room = serde_json::to_value(&page.expect("a page").rooms[0]).expect("JSON");
    assert_eq!(room["room_type"], "m.space");
    assert_eq!(room["children_state"].as_array().map(Vec::len), Some(3));
    assert!(room["children_state"][0]["origin_server_ts"].is_u64());

    let first = HierarchyQuery { limit: Some(1), ..Default::default() };
    let page = world.reading.room(&view, bob, &top).hierarchy(&first).await.expect("a page");
    let other = HierarchyQuery { suggested_only: true, from: page.next, ..Default::default() };
    let refused = world.reading.room(&view, bob, &top).hierarchy(&other).await;
    assert!(matches!(refused, Err(RoomsError::UnknownPos)));
    let refused = world.reading.room(&view, bob, &hidden).hierarchy(&HierarchyQuery::default()).await;
    assert!(matches!(refused, Err(RoomsError::Forbidden(_))));
}

#[tokio::test]
async fn another_server_learns_what_it_could_join() {
    let world = World::new().await;
    let top = publish(&world, "top", Some("m.space")).await;
    let open = publish(&world, "open", None).await;
    let hidden = world.create(&CreateRoom::new(alice().to_owned())).await;
    let via = json!(["here"]);
    child(&world, &top, &open, json!({ "via": via })).await;
    child(&world, &top, &hidden, json!({ "via": via })).await;
    child(&world, &top, ruma::room_id!("!elsewhere:there"), json!({ "via": ["there"] })).await;
    let (view, there) = (world.view().await, ruma::server_name!("there"));
    let answer = world.reading.hierarchy_for_server(&view, there, &top, false).await.expect("an answer");
    let answer = serde_json::to_value(&answer).expect("JSON");
    assert_eq!(answer["room"]["name"], "top");
    assert_eq!(answer["room"]["children_state"].as_array().map(Vec::len), Some(3));
    assert_eq!(answer["children"][0]["name"], "open");
    assert_eq!(answer["children"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["inaccessible_children"], json!([hidden]));
    let refused = world.reading.hierarchy_for_server(&view, there, &hidden, false).await;
    assert!(matches!(refused, Err(RoomsError::RoomNotFound)));
}
