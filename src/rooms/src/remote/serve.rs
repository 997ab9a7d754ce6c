//! What other servers are told of our rooms.
//!
//! Specification: server-server API, "Retrieving events", "Backfilling and retrieving missing events", "Retrieving event authorisation
//! information". Only servers in the room are answered; events that their users may not see are redacted, and so is what was
//! redacted, wherever it goes out.

mod insight;

use std::{
    collections::{BinaryHeap, HashSet},
    sync::{Arc, LazyLock},
};

use event::{RoomVersionRules, ServerAcl, redact, visibility};
use ruma::{
    EventId, OwnedEventId, OwnedUserId, RoomId, ServerName, events::room::history_visibility::HistoryVisibility,
};
use serde_json::value::RawValue;
use state_tree::EventNum;
use store::View;

use self::insight::Insight;
use crate::{
    Rooms, RoomsError,
    ports::{MissingEvents, StateEvents, StateIds},
    state::StateView,
    types::{EventMeta, EventStatus, StoredEvent},
};

/// Events in one answer to `get_missing_events` or `backfill`.
pub const SERVED_EVENTS_MAX: usize = 100;

/// Events walked over for one answer.
const WALKED_EVENTS_MAX: usize = 1_000;

/// Events read at once.
const READ_AT_ONCE_MAX: usize = 1_000;

static NOBODY: LazyLock<HashSet<OwnedUserId>> = LazyLock::new(HashSet::new);

/// An event on the way back through the graph: the deepest first.
type Step = (u64, EventNum);

/// A server that asks, and what decides how much it is told.
#[derive(Copy, Clone, Debug)]
pub struct Asker<'a> {
    /// Who asks.
    pub server: &'a ServerName,
    /// Users of this server who asked for what they sent to be erased: servers that weren't there get it redacted (client-server API,
    /// "Deactivating an account").
    pub erased: &'a HashSet<OwnedUserId>,
}

impl<'a> Asker<'a> {
    /// A server that asks where nobody is erased.
    pub fn new(server: &'a ServerName) -> Self {
        Self { server, erased: &NOBODY }
    }
}

impl Rooms {
    /// Whether the room's access list lets a server take part.
    pub async fn acl_allows(&self, view: &View, room: &RoomId, server: &ServerName) -> Result<bool, RoomsError> {
        let event = self.current_state(view, room).await?.shown("m.room.server_acl", "").await?;
        Ok(event.is_none_or(|event| ServerAcl::parse(event.content()).allows(server)))
    }

    /// Fails unless a server may ask about a room.
    pub(crate) async fn check_server(&self, view: &View, room: &RoomId, server: &ServerName) -> Result<(), RoomsError> {
        if self.head(view, room).await?.is_none() {
            return Err(RoomsError::RoomNotFound);
        }
        if !self.is_server_joined(view, room, server).await? {
            return Err(RoomsError::forbidden("your server isn't in the room"));
        }
        if !self.acl_allows(view, room, server).await? {
            return Err(RoomsError::forbidden("the room's access list forbids your server"));
        }
        Ok(())
    }

    /// One event, for a server.
    pub async fn serve_event(&self, asker: &Asker<'_>, event_id: &EventId) -> Result<Box<RawValue>, RoomsError> {
        let view = self.inner.store.view().await?;
        let event = self.event_by_id(&view, event_id).await?.ok_or(RoomsError::EventNotFound)?;
        let room = event.pdu.room_id().to_owned();
        if !self.is_server_joined(&view, &room, asker.server).await? {
            // That there is such an event in another room is none of theirs.
            return Err(RoomsError::EventNotFound);
        }
        let served = ServedRoom::open(self, &view, asker, &room).await?;
        // One that we rejected too: others may name it, and whoever follows the graph has to judge it as well.
        let meta = self.meta(&view, event.num).await?;
        let shown = served.events(&[(event, meta)]).await?.pop();
        shown.ok_or(RoomsError::EventNotFound)
    }

    /// The ids of the state before an event, and of that state's auth chain, for a server.
    pub async fn serve_state_ids(
        &self,
        asker: &Asker<'_>,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<StateIds, RoomsError> {
        let view = self.inner.store.view().await?;
        let served = ServedRoom::open(self, &view, asker, room).await?;
        let nums = served.state_before(event_id).await?.nums().await?;
        let (state, chain) = self.ids_and_chain(&view, &nums).await?;
        let auth_chain = chain.into_iter().map(|(_, id)| id).collect();
        Ok(StateIds { state, auth_chain })
    }

    /// The events of the state before an event, and of that state's auth chain, for a server.
    pub async fn serve_state(
        &self,
        asker: &Asker<'_>,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<StateEvents, RoomsError> {
        let view = self.inner.store.view().await?;
        let served = ServedRoom::open(self, &view, asker, room).await?;
        served.state(served.state_before(event_id).await?).await
    }

    /// The full auth chain of an event, for a server.
    pub async fn serve_event_auth(
        &self,
        asker: &Asker<'_>,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let view = self.inner.store.view().await?;
        let served = ServedRoom::open(self, &view, asker, room).await?;
        let event = self.event_by_id(&view, event_id).await?.ok_or(RoomsError::EventNotFound)?;
        if event.pdu.room_id() != room {
            return Err(RoomsError::EventNotFound);
        }
        let (_, chain) = self.ids_and_chain(&view, &[event.num]).await?;
        let nums: Vec<EventNum> = chain.into_iter().map(|(num, _)| num).collect();
        // Whoever may ask is in the room.
        served.authority(&nums, true).await
    }

    /// The events between two sets, for a server, in the order of the graph.
    pub async fn serve_missing_events(
        &self,
        asker: &Asker<'_>,
        room: &RoomId,
        request: &MissingEvents,
    ) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let view = self.inner.store.view().await?;
        let served = ServedRoom::open(self, &view, asker, room).await?;
        let mut stop: HashSet<EventNum> = HashSet::new();
        for id in request.earliest.iter().take(SERVED_EVENTS_MAX) {
            stop.extend(self.num(&view, id).await?);
        }
        let mut start = Vec::new();
        for id in request.latest.iter().take(SERVED_EVENTS_MAX) {
            if let Some(event) = self.event_by_id(&view, id).await? {
                start.extend(event.prev.iter().copied());
            }
        }
        let limit = request.limit.min(SERVED_EVENTS_MAX);
        let mut events = served.walk_back(start, &stop, limit).await?;
        events.retain(|(event, _)| event.pdu.depth() >= request.min_depth);
        events.reverse();
        served.events(&events).await
    }

    /// Events before, and including, the given ones, for a server, the latest first.
    pub async fn serve_backfill(
        &self,
        asker: &Asker<'_>,
        room: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let view = self.inner.store.view().await?;
        let served = ServedRoom::open(self, &view, asker, room).await?;
        let mut start = Vec::new();
        for id in from.iter().take(SERVED_EVENTS_MAX) {
            start.extend(self.num(&view, id).await?);
        }
        let limit = limit.min(SERVED_EVENTS_MAX);
        let events = served.walk_back(start, &HashSet::new(), limit).await?;
        served.events(&events).await
    }
}

/// A room as another server may read it, in one view.
#[derive(Copy, Clone)]
pub(crate) struct ServedRoom<'a> {
    rooms: &'a Rooms,
    view: &'a View,
    asker: &'a Asker<'a>,
    room: &'a RoomId,
}

impl<'a> ServedRoom<'a> {
    /// For a server that is known to be in the room.
    pub(crate) fn new(rooms: &'a Rooms, view: &'a View, asker: &'a Asker<'a>, room: &'a RoomId) -> Self {
        Self { rooms, view, asker, room }
    }

    /// Fails unless the server may ask about the room.
    async fn open(
        rooms: &'a Rooms,
        view: &'a View,
        asker: &'a Asker<'a>,
        room: &'a RoomId,
    ) -> Result<Self, RoomsError> {
        rooms.check_server(view, room, asker.server).await?;
        Ok(Self::new(rooms, view, asker, room))
    }

    /// The state before an event, if it is known.
    async fn state_before(&self, event_id: &EventId) -> Result<StateView<'a>, RoomsError> {
        let event = self.rooms.event_by_id(self.view, event_id).await?.ok_or(RoomsError::EventNotFound)?;
        let meta = self.rooms.meta(self.view, event.num).await?;
        if event.pdu.room_id() != self.room || (meta.after.is_empty() && meta.before.is_empty()) {
            return Err(RoomsError::EventNotFound);
        }
        Ok(self.rooms.state(self.view, self.room, meta.before))
    }

    /// A state of the room and its auth chain: whole, but for what was redacted, and for what erased users sent if the server isn't
    /// in the room at that state.
    pub(crate) async fn state(&self, state: StateView<'_>) -> Result<StateEvents, RoomsError> {
        let nums = state.nums().await?;
        let (_, chain) = self.rooms.ids_and_chain(self.view, &nums).await?;
        let chain: Vec<EventNum> = chain.into_iter().map(|(num, _)| num).collect();
        let mut insight = Insight::new(self).await?;
        insight.move_to(state.root).await?;
        let joined = insight.joined();
        Ok(StateEvents {
            state: self.authority(&nums, joined).await?,
            auth_chain: self.authority(&chain, joined).await?,
        })
    }

    /// Events that make up a state or authorise others, as the server gets them, which needs them to follow the room.
    /// `joined`: it was in the room then.
    async fn authority(&self, nums: &[EventNum], joined: bool) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let rules = self.rooms.rules(self.view, self.room).await?;
        let mut shown = Vec::with_capacity(nums.len());
        for nums in nums.chunks(READ_AT_ONCE_MAX) {
            let events = self.rooms.all_present(self.view, nums).await?;
            for (event, meta) in events.iter().zip(self.rooms.metas(self.view, nums).await?) {
                let erased = !joined && self.asker.erased.contains(event.pdu.sender());
                shown.push(sent_out(event, meta.redacted_by.is_some() || erased, rules)?);
            }
        }
        Ok(shown)
    }

    /// Accepted and soft-failed events from `start` back, the deepest first, without going through `stop`.
    async fn walk_back(
        &self,
        start: Vec<EventNum>,
        stop: &HashSet<EventNum>,
        limit: usize,
    ) -> Result<Vec<(Arc<StoredEvent>, EventMeta)>, RoomsError> {
        let mut seen: HashSet<EventNum> = stop.clone();
        let mut open: BinaryHeap<Step> = BinaryHeap::new();
        let mut found = Vec::new();
        let mut next = start;
        for _ in 0..WALKED_EVENTS_MAX {
            if found.len() >= limit {
                break;
            }
            for num in next.drain(..) {
                if seen.insert(num)
                    && let Some(event) = self.rooms.event(self.view, num).await?
                {
                    open.push((event.pdu.depth(), num));
                }
            }
            let Some((_, num)) = open.pop() else { break };
            let event = self.rooms.present(self.view, num).await?;
            let meta = self.rooms.meta(self.view, num).await?;
            let in_graph = matches!(meta.status, EventStatus::Accepted | EventStatus::SoftFailed);
            if event.pdu.room_id() != self.room {
                continue;
            }
            if !matches!(meta.status, EventStatus::Missing | EventStatus::Outlier) {
                next.extend(event.prev.iter());
            }
            if in_graph {
                found.push((event, meta));
            }
        }
        Ok(found)
    }

    /// Events of the room as the server may see them: whole, or redacted.
    async fn events(&self, events: &[(Arc<StoredEvent>, EventMeta)]) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let rules = self.rooms.rules(self.view, self.room).await?;
        let mut insight = Insight::new(self).await?;
        let mut shown = Vec::with_capacity(events.len());
        for (event, meta) in events {
            let hidden = meta.redacted_by.is_some() || !self.may_see(&mut insight, event, meta).await?;
            shown.push(sent_out(event, hidden, rules)?);
        }
        Ok(shown)
    }

    /// Whether the server may see all of an event.
    async fn may_see(
        &self,
        insight: &mut Insight<'_>,
        event: &StoredEvent,
        meta: &EventMeta,
    ) -> Result<bool, RoomsError> {
        let pdu = event.pdu.as_received();
        if pdu.sender().server_name() == self.asker.server {
            return Ok(true);
        }
        if meta.before.is_empty() {
            // State without a place authorises other events: who follows the room needs it as it is. Nobody can tell who may see
            // anything else.
            return Ok(pdu.state_key().is_some());
        }
        let erased = self.asker.erased.contains(pdu.sender());
        let history = self.rooms.state(self.view, self.room, meta.before).history_visibility().await?;
        let by_members = matches!(history, HistoryVisibility::Joined | HistoryVisibility::Invited);
        let mut memberships = Vec::new();
        if erased || by_members {
            insight.move_to(meta.before).await?;
            memberships = insight.memberships(history == HistoryVisibility::Invited).await?;
        }
        let seen = visibility::for_server(pdu, self.asker.server, &history, &memberships, erased);
        Ok(seen == visibility::Visibility::Visible)
    }
}

fn sent_out(event: &StoredEvent, redacted: bool, rules: &RoomVersionRules) -> Result<Box<RawValue>, RoomsError> {
    match redacted {
        false => Ok(event.pdu.as_received().json().to_owned()),
        true => Ok(redact(event.pdu.as_received(), rules)?.json().to_owned()),
    }
}
