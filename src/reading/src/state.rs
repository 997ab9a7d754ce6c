//! A room's current state as clients get it.
//!
//! Specification: client-server API, `GET /rooms/{roomId}/state`.

use rooms::{MEMBER, RoomsError};
use ruma::RoomId;
use state_tree::{EventNum, OwnedStateKey};
use store::View;

use crate::{
    Reading,
    format::{ClientEvent, ClientFormat},
    visibility::Viewer,
};

/// Events of a state that are read together.
const EVENTS_PER_READ: usize = 1_000;

impl Reading {
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
