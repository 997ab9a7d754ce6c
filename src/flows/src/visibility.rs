//! Which users somebody may know of.

use std::collections::HashSet;

use rooms::Membership;
use ruma::{OwnedRoomId, UserId};
use store::View;

use crate::{Flows, FlowsError};

/// Rooms of a user that are looked at to find a public one, and memberships that are read at once.
const ROOMS_MAX: usize = 100;

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
            if self.inner.rooms.current_state(view, &room).await?.membership(other).await? == Membership::Join {
                mutual.push(room);
            }
        }
        mutual.sort_unstable();
        Ok(mutual)
    }

    /// Whom somebody may know of: what is theirs is read once, however many others are asked about.
    ///
    /// # Errors
    /// Fails only if the store does.
    pub async fn acquaintances<'a>(
        &'a self,
        view: &'a View,
        asker: &'a UserId,
    ) -> Result<Acquaintances<'a>, FlowsError> {
        let rooms = self.inner.rooms.joined_rooms(view, asker).await?.into_iter().collect();
        Ok(Acquaintances { flows: self, view, asker, rooms })
    }
}

/// Whom a user may know of.
pub struct Acquaintances<'a> {
    flows: &'a Flows,
    view: &'a View,
    asker: &'a UserId,
    rooms: HashSet<OwnedRoomId>,
}

impl Acquaintances<'_> {
    /// Whether the user may learn of `target`, a local user: they are the same, share a room, or `target` is in a public room
    /// (client-server API, "User directory" and "Profiles"). Of the rooms of a user who is in many, only some are looked at.
    ///
    /// # Errors
    /// Fails only if the store does.
    pub async fn include(&self, target: &UserId) -> Result<bool, FlowsError> {
        if self.asker == target {
            return Ok(true);
        }
        let rooms = &self.flows.inner.rooms;
        let (first, mut next) = rooms.joined_rooms_page(self.view, target, None, ROOMS_MAX).await?;
        if first.iter().any(|room| self.rooms.contains(room)) {
            return Ok(true);
        }
        for room in &first {
            let room = self.flows.inner.reading.describe(self.view, room).await?;
            if room.join_rule == "public" || room.world_readable {
                return Ok(true);
            }
        }
        if next.is_some() && self.rooms.len() <= ROOMS_MAX {
            for room in &self.rooms {
                let theirs = rooms.membership(self.view, target, room).await?;
                if theirs.is_some_and(|theirs| theirs.membership == Membership::Join) {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        while let Some(after) = next {
            let page;
            (page, next) = rooms.joined_rooms_page(self.view, target, Some(&after), ROOMS_MAX).await?;
            if page.iter().any(|room| self.rooms.contains(room)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
