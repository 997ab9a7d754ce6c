//! State resolution: one state of a room from several.
//!
//! Specification: "State resolution" of room versions 1, 2 and 12.

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
/// * `auth_chains`: for each fork the events of its full auth chain.
/// * `fetch`: any event that is in the forks or their auth chains. Those it doesn't have are left
///   out, so the caller loads all that exist before.
/// * `conflicted_subgraph`: for room versions that use it, all events on a path of auth events
///   between two of the conflicted ones, these included; [`conflicted_subgraph`] computes it.
pub fn resolve(
    rules: &RoomVersionRules,
    forks: &[StateMap],
    auth_chains: Vec<EventIdSet>,
    fetch: impl Fn(&EventId) -> Option<Pdu>,
    conflicted_subgraph: impl Fn(&ConflictedState) -> Option<EventIdSet>,
) -> Result<StateMap, ResolveError> {
    match &rules.state_res {
        StateResolutionVersion::V2(v2) => ruma::state_res::resolve(
            &rules.authorization,
            v2,
            forks,
            auth_chains,
            fetch,
            conflicted_subgraph,
        )
        .map_err(|error| ResolveError::Failed(error.to_string())),
        _ => Err(ResolveError::Failed("unknown algorithm".to_owned())),
    }
}
