//! Which rooms this server publishes: the rows. Reading them is the reading side's.
//!
//! Specification: client-server API, "Published room directory".

use event::auth::PowerLevel;
use ruma::{OwnedUserId, RoomId, UserId, events::TimelineEventType};
use serde::{Deserialize, Serialize};
use store::{Batch, NoPrevious, Record, Versioned, View};

use crate::{Rooms, RoomsError, log::DirectoryChanged, state::StateView, tables::Directory};

/// A room's entry in the directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Published {
    /// Who published it, if it wasn't an application service.
    #[serde(default)]
    pub by: Option<OwnedUserId>,
    /// The network of an application service (`instance_id`) that it belongs to.
    #[serde(default)]
    pub network: Option<String>,
}

impl Versioned for Published {
    const VERSION: u8 = 1;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> Self {
        match previous {}
    }
}

impl Rooms {
    /// Puts a room into the directory: for `by`, or for an application service, to whose `network` it belongs.
    pub fn prepare_publish(&self, batch: &mut Batch, room: &RoomId, by: Option<&UserId>, network: Option<&str>) {
        let published = Published { by: by.map(UserId::to_owned), network: network.map(str::to_owned) };
        batch.put::<Directory>(&room, &Record(published));
        batch.log(&DirectoryChanged { room: room.to_owned() });
    }

    /// Takes a room out of the directory.
    pub fn prepare_withdraw(&self, batch: &mut Batch, room: &RoomId) {
        withdraw_in(batch, room);
    }

    /// A room's entry in the directory.
    pub(crate) async fn published(&self, view: &View, room: &RoomId) -> Result<Option<Published>, RoomsError> {
        let stored = view.get::<Directory>(&room).await?;
        Ok(stored.map(|Record(published)| published))
    }

    /// Whether a room is in the directory.
    pub async fn is_published(&self, view: &View, room: &RoomId) -> Result<bool, RoomsError> {
        Ok(view.contains::<Directory>(&room).await?)
    }
}

impl StateView<'_> {
    /// Whether a user has the power to set the room's canonical alias, which decides about aliases and the
    /// directory too.
    pub async fn may_name(&self, user: &UserId) -> Result<bool, RoomsError> {
        let levels = self.power_levels().await?;
        let needed = levels.for_event(&TimelineEventType::RoomCanonicalAlias, Some(""));
        Ok(levels.user(user) >= PowerLevel::from(needed))
    }
}

/// Gives a room's place in the directory to another.
pub(crate) fn move_published_in(batch: &mut Batch, old: &RoomId, new: &RoomId, published: &Published) {
    withdraw_in(batch, old);
    batch.put::<Directory>(&new, &Record(published.clone()));
    batch.log(&DirectoryChanged { room: new.to_owned() });
}

/// Takes a room out of the directory.
pub(crate) fn withdraw_in(batch: &mut Batch, room: &RoomId) {
    batch.delete::<Directory>(&room);
    batch.log(&DirectoryChanged { room: room.to_owned() });
}
