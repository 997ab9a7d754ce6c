//! What other servers are told.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use rooms::{Asker, CreateRoom, MissingEvents, Preset, Sender};
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::{json, value::RawValue};
use testkit::ManualClock;

use crate::world::{Others, World, raw};

async fn two() -> (World, World) {
    let (others, clock): (Arc<Others>, Arc<ManualClock>) = Default::default();
    let here = World::named("here", others.clone(), clock.clone()).await;
    let there = World::named("there", others, clock).await;
    (here, there)
}

fn tells(events: &[Box<RawValue>], text: &str) -> bool {
    events.iter().any(|event| event.get().contains(text))
}

#[tokio::test]
async fn what_was_redacted_goes_out_redacted_in_states_and_auth_chains_too() {
    let (here, there) = two().await;
    let alice = here.user("alice");
    for version in event::SUPPORTED_ROOM_VERSIONS {
        let mut request = CreateRoom::new(alice.clone());
        request.preset = Some(Preset::PublicChat);
        request.version = Some(version.clone());
        request.member_content = Some(raw(json!({ "displayname": "Slur one" })));
        let room = here.rooms.create(&request).await.expect("a room");
        let member = here.rooms.current_event(&here.view().await, &room, "m.room.member", alice.as_str()).await;
        let member = member.expect("a read").expect("a member").pdu.owned_event_id();
        let name = here.set(&alice, &room, ("m.room.name", ""), json!({ "name": "Slur two" })).await.expect("set");
        let said = here.say(&alice, &room, "Slur three").await.expect("said");
        for event in [&member, &name, &said] {
            here.rooms.redact(&Sender::user(&alice), &room, event, None, &|_| ()).await.expect("redacted");
        }
        let bob = there.user("bob");
        let template = here.rooms.make_join(&room, &bob, &event::SUPPORTED_ROOM_VERSIONS).await.expect("a template");
        let join = there.rooms.complete_join(&room, &bob, &template, None).expect("a join");
        let asker = Asker::new(&there.name);
        let answer = here.rooms.send_join(&asker, &room, join.json()).await.expect("joined");
        assert!(tells(&answer.state, name.as_str()) || tells(&answer.state, "m.room.name"));
        assert!(!tells(&answer.state, "Slur") && !tells(&answer.auth_chain, "Slur"), "version {version}");
        there.rooms.enter(&here.name, &room, &template.version, &answer).await.expect("entered");
        assert_eq!(there.state(&room, "m.room.name", "").await, Some(json!({})));

        let last = here.say(&alice, &room, "last").await.expect("said");
        let state = here.rooms.serve_state(&asker, &room, &last).await.expect("a state");
        let chain = here.rooms.serve_event_auth(&asker, &room, &last).await.expect("a chain");
        let history =
            here.rooms.serve_backfill(&asker, &room, std::slice::from_ref(&last), 100).await.expect("history");
        let request = MissingEvents { earliest: vec![], latest: vec![last], limit: 100, min_depth: 0 };
        let missing = here.rooms.serve_missing_events(&asker, &room, &request).await.expect("events");
        let event = here.rooms.serve_event(&asker, &said).await.expect("an event");
        assert!(!history.is_empty() && !missing.is_empty() && !chain.is_empty());
        for events in [&state.state, &state.auth_chain, &chain, &history, &missing, &vec![event]] {
            assert!(!tells(events, "Slur"), "version {version}");
        }
    }
}

#[tokio::test]
async fn servers_that_come_later_get_nothing_whole_of_those_who_are_erased() {
    let (here, there) = two().await;
    let third = World::named("third", here.others.clone(), here.clock.clone()).await;
    let (alice, dave) = (here.user("alice"), here.user("dave"));
    let room = here.public_room(&alice).await;
    here.rooms.join(&dave, &room, Some(&raw(json!({ "displayname": "Dave" })))).await.expect("joined");
    there.join_from(&here, &room, &there.user("bob")).await;
    let said = here.say(&dave, &room, "Dave's words").await.expect("said");
    let erased = HashSet::from([dave.clone()]);
    let early = Asker { server: &there.name, erased: &erased };
    let late = Asker { server: &third.name, erased: &erased };

    let carol = third.user("carol");
    let template = here.rooms.make_join(&room, &carol, &event::SUPPORTED_ROOM_VERSIONS).await.expect("a template");
    let join = third.rooms.complete_join(&room, &carol, &template, None).expect("a join");
    let answer = here.rooms.send_join(&late, &room, join.json()).await.expect("joined");
    assert!(tells(&answer.state, dave.as_str()) && !tells(&answer.state, "Dave"));
    third.rooms.enter(&here.name, &room, &template.version, &answer).await.expect("entered");

    // Who was there when it was said has it; who came later gets what is left.
    let event = here.rooms.serve_event(&early, &said).await.expect("an event");
    assert!(event.get().contains("Dave's words"));
    let event = here.rooms.serve_event(&late, &said).await.expect("an event");
    assert!(!event.get().contains("Dave's words"));
    let last = here.say(&alice, &room, "last").await.expect("said");
    let history = |asker| {
        let last = last.clone();
        let rooms = here.rooms.clone();
        let room = room.clone();
        async move { rooms.serve_backfill(asker, &room, &[last], 100).await.expect("history") }
    };
    assert!(tells(&history(&early).await, "Dave's words"));
    assert!(!tells(&history(&late).await, "Dave's words"));
}

#[tokio::test]
async fn what_only_members_see_costs_no_walk_over_all_of_them_for_each_event() {
    let (here, there) = two().await;
    let alice = here.user("alice");
    let room = here.room(&alice, Preset::PublicChat, &RoomVersionId::V11).await;
    for number in 0..600 {
        here.rooms.join(&here.user(&format!("member{number}")), &room, None).await.expect("joined");
    }
    let key = ("m.room.history_visibility", "");
    here.set(&alice, &room, key, json!({ "history_visibility": "joined" })).await.expect("set");
    let before = here.say(&alice, &room, "before").await.expect("said");
    there.join_from(&here, &room, &there.user("bob")).await;
    let mut last = None;
    for number in 0..60 {
        here.rooms.leave(&here.user(&format!("member{number}")), &room, None).await.expect("left");
        last = Some(here.say(&alice, &room, "after").await.expect("said"));
    }
    let asker = Asker::new(&there.name);
    let from = [last.expect("an event")];
    // Once to have in memory what both ways need.
    here.rooms.serve_backfill(&asker, &room, &from, 100).await.expect("history");
    let reads = here.rooms.tree().node_reads().all;
    let history = here.rooms.serve_backfill(&asker, &room, &from, 100).await.expect("history");
    let reads = here.rooms.tree().node_reads().all - reads;
    assert_eq!(history.len(), 100);
    assert!(tells(&history, "after"));
    assert!(reads < 900, "{reads} nodes read");
    // And who wasn't there sees nothing of it.
    let event = here.rooms.serve_event(&asker, &before).await.expect("an event");
    assert!(!event.get().contains("before"));
}

#[tokio::test]
async fn invited_servers_see_what_invited_users_may() {
    let (here, there) = two().await;
    let third = World::named("third", here.others.clone(), here.clock.clone()).await;
    let (alice, bob) = (here.user("alice"), there.user("bob"));
    let room = here.public_room(&alice).await;
    third.join_from(&here, &room, &third.user("carol")).await;
    let key = ("m.room.history_visibility", "");
    here.set(&alice, &room, key, json!({ "history_visibility": "invited" })).await.expect("set");
    let early = here.say(&alice, &room, "early").await.expect("said");
    here.rooms.invite(&alice, &room, &bob, None).await.expect("invited");
    let late = here.say(&alice, &room, "late").await.expect("said");
    there.join_from(&here, &room, &bob).await;
    let seen = async |server: &World, event: &OwnedEventId, text: &str| {
        let event = here.rooms.serve_event(&Asker::new(&server.name), event).await.expect("an event");
        event.get().contains(text)
    };
    assert!(!seen(&there, &early, "early").await);
    assert!(seen(&there, &late, "late").await);
    assert!(seen(&third, &early, "early").await);
}

#[tokio::test]
async fn the_ids_of_a_state_are_those_of_its_events() {
    let (here, there) = two().await;
    let alice = here.user("alice");
    for version in event::SUPPORTED_ROOM_VERSIONS {
        let room = here.room(&alice, Preset::PublicChat, &version).await;
        there.join_from(&here, &room, &there.user("bob")).await;
        here.rooms.join(&here.user("dave"), &room, None).await.expect("joined");
        let last = here.say(&alice, &room, "last").await.expect("said");
        let asker = Asker::new(&there.name);
        let ids = here.rooms.serve_state_ids(&asker, &room, &last).await.expect("ids");
        let events = here.rooms.serve_state(&asker, &room, &last).await.expect("events");
        let rules = event::rules(&version).expect("rules");
        let of = |events: &[Box<RawValue>]| -> BTreeSet<OwnedEventId> {
            let parsed = events.iter().map(|event| event::Pdu::parse(event.get().as_bytes(), rules).expect("an event"));
            parsed.map(|pdu| pdu.owned_event_id()).collect()
        };
        assert_eq!(ids.state.into_iter().collect::<BTreeSet<_>>(), of(&events.state), "version {version}");
        assert_eq!(ids.auth_chain.into_iter().collect::<BTreeSet<_>>(), of(&events.auth_chain), "version {version}");
        assert!(!events.auth_chain.is_empty());
    }
}
