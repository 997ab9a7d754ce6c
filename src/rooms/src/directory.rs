//! The directory of rooms that this server publishes.
//!
//! Specification: client-server API, "Published room directory".

use std::{str::FromStr, sync::Arc};

use event::auth::PowerLevel;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::TimelineEventType};
use serde::{Deserialize, Serialize};
use store::{Batch, NoPrevious, Range, Record, Versioned, View};

use crate::{Rooms, RoomsError, summary::RoomDescription, tables::Directory, timeline::Direction};

/// Rooms that can be published.
pub const PUBLISHED_ROOMS_MAX: usize = 10_000;

/// Rooms in one page of the directory.
pub const PUBLIC_ROOMS_LIMIT_MAX: usize = 500;

/// The longest pagination token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 300;

/// A room's entry in the directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Published {
    /// Who published it, if it wasn't an application service.
    #[serde(default)]
    pub(crate) by: Option<OwnedUserId>,
    /// The network of an application service (`instance_id`) that it belongs to.
    #[serde(default)]
    pub(crate) network: Option<String>,
}

impl Versioned for Published {
    const VERSION: u8 = 1;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> Self {
        match previous {}
    }
}

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

impl PublicRoomsQuery {
    fn wants(&self, room: &RoomDescription) -> bool {
        if let Some(types) = &self.room_types
            && !types.contains(&room.room_type)
        {
            return false;
        }
        let Some(search) = &self.search else { return true };
        if search.is_empty() {
            return true;
        }
        let search = search.to_lowercase();
        let texts = [&room.name, &room.topic, &room.canonical_alias];
        texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&search))
            || room.room_id.as_str() == self.search.as_deref().unwrap_or_default()
    }
}

impl Network {
    fn wants(&self, network: Option<&str>) -> bool {
        match self {
            Self::Matrix => network.is_none(),
            Self::ThirdParty(wanted) => network == Some(wanted),
            Self::All => true,
        }
    }
}

impl Rooms {
    /// Publishes a room in the directory or withdraws it, for a user who may set the room's canonical alias.
    pub async fn set_published(&self, user: &UserId, room: &RoomId, publish: bool) -> Result<(), RoomsError> {
        let view = self.inner.store.view();
        let head = self.head(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        if !self.is_joined(&view, user, room).await? {
            return Err(RoomsError::NotJoined);
        }
        if !self.may_name(&view, user, room, head.root).await? {
            return Err(RoomsError::forbidden("you may not change how this room is published"));
        }
        if publish && self.is_published(&view, room).await? {
            return Ok(());
        }
        let mut batch = Batch::new();
        match publish {
            true => {
                self.check_directory_has_room(&view).await?;
                publish_in(&mut batch, room, Some(user), None);
            }
            false => withdraw_in(&mut batch, room),
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
        let view = self.inner.store.view();
        self.head(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        let mut batch = Batch::new();
        match publish {
            true => {
                self.check_directory_has_room(&view).await?;
                publish_in(&mut batch, room, None, network);
            }
            false => withdraw_in(&mut batch, room),
        }
        self.inner.store.commit(batch).await?;
        Ok(())
    }

    /// Puts a new room into the directory, in the batch that creates it.
    pub(crate) fn prepare_publish(&self, batch: &mut Batch, room: &RoomId, by: &UserId) {
        publish_in(batch, room, Some(by), None);
    }

    /// A room's entry in the directory.
    pub(crate) async fn published(&self, view: &View, room: &RoomId) -> Result<Option<Published>, RoomsError> {
        let stored = view.get::<Directory>(&room).await?;
        Ok(stored.map(|Record(published)| published))
    }

    async fn check_directory_has_room(&self, view: &View) -> Result<(), RoomsError> {
        let rows = Range::<Directory>::all().limit(PUBLISHED_ROOMS_MAX);
        if view.scan::<Directory>(rows).await?.rows.len() >= PUBLISHED_ROOMS_MAX {
            return Err(RoomsError::LimitExceeded("published rooms".to_owned()));
        }
        Ok(())
    }

    /// Whether a room is in the directory.
    pub async fn is_published(&self, view: &View, room: &RoomId) -> Result<bool, RoomsError> {
        Ok(view.contains::<Directory>(&room).await?)
    }

    /// Whether a user has the power to set the room's canonical alias, which decides about aliases and the
    /// directory too.
    pub(crate) async fn may_name(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
        root: crate::snapshot::Root,
    ) -> Result<bool, RoomsError> {
        let levels = self.power_levels(view, room, root).await?;
        let needed = levels.for_event(&TimelineEventType::RoomCanonicalAlias, Some(""));
        Ok(levels.user(user) >= PowerLevel::from(needed))
    }

    /// A page of the directory.
    pub async fn public_rooms(&self, view: &View, query: &PublicRoomsQuery) -> Result<PublicRoomsPage, RoomsError> {
        let rows = Range::<Directory>::all().limit(PUBLISHED_ROOMS_MAX);
        let mut rooms = Vec::new();
        for (room, Record(published)) in view.scan_all::<Directory>(rows).await? {
            if !query.network.wants(published.network.as_deref()) {
                continue;
            }
            let description = self.describe(view, &room).await?;
            if query.wants(&description) {
                rooms.push(description);
            }
        }
        rooms.sort_by(|a, b| place(a.num_joined_members, &a.room_id, b.num_joined_members, &b.room_id));
        Ok(cut(rooms, query))
    }
}

/// The order of the directory: most members first, then by id.
fn place(a: u64, a_room: &RoomId, b: u64, b_room: &RoomId) -> std::cmp::Ordering {
    b.cmp(&a).then_with(|| a_room.cmp(b_room))
}

/// The page of all fitting rooms, in order, that the query asks for.
fn cut(rooms: Vec<Arc<RoomDescription>>, query: &PublicRoomsQuery) -> PublicRoomsPage {
    let total = rooms.len();
    let limit = query.limit.unwrap_or(PUBLIC_ROOMS_LIMIT_MAX).clamp(1, PUBLIC_ROOMS_LIMIT_MAX);
    // The number of rooms before the point that the token names.
    let before = |token: &DirectoryToken, inclusive: bool| {
        rooms.partition_point(|room| {
            let order = place(room.num_joined_members, &room.room_id, token.members, &token.room);
            order.is_lt() || (inclusive && order.is_eq())
        })
    };
    let (start, end) = match &query.since {
        None => (0, limit.min(total)),
        Some(token) if token.direction == Direction::Forward => {
            let start = before(token, true);
            (start, (start + limit).min(total))
        }
        Some(token) => {
            let end = before(token, false);
            (end.saturating_sub(limit), end)
        }
    };
    let token = |direction, room: &Arc<RoomDescription>| DirectoryToken {
        direction,
        members: room.num_joined_members,
        room: room.room_id.clone(),
    };
    let chunk = rooms[start..end].to_vec();
    PublicRoomsPage {
        next: chunk.last().filter(|_| end < total).map(|room| token(Direction::Forward, room)),
        prev: chunk.first().filter(|_| start > 0).map(|room| token(Direction::Backward, room)),
        chunk,
        total,
    }
}

fn publish_in(batch: &mut Batch, room: &RoomId, by: Option<&UserId>, network: Option<&str>) {
    let published = Published { by: by.map(UserId::to_owned), network: network.map(str::to_owned) };
    batch.put::<Directory>(&room, &Record(published));
}

/// Gives a room's place in the directory to another.
pub(crate) fn move_published_in(batch: &mut Batch, old: &RoomId, new: &RoomId, published: &Published) {
    withdraw_in(batch, old);
    batch.put::<Directory>(&new, &Record(published.clone()));
}

/// Takes a room out of the directory.
pub(crate) fn withdraw_in(batch: &mut Batch, room: &RoomId) {
    batch.delete::<Directory>(&room);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(members: u64, id: &str) -> Arc<RoomDescription> {
        Arc::new(RoomDescription {
            room_id: RoomId::parse(id).expect("a room id"),
            num_joined_members: members,
            world_readable: false,
            guest_can_join: false,
            canonical_alias: None,
            name: Some(format!("Room {id}")),
            topic: None,
            avatar_url: None,
            join_rule: "public".to_owned(),
            allowed_room_ids: Vec::new(),
            room_type: None,
            encryption: None,
            room_version: "12".to_owned(),
        })
    }

    #[test]
    fn pages_go_forward_and_back() {
        let rooms = vec![room(9, "!a:h"), room(5, "!b:h"), room(5, "!c:h"), room(1, "!d:h")];
        let page = |since: Option<DirectoryToken>| {
            let query = PublicRoomsQuery { limit: Some(2), since, ..PublicRoomsQuery::default() };
            cut(rooms.clone(), &query)
        };
        let first = page(None);
        assert_eq!(first.chunk, rooms[..2]);
        assert!(first.prev.is_none());
        let next = first.next.expect("a next page").to_string();
        let second = page(Some(next.parse().expect("a token")));
        assert_eq!(second.chunk, rooms[2..]);
        assert!(second.next.is_none());
        let prev = second.prev.expect("a page before").to_string();
        assert_eq!(page(Some(prev.parse().expect("a token"))).chunk, rooms[..2]);
    }

    #[test]
    fn search_looks_at_words_and_types() {
        let wants = |search: &str, types: Option<Vec<Option<String>>>| {
            let query =
                PublicRoomsQuery { search: Some(search.to_owned()), room_types: types, ..PublicRoomsQuery::default() };
            query.wants(&room(1, "!a:h"))
        };
        assert!(wants("rOOm", None));
        assert!(!wants("other", None));
        assert!(wants("!a:h", Some(vec![None])));
        assert!(!wants("room", Some(vec![Some("m.space".to_owned())])));
        // To look for nothing is not to look.
        let query = PublicRoomsQuery { search: Some(String::new()), ..PublicRoomsQuery::default() };
        let nameless = RoomDescription { name: None, ..(*room(1, "!a:h")).clone() };
        assert!(query.wants(&nameless));
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for text in ["", "n", "n5", "x5_!a:h", "n_!a:h", "n5_a"] {
            assert!(text.parse::<DirectoryToken>().is_err(), "{text}");
        }
    }
}
