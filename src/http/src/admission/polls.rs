//! Requests that wait for news: a few for each device and user. Whoever asks once more than that is served, and their oldest
//! request ends.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ruma::{DeviceId, UserId};
use tokio::sync::Notify;

use super::{
    flow::Flow,
    shards::{Hasher, Shards},
};

/// Requests of one device that may wait at a time.
const POLLS_PER_DEVICE_MAX: usize = 3;
/// Requests of all devices of a user that may wait at a time.
const POLLS_PER_USER_MAX: usize = 50;

/// All that wait.
#[derive(Default)]
pub(crate) struct Polls {
    by_user: Shards<Vec<Waiting>>,
    hasher: Hasher,
    begun: AtomicU64,
}

/// One that waits.
struct Waiting {
    id: u64,
    device: u64,
    end: Arc<Notify>,
}

impl Polls {
    /// Counts a request that may wait, and ends the oldest if there are too many now. `flow` is the connection that it came on.
    pub(crate) fn begin(self: &Arc<Self>, user: &UserId, device: &DeviceId, flow: Option<Arc<Flow>>) -> Poll {
        let (user, device) = (self.hasher.user(user), self.hasher.of(device.as_str()));
        let id = self.begun.fetch_add(1, Ordering::Relaxed);
        let end = Arc::new(Notify::new());
        let mut shard = self.by_user.of(user);
        let waiting = shard.entry(user).or_default();
        let of_device = waiting.iter().filter(|other| other.device == device).count();
        let oldest = if of_device >= POLLS_PER_DEVICE_MAX {
            waiting.iter().position(|other| other.device == device)
        } else {
            (waiting.len() >= POLLS_PER_USER_MAX).then_some(0)
        };
        if let Some(oldest) = oldest {
            waiting.remove(oldest).end.notify_one();
        }
        waiting.push(Waiting { id, device, end: end.clone() });
        drop(shard);
        Poll { polls: self.clone(), user, id, end, flow }
    }
}

/// A request that may wait for news.
pub struct Poll {
    polls: Arc<Polls>,
    user: u64,
    id: u64,
    end: Arc<Notify>,
    flow: Option<Arc<Flow>>,
}

impl Poll {
    /// Waits until the request is to be answered with what there is: its device has begun others, or its client has stopped sending
    /// and may be gone.
    pub async fn ended(&self) {
        let hung_up = async {
            match &self.flow {
                Some(flow) => flow.hung_up().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.end.notified() => {}
            () = hung_up => {}
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        let mut shard = self.polls.by_user.of(self.user);
        if let Some(waiting) = shard.get_mut(&self.user) {
            waiting.retain(|poll| poll.id != self.id);
            if waiting.is_empty() {
                shard.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ruma::{device_id, user_id};

    use super::*;

    fn ended(polls: &[Poll]) -> Vec<usize> {
        (0..polls.len()).filter(|n| polls[*n].ended().now_or_never().is_some()).collect()
    }

    #[test]
    fn a_new_request_ends_the_oldest_of_its_device() {
        let polls = Arc::new(Polls::default());
        let alice = user_id!("@alice:example.org");
        let _other = polls.begin(alice, device_id!("TABLET"), None);
        let mut of_phone: Vec<_> = (0..5).map(|_| polls.begin(alice, device_id!("PHONE"), None)).collect();
        assert_eq!(ended(&of_phone), [0, 1]);
        of_phone.pop();
        of_phone.push(polls.begin(alice, device_id!("PHONE"), None));
        assert_eq!(ended(&of_phone[2..]), Vec::<usize>::new(), "the place of the one that ended was free");
        assert!(_other.ended().now_or_never().is_none());
        drop((of_phone, _other));
        assert!(polls.by_user.of(polls.hasher.user(alice)).is_empty());
    }

    #[test]
    fn a_user_with_many_devices_has_a_limit_too() {
        let polls = Arc::new(Polls::default());
        let alice = user_id!("@alice:example.org");
        let all: Vec<_> =
            (0..=POLLS_PER_USER_MAX).map(|n| polls.begin(alice, <&DeviceId>::from(&*n.to_string()), None)).collect();
        assert_eq!(ended(&all), [0]);
        let _bob = polls.begin(user_id!("@bob:example.org"), device_id!("PHONE"), None);
        assert_eq!(ended(&all[1..]), Vec::<usize>::new());
    }
}
