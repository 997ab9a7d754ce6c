//! How much waits of each sender in the queues of all devices together: many devices' worth of shares would fill the disk.
//!
//! Each message is counted when it is queued and when it goes, and what was there at the start is counted once, page by page, from
//! the view of that moment. The order doesn't matter, so the sums are right when that is done.

use std::{collections::HashMap, sync::Weak};

use parking_lot::Mutex;
use store::{Held, Page, Range, View};

use super::queues::{Load, Queues};
use crate::{Inner, Result, tables};

/// Rows read at once.
const PAGE_ROWS: usize = 500;
/// What a sender takes in memory, with the spare room of a table that grows.
const SENDER_BYTES: usize = 2 * size_of::<(u64, i64)>();

/// See the module. Senders are named by a keyed hash.
pub(super) struct Senders {
    bytes_max: u64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Bytes that wait. Below zero where more of what was there at the start has gone than is counted yet.
    totals: HashMap<u64, i64>,
    /// What this takes in memory. It can't be forgotten, as nothing else knows.
    held: Held,
}

impl Known {
    fn add(&mut self, sender: u64, bytes: i64) {
        let total = self.totals.entry(sender).or_default();
        *total = total.saturating_add(bytes);
        if *total == 0 {
            self.totals.remove(&sender);
        }
        self.held.set(self.totals.len() * SENDER_BYTES);
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Senders {
    /// Of each sender `bytes_max` may wait.
    pub(super) fn new(bytes_max: u64, held: Held) -> Self {
        Self { bytes_max, known: Mutex::new(Known { held, ..Known::default() }) }
    }

    /// A message was queued.
    pub(super) fn queued(&self, sender: u64, bytes: u64) {
        self.known.lock().add(sender, signed(bytes));
    }

    /// Messages were found that were there at the start.
    fn found(&self, load: &Load) {
        let mut known = self.known.lock();
        for (sender, bytes) in &load.senders {
            known.add(*sender, signed(*bytes));
        }
    }

    /// Messages are gone, or were not queued after all.
    pub(super) fn released(&self, freed: &Load) {
        let mut known = self.known.lock();
        for (sender, bytes) in &freed.senders {
            known.add(*sender, -signed(*bytes));
        }
    }

    /// Whether as much waits of a sender as may.
    pub(super) fn is_full(&self, sender: u64) -> bool {
        let total = self.known.lock().totals.get(&sender).copied().unwrap_or(0);
        total >= signed(self.bytes_max)
    }
}

impl Queues {
    fn count_page(&self, page: &Page<tables::ToDevice>) -> Result<()> {
        let mut load = Load::default();
        for (_, event) in &page.rows {
            self.count(&mut load, event)?;
        }
        self.senders.found(&load);
        Ok(())
    }
}

/// Counts what waited at the start, as `view` has it, until `users` is dropped.
pub(crate) async fn count_waiting(users: Weak<Inner>, view: View) {
    let mut next = Some(Range::<tables::ToDevice>::all().limit(PAGE_ROWS));
    while let Some(range) = next {
        let page = view.scan(range).await;
        let Some(inner) = users.upgrade() else { return };
        let counted = page.map_err(crate::Error::from).and_then(|page| {
            inner.queues.count_page(&page)?;
            Ok(page.next)
        });
        match counted {
            Ok(rest) => next = rest,
            Err(error) => {
                tracing::error!(%error, "messages that wait for devices could not be counted");
                return;
            }
        }
        drop(inner);
        // Rows in memory are read without waiting.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(sender: u64, bytes: u64) -> Load {
        Load { bytes, senders: HashMap::from([(sender, bytes)]) }
    }

    #[test]
    fn what_waits_of_a_sender_is_bounded_in_sum() {
        let senders = Senders::new(100, Held::default());
        for _ in 0..9 {
            senders.queued(1, 10);
        }
        assert!(!senders.is_full(1));
        senders.queued(1, 10);
        assert!(senders.is_full(1) && !senders.is_full(2), "others are not concerned");
        // What clients take makes room.
        senders.released(&load(1, 1));
        assert!(!senders.is_full(1));
        senders.released(&load(1, 99));
        assert!(senders.known.lock().totals.is_empty());
    }

    #[test]
    fn what_was_there_at_the_start_may_go_before_it_is_counted() {
        let senders = Senders::new(100, Held::default());
        senders.released(&load(1, 60));
        senders.queued(1, 50);
        assert!(!senders.is_full(1));
        senders.found(&load(1, 110));
        assert!(senders.is_full(1), "there are 100");
        senders.released(&load(1, 100));
        assert!(senders.known.lock().totals.is_empty());
    }
}
