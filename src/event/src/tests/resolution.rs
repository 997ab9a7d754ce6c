//! State resolution: the three algorithms on rooms that fork.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use ruma::events::StateEventType;
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;
use sha1::{Digest, Sha1};

use super::room::{ALICE, BOB, CAROL, Room, number};
use crate::resolve::{ConflictedState, EventIdSet, StateMap, auth_chain, conflicted_subgraph, resolve};
use crate::{Pdu, ResolveError, SUPPORTED_ROOM_VERSIONS};

fn resolve_forks(forks: &[&Room]) -> Result<StateMap, ResolveError> {
    let mut events: HashMap<OwnedEventId, Pdu> = HashMap::new();
    for fork in forks {
        events.extend(fork.events.clone());
    }
    let fetch = |id: &ruma::EventId| events.get(id).cloned();
    let states: Vec<StateMap> = forks.iter().map(|fork| fork.state.clone()).collect();
    let mut chains: Vec<EventIdSet> = Vec::new();
    for state in &states {
        chains.push(auth_chain(state.values(), fetch)?);
    }
    resolve(forks[0].rules, &states, chains, fetch, |conflicted| conflicted_subgraph(conflicted, fetch).ok())
}

/// Resolves in both orders, which must agree, and gives the event at a key.
#[track_caller]
fn winner(forks: &[&Room], kind: &str, state_key: &str) -> Option<OwnedEventId> {
    let resolved = resolve_forks(forks).expect("resolved");
    let reversed: Vec<&Room> = forks.iter().rev().copied().collect();
    assert_eq!(resolve_forks(&reversed).expect("resolved"), resolved);
    resolved.get(&(StateEventType::from(kind), state_key.to_owned())).cloned()
}

fn room(version: &RoomVersionId) -> Room {
    let mut room = Room::new(version);
    room.member(BOB, BOB, "join");
    room.member(CAROL, CAROL, "join");
    let levels = json!({"users": room.users(&[(BOB, 50)]), "events": {"m.room.power_levels": 50}});
    room.send(ALICE, "m.room.power_levels", Some(""), levels);
    room
}

#[test]
fn what_does_not_conflict_stays() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let (mut left, mut right) = (room(&version), room(&version));
        assert_eq!(resolve_forks(&[&left, &right]), Ok(left.state.clone()));
        let name = left.send(ALICE, "m.room.name", Some(""), json!({"name": "x"}));
        let topic = right.send(BOB, "m.room.topic", Some(""), json!({"topic": "y"}));
        assert_eq!(winner(&[&left, &right], "m.room.name", ""), Some(name.owned_event_id()));
        assert_eq!(winner(&[&left, &right], "m.room.topic", ""), Some(topic.owned_event_id()));
    }
}

#[test]
fn a_ban_beats_what_the_banned_did_meanwhile() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let (mut left, mut right) = (room(&version), room(&version));
        let ban = left.member(ALICE, BOB, "ban");
        right.send(BOB, "m.room.topic", Some(""), json!({"topic": "y"}));
        let topic = winner(&[&left, &right], "m.room.topic", "");
        // In room version 1 a key that one side lacks is no conflict: the known weakness.
        assert_eq!(topic.is_none(), number(&version) > 1, "room version {version}");
        assert_eq!(winner(&[&left, &right], "m.room.member", BOB), Some(ban.owned_event_id()));
    }
}

#[test]
fn the_stronger_demotion_wins() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let (mut left, mut right) = (room(&version), room(&version));
        let demotion = json!({"users": left.users(&[(BOB, 0)]), "events": {"m.room.power_levels": 50}});
        let demoted = left.send(ALICE, "m.room.power_levels", Some(""), demotion);
        let promotion = json!({"users": right.users(&[(BOB, 50), (CAROL, 50)]), "events": {"m.room.power_levels": 50}});
        right.send(BOB, "m.room.power_levels", Some(""), promotion);
        right.send(CAROL, "m.room.topic", Some(""), json!({"topic": "z"}));
        let levels = winner(&[&left, &right], "m.room.power_levels", "");
        if number(&version) > 1 {
            assert_eq!(levels, Some(demoted.owned_event_id()), "room version {version}");
            assert_eq!(winner(&[&left, &right], "m.room.topic", ""), None);
        }
    }
}

fn sha1_of(pdu: &Pdu) -> Vec<u8> {
    Sha1::digest(pdu.event_id().as_str()).to_vec()
}

#[test]
fn version_1_takes_the_deepest_event_that_passes() {
    let (mut left, mut right) = (room(&RoomVersionId::V1), room(&RoomVersionId::V1));
    left.send(ALICE, "m.room.name", Some(""), json!({"name": "x"}));
    right.send(ALICE, "m.room.topic", Some(""), json!({"topic": "one deeper"}));
    let deeper = right.send(ALICE, "m.room.name", Some(""), json!({"name": "y"}));
    assert_eq!(winner(&[&left, &right], "m.room.name", ""), Some(deeper.owned_event_id()));

    // At the same depth the lower SHA-1 of the id decides.
    let (mut left, mut right) = (room(&RoomVersionId::V1), room(&RoomVersionId::V1));
    let a = left.send(ALICE, "m.room.name", Some(""), json!({"name": "x"}));
    let b = right.send(ALICE, "m.room.name", Some(""), json!({"name": "y"}));
    let lower = if sha1_of(&a) < sha1_of(&b) { &a } else { &b };
    assert_eq!(winner(&[&left, &right], "m.room.name", ""), Some(lower.owned_event_id()));

    // The deepest is passed over if its sender is banned by what was resolved before.
    let (mut left, mut right) = (room(&RoomVersionId::V1), room(&RoomVersionId::V1));
    let allowed = left.send(ALICE, "m.room.name", Some(""), json!({"name": "x"}));
    left.send(ALICE, "m.room.message", None, json!({}));
    left.member(ALICE, BOB, "ban");
    let mut deep = right.builder(BOB, "m.room.topic", Some(""), json!({"topic": "t"}));
    deep.depth = 50;
    right.send(BOB, "m.room.topic", Some(""), json!({"topic": "t"}));
    right.depth = 60;
    let mut named = right.builder(BOB, "m.room.name", Some(""), json!({"name": "y"}));
    named.depth = 61;
    let named = named.build(right.rules, &super::room::key(), super::room::user(BOB).server_name()).expect("valid");
    right.check(&named).expect("allowed in its fork");
    right.add(named);
    assert_eq!(winner(&[&left, &right], "m.room.name", ""), Some(allowed.owned_event_id()));
}

#[test]
fn version_1_climbs_from_the_shallowest_power_levels() {
    let base = room(&RoomVersionId::V1);
    let (mut left, mut right) = (base.clone(), base.clone());
    let levels = |users: serde_json::Value| json!({"users": users, "events": {"m.room.power_levels": 50}});
    // Bob's deeper change is allowed on top of Alice's shallower one, so it stands.
    left.send(ALICE, "m.room.power_levels", Some(""), levels(base.users(&[(BOB, 50), (CAROL, 20)])));
    right.send(ALICE, "m.room.message", None, json!({}));
    let deeper = right.send(BOB, "m.room.power_levels", Some(""), levels(base.users(&[(BOB, 50), (CAROL, 10)])));
    assert_eq!(winner(&[&left, &right], "m.room.power_levels", ""), Some(deeper.owned_event_id()));

    // It isn't if Alice's took Bob's power.
    let (mut left, mut right) = (base.clone(), base.clone());
    let demoted = left.send(ALICE, "m.room.power_levels", Some(""), levels(base.users(&[(BOB, 0)])));
    right.send(ALICE, "m.room.message", None, json!({}));
    right.send(BOB, "m.room.power_levels", Some(""), levels(base.users(&[(BOB, 50), (CAROL, 10)])));
    assert_eq!(winner(&[&left, &right], "m.room.power_levels", ""), Some(demoted.owned_event_id()));
}

#[test]
fn version_1_keeps_a_key_whose_events_all_fail() {
    let (mut left, mut right) = (room(&RoomVersionId::V1), room(&RoomVersionId::V1));
    let shallow = left.send(BOB, "m.room.name", Some(""), json!({"name": "x"}));
    left.send(ALICE, "m.room.message", None, json!({}));
    left.member(ALICE, BOB, "ban");
    right.send(ALICE, "m.room.message", None, json!({}));
    right.send(BOB, "m.room.name", Some(""), json!({"name": "y"}));
    assert_eq!(winner(&[&left, &right], "m.room.name", ""), Some(shallow.owned_event_id()));
}

#[test]
fn missing_events_are_named() {
    let (mut left, mut right) = (room(&RoomVersionId::V1), room(&RoomVersionId::V1));
    let lost = left.send(ALICE, "m.room.name", Some(""), json!({"name": "x"}));
    right.send(ALICE, "m.room.name", Some(""), json!({"name": "y"}));
    let states = [left.state.clone(), right.state.clone()];
    let missing = resolve(left.rules, &states, Vec::new(), |id| right.fetch(id), |_| None);
    assert_eq!(missing, Err(ResolveError::MissingEvent(lost.owned_event_id())));
    let chain = auth_chain([&lost.owned_event_id()], |id| right.fetch(id));
    assert!(matches!(chain, Err(ResolveError::MissingEvent(_))));
}

#[test]
fn version_12_does_not_forget_what_lies_between() {
    // Two states whose difference hides the events that connect them: the subgraph has them.
    let mut room = room(&RoomVersionId::V12);
    let early = room.state(&"m.room.power_levels".into(), "").expect("levels");
    let middle = room.send(ALICE, "m.room.power_levels", Some(""), json!({"users": {BOB: 60}}));
    let late = room.send(ALICE, "m.room.power_levels", Some(""), json!({"users": {BOB: 70}}));
    let key = (StateEventType::RoomPowerLevels, String::new());
    let ids = vec![early.owned_event_id(), late.owned_event_id()];
    let conflicted = ConflictedState::from([(key, ids)]);
    let subgraph = conflicted_subgraph(&conflicted, |id| room.fetch(id)).expect("complete");
    let mut found: Vec<OwnedEventId> = subgraph.into_iter().collect();
    found.sort();
    let mut expected = vec![early.owned_event_id(), middle.owned_event_id(), late.owned_event_id()];
    expected.sort();
    assert_eq!(found, expected);
}

/// What somebody tries to do in one of two forks.
#[derive(Debug, Clone)]
struct Attempt {
    in_left: bool,
    sender: usize,
    action: u8,
    target: usize,
    level: i64,
}

fn attempt() -> impl Strategy<Value = Attempt> {
    (any::<bool>(), 0..3usize, 0..6u8, 0..3usize, prop::sample::select(vec![0, 25, 50, 100]))
        .prop_map(|(in_left, sender, action, target, level)| Attempt { in_left, sender, action, target, level })
}

fn perform(room: &mut Room, attempt: &Attempt) {
    let users = [ALICE, BOB, CAROL];
    let (sender, target) = (users[attempt.sender], users[attempt.target]);
    let content = |value: &str| json!({"name": value, "topic": value});
    let pdu = match attempt.action {
        0 => room.event(sender, "m.room.name", Some(""), content("x")),
        1 => room.event(sender, "m.room.topic", Some(""), content("y")),
        2 => {
            let others: Vec<(&str, i64)> =
                if target == ALICE { vec![(BOB, 50)] } else { vec![(BOB, 50), (target, attempt.level)] };
            let levels = json!({"users": room.users(&others), "events": {"m.room.power_levels": 50}});
            room.event(sender, "m.room.power_levels", Some(""), levels)
        }
        3 => room.event(sender, "m.room.member", Some(target), json!({"membership": "ban"})),
        4 => room.event(sender, "m.room.member", Some(target), json!({"membership": "leave"})),
        _ => room.event(sender, "m.room.join_rules", Some(""), json!({"join_rule": "invite"})),
    };
    if room.check(&pdu).is_ok() {
        room.add(pdu);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn resolution_has_one_answer_in_which_all_agree(
        version in prop::sample::select(SUPPORTED_ROOM_VERSIONS.to_vec()),
        attempts in vec(attempt(), 1..24),
    ) {
        let base = room(&version);
        let (mut left, mut right) = (base.clone(), base.clone());
        for attempt in &attempts {
            perform(if attempt.in_left { &mut left } else { &mut right }, attempt);
        }
        let resolved = resolve_forks(&[&left, &right]).expect("resolved");
        prop_assert_eq!(&resolve_forks(&[&right, &left]).expect("resolved"), &resolved);
        prop_assert_eq!(&resolve_forks(&[&left, &right, &left]).expect("resolved"), &resolved);
        for (key, event_id) in &left.state {
            if right.state.get(key) == Some(event_id) {
                prop_assert_eq!(resolved.get(key), Some(event_id));
            }
        }
        for (key, event_id) in &resolved {
            let known = [&left, &right].iter().find_map(|fork| fork.fetch(event_id)).expect("one of theirs");
            prop_assert_eq!(known.state_pair(), Some((key.0.clone(), key.1.as_str())));
        }
        let mut again = left.clone();
        again.events.extend(right.events.clone());
        again.state = resolved.clone();
        prop_assert_eq!(resolve_forks(&[&again, &again]).expect("resolved"), resolved);
    }
}
