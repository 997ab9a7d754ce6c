//! Who is typing where. In memory only: it means nothing after a restart.
//!
//! Specification: client-server API, "Typing Notifications".

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use event::Clock;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use store::View;
use tokio::sync::watch;

use crate::{Rooms, RoomsError, types::Membership};

/// How long one notification lasts if the client doesn't say.
pub const TYPING_TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// The longest that one notification lasts, whatever the client says.
pub const TYPING_TIMEOUT_MS_MAX: u64 = 120_000;

/// Users that are remembered as typing in one room; more are not shown.
pub const TYPING_USERS_MAX: usize = 100;

/// Rooms that are remembered, those in which typing stopped lately included.
pub const TYPING_ROOMS_MAX: usize = 20_000;

/// Who is typing in each room.
///
/// Every change gets the next number of a sequence that starts anew with the process; followers
/// remember a number and ask what changed since.
pub struct Typing {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    sequence: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    rooms: HashMap<OwnedRoomId, RoomTyping>,
    /// Rooms in which somebody types.
    active: BTreeSet<OwnedRoomId>,
    /// Rooms by the number of their last change.
    changes: BTreeMap<u64, OwnedRoomId>,
    /// The number of the last change.
    last: u64,
    /// Changes up to this number may be forgotten.
    forgotten: u64,
}

#[derive(Default)]
struct RoomTyping {
    /// Until when (Unix ms) each user types.
    until: BTreeMap<OwnedUserId, u64>,
    /// The number of the room's last change.
    changed: u64,
}

impl Typing {
    /// Nobody is typing.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), sequence: watch::Sender::new(0) }
    }

    /// A user types for the next `timeout_ms` milliseconds (at most [`TYPING_TIMEOUT_MS_MAX`]).
    ///
    /// Membership is the caller's to check.
    pub fn start(&self, room: &RoomId, user: &UserId, timeout_ms: u64) {
        let until = self.clock.now_ms().saturating_add(timeout_ms.min(TYPING_TIMEOUT_MS_MAX));
        let mut state = self.lock();
        let typing = state.rooms.entry(room.to_owned()).or_default();
        if typing.until.len() >= TYPING_USERS_MAX && !typing.until.contains_key(user) {
            return;
        }
        let before = typing.until.insert(user.to_owned(), until);
        if before.is_none() {
            state.active.insert(room.to_owned());
            self.changed(&mut state, room);
        }
    }

    /// A user types no more.
    pub fn stop(&self, room: &RoomId, user: &UserId) {
        let mut state = self.lock();
        let removed = state.rooms.get_mut(room).and_then(|typing| typing.until.remove(user));
        if removed.is_some() {
            self.changed(&mut state, room);
        }
    }

    /// A user types no more in any room.
    pub fn stop_everywhere(&self, user: &UserId) {
        let mut state = self.lock();
        let mut ended = Vec::new();
        let State { rooms, active, .. } = &mut *state;
        for room in &*active {
            if rooms.get_mut(room).is_some_and(|typing| typing.until.remove(user).is_some()) {
                ended.push(room.clone());
            }
        }
        for room in ended {
            self.changed(&mut state, &room);
        }
    }

    /// Tells the followers of a room once more, for those who put off what they were told.
    pub fn announce(&self, room: &RoomId) {
        let mut state = self.lock();
        self.changed(&mut state, room);
    }

    /// Who types in a room now, in order of their ids.
    pub fn users(&self, room: &RoomId) -> Vec<OwnedUserId> {
        let now = self.clock.now_ms();
        let state = self.lock();
        let Some(typing) = state.rooms.get(room) else { return Vec::new() };
        let mut users = Vec::with_capacity(typing.until.len());
        for (user, until) in &typing.until {
            if *until > now {
                users.push(user.clone());
            }
        }
        users
    }

    /// The number of the last change.
    pub fn sequence(&self) -> u64 {
        self.lock().last
    }

    /// The number of a room's last change, 0 if it had none lately.
    pub fn changed_at(&self, room: &RoomId) -> u64 {
        self.lock().rooms.get(room).map_or(0, |typing| typing.changed)
    }

    /// Rooms whose typing users changed after the change `since`, and the number of the last change.
    /// `None` if some of these changes are forgotten: then every room may have changed.
    pub fn changed_since(&self, since: u64) -> Option<(Vec<OwnedRoomId>, u64)> {
        let state = self.lock();
        if since < state.forgotten {
            return None;
        }
        let rooms = state.changes.range(since.saturating_add(1)..).map(|(_, room)| room.clone());
        Some((rooms.collect(), state.last))
    }

    /// Wakes with the number of the last change, whenever there is one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.sequence.subscribe()
    }

    /// Ends what has timed out, so that followers hear of it. To be called about once a second.
    /// Returns when (Unix ms) the next one ends.
    pub fn expire(&self) -> Option<u64> {
        let now = self.clock.now_ms();
        let mut state = self.lock();
        let mut ended = Vec::new();
        let mut next: Option<u64> = None;
        let State { rooms, active, .. } = &mut *state;
        active.retain(|room| {
            let Some(typing) = rooms.get_mut(room) else { return false };
            let before = typing.until.len();
            typing.until.retain(|_, until| *until > now);
            if typing.until.len() < before {
                ended.push(room.clone());
            }
            let first = typing.until.values().min().copied();
            next = [next, first].into_iter().flatten().min();
            !typing.until.is_empty()
        });
        for room in ended {
            self.changed(&mut state, &room);
        }
        next
    }

    /// Gives a room's change the next number and tells the followers.
    fn changed(&self, state: &mut State, room: &RoomId) {
        state.last += 1;
        let number = state.last;
        let typing = state.rooms.entry(room.to_owned()).or_default();
        let before = std::mem::replace(&mut typing.changed, number);
        state.changes.remove(&before);
        state.changes.insert(number, room.to_owned());
        while state.changes.len() > TYPING_ROOMS_MAX {
            let Some((oldest, room)) = state.changes.pop_first() else { break };
            state.rooms.remove(&room);
            state.active.remove(&room);
            state.forgotten = oldest;
        }
        // Under the lock, so that the numbers that followers see only go up.
        self.sequence.send_replace(number);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in a critical section panics half-way; a poisoned lock still guards whole values.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    /// Who is typing where.
    pub fn typing(&self) -> &Typing {
        &self.inner.typing
    }

    /// Notes that a local user types for `timeout_ms` milliseconds, or with `None` that they stopped.
    ///
    /// Fails with [`RoomsError::NotJoined`] if the user isn't in the room.
    pub async fn set_typing(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
        timeout_ms: Option<u64>,
    ) -> Result<(), RoomsError> {
        self.check_joined(view, room, user).await?;
        let Some(timeout_ms) = timeout_ms else {
            self.typing().stop(room, user);
            return Ok(());
        };
        self.typing().start(room, user, timeout_ms);
        // Who left meanwhile was taken out of those who type before they were among them.
        let joined = self.check_joined(&self.inner.store.view().await?, room, user).await;
        if joined.is_err() {
            self.typing().stop(room, user);
        }
        joined
    }

    /// Notes what another server says of one of its users. Dropped if the user isn't in the room.
    pub async fn receive_typing(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
        typing: bool,
    ) -> Result<(), RoomsError> {
        if !typing {
            self.typing().stop(room, user);
            return Ok(());
        }
        if !self.is_member(view, user, room).await? {
            return Ok(());
        }
        self.typing().start(room, user, TYPING_TIMEOUT_MS_DEFAULT);
        // As in `set_typing`.
        if !self.is_member(&self.inner.store.view().await?, user, room).await? {
            self.typing().stop(room, user);
        }
        Ok(())
    }

    async fn is_member(&self, view: &View, user: &UserId, room: &RoomId) -> Result<bool, RoomsError> {
        let Some(head) = self.head(view, room).await? else { return Ok(false) };
        Ok(self.state(view, room, head.root).membership(user).await? == Membership::Join)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use ruma::{room_id, user_id};

    use super::*;

    #[derive(Default)]
    struct Hands(AtomicU64);

    impl Clock for Hands {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn typing_starts_stops_and_times_out() {
        let clock = Arc::new(Hands::default());
        let typing = Typing::new(clock.clone());
        let (room, alice, bob) = (room_id!("!r:h"), user_id!("@a:h"), user_id!("@b:h"));
        typing.start(room, alice, 1_000);
        typing.start(room, bob, u64::MAX);
        assert_eq!(typing.users(room), [alice, bob]);
        assert_eq!(typing.changed_since(0), Some((vec![room.to_owned()], 2)));
        assert_eq!(typing.changed_since(2), Some((vec![], 2)));

        // Saying so again is no change.
        typing.start(room, alice, 2_000);
        assert_eq!(typing.sequence(), 2);

        clock.0.store(2_000, Ordering::Relaxed);
        assert_eq!(typing.users(room), [bob]);
        assert_eq!(typing.sequence(), 2);
        assert_eq!(typing.expire(), Some(TYPING_TIMEOUT_MS_MAX));
        assert_eq!(typing.changed_since(2), Some((vec![room.to_owned()], 3)));

        typing.stop(room, bob);
        assert_eq!(typing.users(room), Vec::<OwnedUserId>::new());
        assert_eq!(typing.changed_at(room), 4);
        assert_eq!(typing.expire(), None);

        let other = room_id!("!other:h");
        typing.start(room, alice, 1_000);
        typing.start(other, alice, 1_000);
        typing.start(other, bob, 1_000);
        typing.stop_everywhere(alice);
        assert_eq!((typing.users(room), typing.users(other)), (vec![], vec![bob.to_owned()]));
        assert_eq!(typing.changed_since(7), Some((vec![other.to_owned(), room.to_owned()], 9)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let typing = Typing::new(Arc::new(Hands::default()));
        let alice = user_id!("@a:h");
        for number in 0..=TYPING_ROOMS_MAX {
            let room = RoomId::parse(format!("!{number}:h")).expect("a room id");
            typing.start(&room, alice, 1_000);
        }
        assert_eq!(typing.changed_since(0), None);
        let rooms = typing.changed_since(1).map(|(rooms, _)| rooms.len());
        assert_eq!(rooms, Some(TYPING_ROOMS_MAX));

        let room = room_id!("!crowd:h");
        for number in 0..=TYPING_USERS_MAX {
            let user = UserId::parse(format!("@{number}:h")).expect("a user id");
            typing.start(room, &user, 1_000);
        }
        assert_eq!(typing.users(room).len(), TYPING_USERS_MAX);
    }
}
