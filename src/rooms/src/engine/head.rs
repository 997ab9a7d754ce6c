//! Room heads: the published one in the store, and the pending one that many writers of a room share.
//!
//! A writer takes the room's turn, builds on the pending head, queues its batch and gives the turn back before the batch is
//! on disk. Each batch expects the head that the one before it writes, so if one fails, all behind it fail too and are
//! built again. What queued batches will write and builders need to read is kept here until they are published.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId};
use state_tree::{EventNum, Overlay};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, futures::OwnedNotified};

use crate::{
    Rooms,
    room::RoomInfo,
    rows::TxnKey,
    types::{EventMeta, RoomHead, StoredEvent},
};

/// Rooms whose pending head is kept in memory before those without work are let go.
const SLOTS_MAX: usize = 10_000;

/// Entries of pending data beyond which what is published is cleaned out at each turn.
const PENDING_CLEAN_ENTRIES: usize = 64;

/// Values that queued batches write, each with the number of its batch.
pub(crate) struct Queued<K, V>(HashMap<K, (u64, V)>);

impl<K: Eq + Hash, V> Queued<K, V> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    pub(crate) fn get<Q: ?Sized + Eq + Hash>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(key).map(|(_, value)| value)
    }

    /// All that is here, settled or not.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, (_, value))| (key, value))
    }

    pub(crate) fn insert(&mut self, batch_number: u64, key: K, value: V) {
        self.0.insert(key, (batch_number, value));
    }

    fn clean(&mut self, settled: u64) {
        if self.0.len() > PENDING_CLEAN_ENTRIES {
            self.0.retain(|_, (batch_number, _)| *batch_number > settled);
        }
    }
}

/// What the queued batches of one room will have written. Only the holder of the room's turn touches it.
pub(crate) struct PendingRoom {
    /// The head after all queued batches; `None`: read the published one.
    pub(crate) head: Option<RoomHead>,
    /// What the room is, once it was read: that never changes.
    pub(crate) info: Option<RoomInfo>,
    /// The number of the next batch; they start at 1.
    pub(crate) next_batch: u64,
    /// Batches up to this one are settled.
    settled: u64,
    /// Failures of batches below this number have been dealt with.
    failed_below: u64,
    pub(crate) overlays: Vec<(u64, Arc<Overlay>)>,
    pub(crate) events: Queued<EventNum, Arc<StoredEvent>>,
    pub(crate) nums: Queued<OwnedEventId, EventNum>,
    pub(crate) metas: Queued<EventNum, EventMeta>,
    pub(crate) servers: Queued<OwnedServerName, u64>,
    /// Extremities that are sidelined, or are it no more.
    pub(crate) sidelined: Queued<EventNum, bool>,
    pub(crate) txns: Queued<TxnKey, ()>,
}

impl PendingRoom {
    fn new() -> Self {
        Self {
            head: None,
            info: None,
            next_batch: 1,
            settled: 0,
            failed_below: 0,
            overlays: Vec::new(),
            events: Queued::new(),
            nums: Queued::new(),
            metas: Queued::new(),
            servers: Queued::new(),
            sidelined: Queued::new(),
            txns: Queued::new(),
        }
    }

    /// Forgets what queued batches would write, because one of them failed and those behind it will.
    fn reset(&mut self) {
        let next_batch = self.next_batch;
        let info = self.info.take();
        *self = Self::new();
        self.info = info;
        self.next_batch = next_batch;
        self.settled = next_batch - 1;
        self.failed_below = next_batch;
    }

    /// Whether an event is named first in a batch that isn't settled. What settled batches have written is looked for in the
    /// store, though it may be kept here for some time.
    pub(crate) fn is_queued(&self, event_id: &EventId) -> bool {
        self.nums.0.get(event_id).is_some_and(|(batch_number, _)| *batch_number > self.settled)
    }

    /// Whether a batch that isn't settled answers a transaction.
    pub(crate) fn is_answered(&self, txn: &TxnKey) -> bool {
        self.txns.0.get(txn).is_some_and(|(batch_number, ())| *batch_number > self.settled)
    }

    pub(crate) fn all_settled(&self) -> bool {
        self.settled + 1 == self.next_batch
    }

    /// Takes notice of batches that were answered. Afterwards a view taken now and what is kept here have no hole between them.
    fn settle(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            if outcome.failed && outcome.batch_number >= self.failed_below {
                self.reset();
            }
            self.settled = self.settled.max(outcome.batch_number);
        }
        if outcomes.is_empty() {
            return;
        }
        if self.all_settled() {
            let head = self.head.take();
            let failed_below = self.failed_below;
            self.reset();
            self.failed_below = failed_below;
            self.head = head;
            return;
        }
        let settled = self.settled;
        self.overlays.retain(|(batch_number, _)| *batch_number > settled);
        self.events.clean(settled);
        self.nums.clean(settled);
        self.metas.clean(settled);
        self.servers.clean(settled);
        self.sidelined.clean(settled);
        self.txns.clean(settled);
    }
}

/// How a queued batch ended.
pub(crate) struct Outcome {
    pub(crate) batch_number: u64,
    pub(crate) failed: bool,
}

/// One room's turn and pending data.
pub(crate) struct RoomSlot {
    /// Held while a batch is built and queued; never while one is written. Order: before the mutex of `outcomes`.
    turn: Arc<AsyncMutex<PendingRoom>>,
    outcomes: Mutex<Vec<Outcome>>,
    /// Told whenever a batch is answered.
    answered: Arc<Notify>,
}

/// The next time that a queued batch of a room is answered.
pub(crate) struct NextAnswer {
    notified: OwnedNotified,
    /// One was answered before this was made, but nobody has taken notice yet.
    came_already: bool,
}

impl NextAnswer {
    pub(crate) async fn wait(self) {
        if !self.came_already {
            self.notified.await;
        }
    }
}

impl RoomSlot {
    fn new() -> Self {
        Self {
            turn: Arc::new(AsyncMutex::new(PendingRoom::new())),
            outcomes: Mutex::new(Vec::new()),
            answered: Arc::new(Notify::new()),
        }
    }

    pub(crate) fn report(&self, outcome: Outcome) {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        self.answered.notify_waiters();
    }

    pub(crate) fn next_answer(&self) -> NextAnswer {
        // In this order: what is answered in between is seen in the outcomes.
        let notified = self.answered.clone().notified_owned();
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        NextAnswer { notified, came_already: !outcomes.is_empty() }
    }

    fn take_outcomes(&self) -> Vec<Outcome> {
        std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the room's turn.
    pub(crate) async fn lock(&self) -> OwnedMutexGuard<PendingRoom> {
        let mut pending = self.turn.clone().lock_owned().await;
        self.settle(&mut pending);
        pending
    }

    /// Takes notice of the batches that were answered.
    pub(crate) fn settle(&self, pending: &mut PendingRoom) {
        pending.settle(&self.take_outcomes());
    }

    /// Whether nothing is queued and nobody holds the turn.
    fn is_idle(&self) -> bool {
        let Ok(mut pending) = self.turn.try_lock() else { return false };
        pending.settle(&self.take_outcomes());
        pending.all_settled()
    }
}

/// The slots of all rooms that were written to lately.
pub(crate) struct Heads {
    slots: Mutex<HashMap<OwnedRoomId, Arc<RoomSlot>>>,
}

impl Heads {
    pub(crate) fn new() -> Self {
        Self { slots: Mutex::new(HashMap::new()) }
    }

    /// The slot of a room.
    pub(crate) fn slot(&self, room: &RoomId) -> Arc<RoomSlot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(room) {
            return slot.clone();
        }
        if slots.len() >= SLOTS_MAX {
            // A slot that somebody holds must stay the only one of its room.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !slot.is_idle());
        }
        let slot = Arc::new(RoomSlot::new());
        slots.insert(room.to_owned(), slot.clone());
        slot
    }
}

impl Rooms {}

#[cfg(test)]
mod tests {
    use ruma::event_id;

    use super::*;

    #[test]
    fn what_is_settled_is_not_queued_while_other_batches_are() {
        let mut pending = PendingRoom::new();
        let (old, new) = (event_id!("$old:h"), event_id!("$new:h"));
        for (batch_number, id) in [(1, old), (2, new)] {
            pending.next_batch = batch_number + 1;
            pending.nums.insert(batch_number, id.to_owned(), EventNum(batch_number));
        }
        assert!(pending.is_queued(old) && pending.is_queued(new));
        pending.settle(&[Outcome { batch_number: 1, failed: false }]);
        assert!(!pending.is_queued(old) && pending.is_queued(new));
        pending.settle(&[Outcome { batch_number: 2, failed: false }]);
        assert!(!pending.is_queued(new));
    }
}
