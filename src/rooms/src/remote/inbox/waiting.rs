//! What is known in memory of the inboxes of all rooms: what waits, where it is up to, and whose turn is next.
//!
//! A row is in one place at a time: ready to be tried with what is at hand, under way, waiting for its turn to ask other servers (an
//! *errand*), or waiting for the time of its next attempt.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use store::{Counter, Range, Store};
use tokio::sync::Notify;

use super::{
    ERRANDS_MAX, INBOX_BYTES_MAX, INBOX_ORIGIN_BYTES_MAX, INBOX_ORIGIN_EVENTS_MAX, INBOX_ROOM_EVENTS_MAX,
    INBOX_SHARE_BYTES, INBOX_SHARE_EVENTS, ORIGIN_ERRANDS_MAX, ROOM_ERRANDS_MAX,
};
use crate::{
    RoomsError,
    tables::{Inbox, Quarantine},
};

/// Rows of the whole inbox read at once at the start: a few MiB, however large their events are.
const LOAD_ROWS: usize = 100;

/// Name of the counter that orders the rows of a room.
const SEQUENCE_COUNTER: &str = "inbox";

/// A row of the inbox.
pub(super) type RowKey = (OwnedRoomId, u64);

/// What is known in memory of the inboxes of all rooms.
pub(crate) struct Inboxes {
    waiting: Mutex<Waiting>,
    /// Told when something came that can be worked on.
    pub(super) arrived: Notify,
    pub(super) sequence: Counter,
}

#[derive(Default)]
pub(super) struct Waiting {
    /// Rows by room and origin.
    counts: BTreeMap<OwnedRoomId, HashMap<String, usize>>,
    /// Bytes of events by origin.
    bytes: HashMap<String, usize>,
    /// Rows to be tried, in the order in which they came.
    ready: BTreeMap<OwnedRoomId, BTreeSet<u64>>,
    /// Rows to be tried again, by when (Unix ms).
    later: BTreeSet<(u64, OwnedRoomId, u64)>,
    /// Rooms that somebody works on.
    busy: HashSet<OwnedRoomId>,
    /// The room that was taken last.
    last_room: Option<OwnedRoomId>,
    /// Rows for which other servers have to be asked, by origin and room.
    errands: BTreeMap<OwnedServerName, BTreeMap<OwnedRoomId, BTreeSet<u64>>>,
    /// Errands under way: one of a server in a room at a time, because what one brings mostly settles the next.
    under_way: HashSet<(OwnedServerName, OwnedRoomId)>,
    /// The server for which the last errand was begun.
    last_origin: Option<OwnedServerName>,
    /// Rows in quarantine: from whom, and when they are looked at again (Unix ms).
    pub(super) quarantined: BTreeMap<RowKey, (String, u64)>,
}

/// An errand that may begin.
pub(super) struct Errand {
    pub(super) origin: OwnedServerName,
    pub(super) room: OwnedRoomId,
    pub(super) sequence: u64,
}

impl Inboxes {
    pub(crate) async fn load(store: &Store) -> Result<Self, RoomsError> {
        let mut waiting = Waiting::default();
        let view = store.view().await?;
        let mut next = Some(Range::<Inbox>::all().limit(LOAD_ROWS));
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for ((room, sequence), row) in page.rows {
                let room = room.into_inner();
                waiting.count(&room, &row.origin, row.json.len());
                waiting.make_ready(&room, [sequence]);
            }
            next = page.next;
        }
        let mut next = Some(Range::<Quarantine>::all().limit(LOAD_ROWS));
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for ((room, sequence), row) in page.rows {
                waiting.quarantined.insert((room.into_inner(), sequence), (row.origin, row.again_ms));
            }
            next = page.next;
        }
        let sequence = store.counter(SEQUENCE_COUNTER).await?;
        Ok(Self { waiting: Mutex::new(waiting), arrived: Notify::new(), sequence })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Counts rows that are about to be written. Fails with [`RoomsError::LimitExceeded`] if there is no space for all of them.
    pub(super) fn reserve(&mut self, room: &RoomId, origin: &str, sizes: &[usize]) -> Result<(), RoomsError> {
        let bytes: usize = sizes.iter().sum();
        let counts = self.counts.get(room);
        let in_room: usize = counts.map_or(0, |counts| counts.values().sum());
        let of_origin = counts.and_then(|counts| counts.get(origin)).copied().unwrap_or(0);
        let bytes_of_origin = self.bytes.get(origin).copied().unwrap_or(0);
        let fits = in_room + sizes.len() <= INBOX_ROOM_EVENTS_MAX
            && of_origin + sizes.len() <= INBOX_ORIGIN_EVENTS_MAX
            && bytes_of_origin + bytes <= INBOX_ORIGIN_BYTES_MAX
            && self.bytes.values().sum::<usize>() + bytes <= INBOX_BYTES_MAX;
        // However much others sent, a little of each server is taken: a transaction that is refused holds up all that comes after it.
        let in_its_share =
            of_origin + sizes.len() <= INBOX_SHARE_EVENTS && bytes_of_origin + bytes <= INBOX_SHARE_BYTES;
        if !fits && !in_its_share {
            return Err(RoomsError::LimitExceeded("events waiting to be taken in".to_owned()));
        }
        for size in sizes {
            self.count(room, origin, *size);
        }
        Ok(())
    }

    fn count(&mut self, room: &RoomId, origin: &str, size: usize) {
        *self.counts.entry(room.to_owned()).or_default().entry(origin.to_owned()).or_default() += 1;
        *self.bytes.entry(origin.to_owned()).or_default() += size;
    }

    /// Forgets a row that is gone, or was not written.
    pub(super) fn release(&mut self, room: &RoomId, origin: &str, size: usize) {
        if let Some(bytes) = self.bytes.get_mut(origin) {
            *bytes = bytes.saturating_sub(size);
            if *bytes == 0 {
                self.bytes.remove(origin);
            }
        }
        let Some(counts) = self.counts.get_mut(room) else { return };
        if let Some(count) = counts.get_mut(origin) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(origin);
            }
        }
        if counts.is_empty() {
            self.counts.remove(room);
        }
    }

    /// Lets rows be tried.
    pub(super) fn make_ready(&mut self, room: &RoomId, sequences: impl IntoIterator<Item = u64>) {
        self.ready.entry(room.to_owned()).or_default().extend(sequences);
    }

    /// Lets a row be tried again from a time on (Unix ms).
    pub(super) fn put_off(&mut self, room: &RoomId, sequence: u64, due_ms: u64) {
        self.later.insert((due_ms, room.to_owned(), sequence));
    }

    fn make_due_ready(&mut self, now_ms: u64) {
        while let Some((due_ms, _, _)) = self.later.first()
            && *due_ms <= now_ms
            && let Some((_, room, sequence)) = self.later.pop_first()
        {
            self.make_ready(&room, [sequence]);
        }
    }

    /// A room with rows to be tried that nobody works on, each room in turn. It is the caller's until it is given back.
    pub(super) fn take_room(&mut self, now_ms: u64) -> Option<OwnedRoomId> {
        self.make_due_ready(now_ms);
        let is_later = |room: &OwnedRoomId| self.last_room.as_ref().is_none_or(|last| room > last);
        let mut free = self.ready.keys().filter(|room| !self.busy.contains(*room));
        let first = free.clone().next()?;
        let room = free.find(|room| is_later(room)).unwrap_or(first).clone();
        self.busy.insert(room.clone());
        self.last_room = Some(room.clone());
        Some(room)
    }

    pub(super) fn give_back(&mut self, room: &RoomId) {
        self.busy.remove(room);
    }

    /// The next row of a room to be tried.
    pub(super) fn take_ready(&mut self, room: &RoomId) -> Option<u64> {
        let ready = self.ready.get_mut(room)?;
        let sequence = ready.pop_first();
        if ready.is_empty() {
            self.ready.remove(room);
        }
        sequence
    }

    /// Makes all rows of a room ready whose time has come, and those that wait to ask others.
    pub(super) fn make_all_ready(&mut self, room: &RoomId, now_ms: u64) {
        self.make_due_ready(now_ms);
        let mut sequences = BTreeSet::new();
        for rooms in self.errands.values_mut() {
            sequences.extend(rooms.remove(room).unwrap_or_default());
        }
        self.errands.retain(|_, rooms| !rooms.is_empty());
        if !sequences.is_empty() {
            self.make_ready(room, sequences);
        }
    }

    /// Queues a row for which other servers have to be asked.
    pub(super) fn ask_for(&mut self, origin: &ServerName, room: &RoomId, sequence: u64) {
        let rooms = self.errands.entry(origin.to_owned()).or_default();
        rooms.entry(room.to_owned()).or_default().insert(sequence);
    }

    /// An errand that may begin now, of each server in turn, within the limits of servers and rooms.
    pub(super) fn take_errand(&mut self) -> Option<Errand> {
        if self.under_way.len() >= ERRANDS_MAX {
            return None;
        }
        let last = self.last_origin.take();
        let after = self.errands.keys().filter(|origin| last.as_ref().is_some_and(|last| *origin > last));
        let before = self.errands.keys().filter(|origin| last.as_ref().is_none_or(|last| *origin <= last));
        let found = after.chain(before).find_map(|origin| Some((origin.clone(), self.free_room(origin)?)));
        let Some((origin, room)) = found else {
            self.last_origin = last;
            return None;
        };
        let rooms = self.errands.get_mut(&origin)?;
        let sequences = rooms.get_mut(&room)?;
        let sequence = sequences.pop_first()?;
        if sequences.is_empty() {
            rooms.remove(&room);
        }
        if rooms.is_empty() {
            self.errands.remove(&origin);
        }
        self.under_way.insert((origin.clone(), room.clone()));
        self.last_origin = Some(origin.clone());
        Some(Errand { origin, room, sequence })
    }

    /// A room in which an errand of a server may begin.
    fn free_room(&self, origin: &ServerName) -> Option<OwnedRoomId> {
        if self.under_way.iter().filter(|(other, _)| other == origin).count() >= ORIGIN_ERRANDS_MAX {
            return None;
        }
        let in_room = |room: &OwnedRoomId| self.under_way.iter().filter(|(_, other)| other == room).count();
        let free = |room: &&OwnedRoomId| {
            !self.under_way.contains(&(origin.to_owned(), (*room).clone())) && in_room(room) < ROOM_ERRANDS_MAX
        };
        self.errands.get(origin)?.keys().find(free).cloned()
    }

    pub(super) fn errand_ended(&mut self, origin: &ServerName, room: &RoomId) {
        self.under_way.remove(&(origin.to_owned(), room.to_owned()));
    }

    /// How many rows of a room wait for another attempt, and when the first of them is due (Unix ms).
    pub(super) fn put_off_in(&self, room: &RoomId) -> (usize, Option<u64>) {
        let mut of_room = self.later.iter().filter(|(_, other, _)| other == room).map(|(due_ms, _, _)| *due_ms);
        let first = of_room.next();
        (usize::from(first.is_some()) + of_room.count(), first)
    }

    /// When there is something to do that isn't to be done now (Unix ms).
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        let later = self.later.first().map(|(due_ms, _, _)| *due_ms);
        let quarantined = self.quarantined.values().map(|(_, again_ms)| *again_ms).min();
        later.into_iter().chain(quarantined).min()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, server_name};

    use super::*;

    #[test]
    fn each_server_has_a_share_however_much_others_sent() {
        let mut waiting = Waiting::default();
        let room = owned_room_id!("!room:here");
        let many = vec![1_000; INBOX_ORIGIN_EVENTS_MAX];
        for number in 0..INBOX_ROOM_EVENTS_MAX / INBOX_ORIGIN_EVENTS_MAX {
            waiting.reserve(&room, &format!("hostile{number}"), &many).unwrap();
        }
        assert!(waiting.reserve(&room, "hostile0", &[1_000]).is_err());
        waiting.reserve(&room, "honest", &[1_000; INBOX_SHARE_EVENTS]).unwrap();
        assert!(waiting.reserve(&room, "honest", &[1_000]).is_err());
        // So it is with bytes, in all rooms.
        let large = vec![60_000; INBOX_ORIGIN_BYTES_MAX / 60_000];
        for number in 0..10 {
            let room = RoomId::parse(format!("!{number}:here")).unwrap();
            let fits = waiting.reserve(&room, &format!("huge{number}"), &large).is_ok();
            assert_eq!(fits, number < 7, "{number}");
        }
        waiting.reserve(&owned_room_id!("!quiet:here"), "quiet", &[60_000; 50]).unwrap();
    }

    #[test]
    fn errands_go_round_within_the_limits_of_servers_and_rooms() {
        let mut waiting = Waiting::default();
        let rooms: Vec<OwnedRoomId> = (0..20).map(|number| RoomId::parse(format!("!{number}:here")).unwrap()).collect();
        for room in &rooms {
            for sequence in 0..3 {
                waiting.ask_for(server_name!("busy"), room, sequence);
            }
        }
        let quiet = owned_room_id!("!quiet:here");
        waiting.ask_for(server_name!("quiet"), &quiet, 7);
        let mut begun = Vec::new();
        while let Some(errand) = waiting.take_errand() {
            begun.push(errand);
        }
        // The busy server has its share and not more, each in another room, and keeps nobody else waiting.
        assert_eq!(begun.len(), ORIGIN_ERRANDS_MAX + 1);
        assert_eq!((begun[1].origin.as_str(), begun[1].sequence), ("quiet", 7));
        let of_busy: HashSet<_> = begun.iter().filter(|errand| errand.origin == "busy").map(|e| &e.room).collect();
        assert_eq!(of_busy.len(), ORIGIN_ERRANDS_MAX);
        // What waits in a room goes on in order.
        waiting.errand_ended(&begun[0].origin, &begun[0].room);
        let next = waiting.take_errand().unwrap();
        assert_eq!((&next.room, next.sequence), (&begun[0].room, 1));
        // Many servers in one room don't take all turns either.
        let mut waiting = Waiting::default();
        for number in 0..50 {
            waiting.ask_for(&ServerName::parse(format!("s{number}")).unwrap(), &quiet, number);
        }
        let begun = std::iter::from_fn(|| waiting.take_errand()).count();
        assert_eq!(begun, ROOM_ERRANDS_MAX);
    }
}
