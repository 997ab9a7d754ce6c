//! What is known of each of many things with small numbers, behind many locks.

use parking_lot::Mutex;

/// Locks among which the things are divided.
const SHARDS: usize = 64;

/// A value for each number from 0 up. Closures are called with a lock held: they must be short and take no other of the same slots.
pub(super) struct Slots<T>([Mutex<Vec<T>>; SHARDS]);

impl<T: Default> Slots<T> {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }

    fn place(number: u32) -> (usize, usize) {
        (number as usize % SHARDS, number as usize / SHARDS)
    }

    /// Gives the value of a number that was given to something, made if there is none yet.
    pub(super) fn with<R>(&self, number: u32, then: impl FnOnce(&mut T) -> R) -> R {
        let (shard, at) = Self::place(number);
        let mut shard = self.0[shard].lock();
        if shard.len() <= at {
            shard.resize_with(at + 1, T::default);
        }
        then(&mut shard[at])
    }

    /// Gives the value of any number, if there is one.
    pub(super) fn known<R>(&self, number: u32, then: impl FnOnce(&mut T) -> R) -> Option<R> {
        let (shard, at) = Self::place(number);
        self.0[shard].lock().get_mut(at).map(then)
    }

    /// Gives every value.
    pub(super) fn each(&self, mut then: impl FnMut(&mut T)) {
        for shard in &self.0 {
            shard.lock().iter_mut().for_each(&mut then);
        }
    }

    /// How many values there are.
    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().len()).sum()
    }
}
