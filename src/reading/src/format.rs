//! Events as clients get them.
//!
//! Specification: client-server API, "Room event format", "Stripped state", "Redactions"; room version 11 for
//! where `redacts` stands.
//!
//! What is the same for everybody (the content after redaction, `redacts`, which event was replaced) is kept by
//! event. A rendering that depends on nothing but the viewer's membership is shared by all who ask within
//! [`AGE_SHARED_MS`], so an event that goes to all members of a room at once is written out once.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use event::{Pdu, visibility::Visibility};
use quick_cache::{Weighter, sync::Cache};
use rooms::{EventMeta, Membership, RoomsError, Shown, StoredEvent, json::to_json, tables::EventTxnIds};
use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;
use state_tree::EventNum;

use crate::{
    reader::{RoomReader, Viewer},
    visibility::Sight,
};

/// An event's JSON as clients get it; cheap to share.
pub type ClientEvent = Arc<RawValue>;

/// How old a shared rendering may be, so how far `age` may be off, in milliseconds.
pub const AGE_SHARED_MS: u64 = 100;

/// What a kept event weighs beside its renderings, in bytes.
const FORMATTED_OVERHEAD_BYTES: u64 = 700;

/// Which form of events an answer has.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum EventForm {
    /// For clients.
    #[default]
    Client,
    /// As servers exchange it (filters' `event_format`); with nothing added.
    Federation,
}

/// Which child events are summed up in `unsigned.m.relations`.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Aggregations {
    /// None.
    #[default]
    None,
    /// All but threads: for events that stand inside an aggregation themselves.
    NoThreads,
    /// All.
    All,
}

/// What an endpoint puts into its events.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientFormat {
    /// Whether each event names its room.
    pub with_room_id: bool,
    /// Bundled aggregations.
    pub aggregations: Aggregations,
    /// Whether state events say what they replaced (`prev_content`, `replaces_state`). To find that out for each event of
    /// a large state would cost more than all the rest.
    pub with_replaced: bool,
    /// The form.
    pub form: EventForm,
}

impl ClientFormat {
    /// For `/sync`, whose events don't name their room; aggregations only where a timeline is limited.
    pub fn sync(limited: bool) -> Self {
        let aggregations = if limited { Aggregations::All } else { Aggregations::None };
        Self { with_room_id: false, aggregations, with_replaced: true, form: EventForm::Client }
    }

    /// For the endpoints about one room.
    pub fn room() -> Self {
        Self { with_room_id: true, aggregations: Aggregations::All, with_replaced: true, form: EventForm::Client }
    }

    /// For state of a room (no aggregations: state events don't get any).
    pub fn state() -> Self {
        Self { aggregations: Aggregations::None, ..Self::room() }
    }

    /// For many members of a room.
    pub fn members() -> Self {
        Self { with_replaced: false, ..Self::state() }
    }
}

/// An event that a viewer gets.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// What the server knows about it.
    pub meta: EventMeta,
    /// Its JSON.
    pub json: ClientEvent,
}

/// What is the same for every viewer of an event, as long as it isn't redacted (again).
pub(crate) struct Formatted {
    /// The event, redacted if it is.
    pub(crate) pdu: Shown,
    /// The content, where it isn't just that of `pdu`.
    content: Option<Box<RawValue>>,
    /// The top-level `redacts`.
    redacts: Option<OwnedEventId>,
    /// The state event that this one replaced, once somebody asked.
    replaces: OnceLock<Option<EventNum>>,
    /// The last rendering that others can use too.
    shared: Mutex<Option<Rendering>>,
}

impl Formatted {
    pub(crate) fn content(&self) -> &RawValue {
        self.content.as_deref().unwrap_or(self.pdu.content())
    }
}

struct Rendering {
    at_ms: u64,
    with_room_id: bool,
    membership: Option<Membership>,
    json: ClientEvent,
}

/// The cache of formatted events, by event and by the redaction that applies to it.
pub(crate) struct FormatCache(Cache<(EventNum, Option<EventNum>), Arc<Formatted>, FormattedWeight>);

#[derive(Clone)]
struct FormattedWeight;

impl Weighter<(EventNum, Option<EventNum>), Arc<Formatted>> for FormattedWeight {
    fn weight(&self, _: &(EventNum, Option<EventNum>), formatted: &Arc<Formatted>) -> u64 {
        // The event, whose JSON is held whole and its content once more, may be in no other cache; a rendering is about as long.
        3 * formatted.pdu.json().get().len() as u64 + FORMATTED_OVERHEAD_BYTES
    }
}

impl FormatCache {
    pub(crate) fn new(cache_bytes: u64) -> Self {
        let items = usize::try_from(cache_bytes / (3 * FORMATTED_OVERHEAD_BYTES)).unwrap_or(usize::MAX).max(16);
        Self(Cache::with_weighter(items, cache_bytes, FormattedWeight))
    }
}

/// The client form, in alphabetical order.
#[derive(Serialize)]
struct ClientShape<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: &'a str,
    unsigned: Unsigned<'a>,
}

#[derive(Serialize, Default)]
struct Unsigned<'a> {
    age: i64,
    #[serde(rename = "m.relations", skip_serializing_if = "Option::is_none")]
    relations: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a str>,
}

#[derive(Serialize)]
struct StrippedShape<'a> {
    content: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_server_ts: Option<u64>,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: &'a str,
}

/// The `membership` of member events and of `unsigned`.
pub(crate) fn membership_name(membership: Membership) -> &'static str {
    match membership {
        Membership::Leave => "leave",
        Membership::Invite => "invite",
        Membership::Knock => "knock",
        Membership::Join => "join",
        Membership::Ban => "ban",
    }
}

/// Stripped state: sender, type, state key and content alone.
pub fn stripped(event: &Shown) -> Result<Box<RawValue>, RoomsError> {
    strip(event, None)
}

/// Stripped state with the time of the event, as space hierarchies have it.
pub(crate) fn stripped_with_time(event: &Shown) -> Result<Box<RawValue>, RoomsError> {
    strip(event, Some(event.origin_server_ts()))
}

fn strip(event: &Pdu, origin_server_ts: Option<u64>) -> Result<Box<RawValue>, RoomsError> {
    to_json(&StrippedShape {
        content: event.content(),
        origin_server_ts,
        sender: event.sender(),
        state_key: event.state_key(),
        event_type: event.event_type(),
    })
}

impl RoomReader<'_> {
    /// Formats what the viewer may see of these events of a room, in their order, and leaves out the rest.
    pub async fn deliver(&self, nums: &[EventNum], format: ClientFormat) -> Result<Vec<Delivered>, RoomsError> {
        let events = self.rooms().load(self.view, nums).await?;
        let sights = self.sights(&events).await?;
        let mut delivered = Vec::with_capacity(events.len());
        for ((event, meta), sight) in events.into_iter().zip(sights) {
            if sight.seen == Visibility::Hidden {
                continue;
            }
            let json = self.client_event(&event, &meta, sight, format).await?;
            delivered.push(Delivered { event, meta, json });
        }
        Ok(delivered)
    }

    /// Formats state events that the viewer may read because they are in a state that the viewer may read.
    pub async fn deliver_state(&self, nums: &[EventNum], format: ClientFormat) -> Result<Vec<Delivered>, RoomsError> {
        let events = self.rooms().load(self.view, nums).await?;
        let mut delivered = Vec::with_capacity(events.len());
        for (event, meta) in events {
            let json = self.client_event(&event, &meta, Sight::OF_STATE, format).await?;
            delivered.push(Delivered { event, meta, json });
        }
        Ok(delivered)
    }

    /// Formats one event for a viewer who may see it as `sight` says.
    pub async fn client_event(
        &self,
        event: &StoredEvent,
        meta: &EventMeta,
        sight: Sight,
        format: ClientFormat,
    ) -> Result<ClientEvent, RoomsError> {
        let formatted = self.formatted(event, meta).await?;
        if sight.seen == Visibility::Redacted && meta.redacted_by.is_none() {
            let unsigned = self.unsigned(&formatted.pdu, sight.membership);
            return self.erased_event(&formatted, unsigned, format).await;
        }
        if format.form == EventForm::Federation {
            return Ok(formatted.pdu.json().to_owned().into());
        }
        let own = self.transaction_id(event).await?;
        let relations = self.relations_of(event, meta, format).await?;
        let replaces = match format.with_replaced {
            true => self.replaced_num(event, meta, &formatted).await?,
            false => None,
        };
        let special = own.is_some() || relations.is_some() || meta.redacted_by.is_some() || replaces.is_some();
        if !special {
            return self.shared_rendering(&formatted, sight.membership, format);
        }
        let prev = self.replaced(replaces).await?;
        let because = self.redacted_because(meta, format).await?;
        let unsigned = Unsigned {
            age: self.age_ms(&formatted.pdu),
            relations: relations.as_deref(),
            membership: sight.membership.map(membership_name),
            prev_content: prev.as_ref().and_then(|(prev, shown)| shown.then_some(prev.content())),
            redacted_because: because.as_deref(),
            replaces_state: prev.as_ref().map(|(prev, _)| prev.pdu.event_id()),
            transaction_id: own.as_deref(),
        };
        Ok(render(&formatted, format.with_room_id, unsigned)?.into())
    }

    /// A rendering that depends on the viewer's membership alone.
    fn shared_rendering(
        &self,
        formatted: &Formatted,
        membership: Option<Membership>,
        format: ClientFormat,
    ) -> Result<ClientEvent, RoomsError> {
        let now_ms = self.reading.inner.clock.now_ms();
        let mut shared = formatted.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*shared
            && now_ms.abs_diff(last.at_ms) <= AGE_SHARED_MS
            && last.with_room_id == format.with_room_id
            && last.membership == membership
        {
            return Ok(last.json.clone());
        }
        let unsigned = self.unsigned(&formatted.pdu, membership);
        let json: ClientEvent = render(formatted, format.with_room_id, unsigned)?.into();
        let with_room_id = format.with_room_id;
        *shared = Some(Rendering { at_ms: now_ms, with_room_id, membership, json: json.clone() });
        Ok(json)
    }

    /// What is the same for everybody, from the cache or made now.
    pub(crate) async fn formatted(&self, event: &StoredEvent, meta: &EventMeta) -> Result<Arc<Formatted>, RoomsError> {
        let key = (event.num, meta.redacted_by);
        let cache = &self.reading.inner.formats.0;
        if let Some(formatted) = cache.get(&key) {
            return Ok(formatted);
        }
        let pdu = match meta.redacted_by {
            None => Shown::whole(event),
            Some(_) => Shown::of(event, meta, self.rooms().rules(self.view, event.pdu.room_id()).await?)?,
        };
        let (redacts, content) = self.redaction_fields(&pdu).await?;
        let formatted = Formatted { pdu, content, redacts, replaces: OnceLock::new(), shared: Mutex::default() };
        let formatted = Arc::new(formatted);
        cache.insert(key, formatted.clone());
        Ok(formatted)
    }

    /// For redactions: the target for the top level, and content with the target if it lacks it. Clients of
    /// either age find it where they look.
    async fn redaction_fields(&self, pdu: &Pdu) -> Result<(Option<OwnedEventId>, Option<Box<RawValue>>), RoomsError> {
        if pdu.event_type() != "m.room.redaction" {
            return Ok((None, None));
        }
        let rules = self.rooms().rules(self.view, pdu.room_id()).await?;
        let Some(target) = pdu.redacts(rules) else { return Ok((None, None)) };
        if rules.redaction.content_field_redacts {
            return Ok((Some(target), None));
        }
        let content = pdu.content_as::<serde_json::Map<String, serde_json::Value>>();
        let mut content = content.map_err(|error| RoomsError::corrupt(error.to_string()))?;
        content.insert("redacts".to_owned(), target.as_str().into());
        Ok((Some(target), Some(to_json(&content)?)))
    }

    /// An event of an erased sender for those who weren't there.
    async fn erased_event(
        &self,
        formatted: &Formatted,
        unsigned: Unsigned<'_>,
        format: ClientFormat,
    ) -> Result<ClientEvent, RoomsError> {
        let rules = self.rooms().rules(self.view, formatted.pdu.room_id()).await?;
        let pdu = formatted.pdu.redacted(rules)?;
        if format.form == EventForm::Federation {
            return Ok(pdu.json().to_owned().into());
        }
        let erased =
            Formatted { pdu, content: None, redacts: None, replaces: OnceLock::new(), shared: Mutex::default() };
        Ok(render(&erased, format.with_room_id, unsigned)?.into())
    }

    /// An event as the server redacts it for a viewer who ignores its sender, with its aggregations.
    pub(crate) async fn redacted_for_viewer(
        &self,
        event: &StoredEvent,
        meta: &EventMeta,
    ) -> Result<ClientEvent, RoomsError> {
        let format = ClientFormat::room();
        let formatted = self.formatted(event, meta).await?;
        let relations = self.relations_of(event, meta, format).await?;
        let unsigned = Unsigned { relations: relations.as_deref(), ..self.unsigned(&formatted.pdu, None) };
        self.erased_event(&formatted, unsigned, format).await
    }

    /// Bundled aggregations, if the endpoint has them and the event has any.
    async fn relations_of(
        &self,
        event: &StoredEvent,
        meta: &EventMeta,
        format: ClientFormat,
    ) -> Result<Option<Box<RawValue>>, RoomsError> {
        let wanted = format.aggregations != Aggregations::None && meta.has_relations;
        if !wanted || event.pdu.state_key().is_some() {
            return Ok(None);
        }
        // Boxed: the aggregation formats events in turn, one level down.
        Box::pin(self.aggregate(event, meta, format)).await
    }

    /// The number of the state event that this one replaced.
    async fn replaced_num(
        &self,
        event: &StoredEvent,
        meta: &EventMeta,
        formatted: &Formatted,
    ) -> Result<Option<EventNum>, RoomsError> {
        let Some(state_key) = event.pdu.state_key() else { return Ok(None) };
        if let Some(known) = formatted.replaces.get() {
            return Ok(*known);
        }
        // Never of an event whose state isn't known yet: it may be learnt later.
        if meta.after.is_empty() {
            return Ok(None);
        }
        let source = self.rooms().source(self.view, event.pdu.room_id());
        let entry = self.rooms().tree().get(&source, meta.before, event.pdu.event_type(), state_key).await?;
        Ok(*formatted.replaces.get_or_init(|| entry.map(|entry| entry.event)))
    }

    /// The state event that this one replaced, and whether the viewer may see it.
    async fn replaced(&self, replaces: Option<EventNum>) -> Result<Option<(Arc<Formatted>, bool)>, RoomsError> {
        let Some(num) = replaces else { return Ok(None) };
        let pairs = self.rooms().load(self.view, &[num]).await?;
        let sights = self.sights(&pairs).await?;
        let (Some((prev, meta)), Some(sight)) = (pairs.first(), sights.first()) else {
            return Ok(None);
        };
        let shown = sight.seen == Visibility::Visible;
        Ok(Some((self.formatted(prev, meta).await?, shown)))
    }

    /// The redaction of an event, in the same format, itself without `redacted_because`.
    async fn redacted_because(
        &self,
        meta: &EventMeta,
        format: ClientFormat,
    ) -> Result<Option<Box<RawValue>>, RoomsError> {
        let Some(num) = meta.redacted_by else { return Ok(None) };
        let pairs = self.rooms().load(self.view, &[num]).await?;
        let Some((redaction, meta)) = pairs.first() else { return Ok(None) };
        let formatted = self.formatted(redaction, meta).await?;
        let unsigned = Unsigned { age: self.age_ms(&formatted.pdu), ..Unsigned::default() };
        render(&formatted, format.with_room_id, unsigned).map(Some)
    }

    /// The transaction id with which the viewer's device sent the event, if it did.
    async fn transaction_id(&self, event: &StoredEvent) -> Result<Option<String>, RoomsError> {
        let Viewer { user, device, .. } = self.viewer;
        let Some(device) = device.filter(|_| event.pdu.sender() == user) else { return Ok(None) };
        let row = self.view.get::<EventTxnIds>(&event.num).await?;
        Ok(row.filter(|row| row.user == user.as_str() && row.device == device.as_str()).map(|row| row.txn_id))
    }

    /// What every event says of itself.
    fn unsigned(&self, event: &Pdu, membership: Option<Membership>) -> Unsigned<'static> {
        Unsigned { age: self.age_ms(event), membership: membership.map(membership_name), ..Unsigned::default() }
    }

    /// Milliseconds since an event was sent, negative if its server's clock is ahead of ours.
    fn age_ms(&self, event: &Pdu) -> i64 {
        let now = i64::try_from(self.reading.inner.clock.now_ms()).unwrap_or(i64::MAX);
        let sent = i64::try_from(event.origin_server_ts()).unwrap_or(i64::MAX);
        now.saturating_sub(sent)
    }
}

fn render(formatted: &Formatted, with_room_id: bool, unsigned: Unsigned<'_>) -> Result<Box<RawValue>, RoomsError> {
    let pdu = &formatted.pdu;
    to_json(&ClientShape {
        content: formatted.content(),
        event_id: pdu.event_id(),
        origin_server_ts: pdu.origin_server_ts(),
        redacts: formatted.redacts.as_deref(),
        room_id: with_room_id.then(|| pdu.room_id()),
        sender: pdu.sender(),
        state_key: pdu.state_key(),
        event_type: pdu.event_type(),
        unsigned,
    })
}
