//! Hashing and signing events.
//!
//! Specification: server-server API, "Signing Events", "Adding hashes and signatures to outgoing
//! events".

use ruma::canonical_json::{CanonicalJsonObjectExt, RedactingSerializer};
use ruma::room_version_rules::RoomVersionRules;
use ruma::signatures::{JsonError, add_content_hash_to_event};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::canonical::{self, Numbers, to_canonical_string};
use crate::pdu::{PDU_SIZE_BYTES_MAX, Pdu};
use crate::{PduError, SigningKey, stored};

/// The fields that no signature covers.
const FIELDS_NOT_SIGNED: &[&str] = &["signatures", "unsigned"];

/// SHA-256 of the bytes that are signed. From room version 3 on it is the event's id.
pub(crate) type ReferenceDigest = [u8; 32];

/// Adds the content hash and `key`'s signature to an event.
pub(crate) fn hash_and_sign(
    object: &mut CanonicalJsonObject,
    rules: &RoomVersionRules,
    key: &SigningKey,
    server: &ServerName,
) -> Result<ReferenceDigest, PduError> {
    add_content_hash_to_event(object).map_err(|error| match error {
        JsonError::PduTooLarge => PduError::TooLarge,
        error => PduError::Json(error.to_string()),
    })?;
    let signed = signed_bytes(object, rules)?;
    insert_signature(object, server, key.id(), key.sign_base64(signed.as_bytes()))?;
    Ok(Sha256::digest(signed.as_bytes()).into())
}

/// The event with `key`'s signature beside those that it has: what the server of an invited user
/// does, and the server that lets a user into a restricted room.
///
/// Fails with [`PduError::TooLarge`] if there is no room left for the signature.
pub fn countersign(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    key: &SigningKey,
    server: &ServerName,
) -> Result<Pdu, PduError> {
    let object = canonical::parse_object(pdu.json().get().as_bytes(), Numbers::Lenient)?;
    let signed = signed_bytes(&object, rules)?;
    add_signature_to(pdu, object, server, key.id(), key.sign_base64(signed.as_bytes()))
}

/// The event with a signature that another server made: what a policy server gives back. The
/// signature isn't checked.
pub fn add_signature(pdu: &Pdu, server: &ServerName, key_id: &str, signature: String) -> Result<Pdu, PduError> {
    let object = canonical::parse_object(pdu.json().get().as_bytes(), Numbers::Lenient)?;
    add_signature_to(pdu, object, server, key_id, signature)
}

fn add_signature_to(
    pdu: &Pdu,
    mut object: CanonicalJsonObject,
    server: &ServerName,
    key_id: &str,
    signature: String,
) -> Result<Pdu, PduError> {
    insert_signature(&mut object, server, key_id, signature)?;
    let json = to_canonical_string(&object);
    if json.len() > PDU_SIZE_BYTES_MAX {
        return Err(PduError::TooLarge);
    }
    let json = RawValue::from_string(json).map_err(|error| PduError::Json(error.to_string()))?;
    let signed = Pdu::new(stored::read(pdu.owned_event_id(), json)?);
    Ok(signed.with_rejected(pdu.is_rejected()))
}

fn signed_bytes(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<String, PduError> {
    RedactingSerializer::new()
        .rules(&rules.redaction)
        .custom_redacted_root_fields(FIELDS_NOT_SIGNED)
        .serialize(object)
        .map_err(|error| PduError::Json(error.to_string()))
}

fn insert_signature(
    object: &mut CanonicalJsonObject,
    server: &ServerName,
    key_id: &str,
    signature: String,
) -> Result<(), PduError> {
    let field = |_| PduError::Field { field: "signatures" };
    let signatures = object.get_as_object_or_insert_default("signatures", "signatures").map_err(field)?;
    let by_server = signatures.get_as_object_or_insert_default(server.as_str(), "signatures").map_err(field)?;
    by_server.insert(key_id.to_owned(), CanonicalJsonValue::String(signature));
    Ok(())
}
