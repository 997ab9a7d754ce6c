//! What is known in memory of the published rooms: enough to find a page of them, whose rooms alone are then described.
//!
//! It follows the log as far as the view that is read from, so it is never older than that view. It may be forgotten at any time:
//! then it is made again from the tables.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{Mutex, PoisonError},
};

use event::names::{self, Search};
use rooms::{Direction, DirectoryChanged, EventRedacted, RoomAdvanced, RoomsError, tables::Directory};
use ruma::{OwnedRoomId, RoomId};
use store::{Follower, Held, LogEntry, LogRecord, News, Position, Range, Record, Store, View};

use super::{DirectoryToken, Network, PUBLIC_ROOMS_LIMIT_MAX, PublicRoomsQuery};
use crate::{Reading, summary::RoomDescription};

/// The index's name among those who follow the log.
const NAME: &str = "reading.directory";
/// Bytes of each of a room's names, type and topic that are looked at, in the form in which they are compared: what is known of a room
/// is bounded.
const TEXT_BYTES_MAX: usize = 256;
/// What a room takes in memory besides its texts and id.
const ROOM_BYTES: usize = 250;
/// Rooms read at once while the index is made.
const PAGE_ROOMS: usize = 200;

/// See the module.
pub(crate) struct DirectoryIndex {
    /// Held while the index catches up with the log.
    follower: tokio::sync::Mutex<Follower>,
    listed: Mutex<Listed>,
}

/// A room's place: those with most members come first, then by id.
type Place = (Reverse<u64>, OwnedRoomId);

#[derive(Default)]
struct Listed {
    rooms: BTreeMap<Place, Entry>,
    members: HashMap<OwnedRoomId, u64>,
    /// Rooms of each network.
    networks: HashMap<Option<String>, usize>,
    /// What all this takes in memory, about. A search may be about any of it, so none can be given up.
    bytes: usize,
    held: Held,
}

/// What decides whether a room is looked for.
struct Entry {
    network: Option<String>,
    room_type: Option<String>,
    /// Its names and topic in the form in which names are compared.
    text: String,
}

impl Entry {
    /// What it takes in memory for a room of this id, about.
    fn bytes(&self, room: &RoomId) -> usize {
        let texts = [&self.network, &self.room_type].into_iter().flatten().map(String::len).sum::<usize>();
        ROOM_BYTES + 2 * room.as_str().len() + texts + self.text.len()
    }
}

/// The rooms of a page, and where it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) rooms: Vec<OwnedRoomId>,
    pub(super) next: Option<DirectoryToken>,
    pub(super) prev: Option<DirectoryToken>,
    pub(super) total: usize,
}

impl Reading {
    /// Brings what is known of the published rooms up to date, so that whoever asks next needn't wait for long. To be called now and
    /// then.
    pub async fn refresh_directory(&self) -> Result<(), RoomsError> {
        let view = self.inner.store.view().await?;
        self.catch_up_directory(view.position()).await
    }

    /// The page of a query.
    pub(super) async fn directory_page(&self, view: &View, query: &PublicRoomsQuery) -> Result<Page, RoomsError> {
        self.catch_up_directory(view.position()).await?;
        Ok(self.inner.directory.lock().page(query))
    }

    /// How many rooms are published.
    pub(super) async fn directory_size(&self, view: &View) -> Result<usize, RoomsError> {
        self.catch_up_directory(view.position()).await?;
        Ok(self.inner.directory.lock().rooms.len())
    }

    /// Applies the log up to `until`.
    async fn catch_up_directory(&self, until: Position) -> Result<(), RoomsError> {
        let mut follower = self.inner.directory.follower.lock().await;
        while follower.position() < until {
            match follower.try_next().await? {
                Some(News::Records { records, .. }) => {
                    if let Err(error) = self.apply_to_directory(&records).await {
                        follower.start_over(&error);
                        continue;
                    }
                }
                Some(News::Rebuild(view)) => self.make_directory(&view).await?,
                None => break,
            }
            follower.done();
        }
        Ok(())
    }

    /// Makes the index from the tables.
    async fn make_directory(&self, view: &View) -> Result<(), RoomsError> {
        self.inner.directory.lock().clear();
        let mut next = Some(Range::<Directory>::all().limit(PAGE_ROOMS));
        while let Some(range) = next {
            let page = view.scan::<Directory>(range).await?;
            for (room, _) in &page.rows {
                self.list(view, room).await?;
            }
            next = page.next;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn apply_to_directory(&self, records: &[LogRecord]) -> Result<(), RoomsError> {
        let mut changed = HashSet::new();
        for record in records {
            let room = match record.kind {
                DirectoryChanged::KIND => record.decode::<DirectoryChanged>()?.map(|entry| entry.room),
                RoomAdvanced::KIND => {
                    let entry = record.decode::<RoomAdvanced>()?.filter(|entry| entry.old_root.is_some());
                    entry.map(|entry| entry.room).filter(|room| self.inner.directory.lock().members.contains_key(room))
                }
                EventRedacted::KIND => {
                    let room = record.decode::<EventRedacted>()?.map(|entry| entry.room);
                    room.filter(|room| self.inner.directory.lock().members.contains_key(room))
                }
                _ => None,
            };
            changed.extend(room);
        }
        let view = self.inner.store.view().await?;
        for room in changed {
            self.list(&view, &room).await?;
        }
        Ok(())
    }

    /// Notes what the tables say of a room.
    async fn list(&self, view: &View, room: &RoomId) -> Result<(), RoomsError> {
        let published = view.get::<Directory>(&room).await?;
        let described = match &published {
            Some(_) => match self.describe(view, room).await {
                Err(RoomsError::RoomNotFound) => None,
                other => Some(other?),
            },
            None => None,
        };
        let mut listed = self.inner.directory.lock();
        listed.remove(room);
        if let (Some(Record(published)), Some(described)) = (published, described) {
            listed.insert(published.network, &described);
        }
        Ok(())
    }
}

impl DirectoryIndex {
    /// An index to be made, whose memory counts as held.
    pub(crate) fn new(store: &Store) -> Self {
        let listed = Listed { held: store.hold(), ..Listed::default() };
        Self { follower: tokio::sync::Mutex::new(store.follower(NAME)), listed: Mutex::new(listed) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    fn clear(&mut self) {
        let held = std::mem::take(&mut self.held);
        *self = Self { held, ..Self::default() };
        self.held.set(0);
    }

    fn remove(&mut self, room: &RoomId) {
        let Some(members) = self.members.remove(room) else { return };
        let Some(entry) = self.rooms.remove(&(Reverse(members), room.to_owned())) else { return };
        if let Some(count) = self.networks.get_mut(&entry.network) {
            *count -= 1;
        }
        self.bytes -= entry.bytes(room);
        self.held.set(self.bytes);
    }

    fn insert(&mut self, network: Option<String>, room: &RoomDescription) {
        let mut text = String::new();
        for name in [&room.name, &room.canonical_alias].into_iter().flatten() {
            text.push_str(cut(&names::fold(name)));
            text.push('\n');
        }
        if let Some(topic) = &room.topic {
            text.push_str(cut(&names::fold(topic)));
        }
        *self.networks.entry(network.clone()).or_default() += 1;
        let room_type = room.room_type.as_deref().map(|name| cut(name).to_owned());
        let entry = Entry { network, room_type, text };
        self.bytes += entry.bytes(&room.room_id);
        self.members.insert(room.room_id.clone(), room.num_joined_members);
        self.rooms.insert((Reverse(room.num_joined_members), room.room_id.clone()), entry);
        self.held.set(self.bytes);
    }

    /// The page that a query asks for.
    fn page(&self, query: &PublicRoomsQuery) -> Page {
        let limit = query.limit.unwrap_or(PUBLIC_ROOMS_LIMIT_MAX).clamp(1, PUBLIC_ROOMS_LIMIT_MAX);
        let filter = Filter::of(query);
        let fits = |(place, entry): &(&Place, &Entry)| filter.fits(&place.1, entry);
        let from = |token: &DirectoryToken| (Reverse(token.members), token.room.clone());
        let places: Vec<&Place> = match &query.since {
            None => self.rooms.iter().filter(fits).map(|(place, _)| place).take(limit).collect(),
            Some(token) if token.direction == Direction::Forward => {
                let after = self.rooms.range((Bound::Excluded(from(token)), Bound::Unbounded));
                after.filter(fits).map(|(place, _)| place).take(limit).collect()
            }
            Some(token) => {
                let before = self.rooms.range(..from(token)).rev();
                let mut places: Vec<&Place> = before.filter(fits).map(|(place, _)| place).take(limit).collect();
                places.reverse();
                places
            }
        };
        let (Some(&first), Some(&last)) = (places.first(), places.last()) else {
            return Page { total: self.count(&filter), ..Page::default() };
        };
        let is_more = self.rooms.range((Bound::Excluded(last), Bound::Unbounded)).any(|entry| fits(&entry));
        let is_before = self.rooms.range(..first).rev().any(|entry| fits(&entry));
        let token = |direction, (Reverse(members), room): &Place| DirectoryToken {
            direction,
            members: *members,
            room: room.clone(),
        };
        Page {
            next: is_more.then(|| token(Direction::Forward, last)),
            prev: is_before.then(|| token(Direction::Backward, first)),
            rooms: places.into_iter().map(|(_, room)| room.clone()).collect(),
            total: self.count(&filter),
        }
    }

    /// How many rooms fit.
    fn count(&self, filter: &Filter<'_>) -> usize {
        if filter.search.is_none() && filter.query.room_types.is_none() {
            return match &filter.query.network {
                Network::Matrix => self.networks.get(&None).copied().unwrap_or(0),
                Network::ThirdParty(id) => self.networks.get(&Some(id.clone())).copied().unwrap_or(0),
                Network::All => self.rooms.len(),
            };
        }
        self.rooms.iter().filter(|((_, room), entry)| filter.fits(room, entry)).count()
    }
}

/// The beginning of a text, as much of it as is looked at.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// A query, prepared to be compared with many rooms.
struct Filter<'q> {
    query: &'q PublicRoomsQuery,
    search: Option<Search>,
}

impl<'q> Filter<'q> {
    fn of(query: &'q PublicRoomsQuery) -> Self {
        let search = query.search.as_deref().filter(|text| !text.trim().is_empty());
        Self { query, search: search.map(Search::new) }
    }

    fn fits(&self, room: &RoomId, entry: &Entry) -> bool {
        let network = match &self.query.network {
            Network::Matrix => entry.network.is_none(),
            Network::ThirdParty(wanted) => entry.network.as_ref() == Some(wanted),
            Network::All => true,
        };
        if !network || self.query.room_types.as_ref().is_some_and(|types| !types.contains(&entry.room_type)) {
            return false;
        }
        let Some(search) = &self.search else { return true };
        search.finds(&entry.text) || self.query.search.as_deref() == Some(room.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(members: u64, id: &str) -> RoomDescription {
        RoomDescription {
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
        }
    }

    fn listed(rooms: &[RoomDescription]) -> Listed {
        let mut listed = Listed::default();
        for room in rooms {
            listed.insert(None, room);
        }
        listed
    }

    #[test]
    fn pages_go_forward_and_back() {
        let listed = listed(&[room(1, "!d:h"), room(5, "!c:h"), room(9, "!a:h"), room(5, "!b:h")]);
        let page = |since: Option<DirectoryToken>| {
            listed.page(&PublicRoomsQuery { limit: Some(2), since, ..PublicRoomsQuery::default() })
        };
        let first = page(None);
        assert_eq!((&first.rooms[..], first.total), (&["!a:h", "!b:h"].map(|id| RoomId::parse(id).unwrap())[..], 4));
        assert!(first.prev.is_none());
        let next = first.next.expect("a next page").to_string();
        let second = page(Some(next.parse().expect("a token")));
        assert_eq!(second.rooms, ["!c:h", "!d:h"]);
        assert!(second.next.is_none());
        let prev = second.prev.expect("a page before").to_string();
        assert_eq!(page(Some(prev.parse().expect("a token"))).rooms, ["!a:h", "!b:h"]);
    }

    #[test]
    fn a_room_moves_with_its_members_and_is_there_once() {
        let mut listed = listed(&[room(1, "!a:h"), room(2, "!b:h")]);
        listed.remove(room_id("!a:h"));
        listed.insert(None, &room(3, "!a:h"));
        assert_eq!(listed.page(&PublicRoomsQuery::default()).rooms, ["!a:h", "!b:h"]);
        listed.remove(room_id("!a:h"));
        listed.remove(room_id("!none:h"));
        assert_eq!(listed.page(&PublicRoomsQuery::default()).rooms, ["!b:h"]);
    }

    #[test]
    fn what_is_known_of_a_room_is_bounded() {
        let long = "ǆ ".repeat(20_000);
        let room = RoomDescription {
            name: Some(long.clone()),
            canonical_alias: Some(long.clone()),
            topic: Some(long.clone()),
            room_type: Some(long.clone()),
            ..room(1, "!a:h")
        };
        let mut listed = listed(&[room]);
        assert!(listed.bytes < 4 * TEXT_BYTES_MAX + 2 * ROOM_BYTES, "{}", listed.bytes);
        let untyped = PublicRoomsQuery { room_types: Some(vec![None]), ..PublicRoomsQuery::default() };
        assert_eq!(listed.page(&untyped).total, 0, "a type that is too long is one all the same");
        let searched = PublicRoomsQuery { search: Some("ǆ".to_owned()), ..PublicRoomsQuery::default() };
        assert_eq!(listed.page(&searched).total, 1);
        listed.remove(room_id("!a:h"));
        assert_eq!(listed.bytes, 0);
    }

    fn room_id(id: &'static str) -> &'static RoomId {
        <&RoomId>::try_from(id).expect("a room id")
    }

    #[test]
    fn search_looks_at_words_and_types() {
        let tea = RoomDescription {
            topic: Some("Leaves".to_owned()),
            canonical_alias: Some("#grün:h".to_owned()),
            ..room(1, "!a:h")
        };
        let listed = listed(&[tea]);
        let wants = |search: &str, room_types: Option<Vec<Option<String>>>| {
            let query = PublicRoomsQuery { search: Some(search.to_owned()), room_types, ..PublicRoomsQuery::default() };
            let page = listed.page(&query);
            assert_eq!(page.rooms.len(), page.total);
            page.total == 1
        };
        for term in ["rOOm", "leaves room", "GRUN", "#grün:h", "!a:h", "", " "] {
            assert!(wants(term, None), "{term}");
        }
        assert!(!wants("other", None));
        assert!(wants("!a:h", Some(vec![None])));
        assert!(!wants("room", Some(vec![Some("m.space".to_owned())])));
    }
}
