//! State resolution of room version 1.
//!
//! Specification: room version 1, "State resolution". Where it leaves a choice:
//!
//! * Memberships of different users are decided independently of each other, each by the state
//!   that the steps before gave, so that the order of users doesn't matter.
//! * If no event at some other key passes, the last in order stands, so that the key isn't lost.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use ruma::events::StateEventType;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{EventId, OwnedEventId};
use sha1::{Digest, Sha1};

use super::StateMap;
use crate::auth::{auth_types, check_state_dependent};
use crate::{Pdu, ResolveError};

type Key = (StateEventType, String);

/// Resolves states by the algorithm of room version 1.
pub(super) fn resolve(
    rules: &RoomVersionRules,
    forks: &[StateMap],
    fetch: impl Fn(&EventId) -> Option<Pdu>,
) -> Result<StateMap, ResolveError> {
    let (mut resolved, conflicted) = separate(forks);
    let mut conflicted = load(conflicted, &fetch)?;

    // Power levels first, then join rules, then memberships: each is judged by those before.
    for kind in [StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules, StateEventType::RoomMember] {
        let keys: Vec<Key> = conflicted.keys().filter(|key| key.0 == kind).cloned().collect();
        let mut winners = Vec::new();
        for key in keys {
            let Some(events) = conflicted.remove(&key) else { continue };
            let winner = last_in_chain(rules, &key, &events, &resolved, &fetch);
            winners.extend(winner.map(|winner| (key, winner)));
        }
        resolved.extend(winners);
    }

    let mut winners = Vec::new();
    for (key, events) in conflicted {
        let winner = first_allowed(rules, &events, &resolved, &fetch);
        winners.extend(winner.map(|winner| (key, winner)));
    }
    resolved.extend(winners);
    Ok(resolved)
}

/// The union of the states without what conflicts, and the events in conflict. A key that is
/// missing from some states is no conflict.
fn separate(forks: &[StateMap]) -> (StateMap, BTreeMap<Key, BTreeSet<OwnedEventId>>) {
    let mut by_key: BTreeMap<Key, BTreeSet<OwnedEventId>> = BTreeMap::new();
    for (key, event_id) in forks.iter().flatten() {
        by_key.entry(key.clone()).or_default().insert(event_id.clone());
    }
    let mut agreed = StateMap::new();
    let mut conflicted = BTreeMap::new();
    for (key, mut event_ids) in by_key {
        if event_ids.len() > 1 {
            conflicted.insert(key, event_ids);
        } else if let Some(event_id) = event_ids.pop_first() {
            agreed.insert(key, event_id);
        }
    }
    (agreed, conflicted)
}

/// The events in conflict, by descending depth, then ascending SHA-1 of the id.
fn load(
    conflicted: BTreeMap<Key, BTreeSet<OwnedEventId>>,
    fetch: &impl Fn(&EventId) -> Option<Pdu>,
) -> Result<BTreeMap<Key, Vec<Pdu>>, ResolveError> {
    let mut loaded = BTreeMap::new();
    for (key, event_ids) in conflicted {
        let mut events = Vec::with_capacity(event_ids.len());
        for event_id in event_ids {
            let Some(event) = fetch(&event_id) else {
                return Err(ResolveError::MissingEvent(event_id));
            };
            events.push(event);
        }
        events.sort_by(deepest_first);
        loaded.insert(key, events);
    }
    Ok(loaded)
}

fn deepest_first(left: &Pdu, right: &Pdu) -> Ordering {
    let sha1 = |pdu: &Pdu| Sha1::digest(pdu.event_id().as_str().as_bytes());
    right.depth().cmp(&left.depth()).then_with(|| sha1(left).cmp(&sha1(right)))
}

/// Starting from the shallowest event, each that is allowed with its predecessor in the state
/// takes its place; the first that isn't ends it.
fn last_in_chain(
    rules: &RoomVersionRules,
    key: &Key,
    events: &[Pdu],
    resolved: &StateMap,
    fetch: &impl Fn(&EventId) -> Option<Pdu>,
) -> Option<OwnedEventId> {
    let mut shallowest_first = events.iter().rev();
    let mut winner = shallowest_first.next()?;
    for event in shallowest_first {
        let state = |kind: &StateEventType, state_key: &str| {
            if *kind == key.0 && state_key == key.1 {
                return Some(winner.clone());
            }
            let event_id = resolved.get(&(kind.clone(), state_key.to_owned()))?;
            fetch(event_id)
        };
        if !is_allowed(rules, event, state) {
            break;
        }
        winner = event;
    }
    Some(winner.owned_event_id())
}

/// The deepest event that is allowed, or the shallowest of all.
fn first_allowed(
    rules: &RoomVersionRules,
    events: &[Pdu],
    resolved: &StateMap,
    fetch: &impl Fn(&EventId) -> Option<Pdu>,
) -> Option<OwnedEventId> {
    let state = |kind: &StateEventType, state_key: &str| {
        let event_id = resolved.get(&(kind.clone(), state_key.to_owned()))?;
        fetch(event_id)
    };
    for event in events {
        if is_allowed(rules, event, state) {
            return Some(event.owned_event_id());
        }
    }
    events.last().map(Pdu::owned_event_id)
}

/// Whether the rules allow an event in a state, of which they see what could authorise it.
fn is_allowed(rules: &RoomVersionRules, event: &Pdu, state: impl Fn(&StateEventType, &str) -> Option<Pdu>) -> bool {
    let keys = auth_types(event.kind(), event.sender(), event.state_key(), event.content(), rules);
    let Ok(keys) = keys else { return false };
    let visible = |kind: &StateEventType, state_key: &str| {
        keys.iter().any(|key| key.0 == *kind && key.1 == state_key).then(|| state(kind, state_key))?
    };
    check_state_dependent(rules, event, visible).is_ok()
}
