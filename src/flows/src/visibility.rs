//! Which users somebody may know of.

use rooms::Membership;
use ruma::{OwnedRoomId, UserId};
use serde::Deserialize;
use store::View;

use crate::{Flows, FlowsError};

/// Rooms of a user that are looked at to find a public one.
const ROOMS_MAX: usize = 100;

#[derive(Deserialize)]
struct JoinRules {
    join_rule: String,
}

#[derive(Deserialize)]
struct HistoryVisibility {
    history_visibility: String,
}

impl Flows {
    /// The rooms that both a local user and somebody else are in, in the order of their ids.
    ///
    /// # Errors
    /// Fails only if the store does.
    pub async fn mutual_rooms(
        &self,
        view: &View,
        local: &UserId,
        other: &UserId,
    ) -> Result<Vec<OwnedRoomId>, FlowsError> {
        let mut mutual = Vec::new();
        for room in self.inner.rooms.joined_rooms(view, local).await? {
            if self.inner.rooms.membership_in(view, &room, None, other).await? == Membership::Join {
                mutual.push(room);
            }
        }
        mutual.sort_unstable();
        Ok(mutual)
    }

    /// Whether `asker` may learn of `target`: they are the same, share a room, or `target` is in a public room
    /// (client-server API, "User directory" and "Profiles").
    ///
    /// # Errors
    /// Fails only if the store does.
    pub async fn may_know(&self, view: &View, asker: &UserId, target: &UserId) -> Result<bool, FlowsError> {
        if asker == target || self.inner.rooms.shares_room(view, asker, target).await? {
            return Ok(true);
        }
        for room in self.inner.rooms.joined_rooms(view, target).await?.iter().take(ROOMS_MAX) {
            let rules = self.inner.rooms.shown_now(view, room, "m.room.join_rules", "").await?;
            let rules = rules.and_then(|event| serde_json::from_str::<JoinRules>(event.content().get()).ok());
            if rules.is_some_and(|rules| rules.join_rule == "public") {
                return Ok(true);
            }
            let history = self.inner.rooms.shown_now(view, room, "m.room.history_visibility", "").await?;
            let history =
                history.and_then(|event| serde_json::from_str::<HistoryVisibility>(event.content().get()).ok());
            if history.is_some_and(|history| history.history_visibility == "world_readable") {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
