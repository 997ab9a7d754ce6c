//! Making events: hash, sign, name.
//!
//! Specification: server-server API, "Signing Events".

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ruma::events::TimelineEventType;
use ruma::room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, UInt};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::canonical::{self, to_canonical_string};
use crate::pdu::{
    AUTH_EVENTS_MAX, DEPTH_MAX, ID_SIZE_BYTES_MAX, Inner, PDU_SIZE_BYTES_MAX, PREV_EVENTS_MAX, Pdu, create_event_id,
    created_room_id,
};
use crate::received::raw;
use crate::sign::{ReferenceDigest, hash_and_sign};
use crate::{PduError, SigningKey, stored};

/// An event to be made.
#[derive(Debug, Clone)]
pub struct PduBuilder {
    /// The room; `None` exactly for a create event that gives the room its id.
    pub room_id: Option<OwnedRoomId>,
    /// Who sends it.
    pub sender: OwnedUserId,
    /// The type.
    pub event_type: String,
    /// The state key, for a state event.
    pub state_key: Option<String>,
    /// The content: an object.
    pub content: Box<RawValue>,
    /// What a redaction redacts. It is put where the room version wants it: beside `content` up to
    /// version 10, in it from version 11 on.
    pub redacts: Option<OwnedEventId>,
    /// The events before it, at most [`PREV_EVENTS_MAX`].
    pub prev_events: Vec<OwnedEventId>,
    /// The events that authorise it, at most [`AUTH_EVENTS_MAX`], without an implied create event.
    pub auth_events: Vec<OwnedEventId>,
    /// One more than the greatest depth of `prev_events`. What is above [`DEPTH_MAX`] becomes that,
    /// so that a server that sends an absurd depth doesn't end the room.
    pub depth: u64,
    /// Now, in milliseconds since the Unix epoch.
    pub origin_server_ts: u64,
    /// The [reference hashes](crate::reference_hash) of the events named above. Room versions 1
    /// and 2 carry them; others ignore them.
    pub reference_hashes: HashMap<OwnedEventId, String>,
}

impl PduBuilder {
    /// An event without room, references, depth and time, which the caller fills in.
    pub fn new(sender: OwnedUserId, event_type: String, content: Box<RawValue>) -> Self {
        Self {
            room_id: None,
            sender,
            event_type,
            state_key: None,
            content,
            redacts: None,
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            depth: 0,
            origin_server_ts: 0,
            reference_hashes: HashMap::new(),
        }
    }

    /// The event that another server proposes for this one to sign (`make_join` and its like).
    ///
    /// Takes over what matters and drops the rest. The caller checks that room, sender, type and
    /// membership are what it asked for, and sets the time.
    pub fn from_template(text: &[u8]) -> Result<Self, PduError> {
        stored::read_template(text)
    }

    /// Hashes, signs and names the event. Fails if it would not be valid in the room version; the
    /// content must be canonical JSON in every version.
    pub fn build(mut self, rules: &RoomVersionRules, key: &SigningKey, server: &ServerName) -> Result<Pdu, PduError> {
        self.check(rules)?;
        self.depth = self.depth.min(DEPTH_MAX);
        let mut content = canonical::parse_content(self.content.get().as_bytes())?;
        if let Some(redacts) = &self.redacts
            && rules.redaction.content_field_redacts
        {
            content.insert("redacts".to_owned(), string(redacts.as_str()));
        }
        let content_json = raw(&content)?;
        let origin_server_ts = uint(self.origin_server_ts, "origin_server_ts")?;
        let mut object = self.to_object(rules, content)?;

        let own_id = if rules.event_id_format == EventIdFormatVersion::V1 {
            // Room versions 1 and 2: any name will do that is unique on this server. The hash of
            // all the rest is.
            let digest = Sha256::digest(to_canonical_string(&object).as_bytes());
            let text = format!("${}:{server}", URL_SAFE_NO_PAD.encode(digest));
            object.insert("event_id".to_owned(), string(&text));
            Some(event_id(text)?)
        } else {
            None
        };

        let digest = hash_and_sign(&mut object, rules, key, server)?;
        let event_id = match own_id {
            Some(id) => id,
            None => event_id(name_by_hash(digest, rules))?,
        };
        let json = to_canonical_string(&object);
        if json.len() > PDU_SIZE_BYTES_MAX {
            return Err(PduError::TooLarge);
        }
        let names_room = self.room_id.is_some();
        let room_id = match self.room_id {
            Some(room_id) => room_id,
            None => created_room_id(&event_id).ok_or(PduError::Field { field: "room_id" })?,
        };
        Ok(Pdu::new(Inner {
            event_id,
            room_id,
            names_room,
            sender: self.sender,
            kind: TimelineEventType::from(self.event_type.as_str()),
            event_type: self.event_type.into(),
            state_key: self.state_key,
            origin_server_ts,
            depth: self.depth,
            prev_events: self.prev_events,
            auth_events: self.auth_events,
            redacts: self.redacts.filter(|_| !rules.redaction.content_field_redacts),
            content: content_json,
            json: RawValue::from_string(json).map_err(|error| PduError::Json(error.to_string()))?,
        }))
    }

    fn check(&self, rules: &RoomVersionRules) -> Result<(), PduError> {
        let lengths = [
            ("type", self.event_type.len()),
            ("state_key", self.state_key.as_deref().map_or(0, str::len)),
            ("sender", self.sender.as_str().len()),
            ("room_id", self.room_id.as_deref().map_or(0, |id| id.as_str().len())),
        ];
        for (field, length) in lengths {
            if length > ID_SIZE_BYTES_MAX {
                return Err(PduError::FieldTooLong { field });
            }
        }
        if self.prev_events.len() > PREV_EVENTS_MAX {
            return Err(PduError::TooManyReferences { field: "prev_events" });
        }
        if self.auth_events.len() > AUTH_EVENTS_MAX {
            return Err(PduError::TooManyReferences { field: "auth_events" });
        }
        let may_name_room = self.event_type != "m.room.create" || rules.event_format.require_room_create_room_id;
        if self.room_id.is_some() != may_name_room {
            return Err(PduError::Field { field: "room_id" });
        }
        // Room version 12: the create event is implied by the room id and must not be listed.
        if let Some(create) = self.room_id.as_deref().and_then(create_event_id)
            && !rules.event_format.allow_room_create_in_auth_events
            && self.auth_events.contains(&create)
        {
            return Err(PduError::Field { field: "auth_events" });
        }
        Ok(())
    }

    fn to_object(
        &self,
        rules: &RoomVersionRules,
        content: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject, PduError> {
        let mut object = CanonicalJsonObject::new();
        let mut put = |field: &str, value| object.insert(field.to_owned(), value);
        put("auth_events", self.references(&self.auth_events, rules));
        put("content", CanonicalJsonValue::Object(content));
        put("depth", integer(self.depth, "depth")?);
        put("origin_server_ts", integer(self.origin_server_ts, "origin_server_ts")?);
        put("prev_events", self.references(&self.prev_events, rules));
        put("sender", string(self.sender.as_str()));
        put("type", string(&self.event_type));
        if let Some(room_id) = &self.room_id {
            put("room_id", string(room_id.as_str()));
        }
        if let Some(state_key) = &self.state_key {
            put("state_key", string(state_key));
        }
        if let Some(redacts) = &self.redacts
            && !rules.redaction.content_field_redacts
        {
            put("redacts", string(redacts.as_str()));
        }
        Ok(object)
    }

    fn references(&self, ids: &[OwnedEventId], rules: &RoomVersionRules) -> CanonicalJsonValue {
        let mut list = Vec::with_capacity(ids.len());
        for id in ids {
            let id_json = string(id.as_str());
            if rules.events_reference_format == EventsReferenceFormatVersion::V1 {
                let hashes = match self.reference_hashes.get(id) {
                    Some(hash) => object_of("sha256", string(hash)),
                    None => CanonicalJsonValue::Object(CanonicalJsonObject::new()),
                };
                list.push(CanonicalJsonValue::Array(vec![id_json, hashes]));
            } else {
                list.push(id_json);
            }
        }
        CanonicalJsonValue::Array(list)
    }
}

/// The id of an event of room version 3 on.
fn name_by_hash(digest: ReferenceDigest, rules: &RoomVersionRules) -> String {
    // Room version 3 uses the common alphabet of base64, later ones the one for URLs.
    if rules.event_id_format == EventIdFormatVersion::V2 {
        format!("${}", STANDARD_NO_PAD.encode(digest))
    } else {
        format!("${}", URL_SAFE_NO_PAD.encode(digest))
    }
}

fn event_id(text: String) -> Result<OwnedEventId, PduError> {
    OwnedEventId::try_from(text).map_err(|_| PduError::Field { field: "event_id" })
}

fn string(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}

fn uint(value: u64, field: &'static str) -> Result<UInt, PduError> {
    UInt::try_from(value).map_err(|_| PduError::Field { field })
}

fn integer(value: u64, field: &'static str) -> Result<CanonicalJsonValue, PduError> {
    let value = ruma::Int::try_from(value).map_err(|_| PduError::Field { field })?;
    Ok(CanonicalJsonValue::Integer(value))
}

fn object_of(key: &str, value: CanonicalJsonValue) -> CanonicalJsonValue {
    CanonicalJsonValue::Object(CanonicalJsonObject::from([(key.to_owned(), value)]))
}
