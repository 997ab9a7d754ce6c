//! The directory of rooms that this server publishes.
//!
//! Specification: client-server API, "Published room directory".

mod index;

use std::{str::FromStr, sync::Arc};

use ruma::{OwnedRoomId, RoomId, UserId};
use store::{Batch, View};

pub(crate) use self::index::DirectoryIndex;
use crate::{Reading, summary::RoomDescription};

use rooms::{Direction, RoomsError};

/// Rooms that can be published.
pub const PUBLISHED_ROOMS_MAX: usize = 100_000;

/// Rooms in one page of the directory.
pub const PUBLIC_ROOMS_LIMIT_MAX: usize = 500;

/// The longest pagination token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 300;

/// Rooms of which networks are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Network {
    /// Those of Matrix itself.
    #[default]
    Matrix,
    /// Those of one network of an application service.
    ThirdParty(String),
    /// All.
    All,
}

/// A point in the directory: beside the room with this many members and this id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryToken {
    direction: Direction,
    members: u64,
    room: OwnedRoomId,
}

impl std::fmt::Display for DirectoryToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = match self.direction {
            Direction::Forward => 'n',
            Direction::Backward => 'p',
        };
        write!(f, "{letter}{}_{}", self.members, self.room)
    }
}

impl FromStr for DirectoryToken {
    type Err = RoomsError;

    fn from_str(text: &str) -> Result<Self, RoomsError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(RoomsError::UnknownPos);
        }
        let (direction, rest) = match (text.strip_prefix('n'), text.strip_prefix('p')) {
            (Some(rest), _) => (Direction::Forward, rest),
            (_, Some(rest)) => (Direction::Backward, rest),
            _ => return Err(RoomsError::UnknownPos),
        };
        let (members, room) = rest.split_once('_').ok_or(RoomsError::UnknownPos)?;
        let members = members.parse().map_err(|_| RoomsError::UnknownPos)?;
        let room = RoomId::parse(room).map_err(|_| RoomsError::UnknownPos)?;
        Ok(Self { direction, members, room })
    }
}

/// Which published rooms are asked for.
#[derive(Clone, Debug, Default)]
pub struct PublicRoomsQuery {
    /// At most this many, bounded by [`PUBLIC_ROOMS_LIMIT_MAX`]; with `None` as many as that.
    pub limit: Option<usize>,
    /// The token of a page.
    pub since: Option<DirectoryToken>,
    /// A text in the name, the topic or the alias.
    pub search: Option<String>,
    /// Only rooms of these types; `None` in the list means rooms without a type.
    pub room_types: Option<Vec<Option<String>>>,
    /// Only rooms of this network.
    pub network: Network,
}

/// A page of the directory, rooms with most members first.
#[derive(Clone, Debug, Default)]
pub struct PublicRoomsPage {
    /// The rooms.
    pub chunk: Vec<Arc<RoomDescription>>,
    /// The token of the next page.
    pub next: Option<DirectoryToken>,
    /// The token of the page before.
    pub prev: Option<DirectoryToken>,
    /// How many rooms there are, on all pages.
    pub total: usize,
}

impl Reading {
    /// Publishes a room in the directory or withdraws it, for a user who may set the room's canonical alias.
    pub async fn set_published(&self, user: &UserId, room: &RoomId, publish: bool) -> Result<(), RoomsError> {
        let view = self.inner.store.view().await?;
        let head = self.rooms.head(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        if !self.rooms.is_joined(&view, user, room).await? {
            return Err(RoomsError::NotJoined);
        }
        if !self.rooms.state(&view, room, head.root).may_name(user).await? {
            return Err(RoomsError::forbidden("you may not change how this room is published"));
        }
        if publish && self.rooms.is_published(&view, room).await? {
            return Ok(());
        }
        let mut batch = Batch::new();
        match publish {
            true => {
                self.check_directory_has_room(&view).await?;
                self.rooms.prepare_publish(&mut batch, room, Some(user), None);
            }
            false => self.rooms.prepare_withdraw(&mut batch, room),
        }
        self.inner.store.commit(batch).await?;
        Ok(())
    }

    /// Publishes or withdraws a room on behalf of the server's admins or of an application service, whose
    /// network it then belongs to. Nobody's power is asked.
    pub async fn set_published_by_server(
        &self,
        room: &RoomId,
        network: Option<&str>,
        publish: bool,
    ) -> Result<(), RoomsError> {
        let view = self.inner.store.view().await?;
        self.rooms.head(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        let mut batch = Batch::new();
        match publish {
            true => {
                self.check_directory_has_room(&view).await?;
                self.rooms.prepare_publish(&mut batch, room, None, network);
            }
            false => self.rooms.prepare_withdraw(&mut batch, room),
        }
        self.inner.store.commit(batch).await?;
        Ok(())
    }

    async fn check_directory_has_room(&self, view: &View) -> Result<(), RoomsError> {
        if self.directory_size(view).await? >= PUBLISHED_ROOMS_MAX {
            return Err(RoomsError::LimitExceeded("published rooms".to_owned()));
        }
        Ok(())
    }

    /// A page of the directory. Only its rooms are described.
    pub async fn public_rooms(&self, view: &View, query: &PublicRoomsQuery) -> Result<PublicRoomsPage, RoomsError> {
        let page = self.directory_page(view, query).await?;
        let mut chunk = Vec::with_capacity(page.rooms.len());
        for room in &page.rooms {
            match self.describe(view, room).await {
                Ok(description) => chunk.push(description),
                // It came after the view.
                Err(RoomsError::RoomNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(PublicRoomsPage { chunk, next: page.next, prev: page.prev, total: page.total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_tokens_are_refused() {
        for text in ["", "n", "n5", "x5_!a:h", "n_!a:h", "n5_a"] {
            assert!(text.parse::<DirectoryToken>().is_err(), "{text}");
        }
    }
}
