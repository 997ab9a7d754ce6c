//! Reading events back from the store: one pass over the text, borrowing what can be borrowed.

use std::borrow::Cow;
use std::fmt;

use ruma::events::TimelineEventType;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UInt};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::pdu::{Inner, created_room_id};
use crate::{PduBuilder, PduError};

/// The fields of an event that the server works with. What the store holds has been checked when it
/// went in.
#[derive(Deserialize)]
struct StoredFields<'a> {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    state_key: Option<String>,
    origin_server_ts: UInt,
    depth: u64,
    prev_events: Vec<EventReference>,
    auth_events: Vec<EventReference>,
    #[serde(default, deserialize_with = "id_or_none")]
    redacts: Option<OwnedEventId>,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// Reads the event `event_id` from its canonical JSON.
pub(crate) fn read(event_id: OwnedEventId, json: Box<RawValue>) -> Result<Inner, PduError> {
    let fields = match serde_json::from_str::<StoredFields<'_>>(json.get()) {
        Ok(fields) => fields,
        Err(error) => {
            return Err(PduError::Stored { event_id, reason: error.to_string() });
        }
    };
    let names_room = fields.room_id.is_some();
    let Some(room_id) = fields.room_id.or_else(|| created_room_id(&event_id)) else {
        return Err(PduError::Stored { event_id, reason: "no room id".to_owned() });
    };
    let content = fields.content.to_owned();
    Ok(Inner {
        event_id,
        room_id,
        names_room,
        sender: fields.sender,
        kind: TimelineEventType::from(&*fields.kind),
        event_type: fields.kind.into(),
        state_key: fields.state_key,
        origin_server_ts: fields.origin_server_ts,
        depth: fields.depth,
        prev_events: fields.prev_events.into_iter().map(|reference| reference.0).collect(),
        auth_events: fields.auth_events.into_iter().map(|reference| reference.0).collect(),
        redacts: fields.redacts,
        content,
        json,
    })
}

/// What another server proposes as an event to sign. Everything but these fields is the business
/// of the one who signs.
#[derive(Deserialize)]
struct TemplateFields<'a> {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    state_key: Option<String>,
    depth: u64,
    prev_events: Vec<EventReference>,
    auth_events: Vec<EventReference>,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// Reads a template into a builder.
pub(crate) fn read_template(text: &[u8]) -> Result<PduBuilder, PduError> {
    let fields =
        serde_json::from_slice::<TemplateFields<'_>>(text).map_err(|error| PduError::Json(error.to_string()))?;
    let mut builder = PduBuilder::new(fields.sender, fields.kind, fields.content.to_owned());
    builder.room_id = fields.room_id;
    builder.state_key = fields.state_key;
    builder.depth = fields.depth;
    for reference in fields.prev_events.iter().chain(&fields.auth_events) {
        if let Some(hash) = &reference.1 {
            builder.reference_hashes.insert(reference.0.clone(), hash.clone());
        }
    }
    builder.prev_events = fields.prev_events.into_iter().map(|reference| reference.0).collect();
    builder.auth_events = fields.auth_events.into_iter().map(|reference| reference.0).collect();
    Ok(builder)
}

/// A reference to an event: its id, or in room versions 1 and 2 a pair of id and hashes, of which
/// the SHA-256 is kept.
struct EventReference(OwnedEventId, Option<String>);

impl<'de> Deserialize<'de> for EventReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReferenceVisitor)
    }
}

struct ReferenceVisitor;

impl<'de> Visitor<'de> for ReferenceVisitor {
    type Value = EventReference;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event id or a pair of event id and hashes")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let id = OwnedEventId::try_from(text).map_err(E::custom)?;
        Ok(EventReference(id, None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Self::Value, A::Error> {
        let Some(id) = pair.next_element::<OwnedEventId>()? else {
            return Err(A::Error::custom("a reference without an event id"));
        };
        // Nothing depends on the hashes, so they may be anything.
        let hashes = pair.next_element::<Value>()?;
        let sha256 = hashes.as_ref().and_then(|hashes| hashes.get("sha256")).and_then(Value::as_str);
        let sha256 = sha256.map(ToOwned::to_owned);
        while pair.next_element::<IgnoredAny>()?.is_some() {}
        Ok(EventReference(id, sha256))
    }
}

/// `redacts` at the top level matters in some room versions only; elsewhere it may be anything.
fn id_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OwnedEventId>, D::Error> {
    let value = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(value.get()).ok())
}
