//! A room's current state as clients get it.
//!
//! Specification: client-server API, `GET /rooms/{roomId}/state`.

use std::sync::Arc;

use rooms::{EventMeta, MEMBER, RoomsError, StoredEvent};
use ruma::{RoomId, UserId};
use serde_json::value::RawValue;
use state_tree::{EventNum, OwnedStateKey};
use store::View;

use crate::{
    Reading,
    format::{ClientEvent, ClientFormat},
    visibility::{Sight, Viewer},
};

/// Events of a state that are read together.
const EVENTS_PER_READ: usize = 1_000;

impl Reading {
    /// The event at a key of the state that [`Reading::readable_root`] gives.
    pub async fn state_event(
        &self,
        view: &View,
        viewer: &Viewer<'_>,
        room: &RoomId,
        key: (&str, &str),
    ) -> Result<Option<ClientEvent>, RoomsError> {
        let Some((event, meta)) = self.readable_state(view, viewer.user, room, key).await? else { return Ok(None) };
        let format = ClientFormat::state();
        self.client_event(view, viewer, &event, &meta, Sight::OF_STATE, format).await.map(Some)
    }

    /// The content of that event.
    pub async fn state_content(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
        key: (&str, &str),
    ) -> Result<Option<Box<RawValue>>, RoomsError> {
        let Some((event, meta)) = self.readable_state(view, user, room, key).await? else { return Ok(None) };
        Ok(Some(self.formatted(view, &event, &meta).await?.content().to_owned()))
    }

    async fn readable_state(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
        (event_type, state_key): (&str, &str),
    ) -> Result<Option<(Arc<StoredEvent>, EventMeta)>, RoomsError> {
        let root = self.readable_root(view, user, room).await?;
        let Some(event) = self.rooms.state_event(view, room, root, event_type, state_key).await? else {
            return Ok(None);
        };
        let meta = self.rooms.meta(view, event.num).await?;
        Ok(Some((event, meta)))
    }

    /// The current state, for a user who may read it: a member, one who was (as it was then), or anybody where history is world
    /// readable. Members don't say what they replaced, as in `/members`.
    pub async fn current_state(
        &self,
        view: &View,
        viewer: &Viewer<'_>,
        room: &RoomId,
    ) -> Result<Vec<ClientEvent>, RoomsError> {
        let root = self.readable_root(view, viewer.user, room).await?;
        let entries = self.rooms.tree().all(&self.rooms.source(view, room), root).await?;
        let mut shown = Vec::with_capacity(entries.len());
        let is_member = |key: &OwnedStateKey| &*key.event_type == MEMBER;
        for alike in entries.chunk_by(|(one, _), (other, _)| is_member(one) == is_member(other)) {
            let members = alike.first().is_some_and(|(key, _)| is_member(key));
            let format = if members { ClientFormat::members() } else { ClientFormat::state() };
            // A large room's events fit in memory as they are sent, but not with all that is known of each.
            for page in alike.chunks(EVENTS_PER_READ) {
                let nums: Vec<EventNum> = page.iter().map(|(_, entry)| entry.event).collect();
                let delivered = self.deliver_state(view, viewer, &nums, format).await?;
                shown.extend(delivered.into_iter().map(|delivered| delivered.json));
            }
        }
        Ok(shown)
    }
}
