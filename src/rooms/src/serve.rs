//! What other servers are told of our rooms.
//!
//! Specification: server-server API, "Retrieving events", "Backfilling and retrieving missing events", "Retrieving event authorisation
//! information". Only servers in the room are answered; events that their users may not see are redacted.

use std::{
    collections::{BinaryHeap, HashSet},
    sync::Arc,
};

use event::{ServerAcl, redact, visibility};
use ruma::{EventId, OwnedEventId, RoomId, ServerName, events::room::member::MembershipState};
use serde_json::value::RawValue;
use store::View;

use crate::{
    Rooms, RoomsError,
    advance::MEMBER,
    ports::{MissingEvents, StateIds},
    snapshot::Root,
    types::{EventMeta, EventNum, EventStatus, StoredEvent},
};

/// Events in one answer to `get_missing_events` or `backfill`.
pub const SERVED_EVENTS_MAX: usize = 100;

/// Events walked over for one answer.
const WALKED_EVENTS_MAX: usize = 1_000;

/// Users of one server that are looked at to know what it may see.
const SERVER_USERS_MAX: usize = 500;

/// An event on the way back through the graph: the deepest first.
type Step = (u64, EventNum);

impl Rooms {
    /// Whether the room's access list lets a server take part.
    pub async fn acl_allows(&self, view: &View, room: &RoomId, server: &ServerName) -> Result<bool, RoomsError> {
        let event = self.current_event(view, room, "m.room.server_acl", "").await?;
        Ok(event.is_none_or(|event| ServerAcl::parse(event.pdu.content()).allows(server)))
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
    pub async fn serve_event(&self, server: &ServerName, event_id: &EventId) -> Result<Box<RawValue>, RoomsError> {
        let view = self.inner.store.view();
        let event = self.event_by_id(&view, event_id).await?.ok_or(RoomsError::EventNotFound)?;
        self.check_server(&view, event.pdu.room_id(), server).await?;
        // One that we rejected too: others may name it, and whoever follows the graph has to judge it as well.
        let meta = self.meta(&view, event.num).await?;
        self.shown_to(&view, server, &event, &meta).await
    }

    /// The ids of the state before an event, and of that state's auth chain, for a server.
    pub async fn serve_state_ids(
        &self,
        server: &ServerName,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<StateIds, RoomsError> {
        let (state, auth_chain) = self.served_state(server, room, event_id).await?;
        let ids = |events: Vec<Arc<StoredEvent>>| events.iter().map(|event| event.pdu.owned_event_id()).collect();
        Ok(StateIds { state: ids(state), auth_chain: ids(auth_chain) })
    }

    /// The events of the state before an event, and that state's auth chain, for a server.
    pub async fn served_state(
        &self,
        server: &ServerName,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<(Vec<Arc<StoredEvent>>, Vec<Arc<StoredEvent>>), RoomsError> {
        let view = self.inner.store.view();
        self.check_server(&view, room, server).await?;
        let event = self.event_by_id(&view, event_id).await?.ok_or(RoomsError::EventNotFound)?;
        let meta = self.meta(&view, event.num).await?;
        if event.pdu.room_id() != room || (meta.after.is_empty() && meta.before.is_empty()) {
            return Err(RoomsError::EventNotFound);
        }
        let state = self.state_events(&view, room, meta.before).await?;
        let auth_chain = self.auth_chain(&view, &state).await?;
        Ok((state, auth_chain))
    }

    /// The full auth chain of an event, for a server.
    pub async fn serve_event_auth(
        &self,
        server: &ServerName,
        room: &RoomId,
        event_id: &EventId,
    ) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let view = self.inner.store.view();
        self.check_server(&view, room, server).await?;
        let event = self.event_by_id(&view, event_id).await?.ok_or(RoomsError::EventNotFound)?;
        if event.pdu.room_id() != room {
            return Err(RoomsError::EventNotFound);
        }
        let chain = self.auth_chain(&view, &[event]).await?;
        Ok(chain.iter().map(|event| event.pdu.json().to_owned()).collect())
    }

    /// The events between two sets, for a server, in the order of the graph.
    pub async fn serve_missing_events(
        &self,
        server: &ServerName,
        room: &RoomId,
        request: &MissingEvents,
    ) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let view = self.inner.store.view();
        self.check_server(&view, room, server).await?;
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
        let mut events = self.walk_back(&view, room, start, &stop, limit).await?;
        events.retain(|(event, _)| event.pdu.depth() >= request.min_depth);
        events.reverse();
        self.all_shown_to(&view, server, &events).await
    }

    /// Events before, and including, the given ones, for a server, the latest first.
    pub async fn serve_backfill(
        &self,
        server: &ServerName,
        room: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let view = self.inner.store.view();
        self.check_server(&view, room, server).await?;
        let mut start = Vec::new();
        for id in from.iter().take(SERVED_EVENTS_MAX) {
            start.extend(self.num(&view, id).await?);
        }
        let limit = limit.min(SERVED_EVENTS_MAX);
        let events = self.walk_back(&view, room, start, &HashSet::new(), limit).await?;
        self.all_shown_to(&view, server, &events).await
    }

    /// Accepted and soft-failed events from `start` back, the deepest first, without going through `stop`.
    async fn walk_back(
        &self,
        view: &View,
        room: &RoomId,
        start: Vec<EventNum>,
        stop: &HashSet<EventNum>,
        limit: usize,
    ) -> Result<Vec<(Arc<StoredEvent>, EventMeta)>, RoomsError> {
        let mut seen: HashSet<EventNum> = stop.clone();
        let mut open: BinaryHeap<Step> = BinaryHeap::new();
        let mut found = Vec::new();
        let mut next = start;
        for _ in 0..WALKED_EVENTS_MAX {
            for num in next.drain(..) {
                if seen.insert(num)
                    && let Some(event) = self.event(view, num).await?
                {
                    open.push((event.pdu.depth(), num));
                }
            }
            let Some((_, num)) = open.pop() else { break };
            let event = self.present(view, num).await?;
            let meta = self.meta(view, num).await?;
            let in_graph = matches!(meta.status, EventStatus::Accepted | EventStatus::SoftFailed);
            if event.pdu.room_id() != room {
                continue;
            }
            if !matches!(meta.status, EventStatus::Missing | EventStatus::Outlier) {
                next.extend(event.prev.iter());
            }
            if in_graph {
                found.push((event, meta));
            }
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    async fn all_shown_to(
        &self,
        view: &View,
        server: &ServerName,
        events: &[(Arc<StoredEvent>, EventMeta)],
    ) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let mut shown = Vec::with_capacity(events.len());
        for (event, meta) in events {
            shown.push(self.shown_to(view, server, event, meta).await?);
        }
        Ok(shown)
    }

    /// An event as a server may see it: whole, or redacted.
    async fn shown_to(
        &self,
        view: &View,
        server: &ServerName,
        event: &Arc<StoredEvent>,
        meta: &EventMeta,
    ) -> Result<Box<RawValue>, RoomsError> {
        let room = event.pdu.room_id();
        let whole = || event.pdu.json().to_owned();
        if meta.before.is_empty() {
            // Outliers authorise others; who follows the room needs them as they are.
            return Ok(whole());
        }
        let history = self.history_visibility(view, room, meta.before).await?;
        let memberships = match history {
            ruma::events::room::history_visibility::HistoryVisibility::Joined
            | ruma::events::room::history_visibility::HistoryVisibility::Invited => {
                self.memberships_of(view, room, meta.before, server).await?
            }
            _ => Vec::new(),
        };
        match visibility::for_server(&event.pdu, server, &history, &memberships, false) {
            visibility::Visibility::Visible => Ok(whole()),
            _ => Ok(redact(&event.pdu, self.rules(view, room).await?)?.json().to_owned()),
        }
    }

    /// The memberships of a server's users in a state.
    async fn memberships_of(
        &self,
        view: &View,
        room: &RoomId,
        root: Root,
        server: &ServerName,
    ) -> Result<Vec<MembershipState>, RoomsError> {
        let entries = self.inner.tree.range(&self.source(view, room), root, MEMBER).await?;
        let suffix = format!(":{server}");
        let theirs = entries.iter().filter(|(user, _)| user.ends_with(&suffix)).take(SERVER_USERS_MAX);
        let nums: Vec<EventNum> = theirs.map(|(_, entry)| entry.event).collect();
        let events = self.all_present(view, &nums).await?;
        Ok(events.iter().map(|event| visibility::membership(Some(&event.pdu))).collect())
    }
}
