//! Redaction: what remains of an event.
//!
//! Specification: "Redactions" in each room version.

use ruma::canonical_json::redact_in_place;
use ruma::room_version_rules::RoomVersionRules;
use serde_json::value::RawValue;

use crate::PduError;
use crate::auth::PowerLevels;
use crate::canonical::{self, Numbers};
use crate::pdu::Pdu;
use crate::stored;

/// The event with only what redaction leaves of it. Its id stays the same.
///
/// `unsigned.redacted_because` is for clients only and added where events are shown to them.
pub fn redact(pdu: &Pdu, rules: &RoomVersionRules) -> Result<Pdu, PduError> {
    let json = redact_json(pdu.json(), rules)?;
    let redacted = Pdu::new(stored::read(pdu.owned_event_id(), json)?);
    Ok(redacted.with_rejected(pdu.is_rejected()))
}

/// Like [`redact`], for an event in JSON.
pub fn redact_json(json: &RawValue, rules: &RoomVersionRules) -> Result<Box<RawValue>, PduError> {
    let mut object = canonical::parse_object(json.get().as_bytes(), Numbers::Lenient)?;
    redact_in_place(&mut object, &rules.redaction, None).map_err(|error| PduError::Json(error.to_string()))?;
    object.remove("unsigned");
    crate::received::raw(&object)
}

/// Whether a redaction that the authorisation rules allow is to be applied to `target`, by the
/// power levels before the redaction.
///
/// Specification: "Handling redactions" of room version 3 on.
pub fn may_redact(rules: &RoomVersionRules, redaction: &Pdu, target: &Pdu, levels: &PowerLevels) -> bool {
    if redaction.room_id() != target.room_id() || redaction.redacts(rules).as_deref() != Some(target.event_id()) {
        return false;
    }
    // Room versions 1 and 2 have decided with the authorisation rules.
    rules.authorization.special_case_room_redaction
        || levels.may_redact_others(redaction.sender())
        || redaction.sender().server_name() == target.sender().server_name()
}
