//! Inboxes: what may have changed for one user lately, so that a sync needs to look nowhere else.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::{Index, IndexMut},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::{Mutex, MutexGuard};
use ruma::{DeviceId, OwnedDeviceId};
use store::Position;
use tokio::sync::Notify;
use users::KeyCounts;

use crate::sequence::{Numbers, Sequence};

/// Things that one shelf of an inbox lists. A client that is away while more than these change is answered from the tables.
pub(crate) const SHELF_ITEMS_MAX: usize = 128;

/// Devices of a user whose numbers of keys are remembered: as many as poll at one time.
const KNOWN_DEVICES_MAX: usize = 8;

/// What of a subject changed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kind {
    /// Whose news it is: a place in the list of streams.
    pub(crate) stream: u8,
    /// Whether a waiting poll is answered at once for it, or waits for more to come ([`crate::Config::relaxed_delay_ms`]).
    pub(crate) is_urgent: bool,
}

/// One thing that changed: its last change is the only one that is kept.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    /// The room's or user's number in the hub, or that of a device ([`Item::device`]); [`Item::ACCOUNT`] for what has none.
    pub(crate) subject: u32,
    /// What of it.
    pub(crate) kind: Kind,
    /// When it changed last: a number of the shelf's sequence.
    pub(crate) last: u64,
}

impl Item {
    /// The subject of what belongs to no room.
    pub(crate) const ACCOUNT: u32 = u32::MAX;

    /// The subject of what belongs to a device: a hash of its id. Where two devices of a user share one, a poll of the one
    /// looks in vain after a change of the other.
    pub(crate) fn device(device: &DeviceId) -> u32 {
        let mut hasher = DefaultHasher::new();
        device.as_str().hash(&mut hasher);
        // Any 32 bits do.
        hasher.finish() as u32
    }
}

/// The last changes of one sequence, collapsed, since a floor.
#[derive(Debug)]
pub(crate) struct Shelf {
    /// All changes after this are listed.
    floor: u64,
    items: Vec<Item>,
}

impl Shelf {
    pub(crate) fn new(floor: u64) -> Self {
        Self { floor, items: Vec::new() }
    }

    /// Notes a change. `at` never goes backwards.
    pub(crate) fn push(&mut self, subject: u32, kind: Kind, at: u64) {
        for item in &mut self.items {
            if item.subject == subject && item.kind == kind {
                item.last = at;
                return;
            }
        }
        if self.items.len() >= SHELF_ITEMS_MAX {
            self.drop_older_half();
        }
        self.items.push(Item { subject, kind, last: at });
    }

    fn drop_older_half(&mut self) {
        let middle = self.items.len() / 2;
        self.items.select_nth_unstable_by_key(middle, |item| item.last);
        for item in self.items.drain(..middle) {
            self.floor = self.floor.max(item.last);
        }
        // Those of the same instant as the last one dropped are below the floor as well.
        let floor = self.floor;
        self.items.retain(|item| item.last > floor);
    }

    /// What changed after `since`, or `None` if the shelf doesn't reach back so far.
    pub(crate) fn since(&self, since: u64) -> Option<impl Iterator<Item = Item> + '_> {
        (since >= self.floor).then(|| self.items.iter().copied().filter(move |item| item.last > since))
    }

    /// None of these changes happened after this.
    pub(crate) fn unchanged_since(&self, subject: u32, kinds: &[Kind]) -> u64 {
        let changed = self.items.iter().filter(|item| item.subject == subject && kinds.contains(&item.kind));
        changed.map(|item| item.last).max().unwrap_or(0).max(self.floor)
    }

    /// Forgets everything: changes up to `floor` must be looked up elsewhere.
    pub(crate) fn reset(&mut self, floor: u64) {
        *self = Self::new(floor);
    }
}

/// What a user's inbox lists, by sequence.
#[derive(Debug)]
pub(crate) struct Shelves([Shelf; Sequence::ALL.len()]);

impl Index<Sequence> for Shelves {
    type Output = Shelf;

    fn index(&self, sequence: Sequence) -> &Shelf {
        &self.0[sequence as usize]
    }
}

impl IndexMut<Sequence> for Shelves {
    fn index_mut(&mut self, sequence: Sequence) -> &mut Shelf {
        &mut self.0[sequence as usize]
    }
}

/// How many keys a device had at a position.
#[derive(Debug)]
struct KnownKeys {
    device: OwnedDeviceId,
    at: Position,
    counts: KeyCounts,
}

/// What may have changed for one user, and the polls that wait for it. Shared by the user's devices.
#[derive(Debug)]
pub(crate) struct Inbox {
    shelves: Mutex<Shelves>,
    known_keys: Mutex<Vec<KnownKeys>>,
    /// Woken by changes that are to be answered at once.
    pub(crate) urgent: Notify,
    /// Woken by changes that may wait for others.
    pub(crate) relaxed: Notify,
    /// Unix ms of the last poll.
    used_ms: AtomicU64,
    /// Unix ms of the last poll that wanted presence; 0 if there was none lately. Only changed with the hub's maps held.
    presence_used_ms: AtomicU64,
}

impl Inbox {
    /// An inbox that lists everything after these numbers.
    pub(crate) fn new(numbers: Numbers, now_ms: u64) -> Self {
        let shelves = Shelves(Sequence::ALL.map(|sequence| Shelf::new(numbers[sequence])));
        Self {
            shelves: Mutex::new(shelves),
            known_keys: Mutex::default(),
            urgent: Notify::new(),
            relaxed: Notify::new(),
            used_ms: AtomicU64::new(now_ms),
            presence_used_ms: AtomicU64::new(0),
        }
    }

    /// The lists, for reading or noting changes. Held only for moments, never across an await.
    pub(crate) fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock()
    }

    /// How many keys a device had when that was last read, and at which position.
    pub(crate) fn known_key_counts(&self, device: &DeviceId) -> Option<(Position, KeyCounts)> {
        let known = self.known_keys.lock();
        let known = known.iter().find(|known| known.device == device)?;
        Some((known.at, known.counts.clone()))
    }

    /// Notes how many keys a device has at a position.
    pub(crate) fn learn_key_counts(&self, device: &DeviceId, at: Position, counts: KeyCounts) {
        let mut known = self.known_keys.lock();
        known.retain(|known| known.device != device);
        if known.len() >= KNOWN_DEVICES_MAX {
            known.remove(0);
        }
        known.push(KnownKeys { device: device.to_owned(), at, counts });
    }

    /// Wakes the polls that wait.
    pub(crate) fn wake(&self, urgent: bool) {
        if urgent {
            self.urgent.notify_waiters();
        } else {
            self.relaxed.notify_waiters();
        }
    }

    /// Notes that it was used just now.
    pub(crate) fn touch(&self, now_ms: u64) {
        self.used_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Notes that presence is wanted now, with the last change of presence that was routed. What was not listed while nobody wanted
    /// it is to be looked up elsewhere.
    pub(crate) fn want_presence(&self, now_ms: u64, routed: u64) {
        if self.presence_used_ms.swap(now_ms.max(1), Ordering::Relaxed) == 0 {
            self.shelves()[Sequence::Presence].reset(routed);
        }
    }

    /// Whether presence is listed.
    pub(crate) fn wants_presence(&self) -> bool {
        self.presence_used_ms.load(Ordering::Relaxed) != 0
    }

    /// Lists presence no more if no poll has wanted it since `before_ms` (Unix ms).
    pub(crate) fn forget_presence(&self, before_ms: u64) {
        if self.presence_used_ms.load(Ordering::Relaxed) < before_ms {
            self.presence_used_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Unix ms of its last use.
    pub(crate) fn used_ms(&self) -> u64 {
        self.used_ms.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: Kind = Kind { stream: 0, is_urgent: true };

    fn listed(shelf: &Shelf, since: u64) -> Option<Vec<(u32, u64)>> {
        let mut items: Vec<_> = shelf.since(since)?.map(|item| (item.subject, item.last)).collect();
        items.sort_unstable();
        Some(items)
    }

    #[test]
    fn changes_of_one_thing_collapse() {
        let mut shelf = Shelf::new(10);
        shelf.push(1, ROOM, 11);
        shelf.push(2, ROOM, 12);
        shelf.push(1, ROOM, 13);
        assert_eq!(listed(&shelf, 10), Some(vec![(1, 13), (2, 12)]));
        assert_eq!(listed(&shelf, 12), Some(vec![(1, 13)]));
        assert_eq!(listed(&shelf, 9), None);
    }

    proptest! {
        /// Whatever is pushed, a shelf either lists every change after a point or says that it can't.
        #[test]
        fn a_shelf_never_leaves_out_a_change(
            pushes in prop::collection::vec((0_u32..400, 0_u64..3), 0..600),
            since in 0_u64..800,
        ) {
            let mut shelf = Shelf::new(0);
            let mut at = 0;
            let mut last = std::collections::BTreeMap::new();
            for (subject, step) in pushes {
                at += step.max(u64::from(at == 0));
                shelf.push(subject, ROOM, at);
                last.insert(subject, at);
                prop_assert!(shelf.items.len() <= SHELF_ITEMS_MAX);
            }
            if let Some(items) = listed(&shelf, since) {
                let expected: Vec<_> = last.into_iter().filter(|(_, at)| *at > since).collect();
                prop_assert_eq!(items, expected);
            }
        }
    }
}
