//! What a room is for ever: its version and who made it.

use event::RoomVersionRules;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId};
use serde::{Deserialize, Serialize};
use state_tree::EventNum;
use store::{NoPrevious, Range, Record, Versioned, View};

use crate::{Rooms, RoomsError, tables::RoomInfos};

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
}
