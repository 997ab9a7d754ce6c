//! The room versions that are supported and their rules, as data.
//!
//! Specification: "Room Versions". Nothing outside this file compares room versions: code asks
//! the rules for the behaviour.

use ruma::room_version_rules::RoomVersionRules;
use ruma::{OwnedRoomId, RoomId, RoomVersionId, ServerName};

use crate::{PduError, Random};

/// The version of a new room when nobody asks for another one.
pub const DEFAULT_ROOM_VERSION: RoomVersionId = RoomVersionId::V12;

/// The room versions in which this server takes part, oldest first. All are stable.
pub const SUPPORTED_ROOM_VERSIONS: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// Random letters in the id of a room, for versions in which the id isn't derived.
const ROOM_ID_RANDOM_LEN: usize = 18;

/// The rules of a room version, or `None` if this server doesn't support it.
pub fn rules(version: &RoomVersionId) -> Option<&'static RoomVersionRules> {
    let rules = match version {
        RoomVersionId::V1 => const { &RoomVersionRules::V1 },
        RoomVersionId::V2 => const { &RoomVersionRules::V2 },
        RoomVersionId::V3 => const { &RoomVersionRules::V3 },
        RoomVersionId::V4 => const { &RoomVersionRules::V4 },
        RoomVersionId::V5 => const { &RoomVersionRules::V5 },
        RoomVersionId::V6 => const { &RoomVersionRules::V6 },
        RoomVersionId::V7 => const { &RoomVersionRules::V7 },
        RoomVersionId::V8 => const { &RoomVersionRules::V8 },
        RoomVersionId::V9 => const { &RoomVersionRules::V9 },
        RoomVersionId::V10 => const { &RoomVersionRules::V10 },
        RoomVersionId::V11 => const { &RoomVersionRules::V11 },
        RoomVersionId::V12 => const { &RoomVersionRules::V12 },
        _ => return None,
    };
    Some(rules)
}

/// Whether a room's id is the id of its create event with another sigil (room version 12 on).
pub fn room_id_is_create_hash(rules: &RoomVersionRules) -> bool {
    rules.authorization.room_create_event_id_as_room_id
}

/// A fresh id for a new room, or `None` where the id follows from the create event.
///
/// Fails only if `server_name` is so long that the id exceeds 255 bytes.
pub fn new_room_id(
    rules: &RoomVersionRules,
    random: &dyn Random,
    server_name: &ServerName,
) -> Result<Option<OwnedRoomId>, PduError> {
    if room_id_is_create_hash(rules) {
        return Ok(None);
    }
    let text = format!("!{}:{server_name}", random.alphanumeric(ROOM_ID_RANDOM_LEN));
    let room_id = RoomId::parse(text).map_err(|_| PduError::Field { field: "room_id" })?;
    Ok(Some(room_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_version_has_rules() {
        for version in SUPPORTED_ROOM_VERSIONS {
            assert!(rules(&version).is_some(), "{version}");
        }
        assert!(rules(&RoomVersionId::try_from("org.example.1").expect("valid")).is_none());
        assert!(rules(&DEFAULT_ROOM_VERSION).is_some());
    }
}
