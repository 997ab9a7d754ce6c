//! State resolution: one state of a room from several.
//!
//! Specification: "State resolution" of room versions 1, 2 and 12.

mod v1;

use std::collections::HashMap;

use ruma::room_version_rules::{RoomVersionRules, StateResolutionVersion};
use ruma::{EventId, OwnedEventId};

use crate::{Pdu, ResolveError};

/// A state of a room: which event stands at which type and state key.
pub type StateMap = ruma::state_res::StateMap<OwnedEventId>;

/// The events of several states at the keys where the states differ.
pub type ConflictedState = ruma::state_res::StateMap<Vec<OwnedEventId>>;

/// A set of events.
pub type EventIdSet = ruma::state_res::utils::event_id_set::EventIdSet<OwnedEventId>;

/// Resolves `forks` to one state.
///
/// * `auth_chains`: for each fork the events of its full auth chain, the events of the fork not
///   included unless they authorise each other. Room version 1 doesn't look at them.
/// * `fetch`: any event that is in the forks or their auth chains. Those it doesn't have are left
///   out or make the resolution fail, so the caller loads all that exist before. Events that were
///   rejected are [marked](Pdu::with_rejected). No event authorises itself, however indirectly:
///   whoever accepts an event only after its auth events has this for free.
/// * `conflicted_subgraph`: for room versions that use it, all events on a path of auth events
///   between two of the conflicted ones, these included; see [`conflicted_subgraph`].
pub fn resolve(
    rules: &RoomVersionRules,
    forks: &[StateMap],
    auth_chains: Vec<EventIdSet>,
    fetch: impl Fn(&EventId) -> Option<Pdu>,
    conflicted_subgraph: impl Fn(&ConflictedState) -> Option<EventIdSet>,
) -> Result<StateMap, ResolveError> {
    match &rules.state_res {
        StateResolutionVersion::V1 => v1::resolve(rules, forks, fetch),
        StateResolutionVersion::V2(v2) => {
            ruma::state_res::resolve(&rules.authorization, v2, forks, auth_chains, fetch, conflicted_subgraph)
                .map_err(|error| ResolveError::Failed(error.to_string()))
        }
        _ => Err(ResolveError::Failed("unknown algorithm".to_owned())),
    }
}

/// All events that authorise `from`, directly or not, without `from` themselves unless they
/// authorise each other.
///
/// Fails with [`ResolveError::MissingEvent`] if `fetch` doesn't have one of them.
pub fn auth_chain<'a>(
    from: impl IntoIterator<Item = &'a OwnedEventId>,
    fetch: impl Fn(&EventId) -> Option<Pdu>,
) -> Result<EventIdSet, ResolveError> {
    let mut chain = EventIdSet::new();
    let mut open: Vec<OwnedEventId> = from.into_iter().cloned().collect();
    while let Some(event_id) = open.pop() {
        let Some(event) = fetch(&event_id) else {
            return Err(ResolveError::MissingEvent(event_id));
        };
        for auth_event in event.auth_events() {
            if !chain.contains(auth_event) {
                chain.insert(auth_event.to_owned());
                open.push(auth_event.to_owned());
            }
        }
    }
    Ok(chain)
}

/// The conflicted state subgraph (room version 12): the conflicted events and every event that lies
/// on a path of auth events from one of them to another.
///
/// Fails with [`ResolveError::MissingEvent`] if `fetch` doesn't have an event of their auth chain.
pub fn conflicted_subgraph(
    conflicted: &ConflictedState,
    fetch: impl Fn(&EventId) -> Option<Pdu>,
) -> Result<EventIdSet, ResolveError> {
    let mut subgraph: EventIdSet = conflicted.values().flatten().cloned().collect();
    // Whatever the walk reaches is reached from a conflicted event, so an event is on a path
    // exactly if one of its auth events is. An event is decided when it is met for the second time,
    // after all that authorise it.
    let mut open: Vec<(OwnedEventId, Step)> = subgraph.iter().map(|id| (id.clone(), Step::Enter)).collect();
    let mut entered: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    while let Some((event_id, step)) = open.pop() {
        if step == Step::Leave {
            let auth_events = entered.get(&event_id).map_or(&[][..], Vec::as_slice);
            if auth_events.iter().any(|id| subgraph.contains(id)) {
                subgraph.insert(event_id);
            }
            continue;
        }
        if entered.contains_key(&event_id) {
            continue;
        }
        let Some(event) = fetch(&event_id) else {
            return Err(ResolveError::MissingEvent(event_id));
        };
        let auth_events: Vec<OwnedEventId> = event.auth_events().map(ToOwned::to_owned).collect();
        open.push((event_id.clone(), Step::Leave));
        open.extend(auth_events.iter().map(|id| (id.clone(), Step::Enter)));
        entered.insert(event_id, auth_events);
    }
    Ok(subgraph)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Enter,
    Leave,
}
