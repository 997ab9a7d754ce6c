//! Devices that are sending: they hear of what they sent from its answer first, and from their sync after that.
//!
//! Clients show a message before it is sent, and know it again by the event id that the answer tells. Some take it for another
//! message if their sync is faster (client-server API, "Local echo").
//!
//! Only requests with a transaction id count, which are those that clients show before they are answered: messages and redactions. State,
//! joins and other changes of membership have none: clients show them when their sync tells them, and to wait for their
//! answer first would only make that later.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{DeviceId, UserId};
use tokio::sync::Notify;

/// How many small maps make the one by device, so that sending devices don't wait for each other.
const SHARDS: usize = 16;

/// The devices whose sending is not answered yet.
#[derive(Default)]
pub(crate) struct Answering {
    shards: [Mutex<HashMap<u64, Sender>>; SHARDS],
    hasher: RandomState,
}

/// One of them.
struct Sender {
    /// Requests that are not answered.
    open: usize,
    /// Tells that all are.
    answered: Arc<Notify>,
}

impl Answering {
    /// A device is sending, until what this gives is dropped.
    pub(crate) fn begin(self: &Arc<Self>, user: &UserId, device: &DeviceId) -> Sending {
        let key = self.key(user, device);
        let mut shard = self.shard(key).lock();
        let sender = shard.entry(key).or_insert_with(|| Sender { open: 0, answered: Arc::default() });
        sender.open += 1;
        drop(shard);
        Sending { answering: self.clone(), key }
    }

    /// Waits until a device is answered, or as long as that is worth.
    pub(crate) async fn answered(&self, user: &UserId, device: &DeviceId, wait_max: Duration) {
        let key = self.key(user, device);
        let Some(answered) = self.shard(key).lock().get(&key).map(|sender| sender.answered.clone()) else { return };
        let mut answered_now = pin!(answered.notified());
        answered_now.as_mut().enable();
        let is_open = self.shard(key).lock().get(&key).is_some_and(|sender| Arc::ptr_eq(&sender.answered, &answered));
        if is_open {
            // Late is better than never: the answer may have nobody who takes it.
            drop(tokio::time::timeout(wait_max, answered_now).await);
        }
    }

    fn key(&self, user: &UserId, device: &DeviceId) -> u64 {
        self.hasher.hash_one((user.as_str(), device.as_str()))
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Sender>> {
        // The remainder is below the number of shards, so it fits.
        &self.shards[(key % SHARDS as u64) as usize]
    }
}

/// A device is sending. Dropped when its answer is on its way.
pub struct Sending {
    answering: Arc<Answering>,
    key: u64,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut shard = self.answering.shard(self.key).lock();
        let Some(sender) = shard.get_mut(&self.key) else { return };
        sender.open -= 1;
        if sender.open == 0
            && let Some(sender) = shard.remove(&self.key)
        {
            sender.answered.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ruma::{device_id, user_id};
    use tokio::time::Instant;

    use super::*;

    const WAIT_MAX: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn a_device_waits_for_its_own_answers_and_not_for_ever() {
        let answering = Arc::new(Answering::default());
        let (alice, phone) = (user_id!("@alice:example.org"), device_id!("PHONE"));
        assert!(answering.answered(alice, phone, WAIT_MAX).now_or_never().is_some());
        let (first, second) = (answering.begin(alice, phone), answering.begin(alice, phone));
        assert!(answering.answered(alice, device_id!("TABLET"), WAIT_MAX).now_or_never().is_some());
        let mut waiting = pin!(answering.answered(alice, phone, WAIT_MAX));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(second);
        assert!(waiting.now_or_never().is_some());
        assert!(answering.shards.iter().all(|shard| shard.lock().is_empty()));
        let _never_answered = answering.begin(alice, phone);
        let begun = Instant::now();
        answering.answered(alice, phone, WAIT_MAX).await;
        assert_eq!(begun.elapsed(), WAIT_MAX);
    }
}
