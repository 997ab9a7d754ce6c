//! Reading a room's state, and setting it.

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

impl Rooms {
    /// Where the room's state trees are read from in `view`.
    pub fn source<'a>(&self, view: &'a View, room: &'a RoomId) -> Source<'a> {
        source(view, room)
    }

    /// The state trees, to be read with a [`Rooms::source`].
    pub fn tree(&self) -> &state_tree::StateTree {
        &self.inner.tree
    }

    /// The state event at a key of the state `root`.
    pub async fn state_event(
        &self,
        view: &View,
        room: &RoomId,
        root: Root,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomsError> {
        match self.inner.tree.get(&source(view, room), root, event_type, state_key).await? {
            Some(entry) => Ok(Some(self.present(view, entry.event).await?)),
            None => Ok(None),
        }
    }

    /// All events of the state `root`, in the order of their keys.
    pub async fn state_events(
        &self,
        view: &View,
        room: &RoomId,
        root: Root,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomsError> {
        let entries = self.inner.tree.all(&source(view, room), root).await?;
        let nums: Vec<EventNum> = entries.iter().map(|(_, entry)| entry.event).collect();
        self.all_present(view, &nums).await
    }

    /// The current state's event at a key; [`RoomsError::RoomNotFound`] if this server doesn't hold the room.
    pub async fn current_event(
        &self,
        view: &View,
        room: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomsError> {
        let head = self.head(view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        self.state_event(view, room, head.root, event_type, state_key).await
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

    /// The history visibility in the state `root`.
    pub async fn history_visibility(
        &self,
        view: &View,
        room: &RoomId,
        root: Root,
    ) -> Result<HistoryVisibility, RoomsError> {
        let event = self.state_event(view, room, root, "m.room.history_visibility", "").await?;
        // Every redaction leaves it.
        Ok(history_visibility(event.as_deref().map(|event| event.pdu.as_received())))
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
