//! Authorisation: may this event be?
//!
//! Specification: "Authorization rules" of each room version; server-server API, "Auth events
//! selection" and "Checks performed on receipt of a PDU", steps 4 to 6.

mod power;

use ruma::events::{StateEventType, TimelineEventType};
use ruma::room_version_rules::RoomVersionRules;
use ruma::{EventId, RoomVersionId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::rules::{room_id_is_create_hash, rules};
use crate::{AuthError, Pdu, create_event_id};

pub use self::power::{PowerLevel, PowerLevels};

/// The keys of the state events that authorise an event: what its `auth_events` name.
///
/// Fails if the event can't be authorised by anything, such as a membership without `membership`.
pub fn auth_types(
    event_type: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &RoomVersionRules,
) -> Result<Vec<(StateEventType, String)>, AuthError> {
    ruma::state_res::auth_types_for_event(event_type, sender, state_key, content, &rules.authorization)
        .map_err(AuthError::Rejected)
}

/// The rules that look at the event and its `auth_events` alone. An event that fails is rejected.
///
/// `fetch` gives the events of the room that are known; a rejected one must be marked
/// [so](Pdu::with_rejected).
pub fn check_state_independent(
    room_rules: &RoomVersionRules,
    pdu: &Pdu,
    fetch: impl Fn(&EventId) -> Option<Pdu>,
) -> Result<(), AuthError> {
    if *pdu.kind() == TimelineEventType::RoomCreate {
        check_room_version(pdu)?;
    } else if room_id_is_create_hash(room_rules) {
        // Room version 12, rule 2: the room id must be that of a create event, not of any event.
        let create = create_event_id(pdu.room_id()).and_then(|id| fetch(&id));
        if create.is_none_or(|create| *create.kind() != TimelineEventType::RoomCreate) {
            return Err(AuthError::Rejected("the room id names no create event".to_owned()));
        }
    }
    ruma::state_res::check_state_independent_auth_rules(&room_rules.authorization, pdu, fetch)
        .map_err(AuthError::Rejected)
}

/// Rule 1.3: if `content.room_version` is present and isn't a recognised version, reject.
fn check_room_version(create: &Pdu) -> Result<(), AuthError> {
    match room_version(create) {
        Some(version) if rules(&version).is_some() => Ok(()),
        _ => Err(AuthError::Rejected("the room version is not recognised".to_owned())),
    }
}

/// The room version that a create event names: 1 where it names none, `None` if what stands there
/// can't be a version.
pub fn room_version(create: &Pdu) -> Option<RoomVersionId> {
    #[derive(Deserialize)]
    struct Content {
        // `null` is not the same as nothing here.
        #[serde(default = "first_version")]
        room_version: RoomVersionId,
    }
    fn first_version() -> RoomVersionId {
        RoomVersionId::V1
    }
    let content = create.content_as::<Content>().ok()?;
    Some(content.room_version)
}

/// The rules that look at a state of the room: that of the event's `auth_events`, that before the
/// event, or the current one. What follows from a failure depends on which it was.
///
/// `state` gives the event at a key of that state. It is asked for the create event too, also
/// where `auth_events` don't list it.
pub fn check_state_dependent(
    rules: &RoomVersionRules,
    pdu: &Pdu,
    state: impl Fn(&StateEventType, &str) -> Option<Pdu>,
) -> Result<(), AuthError> {
    ruma::state_res::check_state_dependent_auth_rules(&rules.authorization, pdu, state).map_err(AuthError::Rejected)
}
