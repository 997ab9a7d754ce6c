//! Of whose keys a client must ask anew, and of whom it may forget them.
//!
//! With U the user who asks, a range of the log that begins at `since`, and "together" meaning that both are joined to one
//! room that counts:
//!
//! - `changed` are those who are together with U at the end of the range, and either were not at its start or have keys that
//!   changed in it; those in a room that U was and is in and that became encrypted in it; and U, if U's own keys changed;
//! - `left` are those who were together with U at its start and are not at its end.
//!
//! What happened in between (a leave and a new join) needs no word of its own: if keys changed meanwhile they changed in the
//! range, and otherwise what the client has is as good as before. An encrypted room counts, and so does another unless it is large
//! now ([`crate::Config::large_room_members`]): in a room with everybody in it each would be told of everybody.
//!
//! The range of a sync ends with its view; that of `/keys/changes` may have ended before. The answer depends on the tables and the
//! two ends alone. An inbox merely says whether it is worth looking, so a recent
//! token and an old one get the same.
//!
//! Specification: client-server API, "Tracking the device list for a user", "Extensions to /sync", `GET /keys/changes`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::rooms::{EventNum, Membership, Rooms, RoomsError};
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use state_tree::{Entry, Root};
use store::{Position, View};
use users::Users;

use super::{
    super::{StreamId, changes::Changes},
    DeviceListChanges,
};
use crate::{Inner, SyncError, hub::Hub, state::MEMBER};

/// Users whose keys changed in a range that are read one after the other. Where there are more, those who share a room with
/// the user who asks are looked at instead.
const CHANGES_READ_MAX: usize = 4_000;

/// Users of whom each one's rooms are compared with those of the user who asks. Where there are more, the members of these
/// rooms are gone through.
const PAIRS_COMPARED_MAX: usize = 32;

/// How many members are read from a room's rows for what it costs to look up one of them in its state.
const MEMBERS_READ_PER_LOOKUP: u64 = 4;

/// The type of the event that makes a room encrypted.
const ENCRYPTION: &str = "m.room.encryption";

/// Members and keys that are read together.
const PAGE_USERS: usize = 1_000;

pub(crate) type UserSet = BTreeSet<OwnedUserId>;

/// What a range of the log tells of those around a user.
#[derive(Default)]
pub(crate) struct Around {
    pub(crate) lists: DeviceListChanges,
    /// Who came to be together with the user in some room; they may have been in another before.
    pub(crate) met: UserSet,
}

/// Reads device lists of one range for one user.
pub(super) struct DeviceListReader<'a> {
    hub: &'a Hub,
    rooms: &'a Rooms,
    users: &'a Users,
    view: &'a View,
    user: &'a UserId,
    /// The user's number in the hub.
    number: u32,
    /// Rooms with more members are large.
    large_room_members: u64,
    /// Rooms of which it was found out whether they count at a position.
    counted: Mutex<HashMap<(OwnedRoomId, Position), bool>>,
    since: Position,
    /// The end of the range, which is that of the view or before.
    until: Position,
}

/// Who came to be, and who ceased to be, together with the user in some room; they may be in another as before.
#[derive(Default)]
struct Encounters {
    met: UserSet,
    parted: UserSet,
    /// Those in rooms that became encrypted.
    encrypted: UserSet,
    /// Those who came to be in a room with the user that may not count.
    around: UserSet,
}

impl<'a> DeviceListReader<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        view: &'a View,
        (user, number): (&'a UserId, u32),
        (since, until): (Position, Position),
    ) -> Self {
        let Inner { hub, rooms, users, config, .. } = inner;
        let (large_room_members, counted) = (config.large_room_members as u64, Mutex::default());
        Self { hub, rooms, users, view, user, number, large_room_members, counted, since, until }
    }
}

impl DeviceListReader<'_> {
    /// The lists of a range that ends with the view, given where something may have changed and in which rooms the user's own
    /// membership did. Reads nothing where nothing can have changed.
    pub(super) async fn read(&self, changes: &Changes, moved: BTreeSet<&RoomId>) -> Result<Around, SyncError> {
        let stayed = self.stayed(changes, &moved).await?;
        if !changes.has(StreamId::DeviceLists) && stayed.is_empty() && moved.is_empty() {
            return Ok(Around::default());
        }
        self.around(stayed, moved).await
    }

    /// The lists of any range, whatever may have changed in it.
    pub(super) async fn read_all(&self) -> Result<Around, SyncError> {
        let mut moved = BTreeSet::new();
        for (_, row) in self.rooms.membership_log(self.view, self.user, self.since, self.until).await? {
            moved.insert(row.room);
        }
        let joined = self.joined_at(self.user, self.until).await?;
        let mut stayed: Vec<&RoomId> = Vec::new();
        for room in joined.difference(&moved) {
            match self.hub.residents.known_room(room) {
                // Most rooms didn't change, and that is known without reading.
                Some(number) if !self.state_moved(room, number).await? => {}
                _ => stayed.push(room),
            }
        }
        self.around(stayed, moved.iter().map(|room| &**room).collect()).await
    }

    /// The lists, given the rooms that the user was in all the time, and those in which their membership changed.
    async fn around(&self, stayed: Vec<&RoomId>, moved: BTreeSet<&RoomId>) -> Result<Around, SyncError> {
        let encounters = self.encounters(stayed, moved).await?;
        let renewed = self.renewed().await?;
        let mut asked = encounters.parted.clone();
        asked.extend(renewed.keys().filter(|user| *user != self.user).cloned());
        let together = self.together(&asked, self.until).await?;
        let known = self.together(&encounters.met, self.since).await?;
        let mut changed: UserSet = encounters.met.difference(&known).cloned().collect();
        changed.extend(encounters.encrypted);
        for (user, last) in renewed {
            if user != self.user && !together.contains(&user) {
                continue;
            }
            let (since, until) = (self.since, self.until);
            if last <= until || self.users.device_list_changed_between(self.view, &user, since, until).await? {
                changed.insert(user);
            }
        }
        let left = encounters.parted.difference(&together).cloned().collect();
        let lists = DeviceListChanges { changed: changed.into_iter().collect(), left };
        let mut met = encounters.met;
        met.extend(encounters.around);
        Ok(Around { lists, met })
    }

    /// The rooms that the user was in all the time and whose state changed.
    async fn stayed<'c>(&self, changes: &'c Changes, moved: &BTreeSet<&RoomId>) -> Result<Vec<&'c RoomId>, SyncError> {
        let mut stayed = Vec::new();
        for (room, hints) in &changes.rooms {
            if !hints.has(StreamId::Rooms) || moved.contains(&**room) || !self.state_moved(room, hints.number).await? {
                continue;
            }
            if hints.joined || self.membership_now(room).await? == Membership::Join {
                stayed.push(&**room);
            }
        }
        Ok(stayed)
    }

    async fn state_moved(&self, room: &RoomId, number: u32) -> Result<bool, SyncError> {
        let moved = self.hub.state_moved(number);
        if let Some(moved) = moved {
            return Ok(moved > self.since);
        }
        let moved = self.rooms.state_position(self.view, room).await?.unwrap_or(Position::ZERO);
        self.hub.learn_state_moved(number, moved, self.view.position());
        Ok(moved > self.since)
    }

    async fn membership_now(&self, room: &RoomId) -> Result<Membership, SyncError> {
        let row = self.rooms.membership(self.view, self.user, room).await?;
        Ok(row.map_or(Membership::Leave, |row| row.membership))
    }

    async fn encounters(&self, stayed: Vec<&RoomId>, moved: BTreeSet<&RoomId>) -> Result<Encounters, SyncError> {
        let mut encounters = Encounters::default();
        for room in stayed {
            self.compare(room, (true, true), &mut encounters).await?;
        }
        for room in moved {
            let was = self.was_joined(self.user, room, self.since).await?;
            let is = self.was_joined(self.user, room, self.until).await?;
            self.compare(room, (was, is), &mut encounters).await?;
        }
        for users in [&mut encounters.met, &mut encounters.parted, &mut encounters.encrypted] {
            users.remove(self.user);
        }
        Ok(encounters)
    }

    /// Who came to be and who ceased to be in a room together with the user, who was or wasn't in it and is or isn't.
    async fn compare(&self, room: &RoomId, joined: (bool, bool), encounters: &mut Encounters) -> Result<(), SyncError> {
        let (since, until) = (self.since, self.until);
        let was = joined.0 && self.counts(room, since).await?;
        let is = joined.1 && self.counts(room, until).await?;
        match (was, is) {
            (true, true) => {
                for (user, was, is) in self.moves(room, since, until).await? {
                    match (was, is) {
                        (false, true) => encounters.met.insert(user),
                        (true, false) => encounters.parted.insert(user),
                        _ => false,
                    };
                }
            }
            (false, true) => encounters.met.extend(self.members(room, until).await?),
            (true, false) => encounters.parted.extend(self.members(room, since).await?),
            (false, false) => {
                let (hub, residents) = (self.hub, &self.hub.residents);
                // Large only by its members of other servers.
                let number = residents.known_room(room).filter(|number| joined.1 && !hub.is_large(*number));
                if let Some(number) = number {
                    residents
                        .each_member(number, |member| encounters.around.extend(residents.user_id(member).cloned()));
                }
            }
        }
        if joined == (true, true) && self.is_encrypted(room, until).await? && !self.is_encrypted(room, since).await? {
            encounters.encrypted.extend(self.members(room, until).await?);
        }
        Ok(())
    }

    /// Whether those who were in a room at a position were to hear of each other's keys.
    async fn counts(&self, room: &RoomId, at: Position) -> Result<bool, SyncError> {
        let key = (room.to_owned(), at);
        if let Some(counts) = self.counted.lock().get(&key) {
            return Ok(*counts);
        }
        let head = self.rooms.head(self.view, room).await?;
        let is_large = head.is_some_and(|head| head.joined_count > self.large_room_members);
        let counts = !is_large || self.is_encrypted(room, at).await?;
        self.counted.lock().insert(key, counts);
        Ok(counts)
    }

    async fn is_encrypted(&self, room: &RoomId, at: Position) -> Result<bool, SyncError> {
        let number = self.hub.residents.known_room(room);
        if let Some(known) = number.and_then(|number| self.hub.encrypted_since(number, at)) {
            return Ok(known);
        }
        let root = self.root_at(room, at).await?;
        let source = self.rooms.source(self.view, room);
        let entries = self.rooms.tree().get_many(&source, root, &[(ENCRYPTION, "")]).await?;
        let encrypted = entries.into_iter().flatten().next().is_some();
        if let Some(number) = number {
            self.hub.learn_encrypted(number, at, encrypted);
        }
        Ok(encrypted)
    }

    /// Those whose keys changed after the start of the range: whoever they are, or at least all of them who are together with the
    /// user. With each the position of the last change, which may be after the range.
    async fn renewed(&self) -> Result<BTreeMap<OwnedUserId, Position>, SyncError> {
        let (users, view, since) = (self.users, self.view, self.since);
        let mut renewed = BTreeMap::new();
        let changed = users.device_list_changes(view, since, CHANGES_READ_MAX).await?;
        if changed.len() < CHANGES_READ_MAX {
            renewed.extend(changed);
        } else {
            let mut around = UserSet::from([self.user.to_owned()]);
            for room in self.joined_at(self.user, self.until).await? {
                if self.counts(&room, self.until).await? {
                    around.extend(self.members(&room, self.until).await?);
                }
            }
            let around: Vec<&UserId> = around.iter().map(|user| &**user).collect();
            for page in around.chunks(PAGE_USERS) {
                let positions = users.device_list_positions(view, page).await?;
                for (user, position) in page.iter().zip(positions) {
                    if let Some(position) = position.filter(|position| *position > since) {
                        renewed.insert((*user).to_owned(), position);
                    }
                }
            }
        }
        for user in users.users_signed_between(view, self.user, since, self.until).await? {
            renewed.insert(user, self.until);
        }
        Ok(renewed)
    }

    /// Those of `others` who were together with the user at a position.
    async fn together(&self, others: &UserSet, at: Position) -> Result<UserSet, SyncError> {
        let mut together = UserSet::new();
        let mut unknown: Vec<&OwnedUserId> = Vec::new();
        for other in others {
            match self.common_rooms(other, at) {
                Some(rooms) if self.any_counts(&rooms, at).await? => drop(together.insert(other.clone())),
                Some(_) => {}
                None => unknown.push(other),
            }
        }
        if unknown.is_empty() {
            return Ok(together);
        }
        let rooms = self.joined_at(self.user, at).await?;
        let mut open: BTreeSet<&UserId> = BTreeSet::new();
        for other in &unknown {
            if unknown.len() > PAIRS_COMPARED_MAX || !self.rooms.is_local(other) {
                open.insert(other);
                continue;
            }
            let common = self.joined_at(other, at).await?.intersection(&rooms).cloned().collect::<Vec<_>>();
            if self.any_counts(&common, at).await? {
                together.insert((*other).clone());
            }
        }
        for room in rooms {
            if open.is_empty() {
                break;
            }
            if !self.counts(&room, at).await? {
                continue;
            }
            for other in self.joined_among(&room, &open, at).await? {
                open.remove(&*other);
                together.insert(other);
            }
        }
        Ok(together)
    }

    /// The rooms that another user of this server was in together with the user at a position, if that is in memory.
    fn common_rooms(&self, other: &UserId, at: Position) -> Option<Vec<OwnedRoomId>> {
        if !self.rooms.is_local(other) {
            return None;
        }
        let residents = &self.hub.residents;
        let rooms = match residents.known_user(other) {
            Some(other) => residents.common_rooms(self.number, other, at)?,
            None if residents.is_filled(at) => Vec::new(),
            None => return None,
        };
        Some(rooms.into_iter().filter_map(|room| residents.room_id(room).cloned()).collect())
    }

    async fn any_counts(&self, rooms: &[OwnedRoomId], at: Position) -> Result<bool, SyncError> {
        for room in rooms {
            if self.counts(room, at).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Those of `users` who were joined to a room at a position.
    async fn joined_among(&self, room: &RoomId, users: &BTreeSet<&UserId>, at: Position) -> Result<UserSet, SyncError> {
        let Some(head) = self.rooms.head(self.view, room).await? else {
            return Ok(UserSet::new());
        };
        if head.joined_count <= MEMBERS_READ_PER_LOOKUP.saturating_mul(users.len() as u64) {
            let mut members = self.members(room, at).await?;
            members.retain(|member| users.contains(&**member));
            return Ok(members);
        }
        let root = self.root_at(room, at).await?;
        let users: Vec<&UserId> = users.iter().copied().collect();
        let source = self.rooms.source(self.view, room);
        let mut joined = UserSet::new();
        for page in users.chunks(PAGE_USERS) {
            let keys: Vec<_> = page.iter().map(|user| (MEMBER, user.as_str())).collect();
            let entries = self.rooms.tree().get_many(&source, root, &keys).await?;
            let found = page.iter().zip(entries).filter_map(|(user, entry)| Some(((*user).to_owned(), entry?)));
            joined.extend(self.of_joined(found.collect()).await?);
        }
        Ok(joined)
    }

    /// The rooms that a user of this server was joined to at a position.
    async fn joined_at(&self, user: &UserId, at: Position) -> Result<BTreeSet<OwnedRoomId>, SyncError> {
        if at == Position::ZERO {
            return Ok(BTreeSet::new());
        }
        if let Some(rooms) = self.rooms_in_memory(user, at) {
            return Ok(rooms);
        }
        let now = self.view.position();
        let mut rooms: BTreeSet<OwnedRoomId> = self.rooms.joined_rooms(self.view, user).await?.into_iter().collect();
        if at >= now {
            return Ok(rooms);
        }
        let mut moved = BTreeSet::new();
        for (_, row) in self.rooms.membership_log(self.view, user, at, now).await? {
            moved.insert(row.room);
        }
        for room in moved {
            if self.was_joined(user, &room, at).await? {
                rooms.insert(room);
            } else {
                rooms.remove(&room);
            }
        }
        Ok(rooms)
    }

    fn rooms_in_memory(&self, user: &UserId, at: Position) -> Option<BTreeSet<OwnedRoomId>> {
        let residents = &self.hub.residents;
        let numbers = residents.rooms_of(residents.known_user(user)?, at)?;
        Some(numbers.into_iter().filter_map(|number| residents.room_id(number).cloned()).collect())
    }

    async fn was_joined(&self, user: &UserId, room: &RoomId, at: Position) -> Result<bool, SyncError> {
        let root = self.rooms.root_at(self.view, room, at).await?.unwrap_or(Root::EMPTY);
        Ok(self.rooms.state(self.view, room, root).membership(user).await? == Membership::Join)
    }

    /// The members of a room at a position: those of now, changed back.
    async fn members(&self, room: &RoomId, at: Position) -> Result<UserSet, SyncError> {
        let Some(head) = self.rooms.head(self.view, room).await? else {
            return Ok(UserSet::new());
        };
        let mut members: UserSet = self.rooms.local_members(self.view, room).await?.into_iter().collect();
        if head.joined_count > members.len() as u64 {
            members.extend(self.remote_members(room, head.root).await?);
        }
        if at < self.view.position() {
            for (user, was, is) in self.moves(room, at, self.view.position()).await? {
                match (was, is) {
                    (false, true) => drop(members.remove(&user)),
                    (true, false) => drop(members.insert(user)),
                    _ => {}
                }
            }
        }
        Ok(members)
    }

    async fn remote_members(&self, room: &RoomId, root: Root) -> Result<UserSet, SyncError> {
        let source = self.rooms.source(self.view, room);
        let mut members = UserSet::new();
        let mut start: Box<str> = "".into();
        loop {
            let page = self.rooms.tree().range_page(&source, root, MEMBER, &start, PAGE_USERS).await?;
            let users = page.entries.iter().filter_map(|(key, entry)| Some((UserId::parse(&**key).ok()?, *entry)));
            let remote = users.filter(|(user, _)| !self.rooms.is_local(user));
            members.extend(self.of_joined(remote.collect()).await?);
            match page.next {
                Some(next) => start = next,
                None => return Ok(members),
            }
        }
    }

    /// The users whose member events in a room are others at the end of a range than at its start, with whether they were and are
    /// joined.
    async fn moves(
        &self,
        room: &RoomId,
        since: Position,
        until: Position,
    ) -> Result<Vec<(OwnedUserId, bool, bool)>, SyncError> {
        let before = self.root_at(room, since).await?;
        let after = self.root_at(room, until).await?;
        let source = self.rooms.source(self.view, room);
        let changes = self.rooms.tree().diff_type(&source, before, after, MEMBER).await?;
        let mut moves = Vec::with_capacity(changes.len());
        for page in changes.chunks(PAGE_USERS) {
            let sides = page.iter().flat_map(|change| [change.old, change.new]);
            let joins = self.joins(sides.flatten().map(|entry| entry.event).collect()).await?;
            let joined = |entry: Option<Entry>| entry.is_some_and(|entry| joins.contains(&entry.event));
            for change in page {
                // A state key that isn't a user's id can't be that of a member.
                if let Ok(user) = UserId::parse(&*change.key.state_key) {
                    moves.push((user, joined(change.old), joined(change.new)));
                }
            }
        }
        Ok(moves)
    }

    async fn root_at(&self, room: &RoomId, at: Position) -> Result<Root, SyncError> {
        Ok(self.rooms.root_at(self.view, room, at).await?.unwrap_or(Root::EMPTY))
    }

    /// Those whose entry is a join.
    async fn of_joined(&self, entries: BTreeMap<OwnedUserId, Entry>) -> Result<UserSet, SyncError> {
        let joins = self.joins(entries.values().map(|entry| entry.event).collect()).await?;
        let joined = entries.into_iter().filter(|(_, entry)| joins.contains(&entry.event));
        Ok(joined.map(|(user, _)| user).collect())
    }

    /// Those of these member events that are joins.
    async fn joins(&self, events: Vec<EventNum>) -> Result<BTreeSet<EventNum>, SyncError> {
        let mut joins = BTreeSet::new();
        for (num, event) in events.iter().zip(self.rooms.events(self.view, &events).await?) {
            let event = event.ok_or_else(|| RoomsError::Corrupt(format!("event {} has no body", num.0)))?;
            if event.pdu.membership() == Membership::Join {
                joins.insert(*num);
            }
        }
        Ok(joins)
    }
}
