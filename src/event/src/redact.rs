//! Redaction: what remains of an event.
//!
//! Specification: "Redactions" in each room version.

use ruma::canonical_json::redact_in_place;
use ruma::room_version_rules::RoomVersionRules;
use serde_json::value::RawValue;

use crate::PduError;
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
