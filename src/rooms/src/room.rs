//! What a room is for ever: its version and who made it.

use event::RoomVersionRules;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId};
use serde::{Deserialize, Serialize};
use state_tree::{EventNum, Root};
use store::{NoPrevious, Position, Range, Record, Versioned, View};

use crate::{
    Rooms, RoomsError,
    tables::{Heads, LastPositions, RoomInfos, Roots},
    types::RoomHead,
};

/// What never changes about a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomInfo {
    /// The room version.
    pub version: RoomVersionId,
    /// Sender of the create event.
    pub creator: OwnedUserId,
    /// The create event.
    pub create: EventNum,
    /// Whether users of other servers may take part (`m.federate`).
    #[serde(default = "default_federate")]
    pub federate: bool,
}

fn default_federate() -> bool {
    true
}

impl Versioned for RoomInfo {
    const VERSION: u8 = 1;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> Self {
        match previous {}
    }
}

impl RoomInfo {
    /// The rules of the room's version.
    ///
    /// Fails if this program doesn't support a version that is in its database (it was downgraded).
    pub fn rules(&self) -> Result<&'static RoomVersionRules, RoomsError> {
        event::rules(&self.version).ok_or_else(|| RoomsError::UnsupportedRoomVersion(self.version.clone()))
    }
}

impl Rooms {
    /// What the room is, if this server holds it.
    pub async fn info(&self, view: &View, room: &RoomId) -> Result<Option<RoomInfo>, RoomsError> {
        let stored = view.get::<RoomInfos>(&room).await?;
        Ok(stored.map(|Record(info)| info))
    }

    /// A page of the rooms that this server holds or held, in the order of their ids, after `after`.
    pub async fn all_rooms(
        &self,
        view: &View,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<OwnedRoomId>, RoomsError> {
        let mut range = Range::<RoomInfos>::all().limit(limit);
        if let Some(after) = after {
            range = range.after(&(after,));
        }
        let page = view.scan(range).await?;
        Ok(page.rows.into_iter().map(|(room, _)| room.into_inner()).collect())
    }

    /// The rules of the room's version; [`RoomsError::RoomNotFound`] if this server doesn't hold the room.
    pub async fn rules(&self, view: &View, room: &RoomId) -> Result<&'static RoomVersionRules, RoomsError> {
        self.info(view, room).await?.ok_or(RoomsError::RoomNotFound)?.rules()
    }

    /// The room's head as published in `view`; `None` if this server doesn't hold the room.
    pub async fn head(&self, view: &View, room: &RoomId) -> Result<Option<RoomHead>, RoomsError> {
        Ok(view.get::<Heads>(&room).await?)
    }

    /// The current state at a position of the log: the last one at or before it.
    pub async fn root_at(&self, view: &View, room: &RoomId, position: Position) -> Result<Option<Root>, RoomsError> {
        let range = Range::<Roots>::prefix(&(room,)).through(&(room, position)).reverse();
        Ok(view.first(range).await?.map(|(_, root)| root))
    }

    /// The position of the last change of a room's current state.
    pub async fn state_position(&self, view: &View, room: &RoomId) -> Result<Option<Position>, RoomsError> {
        let range = Range::<Roots>::prefix(&(room,)).reverse();
        Ok(view.first(range).await?.map(|((_, position), _)| position))
    }

    /// The position of a room's last advance.
    pub async fn last_position(&self, view: &View, room: &RoomId) -> Result<Option<Position>, RoomsError> {
        Ok(view.get::<LastPositions>(&room).await?)
    }

    /// A page of rooms with the position of the last advance of each, in the order of their ids: those after `after`; empty only at the end.
    /// For projections that start: afterwards the log tells every advance.
    pub async fn last_positions(
        &self,
        view: &View,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<(OwnedRoomId, Position)>, RoomsError> {
        let mut range = Range::<LastPositions>::all().limit(limit);
        if let Some(after) = after {
            range = range.after(&(after,));
        }
        let rows = view.scan(range).await?.rows;
        Ok(rows.into_iter().map(|(room, position)| (room.into_inner(), position)).collect())
    }
}
