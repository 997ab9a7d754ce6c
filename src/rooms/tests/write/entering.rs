//! Entering rooms of other servers, for the first time and again.

use std::sync::Arc;

use rooms::{Membership, Preset, RoomsError};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, UserId};
use serde_json::{Value, json, value::RawValue};
use testkit::ManualClock;

use crate::world::{Others, World};

async fn two() -> (World, World) {
    let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
    let here = World::named("here", others.clone(), clock.clone()).await;
    let there = World::named("there", others, clock).await;
    (here, there)
}

/// An invite-only room of here, in which users of there are.
async fn private_room(here: &World, there: &World, version: &RoomVersionId, users: &[&UserId]) -> OwnedRoomId {
    let alice = here.user("alice");
    let room = here.room(&alice, Preset::PrivateChat, version).await;
    for user in users {
        let invite = here.rooms.invite(&alice, &room, user, None).await.expect("invited").event_id;
        if there.rooms.is_server_joined(&there.view().await, &room, &there.name).await.expect("a read") {
            here.deliver(there, &room, &[&invite]).await;
            let joined = there.rooms.join(user, &room, None).await.expect("joined").event_id;
            there.deliver(here, &room, &[&joined]).await;
        } else {
            there.join_from(here, &room, user).await;
        }
    }
    room
}

async fn leave(world: &World, room: &RoomId, user: &UserId) -> OwnedEventId {
    world.clock.advance(1);
    world.rooms.leave(user, room, None).await.expect("left");
    let event =
        world.rooms.current_event(&world.view().await, room, "m.room.member", user.as_str()).await.expect("a read");
    event.expect("a member event").pdu.owned_event_id()
}

#[tokio::test]
async fn who_is_invited_again_comes_back_by_the_state_that_the_others_have() {
    let (here, there) = two().await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    for version in event::SUPPORTED_ROOM_VERSIONS {
        let room = private_room(&here, &there, &version, &[&bob]).await;
        let left = leave(&there, &room, &bob).await;
        there.deliver(&here, &room, &[&left]).await;
        here.set(&alice, &room, ("m.room.topic", ""), json!({ "topic": "meanwhile" })).await.expect("set");
        here.rooms.invite(&alice, &room, &bob, None).await.expect("invited again");

        there.join_from(&here, &room, &bob).await;
        assert_eq!(there.membership(&room, &bob).await, Membership::Join, "version {version}");
        assert_eq!(there.state(&room, "m.room.topic", "").await.expect("a topic")["topic"], "meanwhile");
        let row = there.rooms.membership(&there.view().await, &bob, &room).await.expect("a read").expect("a row");
        assert_eq!(row.membership, Membership::Join);
        let head = there.rooms.head(&there.view().await, &room).await.expect("a read").expect("a head");
        assert_eq!((head.extremities.len(), head.joined_count), (1, 2), "version {version}");
        let said = there.say(&bob, &room, "back again").await.expect("said");
        there.deliver(&here, &room, &[&said]).await;
        assert_eq!(here.status(&said).await, rooms::EventStatus::Accepted);
    }
}

#[tokio::test]
async fn a_leave_that_the_others_never_got_is_not_undone_by_what_they_tell() {
    let (here, there) = two().await;
    let (alice, bob, carol) = (here.user("alice"), there.user("bob"), there.user("carol"));
    let room = private_room(&here, &there, &RoomVersionId::V12, &[&bob, &carol]).await;
    let left = leave(&there, &room, &bob).await;
    there.deliver(&here, &room, &[&left]).await;
    let lost = leave(&there, &room, &carol).await;
    assert_eq!(here.membership(&room, &carol).await, Membership::Join);
    here.clock.advance(1);
    here.rooms.invite(&alice, &room, &bob, None).await.expect("invited again");
    there.join_from(&here, &room, &bob).await;
    assert_eq!(there.membership(&room, &bob).await, Membership::Join);
    assert_eq!(there.membership(&room, &carol).await, Membership::Leave);
    // Whatever is said next brings it to the others.
    let said = there.say(&bob, &room, "back again").await.expect("said");
    there.deliver(&here, &room, &[&lost, &said]).await;
    assert_eq!(here.membership(&room, &carol).await, Membership::Leave);
}

#[tokio::test]
async fn a_second_invite_can_be_declined() {
    let (here, there) = two().await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let room = private_room(&here, &there, &RoomVersionId::V12, &[&bob]).await;
    let left = leave(&there, &room, &bob).await;
    there.deliver(&here, &room, &[&left]).await;
    let head = there.rooms.head(&there.view().await, &room).await.expect("a read");
    here.rooms.invite(&alice, &room, &bob, None).await.expect("invited again");
    let row = there.rooms.membership(&there.view().await, &bob, &room).await.expect("a read").expect("a row");
    assert_eq!(row.membership, Membership::Invite);
    there.rooms.leave(&bob, &room, None).await.expect("declined");
    let row = there.rooms.membership(&there.view().await, &bob, &room).await.expect("a read").expect("a row");
    assert_eq!(row.membership, Membership::Leave);
    assert_eq!(
        there.rooms.head(&there.view().await, &room).await.expect("a read"),
        head,
        "nothing is built on what is past"
    );
    // The invite that stands is no leave: clients are not told the old one again.
    let zero = store::Position::from_u64(0);
    let log = there
        .rooms
        .membership_log(&there.view().await, &bob, zero, there.view().await.position())
        .await
        .expect("a read");
    let ends: Vec<_> = log.iter().rev().take(2).map(|(_, row)| (row.membership, row.event)).collect();
    assert_eq!(ends, [(Membership::Leave, None), (Membership::Invite, None)]);
}

/// A room of here, and an invite to it for a user of there that here signed.
async fn invite_to(here: &World, user: &UserId, version: &RoomVersionId) -> (OwnedRoomId, event::Pdu) {
    let alice = here.user("alice");
    let room = here.room(&alice, Preset::PublicChat, version).await;
    let last = here.say(&alice, &room, "hello").await.expect("said");
    let key = ("m.room.member", Some(user.to_string()));
    let invite = here.forge(&room, &alice, key, json!({ "membership": "invite" }), (&last, &last)).await;
    (room, invite.expect("an invite"))
}

/// What comes with an invite to a room of here.
async fn state_for_invited(here: &World, room: &RoomId) -> Vec<Box<RawValue>> {
    let head = here.rooms.head(&here.view().await, room).await.expect("a read").expect("a head");
    let state = here.rooms.state(&here.view().await, room, head.root).shown_to_invited(None).await.expect("a state");
    state.iter().map(|event| event.json().to_owned()).collect()
}

/// What a server makes of an invite by another: why it refuses, or the event with its signature.
async fn invited(
    (here, there): (&World, &World),
    room: &RoomId,
    version: &RoomVersionId,
    invite: &RawValue,
    state: &[Box<RawValue>],
) -> Result<Value, RoomsError> {
    let checked = there.rooms.check_invite(&here.name, room, version, invite, state).await?;
    let signed = there.rooms.take_invite(&checked).await?;
    Ok(serde_json::from_str(signed.get()).expect("JSON"))
}

#[tokio::test]
async fn an_invite_that_is_not_what_it_should_be_is_not_signed() {
    let (here, there) = two().await;
    let bob = there.user("bob");
    let both = (&here, &there);
    for version in event::SUPPORTED_ROOM_VERSIONS {
        let (room, invite) = invite_to(&here, &bob, &version).await;
        let state = state_for_invited(&here, &room).await;
        let json: Value = serde_json::from_str(invite.json().get()).expect("JSON");
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut json = json.clone();
            change(&mut json);
            crate::world::raw(json)
        };
        let wrong = [
            ("unsigned", changed(&|json| json["signatures"] = json!({}))),
            ("signed wrongly", changed(&|json| json["origin_server_ts"] = 17.into())),
            ("altered", changed(&|json| json["content"]["reason"] = "none".into())),
            ("of another room", changed(&|json| json["room_id"] = "!other:here".into())),
        ];
        for (what, wrong) in &wrong {
            let refused = invited(both, &room, &version, wrong, &state).await;
            assert!(matches!(refused, Err(RoomsError::BadEvent(_))), "{what}, version {version}: {refused:?}");
        }
        let (alice, last) = (here.user("alice"), json["prev_events"].clone());
        let last = last.pointer("/0/0").or(last.pointer("/0")).and_then(Value::as_str).expect("an id").to_owned();
        let last = ruma::EventId::parse(last).expect("an id");
        let others = [
            ("m.room.member", bob.to_string(), json!({ "membership": "ban" })),
            ("m.room.topic", bob.to_string(), json!({ "membership": "invite" })),
            ("m.room.member", here.user("carol").to_string(), json!({ "membership": "invite" })),
        ];
        for (event_type, state_key, content) in others {
            let other = here.forge(&room, &alice, (event_type, Some(state_key)), content, (&last, &last)).await;
            let refused = invited(both, &room, &version, other.expect("an event").json(), &state).await;
            assert!(matches!(refused, Err(RoomsError::BadEvent(_))), "{event_type}, version {version}: {refused:?}");
        }
        // Another server hands it in.
        let refused = there.rooms.check_invite(&there.name, &room, &version, invite.json(), &state).await;
        assert!(matches!(refused, Err(RoomsError::BadEvent(_))), "version {version}: {refused:?}");
        assert!(there.rooms.membership(&there.view().await, &bob, &room).await.expect("a read").is_none());

        let signed = invited(both, &room, &version, invite.json(), &state).await.expect("signed");
        assert!(signed["signatures"]["here"].is_object() && signed["signatures"]["there"].is_object(), "{signed}");
        let row = there.rooms.membership(&there.view().await, &bob, &room).await.expect("a read").expect("a row");
        assert_eq!(row.membership, Membership::Invite);
    }
}

#[tokio::test]
async fn what_comes_with_an_invite_to_a_room_of_a_new_version_is_checked() {
    let (here, there) = two().await;
    let (bob, version) = (there.user("bob"), RoomVersionId::V12);
    let (room, invite) = invite_to(&here, &bob, &version).await;
    let (other, _) = invite_to(&here, &bob, &version).await;
    let state = state_for_invited(&here, &room).await;
    let of_other = state_for_invited(&here, &other).await;
    let is_create = |event: &RawValue| event.get().contains("\"m.room.create\"");
    let without_create: Vec<_> = state.iter().filter(|event| !is_create(event)).cloned().collect();
    assert_ne!(without_create.len(), state.len());
    let rules = of_other.iter().find(|event| !is_create(event)).expect("join rules").clone();
    let mut unsigned: Value = serde_json::from_str(without_create[0].get()).expect("JSON");
    unsigned["signatures"] = json!({});
    let brief =
        crate::world::raw(json!({ "type": "m.room.name", "state_key": "", "sender": "@a:here", "content": {} }));
    let with = |event: Box<RawValue>| state.iter().cloned().chain([event]).collect::<Vec<_>>();
    let wrong = [without_create, of_other, with(rules), with(crate::world::raw(unsigned)), with(brief), Vec::new()];
    for (number, wrong) in wrong.iter().enumerate() {
        let refused = invited((&here, &there), &room, &version, invite.json(), wrong).await;
        assert!(matches!(refused, Err(RoomsError::BadEvent(_))), "{number}: {refused:?}");
    }
    invited((&here, &there), &room, &version, invite.json(), &state).await.expect("signed");
    let kept =
        there.rooms.stripped_state(&there.view().await, &bob, &room).await.expect("a read").expect("stripped state");
    assert_eq!(kept.len(), state.len() + 1);
}

#[tokio::test]
async fn of_what_comes_with_an_invite_only_what_can_be_read_in_one_way_is_kept() {
    let (here, there) = two().await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let version = RoomVersionId::V11;
    let (room, invite) = invite_to(&here, &bob, &version).await;
    let name = |name: &str| {
        let text = format!(r#"{{"type":"m.room.name","state_key":"","sender":"{alice}","content":{{"name":{name}}}}}"#);
        RawValue::from_string(text).expect("JSON")
    };
    let mut stripped = vec![name(r#""\ud800""#), name("1e999"), name(r#""one","name":"other""#), name(r#""Reef""#)];
    stripped.push(name(&format!("{:?}", "x".repeat(100_000))));
    for _ in 0..40 {
        stripped.push(name(&format!("{:?}", "y".repeat(60_000))));
    }
    // Who else invited bob nobody but the invite says.
    let other = json!({ "type": "m.room.member", "state_key": bob, "sender": "@eve:here", "content": {} });
    stripped.insert(0, crate::world::raw(other));
    let checked = there.rooms.check_invite(&here.name, &room, &version, invite.json(), &stripped).await;
    there.rooms.take_invite(&checked.expect("right")).await.expect("taken");
    let kept =
        there.rooms.stripped_state(&there.view().await, &bob, &room).await.expect("a read").expect("stripped state");
    let first: Value = serde_json::from_str(kept[0].get()).expect("JSON");
    assert_eq!(first["content"]["name"], "Reef");
    // The last is the invite itself.
    assert_eq!(kept.len(), 1 + 4 + 1);
    assert!(kept.iter().map(|event| event.get().len()).sum::<usize>() < 400_000);
}

#[tokio::test]
async fn a_server_lets_nobody_into_a_room_that_it_left() {
    let (here, there) = two().await;
    let bob = there.user("bob");
    let room = here.room(&here.user("alice"), Preset::PublicChat, &RoomVersionId::V12).await;
    there.join_from(&here, &room, &bob).await;
    let template = there.rooms.make_join(&room, &bob, &event::SUPPORTED_ROOM_VERSIONS).await.expect("a template");
    let join = there.rooms.complete_join(&room, &bob, &template, None).expect("a join");
    leave(&here, &room, &here.user("alice")).await;
    let refused = here.rooms.send_join(&rooms::Asker::new(&there.name), &room, join.json()).await;
    assert!(matches!(refused, Err(RoomsError::RoomNotFound)), "{refused:?}");
}

#[tokio::test]
async fn what_a_resident_server_answers_must_be_the_join() {
    let (here, there) = two().await;
    let bob = there.user("bob");
    let room = here.room(&here.user("alice"), Preset::PublicChat, &RoomVersionId::V12).await;
    let template = here.rooms.make_join(&room, &bob, &event::SUPPORTED_ROOM_VERSIONS).await.expect("a template");
    let join = there.rooms.complete_join(&room, &bob, &template, None).expect("a join");
    let mut answer = here.rooms.send_join(&rooms::Asker::new(&there.name), &room, join.json()).await.expect("joined");
    let other = here.say(&here.user("alice"), &room, "no join").await.expect("said");
    answer.event = here.event(&other).await;
    let refused = there.rooms.enter(&here.name, &room, &template.version, &answer).await;
    assert!(matches!(refused, Err(RoomsError::Remote(_))), "{refused:?}");
    assert!(there.rooms.head(&there.view().await, &room).await.expect("a read").is_none());
}

#[tokio::test]
async fn who_enters_a_room_that_others_are_in_takes_nothing_of_it_away() {
    let (here, there) = two().await;
    let (alice, bob, eve) = (here.user("alice"), there.user("bob"), there.user("eve"));
    let room = here.room(&alice, Preset::PublicChat, &RoomVersionId::V12).await;
    there.join_from(&here, &room, &bob).await;
    here.set(&alice, &room, ("m.room.topic", ""), json!({ "topic": "old" })).await.expect("set");
    let new = here.set(&alice, &room, ("m.room.topic", ""), json!({ "topic": "new" })).await.expect("set");
    here.deliver(&there, &room, &[&new]).await;
    // The resident server tells a state of old times.
    let template = here.rooms.make_join(&room, &eve, &event::SUPPORTED_ROOM_VERSIONS).await.expect("a template");
    let join = there.rooms.complete_join(&room, &eve, &template, None).expect("a join");
    let asker = rooms::Asker::new(&there.name);
    let mut answer = here.rooms.send_join(&asker, &room, join.json()).await.expect("joined");
    let old = here.rooms.serve_state(&asker, &room, &new).await.expect("a state");
    (answer.state, answer.auth_chain) = (old.state, old.auth_chain);
    there.rooms.enter(&here.name, &room, &template.version, &answer).await.expect("entered");
    assert_eq!(there.membership(&room, &eve).await, Membership::Join);
    assert_eq!(there.state(&room, "m.room.topic", "").await.expect("a topic")["topic"], "new");
}
