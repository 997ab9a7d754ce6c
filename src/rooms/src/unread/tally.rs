//! A user's tally of a room: the unread events that notify them, up to an index.

use std::{collections::BTreeMap, sync::Arc};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use store::Position;

use super::{Count, StoredCounts, UNREAD_EVENTS_MAX, UnreadCounts};
use crate::{receipts::Receipt, types::TimelineIndex};

/// Memory for tallies, in bytes.
const TALLIES_BYTES_MAX: u64 = 8 << 20;
/// What a tally weighs beside its lists, in bytes.
const TALLY_OVERHEAD_BYTES: u64 = 250;
/// What an unread event or a mark weighs, in bytes.
const ENTRY_BYTES: u64 = 48;

/// An unread event that notifies.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Unread {
    index: TimelineIndex,
    /// 1 + the thread's place in [`Tally::threads`]; 0 for the main timeline.
    thread: u32,
    highlighted: bool,
}

/// Up to where a user has read, by what they said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marks {
    /// The position of the newest receipt that is in here.
    pub(crate) as_of: Position,
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
            Some(crate::receipts::MAIN) => self.main.get_or_insert(index),
            Some(root) => match OwnedEventId::try_from(root) {
                Ok(root) => self.threads.entry(root).or_insert(index),
                // Checked when it was stored; without a meaning it marks nothing.
                Err(_) => return,
            },
        };
        // Of public and private receipts the one further ahead counts.
        *mark = (*mark).max(index);
    }

    /// Events up to here are read, whatever thread they are in.
    pub(super) fn everywhere(&self) -> Option<TimelineIndex> {
        self.unthreaded
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
    /// Events up to this index were looked at.
    pub(super) counted_to: TimelineIndex,
    pub(super) marks: Marks,
    /// Events looked at since the tally was stored.
    pub(super) unstored: usize,
    threads: Vec<OwnedEventId>,
    unread: Vec<Unread>,
}

impl Tally {
    /// Nothing unread up to an index.
    pub(super) fn new(counted_to: TimelineIndex) -> Self {
        Self { counted_to, marks: Marks::default(), unstored: 0, threads: Vec::new(), unread: Vec::new() }
    }

    /// Reads back a stored tally.
    pub(super) fn from_stored(stored: StoredCounts) -> Self {
        let index = |(era, major, minor)| TimelineIndex { era, major: Position::from_u64(major), minor };
        let mut tally = Self::new(index(stored.counted_to));
        for (era, major, minor, thread, highlighted) in stored.unread {
            tally.unread.push(Unread { index: index((era, major, minor)), thread, highlighted });
        }
        tally.threads = stored.threads;
        tally
    }

    /// The form in which it is stored.
    pub(super) fn to_stored(&self) -> StoredCounts {
        let parts = |index: TimelineIndex| (index.era, index.major.get(), index.minor);
        let mut unread = Vec::with_capacity(self.unread.len());
        for event in &self.unread {
            let (era, major, minor) = parts(event.index);
            unread.push((era, major, minor, event.thread, event.highlighted));
        }
        StoredCounts { counted_to: parts(self.counted_to), threads: self.threads.clone(), unread }
    }

    /// Notes an event that notifies. Events come in order.
    pub(super) fn add(&mut self, index: TimelineIndex, thread: Option<OwnedEventId>, highlighted: bool) {
        if self.marks.of(thread.as_ref()).is_some_and(|mark| index <= mark) {
            return;
        }
        let thread = match thread {
            None => 0,
            Some(root) => self.place_of(root),
        };
        if self.unread.len() >= UNREAD_EVENTS_MAX {
            self.unread.remove(0);
        }
        self.unread.push(Unread { index, thread, highlighted });
    }

    /// Notes that the user sent something to a thread, so has read it.
    pub(super) fn sent_to(&mut self, thread: Option<&OwnedEventId>) {
        let place = match thread {
            None => Some(0),
            Some(root) => self.find(root),
        };
        if let Some(place) = place {
            self.unread.retain(|event| event.thread != place);
        }
    }

    /// Takes new marks, and drops what they pass.
    pub(super) fn mark(&mut self, marks: Marks) {
        self.marks = marks;
        let (marks, threads) = (&self.marks, &self.threads);
        self.unread.retain(|event| {
            let mark = marks.of(thread_at(threads, event.thread));
            mark.is_none_or(|mark| event.index > mark)
        });
        if self.unread.is_empty() {
            self.threads.clear();
        }
    }

    /// The counts.
    pub(super) fn counts(&self) -> UnreadCounts {
        let mut counts = UnreadCounts::default();
        for event in &self.unread {
            let count: &mut Count = match thread_at(&self.threads, event.thread) {
                None => &mut counts.main,
                Some(root) => counts.threads.entry(root.clone()).or_default(),
            };
            count.notifications += 1;
            count.highlights += u64::from(event.highlighted);
        }
        counts
    }

    fn find(&self, root: &OwnedEventId) -> Option<u32> {
        let at = self.threads.iter().position(|known| known == root)?;
        u32::try_from(at + 1).ok()
    }

    /// The number of a thread in `unread`. There are never more threads than events that were added between
    /// two moments at which nothing was unread, each bounded by the limits of a count.
    fn place_of(&mut self, root: OwnedEventId) -> u32 {
        if let Some(place) = self.find(&root) {
            return place;
        }
        if self.threads.len() >= 2 * UNREAD_EVENTS_MAX {
            self.forget_empty_threads();
        }
        self.threads.push(root);
        u32::try_from(self.threads.len()).unwrap_or(u32::MAX)
    }

    fn forget_empty_threads(&mut self) {
        let old = std::mem::take(&mut self.threads);
        let mut unread = std::mem::take(&mut self.unread);
        for event in &mut unread {
            if let Some(root) = thread_at(&old, event.thread) {
                event.thread = self.place_of(root.clone());
            }
        }
        self.unread = unread;
    }

    fn weight(&self) -> u64 {
        let entries = self.threads.len() + self.marks.threads.len() + self.unread.len();
        TALLY_OVERHEAD_BYTES + ENTRY_BYTES * entries as u64
    }
}

fn thread_at(threads: &[OwnedEventId], place: u32) -> Option<&OwnedEventId> {
    let at = usize::try_from(place).ok()?.checked_sub(1)?;
    threads.get(at)
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
    use ruma::owned_event_id;

    use super::*;

    fn at(major: u64) -> TimelineIndex {
        TimelineIndex::live(Position::from_u64(major))
    }

    #[test]
    fn counts_are_bounded_and_go_by_thread() {
        let mut tally = Tally::new(TimelineIndex::MIN);
        let root = owned_event_id!("$root:h");
        tally.add(at(1), None, false);
        tally.add(at(2), Some(root.clone()), true);
        tally.add(at(3), Some(root.clone()), false);
        let counts = tally.counts();
        assert_eq!(counts.main, Count { notifications: 1, highlights: 0 });
        assert_eq!(counts.threads[&root], Count { notifications: 2, highlights: 1 });
        assert_eq!(counts.total(), Count { notifications: 3, highlights: 1 });
        assert_eq!(Tally::from_stored(tally.to_stored()).counts(), counts);

        tally.sent_to(Some(&root));
        assert!(tally.counts().threads.is_empty());
        for major in 4..4 + 2 * UNREAD_EVENTS_MAX as u64 {
            tally.add(at(major), None, false);
        }
        assert_eq!(tally.counts().main.notifications, UNREAD_EVENTS_MAX as u64);
    }

    #[test]
    fn threads_that_are_read_are_forgotten_in_time() {
        let mut tally = Tally::new(TimelineIndex::MIN);
        for major in 1..5 * UNREAD_EVENTS_MAX as u64 {
            let root = OwnedEventId::try_from(format!("$r{major}:h")).expect("an event id");
            tally.add(at(major), Some(root), false);
        }
        assert_eq!(tally.counts().threads.len(), UNREAD_EVENTS_MAX);
        assert!(tally.threads.len() <= 2 * UNREAD_EVENTS_MAX);
    }
}
