//! What of an event counts: its content as a redaction leaves it.
//!
//! Specification: room versions, "Redactions". Events are stored as they were received, because hashes and signatures cover that.
//! Whoever shows content, acts on it, writes it into a new event or sends it elsewhere has to take what a redaction left of it. So
//! the content of a stored event can't be reached but through a [`Shown`], or by saying that it is meant as it was received.

use std::ops::Deref;

use event::{Pdu, RoomVersionRules, auth::PowerLevels};
use ruma::{
    EventId, OwnedEventId, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use state_tree::EventNum;
use store::View;

use crate::{
    Rooms, RoomsError,
    state::StateView,
    types::{EventMeta, Membership, StoredEvent, TimelineIndex},
};

/// A stored event without its content: what no redaction takes away.
#[derive(Clone, Debug)]
pub struct Envelope(Pdu);

impl Envelope {
    pub(crate) fn new(pdu: Pdu) -> Self {
        Self(pdu)
    }

    /// The event's id.
    pub fn event_id(&self) -> &EventId {
        self.0.event_id()
    }

    /// The event's id, shared.
    pub fn owned_event_id(&self) -> OwnedEventId {
        self.0.owned_event_id()
    }

    /// The room.
    pub fn room_id(&self) -> &RoomId {
        self.0.room_id()
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        self.0.sender()
    }

    /// The event's type.
    pub fn kind(&self) -> &TimelineEventType {
        self.0.kind()
    }

    /// The event's type as text.
    pub fn event_type(&self) -> &str {
        self.0.event_type()
    }

    /// The state key, present exactly if it is a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.0.state_key()
    }

    /// Whether it is a state event with the given type and state key.
    pub fn is_state(&self, event_type: &str, state_key: &str) -> bool {
        self.0.is_state(event_type, state_key)
    }

    /// When the sender's server says that it was sent, in milliseconds since the Unix epoch.
    pub fn origin_server_ts(&self) -> u64 {
        self.0.origin_server_ts()
    }

    /// How deep in the graph the sender's server says that it lies. Not to be relied on.
    pub fn depth(&self) -> u64 {
        self.0.depth()
    }

    /// The events before it.
    pub fn prev_events(&self) -> impl ExactSizeIterator<Item = &EventId> + DoubleEndedIterator {
        self.0.prev_events()
    }

    /// The events that its server says authorise it.
    pub fn auth_events(&self) -> impl ExactSizeIterator<Item = &EventId> + DoubleEndedIterator {
        self.0.auth_events()
    }

    /// The membership that a member event sets, which every redaction leaves; not in the room without one.
    pub fn membership(&self) -> Membership {
        Membership::from_event(&self.0.membership().map_or(MembershipState::Leave, MembershipState::from))
    }

    /// The event as it was received, whatever a redaction took from it since: for hashes and signatures, for judging the event
    /// itself, for what is new and can't be redacted yet, and for fields that every redaction leaves.
    pub fn as_received(&self) -> &Pdu {
        &self.0
    }
}

/// An event as it counts: whole, or what its redaction left of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown(Pdu);

impl Deref for Shown {
    type Target = Pdu;

    fn deref(&self) -> &Pdu {
        &self.0
    }
}

impl Shown {
    /// What counts of an event, by what the server knows about it.
    pub fn of(event: &StoredEvent, meta: &EventMeta, rules: &RoomVersionRules) -> Result<Self, RoomsError> {
        match meta.redacted_by {
            None => Ok(Self::whole(event)),
            Some(_) => Ok(Self(event::redact(event.pdu.as_received(), rules)?)),
        }
    }

    /// All of an event that isn't redacted.
    pub fn whole(event: &StoredEvent) -> Self {
        Self(event.pdu.as_received().clone())
    }

    /// What a redaction would leave.
    pub fn redacted(&self, rules: &RoomVersionRules) -> Result<Self, RoomsError> {
        Ok(Self(event::redact(&self.0, rules)?))
    }

    /// The event by itself.
    pub fn into_pdu(self) -> Pdu {
        self.0
    }
}

impl Rooms {
    /// What counts of an event.
    pub async fn shown_event(&self, view: &View, event: &StoredEvent, meta: &EventMeta) -> Result<Shown, RoomsError> {
        match meta.redacted_by {
            None => Ok(Shown::whole(event)),
            Some(_) => Shown::of(event, meta, self.rules(view, event.pdu.room_id()).await?),
        }
    }

    /// What counts of those of these events that are stored.
    pub async fn shown(&self, view: &View, nums: &[EventNum]) -> Result<Vec<Shown>, RoomsError> {
        let mut shown = Vec::with_capacity(nums.len());
        for (event, meta) in self.load(view, nums).await? {
            shown.push(self.shown_event(view, &event, &meta).await?);
        }
        Ok(shown)
    }
}

impl StateView<'_> {
    /// What counts of the event at a key.
    pub async fn shown(&self, event_type: &str, state_key: &str) -> Result<Option<Shown>, RoomsError> {
        let Some(event) = self.event(event_type, state_key).await? else { return Ok(None) };
        let meta = self.rooms.meta(self.view, event.num).await?;
        self.rooms.shown_event(self.view, &event, &meta).await.map(Some)
    }

    /// As [`StateView::shown`], as it was at a point of the timeline: a redaction takes nothing from what came before it.
    pub async fn shown_then(
        &self,
        at: TimelineIndex,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Shown>, RoomsError> {
        let Some(event) = self.event(event_type, state_key).await? else { return Ok(None) };
        let meta = self.rooms.meta(self.view, event.num).await?;
        if let Some(redaction) = meta.redacted_by
            && self.rooms.meta(self.view, redaction).await?.index.is_some_and(|index| index > at)
        {
            return Ok(Some(Shown::whole(&event)));
        }
        self.rooms.shown_event(self.view, &event, &meta).await.map(Some)
    }

    /// The power levels, as the room's version reads what counts of them.
    pub async fn power_levels(&self) -> Result<PowerLevels, RoomsError> {
        let rules = self.rooms.rules(self.view, self.room).await?;
        let create = self.shown("m.room.create", "").await?;
        let create = create.ok_or_else(|| RoomsError::corrupt("a state without create event"))?;
        let levels = self.shown("m.room.power_levels", "").await?;
        Ok(PowerLevels::new(rules, &create, levels.as_deref())?)
    }
}
