//! A bounded cache that follows the log in order.
//!
//! Entries belong to a group (a user), and a change of the group makes all its earlier entries invalid. An answer is given only if
//! the projection has seen the log up to the view that the caller reads from, so it is never older than that view; otherwise the
//! caller reads the tables. Nothing has to be invalidated by those who write.

use std::{collections::HashMap, hash::Hash, num::NonZeroUsize};

use lru::LruCache;
use parking_lot::Mutex;
use store::Position;

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
    entries: LruCache<K, Entry<G, V>>,
    capacity: usize,
}

struct Entry<G, V> {
    group: G,
    loaded: Position,
    value: V,
}

impl<G: Hash + Eq, K: Hash + Eq, V: Clone> Projection<G, K, V> {
    /// A projection of at most `capacity` entries that has seen the log up to `from`.
    pub(crate) fn new(capacity: usize, from: Position) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self {
            state: Mutex::new(State {
                applied: from,
                cleared: from,
                changes: HashMap::new(),
                entries: LruCache::new(capacity),
                capacity: capacity.get(),
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
            entries.pop(key);
            return None;
        }
        Some(entry.value.clone())
    }

    /// Keeps what a view at `loaded` gave.
    pub(crate) fn insert(&self, loaded: Position, group: G, key: K, value: V) {
        let mut state = self.state.lock();
        let stale = state.changes.get(&group).is_some_and(|changed| *changed > loaded);
        if stale || loaded < state.cleared {
            return;
        }
        let entry = Entry { group, loaded, value };
        state.entries.put(key, entry);
    }

    /// The group changed at `position`, which is above all positions applied so far.
    pub(crate) fn changed(&self, position: Position, group: G) {
        let mut state = self.state.lock();
        if state.changes.len() >= state.capacity {
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
