//! A bounded cache that follows the log in order.
//!
//! Entries belong to a group (a user), and a change of the group makes all its earlier entries invalid. An
//! answer is given only if the projection has seen the log up to the view that the caller reads from, so it
//! is never older than that view; otherwise the caller reads the tables. Nothing has to be invalidated by
//! those who write.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use parking_lot::Mutex;
use quick_cache::{Weighter, unsync::Cache};
use store::Position;

/// What an entry takes besides what its owner says, in bytes: keys, ids of groups, tables.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 = 250;

pub(crate) struct Projection<G, K, V> {
    state: Mutex<State<G, K, V>>,
}

struct State<G, K, V> {
    /// All log records up to here are applied.
    applied: Position,
    /// Entries that were loaded before this are not taken.
    cleared: Position,
    /// Last change per group since `cleared`; bounded by clearing everything.
    changes: HashMap<G, Position>,
    changes_max: usize,
    entries: Cache<K, Entry<G, V>, EntryWeight>,
}

struct Entry<G, V> {
    group: G,
    loaded: Position,
    value: V,
    bytes: u64,
}

#[derive(Clone)]
struct EntryWeight;

impl<G, K, V> Weighter<K, Entry<G, V>> for EntryWeight {
    fn weight(&self, _: &K, entry: &Entry<G, V>) -> u64 {
        entry.bytes + ENTRY_OVERHEAD_BYTES
    }
}

impl<G: Hash + Eq, K: Hash + Eq, V: Clone> Projection<G, K, V> {
    /// A projection of about `bytes_max` bytes that has seen the log up to `from`.
    pub(crate) fn new(bytes_max: u64, from: Position) -> Self {
        let entries_max = usize::try_from(bytes_max / ENTRY_OVERHEAD_BYTES).unwrap_or(usize::MAX).max(1);
        Self {
            state: Mutex::new(State {
                applied: from,
                cleared: from,
                changes: HashMap::new(),
                changes_max: entries_max,
                entries: Cache::with_weighter(entries_max, bytes_max, EntryWeight),
            }),
        }
    }

    /// The value of `key` as a view at `at` would give it, if that is known.
    pub(crate) fn get(&self, at: Position, key: &K) -> Option<V> {
        let mut state = self.state.lock();
        if state.applied < at {
            return None;
        }
        let State { entries, changes, .. } = &mut *state;
        let entry = entries.get(key)?;
        if entry.loaded > at {
            return None;
        }
        let stale = changes.get(&entry.group).is_some_and(|changed| *changed > entry.loaded);
        if stale {
            entries.remove(key);
            return None;
        }
        Some(entry.value.clone())
    }

    /// Whether a group is still as a view at `since` gave it, as far as the log was followed.
    pub(crate) fn is_unchanged<Q: Hash + Eq + ?Sized>(&self, group: &Q, since: Position) -> bool
    where
        G: Borrow<Q>,
    {
        let state = self.state.lock();
        state.changes.get(group).copied().unwrap_or(state.cleared) <= since
    }

    /// What was last known of `key`, which may be out of date.
    pub(crate) fn last(&self, key: &K) -> Option<V> {
        Some(self.state.lock().entries.peek(key)?.value.clone())
    }

    /// Keeps what a view at `loaded` gave, which takes `bytes`.
    pub(crate) fn insert(&self, loaded: Position, group: G, key: K, value: V, bytes: usize) {
        let mut state = self.state.lock();
        let stale = state.changes.get(&group).is_some_and(|changed| *changed > loaded);
        if stale || loaded < state.cleared {
            return;
        }
        let entry = Entry { group, loaded, value, bytes: bytes as u64 };
        state.entries.insert(key, entry);
    }

    /// The group changed at `position`, which is above all positions applied so far.
    pub(crate) fn changed(&self, position: Position, group: G) {
        let mut state = self.state.lock();
        if state.changes.len() >= state.changes_max {
            state.entries.clear();
            state.changes.clear();
            state.cleared = position;
        }
        state.changes.insert(group, position);
    }

    /// All changes up to `position` were told.
    pub(crate) fn applied(&self, position: Position) {
        let mut state = self.state.lock();
        state.applied = state.applied.max(position);
    }

    /// Forgets everything: what changed up to `position` isn't known.
    pub(crate) fn clear(&self, position: Position) {
        let mut state = self.state.lock();
        state.entries.clear();
        state.changes.clear();
        state.cleared = state.cleared.max(position);
        state.applied = state.applied.max(position);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(number: u64) -> Position {
        Position::from_u64(number)
    }

    #[test]
    fn nothing_is_told_to_who_reads_from_a_newer_view_than_was_followed() {
        let cache = Projection::new(10 * ENTRY_OVERHEAD_BYTES, at(5));
        cache.insert(at(5), "alice", "a", 1, 0);
        assert_eq!(cache.get(at(5), &"a"), Some(1));
        assert_eq!(cache.get(at(6), &"a"), None);
        assert_eq!(cache.last(&"a"), Some(1));
        cache.applied(at(6));
        assert_eq!(cache.get(at(6), &"a"), Some(1));
    }

    #[test]
    fn nothing_is_told_to_who_reads_from_an_older_view_than_was_loaded_from() {
        let cache = Projection::new(10 * ENTRY_OVERHEAD_BYTES, at(7));
        cache.insert(at(8), "alice", "a", 1, 0);
        cache.applied(at(9));
        assert_eq!(cache.get(at(7), &"a"), None);
        assert_eq!(cache.get(at(9), &"a"), Some(1));
    }

    #[test]
    fn what_was_loaded_before_a_change_is_not_kept_however_late_it_comes() {
        let cache = Projection::new(10 * ENTRY_OVERHEAD_BYTES, at(5));
        cache.insert(at(5), "alice", "before", 1, 0);
        cache.changed(at(6), "alice");
        cache.applied(at(6));
        cache.insert(at(5), "alice", "late", 2, 0);
        cache.insert(at(6), "alice", "after", 3, 0);
        cache.insert(at(5), "bob", "other", 4, 0);
        let seen = ["before", "late", "after", "other"].map(|key| cache.get(at(6), &key));
        assert_eq!(seen, [None, None, Some(3), Some(4)]);
    }

    #[test]
    fn it_forgets_what_it_missed() {
        let cache = Projection::new(10 * ENTRY_OVERHEAD_BYTES, at(5));
        cache.insert(at(5), "alice", "a", 1, 0);
        cache.clear(at(9));
        cache.insert(at(8), "alice", "late", 2, 0);
        cache.insert(at(9), "alice", "new", 3, 0);
        let seen = ["a", "late", "new"].map(|key| cache.get(at(9), &key));
        assert_eq!(seen, [None, None, Some(3)]);
    }

    #[test]
    fn it_is_bounded_by_bytes() {
        let cache = Projection::new(100_000, at(0));
        for key in 0..1_000 {
            cache.insert(at(0), key, key, key, 9_000);
        }
        let kept = (0..1_000).filter(|key| cache.get(at(0), key).is_some()).count();
        assert!((5..=11).contains(&kept), "{kept}");
    }

    /// A step of the model: a change of a group, the follower going on, or a read from a view.
    #[derive(Clone, Debug)]
    enum Step {
        Change(u8),
        Follow(usize),
        Read { key: u8, behind: u64, insert_later: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let read = (0..8u8, 0..3u64, any::<bool>());
        let read = read.prop_map(|(key, behind, insert_later)| Step::Read { key, behind, insert_later });
        let step = prop_oneof![(0..4u8).prop_map(Step::Change), (1..4usize).prop_map(Step::Follow), read];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        /// Whatever the order in which views are read, entries kept and the log followed, an answer is
        /// what the view would have given: here, how often the group had changed by then.
        #[test]
        fn an_answer_is_what_the_view_gives(steps in steps(), entries_max in 1..6u64) {
            let cache: Projection<u8, u8, usize> = Projection::new(entries_max * ENTRY_OVERHEAD_BYTES, at(0));
            let mut history: Vec<u8> = Vec::new();
            let mut followed = 0;
            let mut late: Vec<(Position, u8, usize)> = Vec::new();
            for step in steps {
                match step {
                    Step::Change(group) => history.push(group),
                    Step::Follow(count) => {
                        let until = (followed + count).min(history.len());
                        for (index, group) in history.iter().enumerate().take(until).skip(followed) {
                            cache.changed(at(index as u64 + 1), *group);
                        }
                        followed = until;
                        cache.applied(at(followed as u64));
                        for (loaded, key, value) in late.drain(..) {
                            cache.insert(loaded, key / 2, key, value, 0);
                        }
                    }
                    Step::Read { key, behind, insert_later } => {
                        let position = (history.len() as u64).saturating_sub(behind);
                        let count = |view: &[u8]| view.iter().filter(|group| **group == key / 2).count();
                        let value = count(&history[..position as usize]);
                        for since in 0..=followed {
                            if cache.is_unchanged(&(key / 2), at(since as u64)) {
                                prop_assert_eq!(count(&history[..since]), count(&history[..followed]));
                            }
                        }
                        match cache.get(at(position), &key) {
                            Some(known) => prop_assert_eq!(known, value),
                            None if insert_later => late.push((at(position), key, value)),
                            None => cache.insert(at(position), key / 2, key, value, 0),
                        }
                    }
                }
            }
        }
    }
}
