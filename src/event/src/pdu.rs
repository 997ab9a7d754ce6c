//! An event as servers exchange it ("persistent data unit").
//!
//! Specification: server-server API, "PDUs", and the event format of each room version.
//!
//! A [`Pdu`] is an event of known format. It does not say that the signatures are right or that
//! the event is allowed: [`ReceivedPdu`](crate::ReceivedPdu) proves the former, the module
//! [`auth`](crate::auth) decides the latter.

use std::sync::Arc;

use ruma::events::{StateEventType, TimelineEventType};
use ruma::room_version_rules::RoomVersionRules;
use ruma::serde::{Base64, base64::Standard};
use ruma::{
    CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    UserId,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::PduError;
use crate::canonical::{self, Numbers};

/// The size of an event with its signatures, in canonical JSON.
pub const PDU_SIZE_BYTES_MAX: usize = 65_536;

/// The size of user ids, room ids, event ids, event types and state keys.
pub const ID_SIZE_BYTES_MAX: usize = 255;

/// The greatest depth of an event: the largest integer of canonical JSON.
pub const DEPTH_MAX: u64 = (1 << 53) - 1;

/// How many events an event may name as its predecessors.
pub const PREV_EVENTS_MAX: usize = 20;

/// How many events an event may name as those that authorise it.
pub const AUTH_EVENTS_MAX: usize = 10;

/// An event. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Pdu {
    pub(crate) inner: Arc<Inner>,
    rejected: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) event_id: OwnedEventId,
    pub(crate) room_id: OwnedRoomId,
    /// False for the create event of rooms whose id follows from it.
    pub(crate) names_room: bool,
    pub(crate) sender: OwnedUserId,
    pub(crate) kind: TimelineEventType,
    /// `kind` as text.
    pub(crate) event_type: Box<str>,
    pub(crate) state_key: Option<String>,
    pub(crate) origin_server_ts: UInt,
    pub(crate) depth: u64,
    pub(crate) prev_events: Vec<OwnedEventId>,
    pub(crate) auth_events: Vec<OwnedEventId>,
    /// The top-level property only.
    pub(crate) redacts: Option<OwnedEventId>,
    pub(crate) content: Box<RawValue>,
    pub(crate) json: Box<RawValue>,
}

impl Pdu {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner), rejected: false }
    }

    /// Reads an event from text that nobody has checked, computing its id. Checks the format of
    /// the room version and nothing else; use [`ReceivedPdu`](crate::ReceivedPdu) for events of
    /// other servers, whose signatures matter.
    ///
    /// `unsigned` is dropped: other servers vouch for nothing in it.
    pub fn parse(text: &[u8], rules: &'static RoomVersionRules) -> Result<Self, PduError> {
        Ok(crate::ReceivedPdu::parse(text, rules)?.into_unverified())
    }

    /// Reads an event back from this server's own store, without checks.
    ///
    /// Fails with [`PduError::Stored`] if `json` isn't what [`Pdu::json`] gave.
    pub fn from_stored(event_id: OwnedEventId, json: Box<RawValue>) -> Result<Self, PduError> {
        crate::stored::read(event_id, json).map(Self::new)
    }

    /// The event's id.
    pub fn event_id(&self) -> &EventId {
        &self.inner.event_id
    }

    /// The event's id, shared.
    pub fn owned_event_id(&self) -> OwnedEventId {
        self.inner.event_id.clone()
    }

    /// The room. For a create event that has no `room_id` it is the room that it creates.
    pub fn room_id(&self) -> &RoomId {
        &self.inner.room_id
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        &self.inner.sender
    }

    /// The event's type.
    pub fn kind(&self) -> &TimelineEventType {
        &self.inner.kind
    }

    /// The event's type as text.
    pub fn event_type(&self) -> &str {
        &self.inner.event_type
    }

    /// Whether it is a state event with the given type and state key.
    pub fn is_state(&self, event_type: &str, state_key: &str) -> bool {
        self.state_key() == Some(state_key) && self.event_type() == event_type
    }

    /// The key under which the event stands in the room's state, if it is a state event.
    pub fn state_pair(&self) -> Option<(StateEventType, &str)> {
        let state_key = self.state_key()?;
        Some((StateEventType::from(self.event_type()), state_key))
    }

    /// The state key, present exactly if it is a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.inner.state_key.as_deref()
    }

    /// When the sender's server says that it was sent, in milliseconds since the Unix epoch.
    pub fn origin_server_ts(&self) -> u64 {
        self.inner.origin_server_ts.into()
    }

    /// How deep in the graph the sender's server says that it lies. Not to be relied on.
    pub fn depth(&self) -> u64 {
        self.inner.depth
    }

    /// The content: an object in canonical JSON.
    pub fn content(&self) -> &RawValue {
        &self.inner.content
    }

    /// The content read as `T`, ignoring what `T` doesn't ask for.
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.inner.content.get())
    }

    /// `content.membership`, if it is there and is a string.
    pub fn membership(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Membership {
            membership: String,
        }
        self.content_as::<Membership>().ok().map(|content| content.membership)
    }

    /// The events before it.
    pub fn prev_events(&self) -> impl ExactSizeIterator<Item = &EventId> + DoubleEndedIterator {
        self.inner.prev_events.iter().map(|id| &**id)
    }

    /// The events that its server says authorise it. In rooms whose id follows from the create
    /// event, that event is implied and not listed.
    pub fn auth_events(&self) -> impl ExactSizeIterator<Item = &EventId> + DoubleEndedIterator {
        self.inner.auth_events.iter().map(|id| &**id)
    }

    /// The events that authorise it, with the create event that the room id implies.
    pub fn all_auth_events(&self, rules: &RoomVersionRules) -> Vec<OwnedEventId> {
        let mut ids = self.inner.auth_events.clone();
        if rules.authorization.room_create_event_id_as_room_id && self.inner.names_room {
            ids.extend(create_event_id(self.room_id()));
        }
        ids
    }

    /// The event that this one asks to redact, read from where the room version has it.
    pub fn redacts(&self, rules: &RoomVersionRules) -> Option<OwnedEventId> {
        #[derive(Deserialize)]
        struct Redacts {
            redacts: OwnedEventId,
        }
        if self.inner.kind != TimelineEventType::RoomRedaction {
            return None;
        }
        if !rules.redaction.content_field_redacts {
            return self.inner.redacts.clone();
        }
        self.content_as::<Redacts>().ok().map(|content| content.redacts)
    }

    /// The whole event in canonical JSON: as received, without `unsigned`.
    pub fn json(&self) -> &RawValue {
        &self.inner.json
    }

    /// Whether this is what a redaction left: the content hash isn't that of the content (server-server API, "Calculating the content hash for an
    /// event").
    ///
    /// Fails if the event names no hash that can be read.
    pub fn is_redacted_copy(&self) -> Result<bool, PduError> {
        let object = canonical::parse_object(self.json().get().as_bytes(), Numbers::Lenient)?;
        let hashes = object.get("hashes").and_then(CanonicalJsonValue::as_object);
        let named = hashes.and_then(|hashes| hashes.get("sha256")).and_then(CanonicalJsonValue::as_str);
        let named = named.and_then(|named| Base64::<Standard>::parse(named).ok());
        let named = named.ok_or(PduError::Field { field: "hashes" })?;
        let right = ruma::signatures::content_hash(&object).map_err(|error| PduError::Json(error.to_string()))?;
        Ok(named.as_bytes() != right.as_bytes())
    }

    /// The same event, known to have been rejected on receipt. The authorisation rules reject
    /// whatever refers to it.
    #[must_use]
    pub fn with_rejected(mut self, rejected: bool) -> Self {
        self.rejected = rejected;
        self
    }

    /// Whether the event was marked by [`Pdu::with_rejected`].
    pub fn is_rejected(&self) -> bool {
        self.rejected
    }
}

impl PartialEq for Pdu {
    fn eq(&self, other: &Self) -> bool {
        self.inner.event_id == other.inner.event_id && self.json().get() == other.json().get()
    }
}

impl Eq for Pdu {}

/// The id of the create event that gave a room its id (room version 12 on), `None` if the room id
/// names a server and so isn't made from an event id.
pub fn create_event_id(room_id: &RoomId) -> Option<OwnedEventId> {
    let hash = room_id.as_str().strip_prefix('!').filter(|hash| !hash.contains(':'))?;
    EventId::parse(format!("${hash}")).ok()
}

/// The id of the room that a create event makes (room version 12 on).
pub(crate) fn created_room_id(create: &EventId) -> Option<OwnedRoomId> {
    let hash = create.as_str().strip_prefix('$')?;
    RoomId::parse(format!("!{hash}")).ok()
}

impl ruma::state_res::Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        &self.inner.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.inner.names_room.then_some(&*self.inner.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.inner.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(self.inner.origin_server_ts)
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.inner.kind
    }

    fn content(&self) -> &RawValue {
        &self.inner.content
    }

    fn state_key(&self) -> Option<&str> {
        self.inner.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.inner.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.inner.auth_events.iter())
    }

    /// Read by the rules of room versions 1 and 2, which allow to redact events of one's own server. A redaction that was redacted doesn't say
    /// any more what it was for: then itself, so that who has only that copy judges as those do who have the whole one.
    fn redacts(&self) -> Option<&Self::Id> {
        // One whose hash can't be read never said it either.
        let lost_it = || matches!(self.is_redacted_copy(), Ok(true)).then_some(&self.inner.event_id);
        self.inner.redacts.as_ref().or_else(lost_it)
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}
