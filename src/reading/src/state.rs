//! A room's current state as clients get it.
//!
//! Specification: client-server API, `GET /rooms/{roomId}/state`.

use std::sync::Arc;

use rooms::{EventMeta, MEMBER, RoomsError, StoredEvent};
use serde_json::value::RawValue;
use state_tree::{EventNum, OwnedStateKey};

use crate::{
    format::{ClientEvent, ClientFormat},
    reader::RoomReader,
    visibility::Sight,
};

/// Events of a state that are read together.
const EVENTS_PER_READ: usize = 1_000;

impl RoomReader<'_> {
    /// The event at a key of the state that [`RoomReader::readable_root`] gives.
    pub async fn state_event(&self, key: (&str, &str)) -> Result<Option<ClientEvent>, RoomsError> {
        let Some((event, meta)) = self.readable_state(key).await? else { return Ok(None) };
        let format = ClientFormat::state();
        self.client_event(&event, &meta, Sight::OF_STATE, format).await.map(Some)
    }

    /// The content of that event.
    pub async fn state_content(&self, key: (&str, &str)) -> Result<Option<Box<RawValue>>, RoomsError> {
        let Some((event, meta)) = self.readable_state(key).await? else { return Ok(None) };
        Ok(Some(self.formatted(&event, &meta).await?.content().to_owned()))
    }

    async fn readable_state(
        &self,
        (event_type, state_key): (&str, &str),
    ) -> Result<Option<(Arc<StoredEvent>, EventMeta)>, RoomsError> {
        let state = self.state(self.readable_root().await?);
        let Some(event) = state.event(event_type, state_key).await? else { return Ok(None) };
        let meta = self.rooms().meta(self.view, event.num).await?;
        Ok(Some((event, meta)))
    }

    /// The current state, for a user who may read it: a member, one who was (as it was then), or anybody where history is world
    /// readable. Members don't say what they replaced, as in `/members`.
    pub async fn current_state(&self) -> Result<Vec<ClientEvent>, RoomsError> {
        let root = self.readable_root().await?;
        let entries = self.rooms().tree().all(&self.rooms().source(self.view, self.room), root).await?;
        let mut shown = Vec::with_capacity(entries.len());
        let is_member = |key: &OwnedStateKey| &*key.event_type == MEMBER;
        for alike in entries.chunk_by(|(one, _), (other, _)| is_member(one) == is_member(other)) {
            let members = alike.first().is_some_and(|(key, _)| is_member(key));
            let format = if members { ClientFormat::members() } else { ClientFormat::state() };
            // A large room's events fit in memory as they are sent, but not with all that is known of each.
            for page in alike.chunks(EVENTS_PER_READ) {
                let nums: Vec<EventNum> = page.iter().map(|(_, entry)| entry.event).collect();
                let delivered = self.deliver_state(&nums, format).await?;
                shown.extend(delivered.into_iter().map(|delivered| delivered.json));
            }
        }
        Ok(shown)
    }
}
