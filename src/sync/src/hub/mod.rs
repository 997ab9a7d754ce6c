//! The hub: which local users are in which rooms, the tails of rooms, and the inboxes of users, all in memory.
//!
//! The notifier writes it as it follows the log; polls read it. Routing a change costs one step for each local user that it
//! concerns and who has an inbox, and never touches the disk.

mod routing;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rooms::{EventNum, MemberChange};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use state_tree::Root;
use store::{Held, Position, View};
use tokio::{sync::watch, time::Instant};

use crate::{
    Config,
    inbox::{Inbox, Item, Kind},
    memo::Memo,
    tail::{Tail, TailRange},
};

/// How long a request waits at its start for the notifier to catch up with what was written before.
const CATCH_UP_WAIT_MAX: Duration = Duration::from_secs(5);

/// What the tail of a room takes in memory.
const TAIL_BYTES: usize = 2_000;

/// What a list of a room or user takes for each other that is in it, with the spare room of a list that grows.
const LISTED_BYTES: usize = 2 * size_of::<u32>();

/// What an id takes on the heap.
const ID_BYTES: usize = 48;

/// What polls read from: everything up to the view's position has been routed to the inboxes.
pub(crate) struct Published {
    /// All durable reads of a sync go through this view; its position is the sync's `now`.
    pub(crate) view: View,
    /// What was read through the view.
    pub(crate) memo: Arc<Memo>,
    /// Typing changes up to here are routed.
    pub(crate) typing: u64,
    /// Presence changes up to here are routed.
    pub(crate) presence: u64,
}

/// An inbox to be woken once what was put into it can be read.
pub(crate) struct Touched {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) urgent: bool,
}

/// One advance of a room, as the notifier reads it from the log.
pub(crate) struct RoomMove<'a> {
    pub(crate) room: &'a RoomId,
    pub(crate) position: Position,
    pub(crate) event: Option<EventNum>,
    /// Whether the event is by a user of this server.
    pub(crate) local: bool,
    pub(crate) old_root: Root,
    pub(crate) new_root: Root,
    pub(crate) members: &'a [MemberChange],
    /// Whether it is encrypted now, if that changed.
    pub(crate) encrypted: Option<bool>,
}

/// See the module.
pub(crate) struct Hub {
    state: Mutex<State>,
    pub(crate) published: watch::Sender<Arc<Published>>,
    pub(crate) closing: watch::Sender<bool>,
}

#[derive(Default)]
pub(crate) struct State {
    room_numbers: HashMap<OwnedRoomId, u32>,
    rooms: Vec<RoomSlot>,
    user_numbers: HashMap<OwnedUserId, u32>,
    users: Vec<UserSlot>,
    /// The rooms that have a tail, by when they were last found to advance.
    tailed: VecDeque<u32>,
    tails_max: usize,
    /// Rooms in which somebody is typing.
    typing: HashSet<u32>,
    /// Large rooms whose typing is to be routed, with the seconds until then.
    late_typing: HashMap<u32, usize>,
    /// Things put into inboxes.
    routed_count: u64,
    /// What has been routed so far; may be ahead of what is published.
    routed: Routed,
    /// Where the hub was filled from the tables; beyond everything while it is being filled.
    loaded: Position,
    /// Rooms with more members than this are large.
    large_room_members: usize,
    /// How many users are in how many rooms, in sum.
    memberships: usize,
    /// What who is where takes in memory: every change is routed by it, so none of it can be given up.
    held: Held,
}

/// How far the notifier is: the last changes of the log and of what is volatile.
#[derive(Copy, Clone, Default)]
pub(crate) struct Routed {
    pub(crate) position: Position,
    pub(crate) typing: u64,
    pub(crate) presence: u64,
}

struct RoomSlot {
    id: OwnedRoomId,
    /// Numbers of the local users joined to it, in no order.
    members: Vec<u32>,
    /// Position of its last advance.
    last: Position,
    /// No receipt moved after the first of these and up to the second, where the second is the last one known to have moved.
    receipts: (Position, Position),
    /// Position of the last change of its state; `None` if nobody has looked and none was routed.
    state_moved: Option<Position>,
    /// Whether it is encrypted, if that is known.
    encrypted: Option<bool>,
    /// Position of the last change of its encryption that was routed.
    encryption_moved: Position,
    tail: Option<Tail>,
    /// Whether it advanced since it was last looked whether its tail is worth keeping.
    has_advanced: bool,
}

struct UserSlot {
    id: OwnedUserId,
    /// Numbers of the rooms joined, ascending.
    rooms: Vec<u32>,
    /// Those of them that are large, ascending.
    large: Vec<u32>,
    /// Position of the last change of their memberships that was routed.
    moved: Position,
    inbox: Option<Arc<Inbox>>,
}

impl Hub {
    /// An empty hub, to be filled through [`Hub::state`] before the notifier starts.
    pub(crate) fn new(published: Published, config: &Config, held: Held) -> Self {
        let routed =
            Routed { position: published.view.position(), typing: published.typing, presence: published.presence };
        let state = State {
            routed,
            loaded: Position::MAX,
            large_room_members: config.large_room_members,
            tails_max: config.half_of_cache() / TAIL_BYTES,
            held,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            published: watch::Sender::new(Arc::new(published)),
            closing: watch::Sender::new(false),
        }
    }

    /// The maps. Held only for moments, never across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What polls read from now.
    pub(crate) fn published(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }

    /// Waits until everything up to `to` is routed and published, but not for ever if the notifier can't go on.
    pub(crate) async fn wait_for(&self, to: Routed) {
        let reached = |published: &Arc<Published>| {
            published.view.position() >= to.position
                && published.typing >= to.typing
                && published.presence >= to.presence
        };
        if reached(&self.published.borrow()) {
            return;
        }
        // Boxed, because hardly anybody has to wait here.
        let wait = Box::pin(async {
            let mut published = self.published.subscribe();
            tokio::select! {
                () = async { drop(published.wait_for(reached).await) } => {}
                () = self.over(Instant::now() + CATCH_UP_WAIT_MAX) => {}
            }
        });
        wait.await;
    }

    /// Waits until a deadline, or until no poll is to wait any more.
    pub(crate) async fn over(&self, deadline: Instant) {
        let mut closing = self.closing.subscribe();
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {}
            () = async { drop(closing.wait_for(|closing| *closing).await) } => {}
        }
    }
}

impl State {
    /// The number of a room, given if it has none yet.
    fn room(&mut self, id: &RoomId) -> u32 {
        if let Some(number) = self.room_numbers.get(id) {
            return *number;
        }
        let number = u32::try_from(self.rooms.len()).unwrap_or(Item::ACCOUNT);
        self.rooms.push(RoomSlot {
            id: id.to_owned(),
            members: Vec::new(),
            last: Position::ZERO,
            receipts: (Position::MAX, Position::ZERO),
            state_moved: None,
            encrypted: None,
            encryption_moved: Position::ZERO,
            tail: None,
            has_advanced: false,
        });
        self.room_numbers.insert(id.to_owned(), number);
        number
    }

    /// The number of a local user, given if they have none yet.
    pub(crate) fn user(&mut self, id: &UserId) -> u32 {
        if let Some(number) = self.user_numbers.get(id) {
            return *number;
        }
        let number = u32::try_from(self.users.len()).unwrap_or(Item::ACCOUNT);
        let id = id.to_owned();
        self.user_numbers.insert(id.clone(), number);
        let (rooms, large, moved) = (Vec::new(), Vec::new(), Position::ZERO);
        self.users.push(UserSlot { id, rooms, large, moved, inbox: None });
        number
    }

    /// Takes their tails from rooms that have not advanced for long, if there are too many.
    fn forget_tails(&mut self) {
        while self.tailed.len() > self.tails_max {
            let Some(room) = self.tailed.pop_front() else { return };
            let slot = &mut self.rooms[room as usize];
            // Ends: each room is passed over once at most.
            if std::mem::take(&mut slot.has_advanced) {
                self.tailed.push_back(room);
            } else {
                slot.tail = None;
            }
        }
    }

    /// Forgets who is where and what the tails say, but neither numbers nor inboxes. It is to be filled with what the tables
    /// say.
    pub(crate) fn clear(&mut self) {
        self.loaded = Position::MAX;
        self.memberships = 0;
        self.tailed.clear();
        for slot in &mut self.rooms {
            slot.members.clear();
            slot.tail = None;
            slot.has_advanced = false;
            slot.state_moved = None;
            slot.encrypted = None;
            slot.encryption_moved = Position::ZERO;
            slot.receipts = (Position::MAX, Position::ZERO);
        }
        for slot in &mut self.users {
            slot.rooms.clear();
            slot.large.clear();
            slot.moved = Position::ZERO;
        }
    }

    /// Notes that it holds what the tables say at `position`.
    pub(crate) fn filled(&mut self, position: Position) {
        self.loaded = position;
        // They were filled one by one, and few will change.
        for slot in &mut self.rooms {
            slot.members.shrink_to_fit();
        }
        for slot in &mut self.users {
            slot.rooms.shrink_to_fit();
        }
        self.count_held();
    }

    /// Counts what who is where takes.
    fn count_held(&mut self) {
        let id = 2 * (ID_BYTES + size_of::<(OwnedRoomId, u32)>());
        let rooms = self.rooms.len() * (size_of::<RoomSlot>() + id);
        let users = self.users.len() * (size_of::<UserSlot>() + id);
        self.held.set(rooms + users + self.memberships * 2 * LISTED_BYTES);
    }

    /// Notes that a local user is in a room.
    pub(crate) fn join(&mut self, room: &RoomId, user: &UserId) {
        let (room, user) = (self.room(room), self.user(user));
        let slot = &mut self.users[user as usize];
        if holds(&slot.rooms, room) {
            return;
        }
        insert(&mut slot.rooms, room);
        self.memberships += 1;
        let members = &mut self.rooms[room as usize].members;
        members.push(user);
        if members.len() == self.large_room_members + 1 {
            for member in &*members {
                insert(&mut self.users[*member as usize].large, room);
            }
        } else if members.len() > self.large_room_members {
            insert(&mut slot.large, room);
        }
        self.count_held();
    }

    fn leave(&mut self, room: u32, user: u32) {
        let slot = &mut self.users[user as usize];
        if !holds(&slot.rooms, room) {
            return;
        }
        remove(&mut slot.rooms, room);
        remove(&mut slot.large, room);
        self.memberships -= 1;
        let members = &mut self.rooms[room as usize].members;
        if let Some(at) = members.iter().position(|number| *number == user) {
            members.swap_remove(at);
        }
        if members.len() == self.large_room_members {
            for member in &*members {
                remove(&mut self.users[*member as usize].large, room);
            }
        }
        self.count_held();
    }

    /// Notes the last advance of a room at start.
    pub(crate) fn set_last(&mut self, room: &RoomId, last: Position) {
        let room = self.room(room);
        self.rooms[room as usize].last = last;
    }

    /// The user's number and inbox, which is made if there is none. `wants_presence`: the poll wants it.
    pub(crate) fn inbox(&mut self, user: &UserId, now_ms: u64, wants_presence: bool) -> (u32, Arc<Inbox>) {
        let number = self.user(user);
        let Routed { position, typing, presence } = self.routed;
        let slot = &mut self.users[number as usize];
        let fresh = || Arc::new(Inbox::new(position, typing, presence, now_ms));
        let inbox = slot.inbox.get_or_insert_with(fresh).clone();
        inbox.touch(now_ms);
        if wants_presence {
            inbox.want_presence(now_ms, presence);
        }
        (number, inbox)
    }

    /// Removes the inboxes that no poll has used since `before_ms` (Unix ms) and none waits at, and lists presence in those alone
    /// where it was wanted since then.
    pub(crate) fn drop_idle_inboxes(&mut self, before_ms: u64) {
        for slot in &mut self.users {
            let Some(inbox) = &slot.inbox else { continue };
            // One waits no longer than that.
            inbox.forget_presence(before_ms);
            if inbox.used_ms() < before_ms && Arc::strong_count(inbox) == 1 {
                slot.inbox = None;
            }
        }
    }

    /// How many things were put into inboxes so far.
    pub(crate) fn routed_count(&self) -> u64 {
        self.routed_count
    }

    /// The inboxes that exist.
    pub(crate) fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.users.iter().filter_map(|slot| slot.inbox.clone()).collect()
    }

    /// How far the notifier is.
    pub(crate) fn routed(&mut self) -> &mut Routed {
        &mut self.routed
    }

    /// The number of a room, if it has one.
    pub(crate) fn room_number(&self, room: &RoomId) -> Option<u32> {
        self.room_numbers.get(room).copied()
    }

    /// The room with this number.
    pub(crate) fn room_id(&self, room: u32) -> Option<&RoomId> {
        self.rooms.get(room as usize).map(|slot| &*slot.id)
    }

    /// The number of a local user, if they have one.
    pub(crate) fn user_number(&self, user: &UserId) -> Option<u32> {
        self.user_numbers.get(user).copied()
    }

    /// The user with this number.
    pub(crate) fn user_id(&self, user: u32) -> Option<&UserId> {
        self.users.get(user as usize).map(|slot| &*slot.id)
    }

    /// The numbers of the rooms that a user is in, ascending.
    fn joined(&self, user: u32) -> &[u32] {
        self.users.get(user as usize).map_or(&[], |slot| &slot.rooms)
    }

    /// The numbers of the user's rooms in which somebody is typing.
    pub(crate) fn typing_in(&self, user: u32) -> Vec<u32> {
        let joined = self.joined(user);
        self.typing.iter().copied().filter(|room| holds(joined, *room)).collect()
    }

    /// Whether a room advanced after `since`.
    pub(crate) fn advanced_since(&self, room: u32, since: Position) -> bool {
        self.rooms.get(room as usize).is_some_and(|slot| slot.last > since)
    }

    /// Where the state of a room changed last, if that is known.
    pub(crate) fn state_moved(&self, room: u32) -> Option<Position> {
        self.rooms.get(room as usize)?.state_moved
    }

    /// Notes where the state of a room changed last, as a view at `read_at` says.
    pub(crate) fn learn_state_moved(&mut self, room: u32, moved: Position, read_at: Position) {
        // A view of before the hub was filled doesn't know what happened until then, and nobody routed it.
        if read_at >= self.loaded
            && let Some(slot) = self.rooms.get_mut(room as usize)
        {
            slot.state_moved = slot.state_moved.max(Some(moved));
        }
    }

    /// Whether a room is encrypted from `at` on, if that is known.
    pub(crate) fn encrypted_since(&self, room: u32, at: Position) -> Option<bool> {
        let slot = self.rooms.get(room as usize)?;
        slot.encrypted.filter(|_| slot.encryption_moved.max(self.loaded) <= at)
    }

    /// Notes whether a room was encrypted at a position, as a view that reaches there says.
    pub(crate) fn learn_encrypted(&mut self, room: u32, at: Position, encrypted: bool) {
        let loaded = self.loaded;
        if let Some(slot) = self.rooms.get_mut(room as usize)
            && slot.encryption_moved.max(loaded) <= at
        {
            slot.encrypted = Some(encrypted);
        }
    }

    /// The rooms that a user is in from `at` on, if that is known.
    pub(crate) fn joined_since(&self, user: u32, at: Position) -> Option<&[u32]> {
        let slot = self.users.get(user as usize)?;
        (slot.moved.max(self.loaded) <= at).then_some(&*slot.rooms)
    }

    /// The rooms that a user is in together with another local user from `at` on, if that is known.
    pub(crate) fn common_rooms(&self, user: u32, other: &UserId, at: Position) -> Option<Vec<u32>> {
        let Some(other) = self.user_number(other) else {
            // They were in no room since the hub was filled.
            return (self.loaded <= at).then(Vec::new);
        };
        let (user, other) = (self.users.get(user as usize)?, self.users.get(other as usize)?);
        if user.moved.max(other.moved).max(self.loaded) > at {
            return None;
        }
        let (few, many) = if user.rooms.len() < other.rooms.len() { (user, other) } else { (other, user) };
        Some(few.rooms.iter().copied().filter(|room| holds(&many.rooms, *room)).collect())
    }

    /// The local members of a room.
    pub(crate) fn members(&self, room: u32) -> Vec<OwnedUserId> {
        let members = self.rooms.get(room as usize).map_or(&[][..], |room| &room.members);
        members.iter().map(|user| self.users[*user as usize].id.clone()).collect()
    }

    /// The numbers of the user's large rooms in which a receipt may have moved after `since`: it was not routed to all of them.
    pub(crate) fn large_rooms_with_receipts(&self, user: u32, since: Position) -> Vec<u32> {
        let large = self.users.get(user as usize).map_or(&[][..], |slot| &slot.large);
        large.iter().copied().filter(|room| self.receipts_since(*room, since)).collect()
    }

    /// Whether a receipt may have moved in a room after `since`.
    pub(crate) fn receipts_since(&self, room: u32, since: Position) -> bool {
        let Some(slot) = self.rooms.get(room as usize) else {
            return false;
        };
        let (quiet_from, last) = slot.receipts;
        since < last || since < quiet_from
    }

    /// Notes that the tables hold no receipt of a room in `(from, until]`.
    pub(crate) fn receipts_quiet(&mut self, room: u32, from: Position, until: Position) {
        if let Some(slot) = self.rooms.get_mut(room as usize)
            && slot.receipts.1 <= until
        {
            slot.receipts.0 = slot.receipts.0.min(from);
        }
    }

    /// A position since when neither the user's membership of a room nor their receipts in it moved, if that is known.
    pub(crate) fn unmoved_since(&self, user: u32, room: u32) -> Option<Position> {
        let inbox = self.users.get(user as usize)?.inbox.as_ref()?;
        let since = inbox.shelves().log.unchanged_since(room, &[Kind::Membership, Kind::OwnReceipt]);
        Some(Position::from_u64(since))
    }

    /// What a room's tail knows of `(since, until]`.
    pub(crate) fn tail(&self, room: u32, since: Position, until: Position) -> Option<TailRange> {
        self.rooms.get(room as usize)?.tail.as_ref()?.range(since, until)
    }
}

/// Whether a list of numbers in order holds this one.
fn holds(numbers: &[u32], number: u32) -> bool {
    numbers.binary_search(&number).is_ok()
}

/// Puts a number into a list in order.
fn insert(numbers: &mut Vec<u32>, number: u32) {
    if let Err(at) = numbers.binary_search(&number) {
        numbers.insert(at, number);
    }
}

/// Takes a number out of a list in order.
fn remove(numbers: &mut Vec<u32>, number: u32) {
    if let Ok(at) = numbers.binary_search(&number) {
        numbers.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LARGE: usize = 3;

    proptest! {
        /// Whoever comes and goes, it is known of each user in which rooms they are and which of these are large.
        #[test]
        fn each_user_knows_their_large_rooms(moves in prop::collection::vec((0..4_u8, 0..8_u8, any::<bool>()), 0..200)) {
            let mut state = State { large_room_members: LARGE, ..State::default() };
            let mut members = std::collections::BTreeMap::<u8, std::collections::BTreeSet<u8>>::new();
            for (room, user, joins) in moves {
                let (room_id, user_id) = (format!("!{room}:h"), format!("@{user}:h"));
                let (room_id, user_id) = (RoomId::parse(room_id).unwrap(), UserId::parse(user_id).unwrap());
                if joins {
                    state.join(&room_id, &user_id);
                    members.entry(room).or_default().insert(user);
                } else {
                    let numbers = (state.room(&room_id), state.user(&user_id));
                    state.leave(numbers.0, numbers.1);
                    members.entry(room).or_default().remove(&user);
                }
                prop_assert_eq!(state.memberships, members.values().map(|members| members.len()).sum::<usize>());
                for user in 0..8 {
                    let user_id = UserId::parse(format!("@{user}:h")).unwrap();
                    let Some(number) = state.user_number(&user_id) else { continue };
                    let is_in = |room: &u8| members.get(room).is_some_and(|members| members.contains(&user));
                    let is_large = |room: &u8| members[room].len() > LARGE;
                    let numbers = |rooms: Vec<u8>| {
                        let number = |room: u8| state.room_number(&RoomId::parse(format!("!{room}:h")).unwrap()).unwrap();
                        let mut numbers: Vec<u32> = rooms.into_iter().map(number).collect();
                        numbers.sort_unstable();
                        numbers
                    };
                    let joined: Vec<u8> = (0..4).filter(is_in).collect();
                    let large: Vec<u8> = joined.iter().copied().filter(is_large).collect();
                    let slot = &state.users[number as usize];
                    prop_assert_eq!(&slot.rooms, &numbers(joined));
                    prop_assert_eq!(&slot.large, &numbers(large));
                }
            }
        }
    }
}
