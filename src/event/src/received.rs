//! Events of other servers: format, then signatures and content hash.
//!
//! Specification: server-server API, "Checks performed on receipt of a PDU", steps 1 to 3.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ruma::canonical_json::redact_in_place;
use ruma::events::TimelineEventType;
use ruma::room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules};
use ruma::signatures::PublicKeyMap;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, UInt};
use serde_json::value::{RawValue, to_raw_value};

use crate::canonical::{self, Numbers, to_canonical_string};
use crate::pdu::{
    AUTH_EVENTS_MAX, ID_SIZE_BYTES_MAX, Inner, PDU_SIZE_BYTES_MAX, PREV_EVENTS_MAX, Pdu, created_room_id,
};
use crate::{PduError, VerifyError};

/// An event of another server whose format is right and whose signatures nobody has checked.
#[derive(Debug, Clone)]
pub struct ReceivedPdu {
    object: CanonicalJsonObject,
    pdu: Pdu,
    rules: &'static RoomVersionRules,
}

/// An event whose required signatures are right.
#[derive(Debug, Clone)]
pub enum Verified {
    /// The content hash is right too.
    Valid(Pdu),
    /// The content hash is wrong, so the event has been redacted.
    RedactedHashMismatch(Pdu),
}

impl Verified {
    /// The event, redacted if its hash was wrong.
    pub fn into_pdu(self) -> Pdu {
        match self {
            Self::Valid(pdu) | Self::RedactedHashMismatch(pdu) => pdu,
        }
    }
}

impl ReceivedPdu {
    /// Reads an event and checks everything that the room version says of its format. Computes the
    /// id where the event doesn't carry it. `unsigned` is dropped.
    pub fn parse(text: &[u8], rules: &'static RoomVersionRules) -> Result<Self, PduError> {
        let object = canonical::parse_object(text, Numbers::of(rules))?;
        Self::from_object(object, rules)
    }

    /// Like [`ReceivedPdu::parse`], for JSON that has been read already.
    pub fn from_object(mut object: CanonicalJsonObject, rules: &'static RoomVersionRules) -> Result<Self, PduError> {
        object.remove("unsigned");
        let pdu = check_format(&object, rules)?;
        Ok(Self { object, pdu, rules })
    }

    /// The event, whose signatures have not been checked.
    pub fn unverified(&self) -> &Pdu {
        &self.pdu
    }

    /// The event, given up to a caller for whom signatures don't matter.
    pub fn into_unverified(self) -> Pdu {
        self.pdu
    }

    /// The servers that must have signed the event, each with the ids of the keys that it used.
    /// A server without a signature has an empty set; the event can't be verified then.
    pub fn required_keys(&self) -> Result<BTreeMap<OwnedServerName, BTreeSet<String>>, VerifyError> {
        let signers = ruma::signatures::required_server_signatures_to_verify_event(
            &self.object,
            &self.signing_rules().signatures,
        )
        .map_err(|error| VerifyError::Signature(error.to_string()))?;
        let signatures = self.object.get("signatures").and_then(CanonicalJsonValue::as_object);
        let mut required = BTreeMap::new();
        for server in signers {
            let made = signatures.and_then(|all| all.get(server.as_str())).and_then(CanonicalJsonValue::as_object);
            let ids = made.map(|by_key| by_key.keys().cloned().collect()).unwrap_or_default();
            required.insert(server, ids);
        }
        Ok(required)
    }

    /// The rules that say who must have signed this event. The server that authorises a restricted
    /// join signs memberships; in the content of any other event its name means nothing.
    ///
    /// Specification: "Authorization rules" of room version 8, 4.2.
    fn signing_rules(&self) -> Cow<'static, RoomVersionRules> {
        if *self.pdu.kind() == TimelineEventType::RoomMember {
            return Cow::Borrowed(self.rules);
        }
        let mut rules = self.rules.clone();
        rules.signatures.check_join_authorised_via_users_server = false;
        Cow::Owned(rules)
    }

    /// Checks the required signatures and the content hash.
    ///
    /// `keys` holds the public keys of the required servers; where the room version enforces it,
    /// only those valid at the event's `origin_server_ts`.
    pub fn verify(self, keys: &PublicKeyMap) -> Result<Verified, VerifyError> {
        let verdict = ruma::signatures::verify_event(keys, &self.object, &self.signing_rules())
            .map_err(|error| VerifyError::Signature(error.to_string()))?;
        match verdict {
            ruma::signatures::Verified::All => Ok(Verified::Valid(self.pdu)),
            ruma::signatures::Verified::Signatures => {
                let mut object = self.object;
                redact_in_place(&mut object, &self.rules.redaction, None)
                    .map_err(|error| PduError::Json(error.to_string()))?;
                object.remove("unsigned");
                let redacted = check_format(&object, self.rules)?;
                Ok(Verified::RedactedHashMismatch(redacted))
            }
        }
    }
}

/// Checks the format of an event without `unsigned` and takes it apart.
fn check_format(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Pdu, PduError> {
    let json = to_canonical_string(object);
    if json.len() > PDU_SIZE_BYTES_MAX {
        return Err(PduError::TooLarge);
    }
    required_object(object, "hashes")?;
    required_object(object, "signatures")?;
    let content = required_object(object, "content")?;
    let kind = required_string(object, "type")?;
    let sender =
        OwnedUserId::try_from(required_string(object, "sender")?).map_err(|_| PduError::Field { field: "sender" })?;
    let state_key = optional_string(object, "state_key")?.map(ToOwned::to_owned);
    let event_id = event_id(object, rules)?;

    let named_room = match optional_string(object, "room_id")? {
        Some(text) => Some(OwnedRoomId::try_from(text).map_err(|_| PduError::Field { field: "room_id" })?),
        None => None,
    };
    let names_room = named_room.is_some();
    let room_id = match named_room {
        Some(room_id) => room_id,
        // Room version 12: only the create event has no room id; it makes it.
        None if kind == "m.room.create" && !rules.event_format.require_room_create_room_id => {
            created_room_id(&event_id).ok_or(PduError::Field { field: "event_id" })?
        }
        None => return Err(PduError::Field { field: "room_id" }),
    };

    let prev_events = references(object, "prev_events", PREV_EVENTS_MAX, rules)?;
    let auth_events = references(object, "auth_events", AUTH_EVENTS_MAX, rules)?;
    // Room version 12: the create event is implied by the room id and must not be listed.
    if !rules.event_format.allow_room_create_in_auth_events {
        let create = crate::pdu::create_event_id(&room_id);
        if auth_events.iter().any(|id| Some(id) == create.as_ref()) {
            return Err(PduError::Field { field: "auth_events" });
        }
    }

    let redacts = object.get("redacts").and_then(CanonicalJsonValue::as_str);
    let inner = Inner {
        event_id,
        room_id,
        names_room,
        sender,
        kind: TimelineEventType::from(kind),
        event_type: kind.into(),
        state_key,
        origin_server_ts: required_uint(object, "origin_server_ts")?,
        depth: required_uint(object, "depth")?.into(),
        prev_events,
        auth_events,
        redacts: redacts.and_then(|text| OwnedEventId::try_from(text).ok()),
        content: raw(content)?,
        json: RawValue::from_string(json).map_err(|error| PduError::Json(error.to_string()))?,
    };
    Ok(Pdu::new(inner))
}

/// The id: carried by the event in room versions 1 and 2, its reference hash in all others.
fn event_id(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<OwnedEventId, PduError> {
    let text = if rules.event_id_format == EventIdFormatVersion::V1 {
        required_string(object, "event_id")?.to_owned()
    } else {
        let hash =
            ruma::signatures::reference_hash(object, rules).map_err(|error| PduError::Json(error.to_string()))?;
        format!("${hash}")
    };
    OwnedEventId::try_from(text).map_err(|_| PduError::Field { field: "event_id" })
}

/// The reference hash of an event in unpadded base64: what room versions 1 and 2 put beside
/// an event id in `prev_events` and `auth_events`, and later versions make the id of.
pub fn reference_hash(pdu: &Pdu, rules: &RoomVersionRules) -> Result<String, PduError> {
    let object = canonical::parse_object(pdu.json().get().as_bytes(), Numbers::Lenient)?;
    ruma::signatures::reference_hash(&object, rules).map_err(|error| PduError::Json(error.to_string()))
}

pub(crate) fn raw(object: &CanonicalJsonObject) -> Result<Box<RawValue>, PduError> {
    to_raw_value(object).map_err(|error| PduError::Json(error.to_string()))
}

fn optional_string<'a>(object: &'a CanonicalJsonObject, field: &'static str) -> Result<Option<&'a str>, PduError> {
    match object.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::String(text)) if text.len() > ID_SIZE_BYTES_MAX => {
            Err(PduError::FieldTooLong { field })
        }
        Some(CanonicalJsonValue::String(text)) => Ok(Some(text)),
        Some(_) => Err(PduError::Field { field }),
    }
}

fn required_string<'a>(object: &'a CanonicalJsonObject, field: &'static str) -> Result<&'a str, PduError> {
    optional_string(object, field)?.ok_or(PduError::Field { field })
}

fn required_object<'a>(
    object: &'a CanonicalJsonObject,
    field: &'static str,
) -> Result<&'a CanonicalJsonObject, PduError> {
    let value = object.get(field).and_then(CanonicalJsonValue::as_object);
    value.ok_or(PduError::Field { field })
}

fn required_uint(object: &CanonicalJsonObject, field: &'static str) -> Result<UInt, PduError> {
    let value = object.get(field).and_then(CanonicalJsonValue::as_integer);
    value.and_then(|value| UInt::try_from(i64::from(value)).ok()).ok_or(PduError::Field { field })
}

fn references(
    object: &CanonicalJsonObject,
    field: &'static str,
    count_max: usize,
    rules: &RoomVersionRules,
) -> Result<Vec<OwnedEventId>, PduError> {
    let list = object.get(field).and_then(CanonicalJsonValue::as_array);
    let list = list.ok_or(PduError::Field { field })?;
    if list.len() > count_max {
        return Err(PduError::TooManyReferences { field });
    }
    let mut ids = Vec::with_capacity(list.len());
    for reference in list {
        let text = match (rules.events_reference_format, reference) {
            // Room versions 1 and 2: pairs of an id and an object with hashes.
            (EventsReferenceFormatVersion::V1, CanonicalJsonValue::Array(pair)) => {
                pair.first().and_then(CanonicalJsonValue::as_str)
            }
            (EventsReferenceFormatVersion::V1, _) => None,
            (_, reference) => reference.as_str(),
        };
        let id = text.and_then(|text| OwnedEventId::try_from(text).ok());
        ids.push(id.ok_or(PduError::Field { field })?);
    }
    Ok(ids)
}
