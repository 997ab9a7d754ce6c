//! A user's tally of a room: how many unread events notify them, by thread, up to an index.

use std::{collections::BTreeMap, sync::Arc};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use store::Position;

use super::{Count, StoredCounts, StoredThread, UNREAD_EVENTS_MAX, UNREAD_THREADS_MAX, UnreadCounts};
use crate::{
    receipts::{MAIN, Receipt},
    types::TimelineIndex,
};

/// Memory for tallies, in bytes.
const TALLIES_BYTES_MAX: u64 = 16 << 20;
/// What a tally weighs beside its threads, in bytes.
const TALLY_OVERHEAD_BYTES: u64 = 300;
/// What a thread or a mark weighs, in bytes.
const THREAD_BYTES: u64 = 160;

/// What is unread of one thread, or of the main timeline.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Pile {
    notifications: u32,
    highlights: u32,
    /// The oldest and the newest event counted.
    first: TimelineIndex,
    last: TimelineIndex,
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
    /// Events up to this index are out of the question: they are from before the user's stay.
    pub(super) start: TimelineIndex,
    /// Events up to this index were looked at.
    pub(super) counted_to: TimelineIndex,
    pub(super) marks: Marks,
    /// The position at which marks and membership were last found to be right.
    pub(super) checked_at: Position,
    /// Events looked at since the tally was stored.
    pub(super) unstored: usize,
    main: Option<Pile>,
    threads: BTreeMap<OwnedEventId, Pile>,
}

impl Tally {
    /// Nothing unread up to an index.
    pub(super) fn new(start: TimelineIndex) -> Self {
        Self {
            start,
            counted_to: start,
            marks: Marks::default(),
            checked_at: Position::ZERO,
            unstored: 0,
            main: None,
            threads: BTreeMap::new(),
        }
    }

    /// Reads back a stored tally.
    pub(super) fn from_stored(stored: StoredCounts) -> Self {
        let mut tally = Self::new(index(stored.start));
        tally.counted_to = index(stored.counted_to);
        for thread in stored.threads {
            let pile = Pile {
                notifications: thread.notifications,
                highlights: thread.highlights,
                first: index(thread.first),
                last: index(thread.last),
            };
            match thread.root {
                None => tally.main = Some(pile),
                Some(root) => {
                    tally.threads.insert(root, pile);
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
        let main = self.main.iter().map(|pile| (None, pile));
        let others = self.threads.iter().map(|(root, pile)| (Some(root.clone()), pile));
        for (root, pile) in main.chain(others) {
            threads.push(StoredThread {
                root,
                notifications: pile.notifications,
                highlights: pile.highlights,
                first: parts(pile.first),
                last: parts(pile.last),
            });
        }
        StoredCounts { start: parts(self.start), counted_to: parts(self.counted_to), threads }
    }

    /// Notes an event that notifies. Events come in order.
    pub(super) fn add(&mut self, index: TimelineIndex, thread: Option<OwnedEventId>, highlighted: bool) {
        if self.marks.of(thread.as_ref()).is_some_and(|mark| index <= mark) {
            return;
        }
        let empty = Pile { notifications: 0, highlights: 0, first: index, last: index };
        let pile = match thread {
            None => self.main.get_or_insert(empty),
            Some(root) => {
                if self.threads.len() >= UNREAD_THREADS_MAX && !self.threads.contains_key(&root) {
                    self.forget_oldest_thread();
                }
                self.threads.entry(root).or_insert(empty)
            }
        };
        pile.notifications = pile.notifications.saturating_add(1);
        pile.highlights = pile.highlights.saturating_add(u32::from(highlighted));
        pile.last = index;
    }

    fn forget_oldest_thread(&mut self) {
        let oldest = self.threads.iter().min_by_key(|(_, pile)| pile.last);
        if let Some((root, _)) = oldest {
            let root = root.clone();
            self.threads.remove(&root);
        }
    }

    /// Notes that the user sent something to a thread, so has read it.
    pub(super) fn sent_to(&mut self, thread: Option<&OwnedEventId>) {
        match thread {
            None => self.main = None,
            Some(root) => {
                self.threads.remove(root);
            }
        }
    }

    /// Takes new marks, and drops what they pass. Where a mark lies in the midst of what is unread, all is
    /// to be counted again.
    pub(super) fn mark(&mut self, marks: Marks) {
        let mut in_the_midst = false;
        let mut keeps = |pile: &Pile, mark: Option<TimelineIndex>| {
            let Some(mark) = mark else { return true };
            in_the_midst |= pile.first <= mark && mark < pile.last;
            mark < pile.last
        };
        self.main = self.main.filter(|pile| keeps(pile, marks.of(None)));
        self.threads.retain(|root, pile| keeps(pile, marks.of(Some(root))));
        if in_the_midst {
            *self = Self::new(self.start);
        }
        self.marks = marks;
    }

    /// The counts.
    pub(super) fn counts(&self) -> UnreadCounts {
        let count = |pile: &Pile| Count {
            notifications: u64::from(pile.notifications).min(UNREAD_EVENTS_MAX),
            highlights: u64::from(pile.highlights).min(UNREAD_EVENTS_MAX),
        };
        let mut counts =
            UnreadCounts { main: self.main.iter().map(count).next().unwrap_or_default(), ..UnreadCounts::default() };
        for (root, pile) in &self.threads {
            counts.threads.insert(root.clone(), count(pile));
        }
        counts
    }

    fn weight(&self) -> u64 {
        let threads = self.threads.len() + self.marks.threads.len();
        TALLY_OVERHEAD_BYTES + THREAD_BYTES * threads as u64
    }
}

fn index((era, major, minor): (u8, u64, u32)) -> TimelineIndex {
    TimelineIndex { era, major: Position::from_u64(major), minor }
}

fn parts(index: TimelineIndex) -> (u8, u64, u32) {
    (index.era, index.major.get(), index.minor)
}

type Key = (OwnedUserId, OwnedRoomId);

#[derive(Clone)]
struct TallyWeight;

impl Weighter<Key, Arc<Tally>> for TallyWeight {
    fn weight(&self, _: &Key, tally: &Arc<Tally>) -> u64 {
        tally.weight()
    }
}

/// The tallies that were asked for lately.
pub(crate) struct TallyCache(Cache<Key, Arc<Tally>, TallyWeight>);

impl TallyCache {
    pub(crate) fn new() -> Self {
        let items = usize::try_from(TALLIES_BYTES_MAX / TALLY_OVERHEAD_BYTES).unwrap_or(usize::MAX);
        Self(Cache::with_weighter(items, TALLIES_BYTES_MAX, TallyWeight))
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Tally>> {
        self.0.get(key)
    }

    pub(super) fn insert(&self, key: Key, tally: Arc<Tally>) {
        self.0.insert(key, tally);
    }

    pub(super) fn remove(&self, key: &Key) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, owned_user_id};

    use super::*;
    use crate::receipts::ReceiptType;

    fn at(major: u64) -> TimelineIndex {
        TimelineIndex::live(Position::from_u64(major))
    }

    fn marks(thread: Option<&str>, major: u64) -> Marks {
        let receipt = Receipt {
            user: owned_user_id!("@a:h"),
            receipt_type: ReceiptType::Read,
            thread: thread.map(str::to_owned),
            event: owned_event_id!("$e:h"),
            ts: 1,
            position: Position::from_u64(major),
        };
        let mut marks = Marks::default();
        marks.add(&receipt, at(major));
        marks
    }

    #[test]
    fn counts_go_by_thread_and_are_stored() {
        let mut tally = Tally::new(TimelineIndex::MIN);
        let root = owned_event_id!("$root:h");
        tally.add(at(1), None, false);
        tally.add(at(2), Some(root.clone()), true);
        tally.add(at(3), Some(root.clone()), false);
        let counts = tally.counts();
        assert_eq!(counts.main, Count { notifications: 1, highlights: 0 });
        assert_eq!(counts.threads[&root], Count { notifications: 2, highlights: 1 });
        assert_eq!(counts.total(), Count { notifications: 3, highlights: 1 });
        assert_eq!(Tally::from_stored(tally.to_stored()), tally);
        tally.sent_to(Some(&root));
        assert!(tally.counts().threads.is_empty());
    }

    #[test]
    fn marks_drop_what_they_pass() {
        let mut tally = Tally::new(TimelineIndex::MIN);
        let root = owned_event_id!("$root:h");
        tally.add(at(1), None, false);
        tally.add(at(2), Some(root.clone()), false);
        tally.add(at(5), None, false);
        tally.counted_to = at(6);
        tally.mark(marks(Some("$root:h"), 4));
        assert_eq!((tally.counts().main.notifications, tally.counts().threads.len()), (2, 0));
        tally.mark(marks(Some(MAIN), 5));
        assert_eq!((tally.counts(), tally.counted_to), (UnreadCounts::default(), at(6)));
        tally.add(at(7), None, false);
        tally.add(at(9), None, false);
        tally.counted_to = at(9);
        // In the midst: to be counted again.
        tally.mark(marks(None, 8));
        assert_eq!((tally.counts(), tally.counted_to), (UnreadCounts::default(), TimelineIndex::MIN));
        tally.add(at(7), None, false);
        tally.add(at(9), None, false);
        assert_eq!(tally.counts().main.notifications, 1);
    }

    #[test]
    fn what_is_kept_and_shown_is_bounded() {
        let mut tally = Tally::new(TimelineIndex::MIN);
        for major in 0..2 * UNREAD_EVENTS_MAX {
            tally.add(at(major), None, true);
            let root = OwnedEventId::try_from(format!("$r{major}:h")).expect("an event id");
            tally.add(at(major), Some(root), false);
        }
        let counts = tally.counts();
        assert_eq!(counts.main, Count { notifications: UNREAD_EVENTS_MAX, highlights: UNREAD_EVENTS_MAX });
        assert_eq!(counts.threads.len(), UNREAD_THREADS_MAX);
    }
}
