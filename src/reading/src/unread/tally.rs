//! A user's tally of a room: which unread events notify them, by thread, up to an index.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use quick_cache::{Weighter, sync::Cache};
use rooms::{MAIN, Receipt, TimelineIndex};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use store::Position;

use super::{
    Count, StoredCounts, StoredThread, UNREAD_EVENTS_KEPT_MAX, UNREAD_EVENTS_MAX, UNREAD_THREADS_MAX, UnreadCounts,
};

/// What a tally weighs beside its threads, in bytes.
const TALLY_OVERHEAD_BYTES: u64 = 300;
/// What a thread or a mark weighs, in bytes.
const THREAD_BYTES: u64 = 160;
/// What an unread event weighs, in bytes.
const EVENT_BYTES: u64 = 16;

/// What is unread of one thread, or of the main timeline: the newest events that notify, oldest first, and whether each is
/// highlighted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct UnreadEvents(VecDeque<(Position, bool)>);

impl UnreadEvents {
    fn add(&mut self, at: Position, highlighted: bool) {
        if self.0.len() as u64 >= UNREAD_EVENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((at, highlighted));
    }

    fn remove(&mut self, at: Position) {
        if let Ok(found) = self.0.binary_search_by_key(&at, |(event, _)| *event) {
            self.0.remove(found);
        }
    }

    /// Drops what was read.
    fn mark(&mut self, mark: Option<TimelineIndex>) {
        let Some(mark) = mark else { return };
        while self.0.front().is_some_and(|(at, _)| TimelineIndex::live(*at) <= mark) {
            self.0.pop_front();
        }
    }

    fn newest(&self) -> Option<Position> {
        self.0.back().map(|(at, _)| *at)
    }

    fn count(&self) -> Count {
        let highlights = self.0.iter().filter(|(_, highlighted)| *highlighted).count();
        Count { notifications: self.0.len() as u64, highlights: highlights as u64 }
    }

    fn to_stored(&self, root: Option<OwnedEventId>) -> StoredThread {
        StoredThread { root, events: self.0.iter().map(|(at, highlighted)| (at.get(), *highlighted)).collect() }
    }
}

/// Up to where a user has read, by what they said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marks {
    /// The position of the newest receipt that is in here.
    pub(super) as_of: Position,
    /// In all threads.
    unthreaded: Option<TimelineIndex>,
    main: Option<TimelineIndex>,
    threads: BTreeMap<OwnedEventId, TimelineIndex>,
}

impl Marks {
    /// Takes a receipt in, for an event at `index`.
    pub(super) fn add(&mut self, receipt: &Receipt, index: TimelineIndex) {
        let mark = match receipt.thread.as_deref() {
            None => self.unthreaded.get_or_insert(index),
            Some(MAIN) => self.main.get_or_insert(index),
            Some(root) => match OwnedEventId::try_from(root) {
                Ok(root) => self.threads.entry(root).or_insert(index),
                // Checked when it was stored; without a meaning it marks nothing.
                Err(_) => return,
            },
        };
        // Of public and private receipts the one further ahead counts.
        *mark = (*mark).max(index);
    }

    fn of(&self, thread: Option<&OwnedEventId>) -> Option<TimelineIndex> {
        let own = match thread {
            None => self.main,
            Some(root) => self.threads.get(root).copied(),
        };
        own.max(self.unthreaded)
    }
}

/// The unread events of one user in one room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tally {
    /// Where the user joined: earlier events are out of the question.
    pub(super) start: TimelineIndex,
    /// Events up to this index were looked at.
    pub(super) counted_to: TimelineIndex,
    /// What `counted_to` was when the tally was stored last.
    pub(super) stored_to: TimelineIndex,
    pub(super) marks: Marks,
    /// The position at which marks and membership were last found to be right.
    pub(super) checked_at: Position,
    /// Events looked at since the tally was stored.
    pub(super) unstored: usize,
    main: UnreadEvents,
    threads: BTreeMap<OwnedEventId, UnreadEvents>,
}

impl Tally {
    /// Nothing unread up to an index.
    pub(super) fn new(start: TimelineIndex) -> Self {
        Self {
            start,
            counted_to: start,
            stored_to: start,
            marks: Marks::default(),
            checked_at: Position::ZERO,
            unstored: 0,
            main: UnreadEvents::default(),
            threads: BTreeMap::new(),
        }
    }

    /// Reads back a stored tally.
    pub(super) fn from_stored(stored: StoredCounts) -> Self {
        let mut tally = Self::new(index(stored.start));
        tally.counted_to = index(stored.counted_to);
        tally.stored_to = tally.counted_to;
        for StoredThread { root, events } in stored.threads {
            let events = events.into_iter().map(|(at, highlighted)| (Position::from_u64(at), highlighted));
            let unread = UnreadEvents(events.collect());
            match root {
                None => tally.main = unread,
                Some(root) => {
                    tally.threads.insert(root, unread);
                }
            }
        }
        tally
    }

    /// Events up to here are counted, or read whatever thread they are in.
    pub(super) fn uncounted_from(&self) -> TimelineIndex {
        self.marks.unthreaded.map_or(self.counted_to, |mark| mark.max(self.counted_to))
    }

    /// The form in which it is stored.
    pub(super) fn to_stored(&self) -> StoredCounts {
        let mut threads = Vec::with_capacity(self.threads.len() + 1);
        threads.push(self.main.to_stored(None));
        threads.extend(self.threads.iter().map(|(root, unread)| unread.to_stored(Some(root.clone()))));
        StoredCounts { start: parts(self.start), counted_to: parts(self.counted_to), threads }
    }

    /// Notes an event that notifies. Events come in order.
    pub(super) fn add(&mut self, at: Position, thread: Option<OwnedEventId>, highlighted: bool) {
        if self.marks.of(thread.as_ref()).is_some_and(|mark| TimelineIndex::live(at) <= mark) {
            return;
        }
        let Some(root) = thread else { return self.main.add(at, highlighted) };
        if self.threads.len() >= UNREAD_THREADS_MAX && !self.threads.contains_key(&root) {
            self.forget_oldest_thread();
        }
        self.threads.entry(root).or_default().add(at, highlighted);
        while self.events() > UNREAD_EVENTS_KEPT_MAX && self.threads.len() > 1 {
            self.forget_oldest_thread();
        }
    }

    /// Takes out an event that was redacted.
    pub(super) fn remove(&mut self, at: Position) {
        self.main.remove(at);
        self.threads.retain(|_, unread| {
            unread.remove(at);
            !unread.0.is_empty()
        });
    }

    fn events(&self) -> usize {
        self.main.0.len() + self.threads.values().map(|unread| unread.0.len()).sum::<usize>()
    }

    fn forget_oldest_thread(&mut self) {
        let oldest = self.threads.iter().min_by_key(|(_, unread)| unread.newest());
        if let Some((root, _)) = oldest {
            let root = root.clone();
            self.threads.remove(&root);
        }
    }

    /// Notes that the user sent something to a thread, so has read it.
    pub(super) fn sent_to(&mut self, thread: Option<&OwnedEventId>) {
        match thread {
            None => self.main = UnreadEvents::default(),
            Some(root) => {
                self.threads.remove(root);
            }
        }
    }

    /// Takes new marks, and drops what they pass.
    pub(super) fn mark(&mut self, marks: Marks) {
        self.main.mark(marks.of(None));
        self.threads.retain(|root, unread| {
            unread.mark(marks.of(Some(root)));
            !unread.0.is_empty()
        });
        self.marks = marks;
    }

    /// The counts.
    pub(super) fn counts(&self) -> UnreadCounts {
        let threads = self.threads.iter().map(|(root, unread)| (root.clone(), unread.count()));
        UnreadCounts { main: self.main.count(), threads: threads.collect() }
    }

    fn weight(&self) -> u64 {
        let threads = self.threads.len() + self.marks.threads.len();
        TALLY_OVERHEAD_BYTES + THREAD_BYTES * threads as u64 + EVENT_BYTES * self.events() as u64
    }
}

fn index((era, major, minor): (u8, u64, u32)) -> TimelineIndex {
    TimelineIndex { era, major: Position::from_u64(major), minor }
}

fn parts(index: TimelineIndex) -> (u8, u64, u32) {
    (index.era, index.major.get(), index.minor)
}

/// Whose tally, of which room.
pub(super) type Key = (OwnedUserId, OwnedRoomId);

#[derive(Clone)]
struct TallyWeight;

impl Weighter<Key, Arc<Tally>> for TallyWeight {
    fn weight(&self, (user, room): &Key, tally: &Arc<Tally>) -> u64 {
        tally.weight() + (user.as_str().len() + room.as_str().len()) as u64
    }
}

/// The tallies that were asked for lately.
pub(crate) struct TallyCache(Cache<Key, Arc<Tally>, TallyWeight>);

impl TallyCache {
    pub(crate) fn new(cache_bytes: u64) -> Self {
        let items = usize::try_from(cache_bytes / TALLY_OVERHEAD_BYTES).unwrap_or(usize::MAX).max(16);
        Self(Cache::with_weighter(items, cache_bytes, TallyWeight))
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Tally>> {
        self.0.get(key)
    }

    /// Keeps a tally unless one that goes further is there already: it may be of push rules that have changed since.
    pub(super) fn insert(&self, key: Key, tally: Arc<Tally>) {
        let newer = |known: Arc<Tally>| known.start == tally.start && known.counted_to > tally.counted_to;
        if !self.0.get(&key).is_some_and(newer) {
            self.0.insert(key, tally);
        }
    }

    pub(super) fn remove(&self, key: &Key) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_user_id};

    use super::*;
    use rooms::ReceiptType;

    fn position(major: u64) -> Position {
        Position::from_u64(major)
    }

    fn at(major: u64) -> TimelineIndex {
        TimelineIndex::live(position(major))
    }

    fn marks(thread: Option<&str>, major: u64) -> Marks {
        let receipt = Receipt {
            user: owned_user_id!("@a:h"),
            receipt_type: ReceiptType::Read,
            thread: thread.map(str::to_owned),
            event: owned_event_id!("$e:h"),
            ts: 1,
            position: position(major),
        };
        let mut marks = Marks::default();
        marks.add(&receipt, at(major));
        marks
    }

    #[test]
    fn counts_go_by_thread_and_are_stored() {
        let mut tally = Tally::new(TimelineIndex::MIN);
        let root = owned_event_id!("$root:h");
        tally.add(position(1), None, false);
        tally.add(position(2), Some(root.clone()), true);
        tally.add(position(3), Some(root.clone()), false);
        let counts = tally.counts();
        assert_eq!(counts.main, Count { notifications: 1, highlights: 0 });
        assert_eq!(counts.threads[&root], Count { notifications: 2, highlights: 1 });
        assert_eq!(counts.total(), Count { notifications: 3, highlights: 1 });
        assert_eq!(Tally::from_stored(tally.to_stored()), tally);
        tally.remove(position(3));
        assert_eq!(tally.counts().threads[&root], Count { notifications: 1, highlights: 1 });
        tally.sent_to(Some(&root));
        assert!(tally.counts().threads.is_empty());
    }

    #[test]
    fn marks_drop_what_they_pass_and_nothing_else() {
        let mut tally = Tally::new(TimelineIndex::MIN);
        let root = owned_event_id!("$root:h");
        tally.add(position(1), None, false);
        tally.add(position(2), Some(root.clone()), false);
        tally.add(position(5), None, true);
        tally.mark(marks(Some("$root:h"), 4));
        assert_eq!((tally.counts().main.notifications, tally.counts().threads.len()), (2, 0));
        tally.mark(marks(Some(MAIN), 1));
        assert_eq!(tally.counts().main, Count { notifications: 1, highlights: 1 });
        tally.add(position(7), None, false);
        tally.add(position(9), None, false);
        tally.mark(marks(None, 8));
        assert_eq!(tally.counts().main, Count { notifications: 1, highlights: 0 });
    }

    #[test]
    fn what_is_kept_and_shown_is_bounded() {
        let mut tally = Tally::new(TimelineIndex::MIN);
        for major in 0..2 * UNREAD_EVENTS_MAX {
            tally.add(position(major), None, true);
            let root = OwnedEventId::try_from(format!("$r{major}:h")).expect("an event id");
            tally.add(position(major), Some(root), false);
        }
        let counts = tally.counts();
        assert_eq!(counts.main, Count { notifications: UNREAD_EVENTS_MAX, highlights: UNREAD_EVENTS_MAX });
        assert_eq!(counts.threads.len(), UNREAD_THREADS_MAX);
        for root in ["$one:h", "$two:h", "$three:h", "$four:h", "$five:h"] {
            let root = OwnedEventId::try_from(root).expect("an event id");
            for major in 0..UNREAD_EVENTS_MAX {
                tally.add(position(10_000 + major), Some(root.clone()), false);
            }
        }
        assert!(tally.events() <= UNREAD_EVENTS_KEPT_MAX);
    }
}
