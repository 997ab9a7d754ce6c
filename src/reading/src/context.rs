//! The events around an event.
//!
//! Specification: client-server API, "Event Context"; `GET /rooms/{roomId}/event/{eventId}`.

use rooms::{Direction, MEMBER, RoomsError};
use ruma::EventId;
use state_tree::{EventNum, Root};

use crate::{
    filter::RoomEventFilter,
    format::{ClientEvent, ClientFormat, Delivered},
    messages::MessagesQuery,
    reader::RoomReader,
    token::TimelineToken,
};

/// The most events around an event that one request gets.
pub const CONTEXT_LIMIT_MAX: usize = 100;

/// An event and what happened around it.
#[derive(Clone, Debug)]
pub struct Context {
    /// The event.
    pub event: ClientEvent,
    /// What was before, newest first.
    pub events_before: Vec<ClientEvent>,
    /// What came after, oldest first.
    pub events_after: Vec<ClientEvent>,
    /// Where to page on backward.
    pub start: TimelineToken,
    /// Where to page on forward.
    pub end: TimelineToken,
    /// The state at the last event; with lazy loading, of the members only those who sent what is returned.
    pub state: Vec<ClientEvent>,
}

impl RoomReader<'_> {
    /// One event of a room as the viewer may see it, with its aggregations.
    ///
    /// Fails with [`RoomsError::EventNotFound`] alike if there is none and if it is hidden.
    pub async fn one_event(&self, event_id: &EventId) -> Result<ClientEvent, RoomsError> {
        let (event, meta, sight) = self.visible_event(event_id).await?;
        self.client_event(&event, &meta, sight, ClientFormat::room()).await
    }

    /// An event with at most `limit` events around it (bounded by [`CONTEXT_LIMIT_MAX`]).
    ///
    /// Fails with [`RoomsError::EventNotFound`] alike if there is none and if it is hidden.
    pub async fn context(
        &self,
        event_id: &EventId,
        limit: usize,
        filter: &RoomEventFilter,
    ) -> Result<Context, RoomsError> {
        let (event, meta, sight) = self.visible_event(event_id).await?;
        let index = meta.index.ok_or(RoomsError::EventNotFound)?;
        let limit = if filter.wants_room(self.room) { limit.min(CONTEXT_LIMIT_MAX) } else { 0 };
        let query = |direction| MessagesQuery { direction, filter: filter.clone(), ..Default::default() };

        let from = TimelineToken::before(index);
        let before = query(Direction::Backward);
        let before = self.walk(&before, from, limit / 2).await?;
        let start = before.last.map_or(from, TimelineToken::before);
        let from = TimelineToken::after(index);
        let after = query(Direction::Forward);
        let after = self.walk(&after, from, limit - limit / 2).await?;
        let end = after.last.map_or(from, TimelineToken::after);

        let root = after.delivered.last().map_or(meta.after, |delivered| delivered.meta.after);
        let json = self.client_event(&event, &meta, sight, ClientFormat::room()).await?;
        let mut state = self.filtered_state(root, filter).await?;
        if filter.lazy_load_members {
            let mut shown = vec![Delivered { event, meta, json: json.clone() }];
            shown.extend(before.delivered.iter().chain(&after.delivered).cloned());
            state.extend(self.lazy_members(root, &shown).await?);
        }
        let events = |delivered: Vec<Delivered>| delivered.into_iter().map(|event| event.json).collect();
        Ok(Context {
            event: json,
            events_before: events(before.delivered),
            events_after: events(after.delivered),
            start,
            end,
            state,
        })
    }

    /// The events of a state that a filter lets through, without the members if they are loaded lazily.
    async fn filtered_state(&self, root: Root, filter: &RoomEventFilter) -> Result<Vec<ClientEvent>, RoomsError> {
        if !filter.wants_room(self.room) {
            return Ok(Vec::new());
        }
        let (tree, source) = (&self.rooms().tree(), self.rooms().source(self.view, self.room));
        let entries = match filter.lazy_load_members {
            true => tree.all_except_type(&source, root, MEMBER).await?,
            false => tree.all(&source, root).await?,
        };
        let nums: Vec<EventNum> = entries.iter().map(|(_, entry)| entry.event).collect();
        let wanted = self.wanted(&nums, filter).await?;
        let events = self.deliver_state(&wanted, ClientFormat::members()).await?;
        Ok(events.into_iter().map(|delivered| delivered.json).collect())
    }
}
