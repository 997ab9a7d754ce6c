//! Memory that is held beside all caches because what is in it can't be read again when it is needed. The cache of what is stored
//! gives way to it, so that all stays within one budget.

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::SetCache;

/// The part of its share that the cache keeps, whatever is held.
const CACHE_PART_MIN: usize = 4;
/// The cache is made smaller or larger in steps of so many bytes.
const STEP_BYTES: usize = 64 * 1024;

/// What all hold, and the cache that gives way.
pub(crate) struct Holdings {
    cache_bytes: usize,
    held_bytes: Mutex<usize>,
    set_cache: SetCache,
}

impl Holdings {
    /// Nothing is held, and the cache takes `cache_bytes`.
    pub(crate) fn new(cache_bytes: usize, set_cache: SetCache) -> Arc<Holdings> {
        Arc::new(Holdings { cache_bytes, held_bytes: Mutex::new(0), set_cache })
    }

    pub(crate) fn held_bytes(&self) -> usize {
        *self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, old: usize, new: usize) {
        let mut held = self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *held;
        *held = before.saturating_sub(old).saturating_add(new);
        if before / STEP_BYTES != *held / STEP_BYTES {
            (self.set_cache)(self.cache_bytes.saturating_sub(*held).max(self.cache_bytes / CACHE_PART_MIN));
        }
    }
}

/// Memory that one part of the server holds, see [`Store::hold`](crate::Store::hold). Given back when it is dropped. The default counts for
/// nothing.
#[derive(Default)]
pub struct Held {
    holdings: Option<Arc<Holdings>>,
    bytes: usize,
}

impl Held {
    pub(crate) fn new(holdings: Arc<Holdings>) -> Held {
        Held { holdings: Some(holdings), bytes: 0 }
    }

    /// Says how many bytes are held now.
    pub fn set(&mut self, bytes: usize) {
        let old = std::mem::replace(&mut self.bytes, bytes);
        if let Some(holdings) = self.holdings.as_ref().filter(|_| old != bytes) {
            holdings.change(old, bytes);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_cache_gives_way_to_what_is_held() {
        const CACHE: usize = 100 * STEP_BYTES;
        let cache = Arc::new(AtomicUsize::new(CACHE));
        let set = cache.clone();
        let holdings = Holdings::new(CACHE, Arc::new(move |bytes| set.store(bytes, Ordering::Relaxed)));
        let (mut one, mut other) = (Held::new(holdings.clone()), Held::new(holdings.clone()));
        one.set(10 * STEP_BYTES);
        other.set(20 * STEP_BYTES);
        assert_eq!((holdings.held_bytes(), cache.load(Ordering::Relaxed)), (30 * STEP_BYTES, 70 * STEP_BYTES));
        one.set(STEP_BYTES);
        assert_eq!(cache.load(Ordering::Relaxed), 79 * STEP_BYTES);
        other.set(1_000 * STEP_BYTES);
        assert_eq!(cache.load(Ordering::Relaxed), CACHE / CACHE_PART_MIN);
        drop(other);
        drop(one);
        assert_eq!((holdings.held_bytes(), cache.load(Ordering::Relaxed)), (0, CACHE));
    }
}
