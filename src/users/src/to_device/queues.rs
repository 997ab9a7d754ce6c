//! What is known in memory of the queues of devices: enough that a device with nothing queued costs nothing.
//!
//! All of it may be forgotten at any time (a restart, a full cache): then the tables are asked once.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedUserId};
use store::Position;

/// Messages that are queued for a device between two measurements of its queue.
const MEASURE_EVERY: u32 = 500;

type Key = (OwnedUserId, OwnedDeviceId);

/// See the module.
pub(crate) struct Queues {
    devices: Mutex<LruCache<Key, Queue>>,
}

#[derive(Copy, Clone, Default)]
struct Queue {
    /// Messages up to here were delivered and may still be there; none are if it is [`Position::ZERO`]. `None` if that is not
    /// known.
    delivered: Option<Position>,
    /// Messages that were queued since the queue was last measured.
    unmeasured: u32,
    /// The queue was full when it was measured, and nothing was taken from it since.
    full: bool,
}

impl Queues {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self { devices: Mutex::new(LruCache::new(capacity)) }
    }

    fn change(&self, key: &Key, change: impl FnOnce(&mut Queue)) {
        let mut devices = self.devices.lock();
        match devices.get_mut(key) {
            Some(queue) => change(queue),
            None => {
                let mut queue = Queue::default();
                change(&mut queue);
                devices.put(key.clone(), queue);
            }
        }
    }

    fn read(&self, key: &Key) -> Queue {
        self.devices.lock().get(key).copied().unwrap_or_default()
    }

    /// A message was queued.
    pub(crate) fn queued(&self, key: &Key) {
        self.change(key, |queue| queue.unmeasured = queue.unmeasured.saturating_add(1));
    }

    /// Whether it is time to measure the queue.
    pub(crate) fn must_measure(&self, key: &Key) -> bool {
        let queue = self.read(key);
        !queue.full && queue.unmeasured >= MEASURE_EVERY
    }

    /// The queue was measured.
    pub(crate) fn measured(&self, key: &Key, full: bool) {
        self.change(key, |queue| {
            queue.full = full;
            queue.unmeasured = 0;
        });
    }

    /// Whether the queue takes no more.
    pub(crate) fn is_full(&self, key: &Key) -> bool {
        self.read(key).full
    }

    /// Messages up to a position were given to a client.
    pub(crate) fn delivered(&self, key: &Key, up_to: Position) {
        self.change(key, |queue| {
            // Where it is not known what is there, it stays so.
            if let Some(delivered) = &mut queue.delivered {
                *delivered = up_to.max(*delivered);
            }
        });
    }

    /// Whether there may be something to delete when a client acknowledges.
    pub(crate) fn may_acknowledge(&self, key: &Key) -> bool {
        self.read(key).delivered != Some(Position::ZERO)
    }

    /// Nothing is there any more up to a position.
    pub(crate) fn acknowledged(&self, key: &Key, up_to: Position) {
        self.change(key, |queue| {
            queue.full = false;
            if queue.delivered.is_none_or(|delivered| delivered <= up_to) {
                queue.delivered = Some(Position::ZERO);
            }
        });
    }

    /// The device is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.devices.lock().pop(key);
    }

    /// Nothing is known any more.
    pub(crate) fn clear(&self) {
        self.devices.lock().clear();
    }
}
