//! Who is where: the rooms of this server's users, the members that each room has here, and the servers in it.
//!
//! Kept in memory and told of each change before anybody can see it ([`store::Projection`]), so it is never behind a view. It may be
//! ahead of one: what is asked as of a position is answered only if nothing of it moved since ([`Residents::rooms_of`] and its
//! like give `None`), and then the tables say it.
//!
//! Rooms, users and servers have numbers here, as small as ids are long, that hold until the process ends. No lock is about more than
//! one room, one user, or the numbers.

mod checkpoint;
mod names;

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::{Mutex, MutexGuard};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use store::{Held, LogEntry, LogRecord, Position, Projection};

pub(crate) use self::checkpoint::{CheckpointInfo, Part};
use self::names::Names;
use crate::{
    log::RoomAdvanced,
    types::{MemberChange, Membership},
};

/// What one member of a room takes: a number with the room and one with the user, with the spare room of lists that grow.
const MEMBERSHIP_BYTES: usize = 4 * size_of::<u32>();

/// See the module. Cloning is cheap.
#[derive(Clone)]
pub struct Residents(Arc<Inner>);

pub(crate) struct Inner {
    users: Names<OwnedUserId, Mutex<UserRooms>>,
    rooms: Names<OwnedRoomId, Mutex<RoomMembers>>,
    servers: Names<OwnedServerName, ()>,
    /// All is known from this position on; nothing is while this is [`Position::MAX`].
    filled: AtomicU64,
    /// What was told while the tables are being read.
    early: Mutex<Option<Vec<(Position, RoomAdvanced)>>>,
    /// How many users are in how many rooms, in sum.
    memberships: AtomicUsize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct UserRooms {
    /// Numbers of the rooms joined, ascending.
    rooms: Vec<u32>,
    /// The last change of their memberships.
    moved: Position,
}

#[derive(Default)]
struct RoomMembers {
    /// Numbers of this server's users who are joined, in no order.
    members: Vec<u32>,
    /// Numbers of the servers with users who are joined, this one among them, ascending.
    servers: Vec<u32>,
    /// The last change of either.
    moved: Position,
    /// Who left of late, and when: those who are told of what happened before then.
    left: Vec<(Position, u32)>,
}

impl Inner {
    /// Nothing is known yet; what is told is kept until it is ([`Residents::fill`]).
    pub(crate) fn new(held: Held) -> Self {
        Self {
            users: Names::new(),
            rooms: Names::new(),
            servers: Names::new(),
            filled: AtomicU64::new(Position::MAX.get()),
            early: Mutex::new(Some(Vec::new())),
            memberships: AtomicUsize::new(0),
            held: Mutex::new(held),
        }
    }

    /// Whether what moved last at a position is as it was at another.
    fn knows(&self, moved: Position, at: Position) -> bool {
        moved.get().max(self.filled.load(Ordering::Acquire)) <= at.get()
    }

    /// What is known of a user; nothing for a number that nobody got.
    fn of_user(&self, user: u32) -> Option<MutexGuard<'_, UserRooms>> {
        self.users.slot(user).map(Mutex::lock)
    }

    /// What is known of a room; nothing for a number that none got.
    fn of_room(&self, room: u32) -> Option<MutexGuard<'_, RoomMembers>> {
        self.rooms.slot(room).map(Mutex::lock)
    }

    fn advance(&self, position: Position, entry: &RoomAdvanced) {
        if entry.members.is_empty() && entry.servers.is_empty() {
            return;
        }
        let room = self.rooms.number(&*entry.room);
        for MemberChange { user, new, .. } in &entry.members {
            self.move_user(room, self.users.number(&**user), *new == Membership::Join, position);
        }
        for (server, joined) in &entry.servers {
            self.move_server(room, self.servers.number(&**server), *joined, position);
        }
        self.count_held();
    }

    fn move_server(&self, room: u32, server: u32, joined: bool, position: Position) {
        if let Some(mut members) = self.of_room(room) {
            set(&mut members.servers, server, joined);
            members.moved = position;
        }
    }

    fn move_user(&self, room: u32, user: u32, joins: bool, position: Position) {
        let Some(mut rooms) = self.of_user(user) else { return };
        rooms.moved = position;
        if !set(&mut rooms.rooms, room, joins) {
            return;
        }
        drop(rooms);
        let Some(mut members) = self.of_room(room) else { return };
        members.moved = position;
        if joins {
            members.members.push(user);
        } else if let Some(at) = members.members.iter().position(|member| *member == user) {
            members.members.swap_remove(at);
            members.left.push((position, user));
        }
        drop(members);
        match joins {
            true => self.memberships.fetch_add(1, Ordering::Relaxed),
            false => self.memberships.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Forgets who is where but no numbers; what is told from here on is kept until all is known again.
    fn forget(&self) {
        let mut early = self.early.lock();
        early.get_or_insert_default();
        self.filled.store(Position::MAX.get(), Ordering::Release);
        for user in 0..self.users.count() {
            if let Some(mut rooms) = self.of_user(user) {
                rooms.rooms.clear();
            }
        }
        for room in 0..self.rooms.count() {
            if let Some(mut members) = self.of_room(room) {
                members.members.clear();
                members.servers.clear();
            }
        }
        self.memberships.store(0, Ordering::Relaxed);
    }

    fn count_held(&self) {
        let named = self.users.bytes() + self.rooms.bytes() + self.servers.bytes();
        self.held.lock().set(named + self.memberships.load(Ordering::Relaxed) * MEMBERSHIP_BYTES);
    }
}

impl Projection for Inner {
    fn apply(&self, records: &[LogRecord]) {
        for record in records.iter().filter(|record| record.kind == RoomAdvanced::KIND) {
            let entry = match RoomAdvanced::decode_entry(&record.payload) {
                Ok(entry) => entry,
                Err(error) => {
                    // From here on the tables are asked.
                    self.filled.store(Position::MAX.get(), Ordering::Release);
                    tracing::error!(%error, position = record.position.get(), "who is where can't be followed");
                    continue;
                }
            };
            match &mut *self.early.lock() {
                Some(early) => early.push((record.position, entry)),
                None => self.advance(record.position, &entry),
            }
        }
    }
}

impl Residents {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    /// The number of a local user, given if they have none yet.
    pub fn user(&self, user: &UserId) -> u32 {
        self.0.users.number(user)
    }

    /// The number of a room, given if it has none yet.
    pub fn room(&self, room: &RoomId) -> u32 {
        self.0.rooms.number(room)
    }

    /// The number of a local user, if they have one: those who are in a room do.
    pub fn known_user(&self, user: &UserId) -> Option<u32> {
        self.0.users.known(user)
    }

    /// The number of a room, if it has one: those with members do.
    pub fn known_room(&self, room: &RoomId) -> Option<u32> {
        self.0.rooms.known(room)
    }

    /// The user with this number.
    pub fn user_id(&self, user: u32) -> Option<&OwnedUserId> {
        self.0.users.id(user)
    }

    /// The room with this number.
    pub fn room_id(&self, room: u32) -> Option<&OwnedRoomId> {
        self.0.rooms.id(room)
    }

    /// How many rooms have numbers: those below this.
    pub fn room_count(&self) -> u32 {
        self.0.rooms.count()
    }

    /// How many users have numbers: those below this.
    pub fn user_count(&self) -> u32 {
        self.0.users.count()
    }

    /// The rooms that a user is joined to as of a position, ascending; `None` if that isn't known any more.
    pub fn rooms_of(&self, user: u32, at: Position) -> Option<Vec<u32>> {
        let rooms = self.0.of_user(user)?;
        self.0.knows(rooms.moved, at).then(|| rooms.rooms.clone())
    }

    /// The rooms that a user is joined to now, ascending.
    pub fn rooms_now(&self, user: u32) -> Vec<u32> {
        self.0.of_user(user).map(|rooms| rooms.rooms.clone()).unwrap_or_default()
    }

    /// Those of some rooms that a user is joined to now.
    pub fn joined_among(&self, user: u32, among: impl Iterator<Item = u32>) -> Vec<u32> {
        let Some(rooms) = self.0.of_user(user) else { return Vec::new() };
        among.filter(|room| rooms.rooms.binary_search(room).is_ok()).collect()
    }

    /// Whether a user is joined to a room as of a position; `None` if that isn't known any more.
    pub fn is_joined(&self, user: u32, room: u32, at: Position) -> Option<bool> {
        let rooms = self.0.of_user(user)?;
        self.0.knows(rooms.moved, at).then(|| rooms.rooms.binary_search(&room).is_ok())
    }

    /// The rooms that two users are joined to as of a position, ascending; `None` if that isn't known any more.
    pub fn common_rooms(&self, one: u32, other: u32, at: Position) -> Option<Vec<u32>> {
        let (one, other) = (self.rooms_of(one, at)?, self.rooms_of(other, at)?);
        let (mut few, many) = if one.len() < other.len() { (one, other) } else { (other, one) };
        few.retain(|room| many.binary_search(room).is_ok());
        Some(few)
    }

    /// The local users joined to a room as of a position, in no order; `None` if that isn't known any more.
    pub fn members_at(&self, room: u32, at: Position) -> Option<Vec<u32>> {
        let members = self.0.of_room(room)?;
        self.0.knows(members.moved, at).then(|| members.members.clone())
    }

    /// How many local users are joined to a room now.
    pub fn member_count(&self, room: u32) -> usize {
        self.0.of_room(room).map_or(0, |members| members.members.len())
    }

    /// Does something with each local user who is joined to a room now.
    pub fn each_member(&self, room: u32, each: impl FnMut(u32)) {
        if let Some(members) = self.0.of_room(room) {
            members.members.iter().copied().for_each(each);
        }
    }

    /// Adds to `found` the local users who were joined to a room just before a position, and maybe some who came since. Positions don't go
    /// back: who left before this one is forgotten.
    pub fn members_since(&self, room: u32, position: Position, found: &mut Vec<u32>) {
        let Some(mut members) = self.0.of_room(room) else { return };
        found.extend_from_slice(&members.members);
        members.left.retain(|(left, _)| *left >= position);
        for (_, user) in &members.left {
            if !found.contains(user) {
                found.push(*user);
            }
        }
    }

    /// The servers with users joined to a room as of a position; `None` if that isn't known any more.
    pub fn servers_at(&self, room: u32, at: Position) -> Option<Vec<OwnedServerName>> {
        let members = self.0.of_room(room)?;
        let names = members.servers.iter().filter_map(|server| self.0.servers.id(*server));
        self.0.knows(members.moved, at).then(|| names.cloned().collect())
    }

    /// Whether a server has users joined to a room as of a position; `None` if that isn't known any more.
    pub fn is_server_joined(&self, room: u32, server: &ServerName, at: Position) -> Option<bool> {
        let members = self.0.of_room(room)?;
        let number = self.0.servers.known(server);
        let joined = number.is_some_and(|server| members.servers.binary_search(&server).is_ok());
        self.0.knows(members.moved, at).then_some(joined)
    }

    /// Whether all is known as of a position: who has no number then is in no room.
    pub fn is_filled(&self, at: Position) -> bool {
        self.0.knows(Position::ZERO, at)
    }
}

/// Puts a number into a list in order or takes it out. Whether that changed the list.
fn set(numbers: &mut Vec<u32>, number: u32, there: bool) -> bool {
    match (numbers.binary_search(&number), there) {
        (Err(at), true) => numbers.insert(at, number),
        (Ok(at), false) => drop(numbers.remove(at)),
        _ => return false,
    }
    true
}
