//! How much waits of each sender in the queues of all devices together: many devices' worth of shares would fill the disk.
//!
//! Only what was queued since the start is counted. When that is much, all queues are measured, which also takes in what was there
//! before and leaves out what went with deleted devices.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use store::{Range, View};

use super::queues::{Load, Queues};
use crate::{Result, tables};

/// The most bytes that wait of one sender for all devices together, each message counted with
/// [`TO_DEVICE_ROW_BYTES`](super::TO_DEVICE_ROW_BYTES): some 500,000 keys of rooms.
pub const TO_DEVICE_SENDER_TOTAL_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Bytes that a sender queues before all queues are measured.
const UNMEASURED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The least time between two measurements, in milliseconds.
const MEASURE_INTERVAL_MS: u64 = 60 * 60 * 1000;
/// Rows read at once.
const PAGE_ROWS: usize = 500;

/// See the module. Senders are named by a keyed hash.
pub(super) struct Senders {
    known: Mutex<Known>,
}

struct Known {
    totals: LruCache<u64, Total>,
    measured_ms: Option<u64>,
}

#[derive(Copy, Clone, Default)]
struct Total {
    bytes: u64,
    unmeasured: u64,
}

impl Senders {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self { known: Mutex::new(Known { totals: LruCache::new(capacity), measured_ms: None }) }
    }

    /// A message was queued.
    pub(super) fn queued(&self, sender: u64, bytes: u64) {
        let mut known = self.known.lock();
        let total = known.totals.get_or_insert_mut(sender, Total::default);
        total.bytes += bytes;
        total.unmeasured += bytes;
    }

    /// Messages were taken from a queue, or not queued after all.
    pub(super) fn released(&self, freed: &Load) {
        let mut known = self.known.lock();
        for (sender, bytes) in &freed.senders {
            if let Some(total) = known.totals.peek_mut(sender) {
                total.bytes = total.bytes.saturating_sub(*bytes);
                total.unmeasured = total.unmeasured.min(total.bytes);
            }
        }
    }

    /// Whether as much waits of a sender as may.
    pub(super) fn is_full(&self, sender: u64) -> bool {
        self.known.lock().totals.peek(&sender).is_some_and(|total| total.bytes >= TO_DEVICE_SENDER_TOTAL_BYTES_MAX)
    }

    /// Whether the caller is to measure all queues now.
    pub(super) fn must_measure(&self, sender: u64, now_ms: u64) -> bool {
        let mut known = self.known.lock();
        let is_much = known.totals.peek(&sender).is_some_and(|total| {
            total.unmeasured >= UNMEASURED_BYTES_MAX || total.bytes >= TO_DEVICE_SENDER_TOTAL_BYTES_MAX
        });
        let is_due = known.measured_ms.is_none_or(|at| now_ms >= at.saturating_add(MEASURE_INTERVAL_MS));
        if is_much && is_due {
            known.measured_ms = Some(now_ms);
        }
        is_much && is_due
    }

    /// All queues were measured.
    pub(super) fn measured(&self, all: Load) {
        let totals = &mut self.known.lock().totals;
        totals.clear();
        for (sender, bytes) in all.senders {
            totals.put(sender, Total { bytes, unmeasured: 0 });
        }
    }
}

impl Queues {
    /// Measures the queues of all devices.
    pub(super) async fn measure_all(&self, view: &View) -> Result<Load> {
        let mut load = Load::default();
        let mut next = Some(Range::<tables::ToDevice>::all().limit(PAGE_ROWS));
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for (_, event) in &page.rows {
                self.count(&mut load, event)?;
            }
            next = page.next;
            // Rows in memory are read without waiting.
            tokio::task::yield_now().await;
        }
        Ok(load)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn load(sender: u64, bytes: u64) -> Load {
        Load { bytes, senders: HashMap::from([(sender, bytes)]) }
    }

    #[test]
    fn what_waits_of_a_sender_is_bounded_in_sum() {
        const STEP: u64 = 16 * 1024 * 1024;
        let senders = Senders::new(NonZeroUsize::new(10).expect("not zero"));
        let mut queued = 0;
        // Much was there before the start.
        let before = TO_DEVICE_SENDER_TOTAL_BYTES_MAX / 2;
        while !senders.is_full(1) {
            senders.queued(1, STEP);
            queued += STEP;
            if senders.must_measure(1, 1_000) {
                senders.measured(load(1, before + queued));
            }
        }
        assert_eq!(before + queued, TO_DEVICE_SENDER_TOTAL_BYTES_MAX);
        assert!(!senders.is_full(2), "others are not concerned");
        // It isn't measured for each request of somebody who sends too much, but now and then: devices may be gone.
        assert!(!senders.must_measure(1, 2_000));
        assert!(senders.must_measure(1, 1_000 + MEASURE_INTERVAL_MS));
        assert!(!senders.must_measure(1, 1_000 + MEASURE_INTERVAL_MS));
        senders.measured(load(1, STEP));
        assert!(!senders.is_full(1));
        // What clients take makes room.
        senders.queued(1, TO_DEVICE_SENDER_TOTAL_BYTES_MAX);
        assert!(senders.is_full(1));
        senders.released(&load(1, 2 * STEP));
        assert!(!senders.is_full(1));
    }
}
