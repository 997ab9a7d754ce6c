//! What is known in memory of the queues of devices: enough that a device with nothing queued costs nothing, and how much
//! each sender has in the long ones.
//!
//! All of it may be forgotten at any time (a restart, a full cache): then the tables are asked.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
};

use lru::LruCache;
use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use store::{Held, Position, Range, View};

use super::senders::Senders;
use crate::{Error, Result, tables};

/// The most bytes that wait for one device, each message counted with [`TO_DEVICE_ROW_BYTES`]: enough for the keys of a phone that was
/// off for three months in several rooms of 1,000 members who all talk. What is known of a queue may lag behind, so it may get
/// somewhat longer.
pub const TO_DEVICE_QUEUE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The most bytes that wait for one device from one sender, counted in the same way, so that nobody can use up what others
/// need: some 8,000 keys of rooms.
pub const TO_DEVICE_SENDER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What a message counts besides its own bytes.
pub const TO_DEVICE_ROW_BYTES: u64 = 256;

/// Long queues of which it is known how much each sender has in them.
const LOADS_KEPT: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Devices of which it is known what goes with them, until they are deleted.
const LEAVING_KEPT: NonZeroUsize = NonZeroUsize::new(2_000).expect("not zero");

/// What is known of one device's queue takes so many bytes of memory, with ids of the usual length.
const QUEUE_BYTES: u64 = 250;

type Key = (OwnedUserId, OwnedDeviceId);

/// See the module.
pub(crate) struct Queues {
    hasher: RandomState,
    known: Mutex<Known>,
    pub(super) senders: Senders,
}

struct Known {
    devices: LruCache<Key, Queue>,
    /// What is in the queues that were measured and found long.
    loads: LruCache<Key, Load>,
    /// What was in the queues of devices that are about to be deleted.
    leaving: LruCache<Key, Load>,
}

#[derive(Copy, Clone, Default)]
struct Queue {
    /// Messages up to here were delivered and may still be there; none are if it is [`Position::ZERO`]. `None` if that is not
    /// known.
    delivered: Option<Position>,
    /// Messages up to here were acknowledged, and counted as gone: nobody else may.
    gone: Position,
    /// Bytes that wait, as far as is known.
    bytes: u64,
    /// Bytes that were queued since the queue was last measured.
    unmeasured: u64,
    /// The log says that the queue is full.
    told_full: bool,
    /// The log says that a sender used up their share.
    told_share: bool,
    /// The log says that a sender used up what they may have in all queues.
    told_total: bool,
}

/// How much waits, in all and of each sender (by a keyed hash).
#[derive(Default)]
pub(crate) struct Load {
    pub(super) bytes: u64,
    pub(super) senders: HashMap<u64, u64>,
}

/// Why a queue doesn't take a message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// As much waits as may.
    Full,
    /// As much waits of this sender as may.
    Share,
    /// As much waits of this sender as may for all devices together.
    Total,
}

/// What of a stored message says who sent it.
#[derive(Deserialize)]
struct Sent {
    sender: String,
}

fn weight(event: &str) -> u64 {
    event.len() as u64 + TO_DEVICE_ROW_BYTES
}

impl Queues {
    /// What is known takes about `cache_bytes` bytes, and `held` counts what can't be forgotten. Of one sender, `sender_bytes_max` may
    /// wait in all queues.
    pub(crate) fn new(cache_bytes: u64, sender_bytes_max: u64, held: Held) -> Self {
        let capacity = usize::try_from(cache_bytes / QUEUE_BYTES).unwrap_or(usize::MAX);
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        let (loads, leaving) = (LruCache::new(LOADS_KEPT), LruCache::new(LEAVING_KEPT));
        let known = Known { devices: LruCache::new(capacity), loads, leaving };
        let senders = Senders::new(sender_bytes_max, held);
        Self { hasher: RandomState::new(), known: Mutex::new(known), senders }
    }

    fn sender(&self, sender: &UserId) -> u64 {
        self.hasher.hash_one(sender.as_str())
    }

    /// Counts a stored message.
    pub(crate) fn count(&self, load: &mut Load, event: &str) -> Result<()> {
        let sent = serde_json::from_str::<Sent>(event);
        let sent = sent.map_err(|source| Error::Damaged { what: "a message to a device", source })?;
        load.bytes += weight(event);
        *load.senders.entry(self.hasher.hash_one(&sent.sender)).or_default() += weight(event);
        Ok(())
    }

    /// A message is about to be queued. Called before it is, so that it can't be acknowledged earlier.
    pub(crate) fn queued(&self, key: &Key, sender: &UserId, event: &str) {
        self.change(key, |queue| {
            queue.bytes += weight(event);
            queue.unmeasured += weight(event);
        });
        if let Some(load) = self.known.lock().loads.get_mut(key) {
            load.bytes += weight(event);
            *load.senders.entry(self.sender(sender)).or_default() += weight(event);
        }
        self.senders.queued(self.sender(sender), weight(event));
    }

    /// A message was not queued after all.
    pub(crate) fn not_queued(&self, key: &Key, sender: &UserId, event: &str) {
        let mut load = Load { bytes: weight(event), ..Load::default() };
        load.senders.insert(self.sender(sender), weight(event));
        self.released(key, &load);
    }

    /// Messages were taken from the queue. Returns whether it is thought to be empty now.
    pub(crate) fn released(&self, key: &Key, freed: &Load) -> bool {
        self.senders.released(freed);
        let mut known = self.known.lock();
        let Some(queue) = known.devices.get_mut(key) else {
            known.loads.pop(key);
            return true;
        };
        queue.bytes = queue.bytes.saturating_sub(freed.bytes);
        let bytes = queue.bytes;
        if bytes < TO_DEVICE_SENDER_BYTES_MAX {
            known.loads.pop(key);
        } else if let Some(load) = known.loads.get_mut(key) {
            load.bytes = load.bytes.saturating_sub(freed.bytes);
            for (sender, bytes) in &freed.senders {
                let left = load.senders.get(sender).map_or(0, |left| left.saturating_sub(*bytes));
                match left {
                    0 => drop(load.senders.remove(sender)),
                    left => drop(load.senders.insert(*sender, left)),
                }
            }
        }
        bytes == 0
    }

    /// Nothing waits, whatever was thought.
    pub(crate) fn found_empty(&self, key: &Key) {
        self.measured(key, Load::default());
    }

    /// Whether it is time to measure the queue: no sender can have used up their share before.
    pub(crate) fn must_measure(&self, key: &Key) -> bool {
        let mut known = self.known.lock();
        known.loads.peek(key).is_none()
            && known.devices.get(key).is_some_and(|queue| queue.unmeasured >= TO_DEVICE_SENDER_BYTES_MAX)
    }

    /// The queue was measured.
    pub(crate) fn measured(&self, key: &Key, load: Load) {
        self.change(key, |queue| {
            queue.bytes = load.bytes;
            queue.unmeasured = 0;
        });
        let mut known = self.known.lock();
        if load.bytes < TO_DEVICE_SENDER_BYTES_MAX {
            known.loads.pop(key);
        } else {
            known.loads.put(key.clone(), load);
        }
    }

    /// Why the queue doesn't take more of a sender, if it doesn't, and whether that is told for the first time since its client came.
    pub(crate) fn refuses(&self, key: &Key, sender: &UserId) -> Option<(Refusal, bool)> {
        let mut known = self.known.lock();
        let (bytes, of_sender) = match known.loads.get(key) {
            Some(load) => (load.bytes, load.senders.get(&self.sender(sender)).copied().unwrap_or(0)),
            None => (known.devices.get(key).map_or(0, |queue| queue.bytes), 0),
        };
        let refusal = if bytes >= TO_DEVICE_QUEUE_BYTES_MAX {
            Refusal::Full
        } else if of_sender >= TO_DEVICE_SENDER_BYTES_MAX {
            Refusal::Share
        } else if self.senders.is_full(self.sender(sender)) {
            Refusal::Total
        } else {
            return None;
        };
        let queue = known.devices.get_or_insert_mut(key.clone(), Queue::default);
        let told = match refusal {
            Refusal::Full => &mut queue.told_full,
            Refusal::Share => &mut queue.told_share,
            Refusal::Total => &mut queue.told_total,
        };
        Some((refusal, !std::mem::replace(told, true)))
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
        let mut known = self.known.lock();
        known.devices.get(key).is_none_or(|queue| queue.delivered != Some(Position::ZERO))
    }

    /// A client acknowledges messages up to a position. Gives the position up to which others did already, so that no message is
    /// counted twice as gone.
    pub(crate) fn begin_acknowledging(&self, key: &Key, up_to: Position) -> Position {
        let mut from = Position::ZERO;
        self.change(key, |queue| {
            from = queue.gone;
            queue.gone = from.max(up_to);
        });
        from
    }

    /// Messages after `from` are there still.
    pub(crate) fn not_acknowledged(&self, key: &Key, from: Position) {
        self.change(key, |queue| queue.gone = queue.gone.min(from));
    }

    /// Nothing is there any more up to a position.
    pub(crate) fn acknowledged(&self, key: &Key, up_to: Position) {
        self.change(key, |queue| {
            (queue.told_full, queue.told_share, queue.told_total) = (false, false, false);
            if queue.delivered.is_none_or(|delivered| delivered <= up_to) {
                queue.delivered = Some(Position::ZERO);
            }
        });
    }

    /// The device is about to be deleted, with what waits for it.
    pub(crate) fn leaves(&self, key: Key, load: Load) {
        let mut known = self.known.lock();
        match load.bytes {
            0 => known.leaving.pop(&key),
            _ => known.leaving.put(key, load),
        };
    }

    /// The device is gone.
    pub(crate) fn forget(&self, key: &Key) {
        let mut known = self.known.lock();
        known.devices.pop(key);
        known.loads.pop(key);
        let freed = known.leaving.pop(key);
        drop(known);
        if let Some(freed) = freed {
            self.senders.released(&freed);
        }
    }

    /// Nothing is known any more.
    pub(crate) fn clear(&self) {
        let mut known = self.known.lock();
        known.devices.clear();
        known.loads.clear();
        known.leaving.clear();
    }

    fn change(&self, key: &Key, change: impl FnOnce(&mut Queue)) {
        let devices = &mut self.known.lock().devices;
        match devices.get_mut(key) {
            Some(queue) => change(queue),
            None => {
                let mut queue = Queue::default();
                change(&mut queue);
                devices.put(key.clone(), queue);
            }
        }
    }

    /// Measures a queue.
    pub(crate) async fn measure(&self, view: &View, user: &UserId, device: &DeviceId) -> Result<Load> {
        /// Rows read at once.
        const PAGE_ROWS: usize = 500;
        let mut load = Load::default();
        let mut next = Some(Range::<tables::ToDevice>::prefix(&(user, device.as_str())).limit(PAGE_ROWS));
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for (_, event) in &page.rows {
                self.count(&mut load, event)?;
            }
            next = page.next;
            // A long queue takes a while, and rows in memory are read without waiting.
            tokio::task::yield_now().await;
        }
        Ok(load)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    const EVENT_BYTES: u64 = 60_000;

    fn key() -> Key {
        (user_id!("@alice:example.org").to_owned(), "PHONE".into())
    }

    fn queues() -> Queues {
        Queues::new(10, u64::MAX, Held::default())
    }

    fn event(sender: &UserId) -> String {
        let rest = format!(r#","sender":"{sender}","type":"m.test"}}"#);
        format!(r#"{{"content":{:1$}{rest}"#, "{}", EVENT_BYTES as usize - rest.len() - 11)
    }

    /// Queues until that is refused; how many were.
    fn fill(queues: &Queues, sender: &UserId, stored: &mut Load) -> (u64, Refusal) {
        let event = event(sender);
        for count in 0.. {
            if queues.must_measure(&key()) {
                let measured = Load { bytes: stored.bytes, senders: stored.senders.clone() };
                queues.measured(&key(), measured);
            }
            if let Some((refusal, _)) = queues.refuses(&key(), sender) {
                return (count * weight(&event), refusal);
            }
            queues.queued(&key(), sender, &event);
            queues.count(stored, &event).expect("a message");
        }
        unreachable!("a loop without an end")
    }

    #[test]
    fn each_sender_has_a_share_and_all_have_the_whole() {
        let queues = queues();
        let (mut stored, mut sum) = (Load::default(), 0);
        let senders: Vec<OwnedUserId> =
            (0..20).map(|n| UserId::parse(format!("@s{n:02}:example.org")).expect("an id")).collect();
        let mut fulls = 0;
        for sender in &senders {
            let (bytes, refusal) = fill(&queues, sender, &mut stored);
            sum += bytes;
            match refusal {
                Refusal::Share => {
                    assert!((TO_DEVICE_SENDER_BYTES_MAX..TO_DEVICE_SENDER_BYTES_MAX * 2).contains(&bytes), "{bytes}");
                    assert_eq!(queues.refuses(&key(), sender), Some((Refusal::Share, false)), "told once");
                }
                Refusal::Full => fulls += 1,
                Refusal::Total => panic!("nobody has that much"),
            }
        }
        assert!((TO_DEVICE_QUEUE_BYTES_MAX..TO_DEVICE_QUEUE_BYTES_MAX + EVENT_BYTES * 2).contains(&sum), "{sum}");
        assert_eq!(fulls, 5, "sixteen shares make the whole");

        // The client takes what the first two sent, and they may send again, each as much as before.
        for sender in &senders[..2] {
            let mut freed = Load::default();
            while *stored.senders.get(&queues.hasher.hash_one(sender.as_str())).expect("some") > freed.bytes {
                queues.count(&mut freed, &event(sender)).expect("a message");
            }
            assert!(!queues.released(&key(), &freed));
            stored.bytes -= freed.bytes;
            stored.senders.remove(&queues.hasher.hash_one(sender.as_str()));
        }
        assert_eq!(queues.refuses(&key(), &senders[2]), Some((Refusal::Share, false)), "told once");
        queues.acknowledged(&key(), Position::from_u64(1));
        assert_eq!(queues.refuses(&key(), &senders[2]), Some((Refusal::Share, true)), "told again");
        for sender in &senders[..2] {
            assert!(fill(&queues, sender, &mut stored).0 > TO_DEVICE_SENDER_BYTES_MAX / 2);
        }
        // And everything, after which nothing is kept of it.
        assert!(queues.released(&key(), &stored));
        assert!(queues.known.lock().loads.is_empty());
        assert_eq!(queues.refuses(&key(), &senders[2]), None);
    }

    #[test]
    fn what_was_not_queued_does_not_count() {
        let queues = queues();
        let sender = user_id!("@bob:example.org");
        for _ in 0..100 {
            queues.queued(&key(), sender, "{}");
            queues.not_queued(&key(), sender, "{}");
        }
        assert!(queues.released(&key(), &Load::default()));
    }
}
