//! A bounded cache of what was read from views, which a projection of the log tells what changed.
//!
//! Entries belong to a group (a user), and a change of the group makes its earlier entries invalid. Every change that a view shows was
//! told before ([`store::Projection`]), so an answer is what the view would give. Nothing has to be invalidated by those who write.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use parking_lot::Mutex;
use quick_cache::{Weighter, unsync::Cache};
use store::Position;

/// What an entry takes besides what its owner says, in bytes: keys, ids of groups, tables.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 = 250;

pub(crate) struct GroupCache<G, K, V> {
    state: Mutex<State<G, K, V>>,
}

struct State<G, K, V> {
    /// What changed up to here, and is not in `changes`, isn't known.
    cleared: Position,
    /// Last change per group since `cleared`; bounded by forgetting all of them.
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

impl<G: Hash + Eq, K, V> State<G, K, V> {
    /// A position after which a group has not changed.
    fn last_change<Q: Hash + Eq + ?Sized>(&self, group: &Q) -> Position
    where
        G: Borrow<Q>,
    {
        self.changes.get(group).copied().unwrap_or(self.cleared)
    }
}

#[derive(Clone)]
struct EntryWeight;

impl<G, K, V> Weighter<K, Entry<G, V>> for EntryWeight {
    fn weight(&self, _: &K, entry: &Entry<G, V>) -> u64 {
        entry.bytes + ENTRY_OVERHEAD_BYTES
    }
}

impl<G: Hash + Eq, K: Hash + Eq, V: Clone> GroupCache<G, K, V> {
    /// A cache of about `bytes_max` bytes that is told what changes after `from`.
    pub(crate) fn new(bytes_max: u64, from: Position) -> Self {
        let entries_max = usize::try_from(bytes_max / ENTRY_OVERHEAD_BYTES).unwrap_or(usize::MAX).max(1);
        Self {
            state: Mutex::new(State {
                cleared: from,
                changes: HashMap::new(),
                changes_max: entries_max,
                entries: Cache::with_weighter(entries_max, bytes_max, EntryWeight),
            }),
        }
    }

    /// The value of `key` as a view at `at` would give it, if that is known.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, at: Position, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let state = self.state.lock();
        let entry = state.entries.get(key)?;
        let changed = state.last_change(&entry.group);
        (changed <= entry.loaded && changed <= at).then(|| entry.value.clone())
    }

    /// A position after which a group has not changed. It may be above what is published for a moment.
    pub(crate) fn last_change<Q: Hash + Eq + ?Sized>(&self, group: &Q) -> Position
    where
        G: Borrow<Q>,
    {
        self.state.lock().last_change(group)
    }

    /// What was last known of `key`, which may be out of date.
    pub(crate) fn last(&self, key: &K) -> Option<V> {
        Some(self.state.lock().entries.peek(key)?.value.clone())
    }

    /// Keeps what a view at `loaded` gave, which takes `bytes`.
    pub(crate) fn insert(&self, loaded: Position, group: G, key: K, value: V, bytes: usize) {
        let mut state = self.state.lock();
        if state.last_change(&group) > loaded {
            return;
        }
        let entry = Entry { group, loaded, value, bytes: bytes as u64 };
        state.entries.insert(key, entry);
    }

    /// The group changed at `position`, which is above all told before.
    pub(crate) fn changed(&self, position: Position, group: G) {
        let mut state = self.state.lock();
        if state.changes.len() >= state.changes_max {
            // No entry is valid any more; others take their places.
            state.changes.clear();
            state.cleared = position;
        }
        state.changes.insert(group, position);
    }

    /// Anything may have changed up to `position`.
    pub(crate) fn clear(&self, position: Position) {
        let mut state = self.state.lock();
        state.changes.clear();
        state.cleared = position;
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
    fn an_answer_holds_for_all_views_since_the_last_change() {
        let cache = GroupCache::new(10 * ENTRY_OVERHEAD_BYTES, at(5));
        cache.changed(at(6), "alice");
        cache.insert(at(8), "alice", "a", 1, 0);
        cache.insert(at(8), "bob", "b", 2, 0);
        let seen = |key| [4, 5, 6, 9].map(|position| cache.get(at(position), &key));
        assert_eq!(seen("a"), [None, None, Some(1), Some(1)]);
        assert_eq!(seen("b"), [None, Some(2), Some(2), Some(2)]);
    }

    #[test]
    fn what_was_loaded_before_a_change_is_not_kept_however_late_it_comes() {
        let cache = GroupCache::new(10 * ENTRY_OVERHEAD_BYTES, at(5));
        cache.insert(at(5), "alice", "before", 1, 0);
        cache.changed(at(6), "alice");
        cache.insert(at(5), "alice", "late", 2, 0);
        cache.insert(at(6), "alice", "after", 3, 0);
        cache.insert(at(5), "bob", "other", 4, 0);
        let seen = ["before", "late", "after", "other"].map(|key| cache.get(at(6), &key));
        assert_eq!(seen, [None, None, Some(3), Some(4)]);
        assert_eq!(cache.last(&"before"), Some(1));
    }

    #[test]
    fn it_forgets_what_it_missed() {
        let cache = GroupCache::new(10 * ENTRY_OVERHEAD_BYTES, at(5));
        cache.insert(at(5), "alice", "a", 1, 0);
        cache.clear(at(9));
        cache.insert(at(8), "alice", "late", 2, 0);
        cache.insert(at(9), "alice", "new", 3, 0);
        let seen = ["a", "late", "new"].map(|key| cache.get(at(9), &key));
        assert_eq!(seen, [None, None, Some(3)]);
    }

    #[test]
    fn it_is_bounded_by_bytes() {
        let cache = GroupCache::new(100_000, at(0));
        for key in 0..1_000 {
            cache.insert(at(0), key, key, key, 9_000);
        }
        let kept = (0..1_000).filter(|key| cache.get(at(0), key).is_some()).count();
        assert!((5..=11).contains(&kept), "{kept}");
    }

    /// A step of the model: a change of a group, its position being published, or a read from a view so far behind.
    #[derive(Clone, Debug)]
    enum Step {
        Change(u8),
        Publish(usize),
        Read { key: u8, behind: usize, insert_later: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let read = (0..8u8, 0..3usize, any::<bool>());
        let read = read.prop_map(|(key, behind, insert_later)| Step::Read { key, behind, insert_later });
        let step = prop_oneof![(0..4u8).prop_map(Step::Change), (1..4usize).prop_map(Step::Publish), read];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        /// Whatever the order in which changes are applied and published, views read and entries kept, an answer is what the view would
        /// have given: here, how often the group had changed by then.
        #[test]
        fn an_answer_is_what_the_view_gives(steps in steps(), entries_max in 1..6u64) {
            let cache: GroupCache<u8, u8, usize> = GroupCache::new(entries_max * ENTRY_OVERHEAD_BYTES, at(0));
            let mut history: Vec<u8> = Vec::new();
            let mut published = 0;
            let mut late: Vec<(Position, u8, usize)> = Vec::new();
            for step in steps {
                match step {
                    Step::Change(group) => {
                        history.push(group);
                        cache.changed(at(history.len() as u64), group);
                    }
                    Step::Publish(count) => {
                        published = (published + count).min(history.len());
                        for (loaded, key, value) in late.drain(..) {
                            cache.insert(loaded, key / 2, key, value, 0);
                        }
                    }
                    Step::Read { key, behind, insert_later } => {
                        let view = published.saturating_sub(behind);
                        let (position, group) = (at(view as u64), key / 2);
                        let value = history[..view].iter().filter(|changed| **changed == group).count();
                        let unchanged_since = cache.last_change(&group).get() as usize;
                        prop_assert!(!history[unchanged_since..].contains(&group));
                        match cache.get(position, &key) {
                            Some(known) => prop_assert_eq!(known, value),
                            None if insert_later => late.push((position, key, value)),
                            None => cache.insert(position, group, key, value, 0),
                        }
                    }
                }
            }
        }
    }
}
