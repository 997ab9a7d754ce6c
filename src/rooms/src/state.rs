//! Reading a room's state.

use std::sync::Arc;

use event::visibility::history_visibility;
use ruma::{EventId, RoomId, events::room::history_visibility::HistoryVisibility};
use state_tree::{EventNum, Root, Source};
use store::View;

use crate::{
    Rooms, RoomsError,
    types::{EventMeta, StoredEvent},
};

/// Where a room's published trees are read from.
pub(crate) fn source<'a>(view: &'a View, room: &'a RoomId) -> Source<'a> {
    Source { room, view, overlays: &[] }
}

/// The state of a room at a point, read in one view. A few references, cheap to copy.
///
/// What of it counts is what redactions left: [`shown`](Self::shown) gives that, [`event`](Self::event) what was received.
#[derive(Copy, Clone)]
pub struct StateView<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) view: &'a View,
    pub(crate) room: &'a RoomId,
    pub(crate) root: Root,
}

impl StateView<'_> {
    /// The event at a key.
    pub async fn event(&self, event_type: &str, state_key: &str) -> Result<Option<Arc<StoredEvent>>, RoomsError> {
        match self.rooms.inner.tree.get(&source(self.view, self.room), self.root, event_type, state_key).await? {
            Some(entry) => Ok(Some(self.rooms.present(self.view, entry.event).await?)),
            None => Ok(None),
        }
    }

    /// All events, in the order of their keys.
    pub async fn events(&self) -> Result<Vec<Arc<StoredEvent>>, RoomsError> {
        self.rooms.all_present(self.view, &self.nums().await?).await
    }

    /// The numbers of all events, in the order of their keys.
    pub async fn nums(&self) -> Result<Vec<EventNum>, RoomsError> {
        let entries = self.rooms.inner.tree.all(&source(self.view, self.room), self.root).await?;
        Ok(entries.iter().map(|(_, entry)| entry.event).collect())
    }

    /// The numbers of the events at these keys, of those that are there.
    pub async fn nums_at(&self, keys: &[(&str, &str)]) -> Result<Vec<EventNum>, RoomsError> {
        let entries = self.rooms.inner.tree.get_many(&source(self.view, self.room), self.root, keys).await?;
        Ok(entries.into_iter().flatten().map(|entry| entry.event).collect())
    }

    /// The numbers of at most `limit` events of a type from a state key on, in the order of their keys, and the state key that the
    /// next page starts at.
    pub async fn page(
        &self,
        event_type: &str,
        start: &str,
        limit: usize,
    ) -> Result<(Vec<EventNum>, Option<Box<str>>), RoomsError> {
        let source = source(self.view, self.room);
        let page = self.rooms.inner.tree.range_page(&source, self.root, event_type, start, limit).await?;
        Ok((page.entries.iter().map(|(_, entry)| entry.event).collect(), page.next))
    }

    /// The history visibility.
    pub async fn history_visibility(&self) -> Result<HistoryVisibility, RoomsError> {
        let event = self.event("m.room.history_visibility", "").await?;
        // Every redaction leaves it.
        Ok(history_visibility(event.as_deref().map(|event| event.pdu.as_received())))
    }
}

impl Rooms {
    /// The state `root` of a room. Nothing is looked up yet.
    pub fn state<'a>(&'a self, view: &'a View, room: &'a RoomId, root: Root) -> StateView<'a> {
        StateView { rooms: self, view, room, root }
    }

    /// The current state of a room; [`RoomsError::RoomNotFound`] if this server doesn't hold it.
    pub async fn current_state<'a>(&'a self, view: &'a View, room: &'a RoomId) -> Result<StateView<'a>, RoomsError> {
        let head = self.head(view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        Ok(self.state(view, room, head.root))
    }

    /// The event at a key of the current state; [`RoomsError::RoomNotFound`] if this server doesn't hold the room.
    pub async fn current_event(
        &self,
        view: &View,
        room: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomsError> {
        self.current_state(view, room).await?.event(event_type, state_key).await
    }

    /// Where the room's state trees are read from in `view`.
    pub fn source<'a>(&self, view: &'a View, room: &'a RoomId) -> Source<'a> {
        source(view, room)
    }

    /// The state trees, to be read with a [`Rooms::source`].
    pub fn tree(&self) -> &state_tree::StateTree {
        &self.inner.tree
    }

    /// The state before and after an event of the room's graph.
    pub async fn state_around(&self, view: &View, event_id: &EventId) -> Result<(Root, Root), RoomsError> {
        let num = self.num(view, event_id).await?.ok_or(RoomsError::EventNotFound)?;
        let meta = self.meta(view, num).await?;
        Ok((meta.before, meta.after))
    }

    /// An event that must be stored, because something stored names it.
    pub async fn present(&self, view: &View, num: EventNum) -> Result<Arc<StoredEvent>, RoomsError> {
        let event = self.event(view, num).await?;
        event.ok_or_else(|| RoomsError::corrupt(format!("event {} has no body", num.0)))
    }

    /// As [`Rooms::present`], for many.
    pub async fn all_present(&self, view: &View, nums: &[EventNum]) -> Result<Vec<Arc<StoredEvent>>, RoomsError> {
        let mut events = Vec::with_capacity(nums.len());
        for (num, event) in nums.iter().zip(self.events(view, nums).await?) {
            events.push(event.ok_or_else(|| RoomsError::corrupt(format!("event {} has no body", num.0)))?);
        }
        Ok(events)
    }

    /// Loads those of the events that are stored, with their metas.
    pub async fn load(&self, view: &View, nums: &[EventNum]) -> Result<Vec<(Arc<StoredEvent>, EventMeta)>, RoomsError> {
        let events = self.events(view, nums).await?;
        let metas = self.metas(view, nums).await?;
        let mut loaded = Vec::with_capacity(nums.len());
        for (event, meta) in events.into_iter().zip(metas) {
            if let Some(event) = event {
                loaded.push((event, meta));
            }
        }
        Ok(loaded)
    }
}
