//! Which member events a device has been sent, so that lazy loading can leave out those that would be redundant.
//!
//! Specification: client-server API, "Lazy-loading room members".

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use lru::LruCache;
use parking_lot::Mutex;
use rooms::EventNum;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId};
use store::Position;

/// What a device takes in memory, and each of its member events.
const DEVICE_BYTES: usize = 250;
const MEMBER_BYTES: usize = 34;

/// Member events that are remembered of one device; at the limit all are forgotten, and so sent again.
const MEMBERS_PER_DEVICE_MAX: usize = 1_024;

/// Member events by a hash of room and event, each with the position of the answer that it went out with.
type Sent = HashMap<u64, Position>;

/// See the module. Bounded; what is forgotten is only sent once more.
pub(crate) struct SentMembers {
    devices: Mutex<Devices>,
    bytes_max: usize,
    hasher: RandomState,
}

struct Devices {
    /// The one that synced least recently is forgotten first.
    sent: LruCache<(OwnedUserId, OwnedDeviceId), Sent>,
    /// Member events of all of them.
    members: usize,
}

impl Devices {
    fn bytes(&self) -> usize {
        self.sent.len() * DEVICE_BYTES + self.members * MEMBER_BYTES
    }
}

impl SentMembers {
    /// What is remembered takes about `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let devices = Devices { sent: LruCache::unbounded(), members: 0 };
        Self { devices: Mutex::new(devices), bytes_max, hasher: RandomState::new() }
    }

    /// Takes those member events out of `events` that the device has certainly got: they went out with an answer whose token
    /// (or a later one) it has shown us in `since`. Notes the others as sent with the answer at `now`.
    pub(crate) fn keep_new(
        &self,
        device: (&UserId, &DeviceId),
        room: &RoomId,
        since: Option<Position>,
        now: Position,
        events: &mut Vec<EventNum>,
    ) {
        if events.is_empty() {
            return;
        }
        let mut devices = self.devices.lock();
        let key = (device.0.to_owned(), device.1.to_owned());
        let sent = devices.sent.get_or_insert_mut(key, Sent::new);
        let before = sent.len();
        events.retain(|event| {
            let hash = self.hasher.hash_one((room, event));
            if let Some(position) = sent.get(&hash)
                && since.is_some_and(|since| since >= *position)
            {
                return false;
            }
            if sent.len() >= MEMBERS_PER_DEVICE_MAX {
                sent.clear();
            }
            sent.insert(hash, now);
            true
        });
        let after = sent.len();
        devices.members = devices.members - before + after;
        while devices.bytes() > self.bytes_max {
            let Some((_, forgotten)) = devices.sent.pop_lru() else { break };
            devices.members -= forgotten.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, room_id, user_id};

    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_the_last_device_is_in_it() {
        let sent = SentMembers::new(100_000);
        let (user, room, at) = (user_id!("@a:h"), room_id!("!r:h"), Position::from_u64);
        let ask = |device: &str, since| {
            let mut events = (0..500).map(EventNum).collect();
            sent.keep_new((user, device.into()), room, since, at(10), &mut events);
            events.len()
        };
        for number in 0..1_000 {
            assert_eq!(ask(&number.to_string(), None), 500);
        }
        assert!(sent.devices.lock().bytes() <= 100_000);
        assert_eq!(ask("999", Some(at(10))), 0);
        assert_eq!(ask("3", Some(at(10))), 500);
    }

    #[test]
    fn a_member_is_left_out_only_once_the_client_has_shown_that_it_has_it() {
        let sent = SentMembers::new(1_000_000);
        let device = (user_id!("@a:h"), device_id!("D"));
        let room = room_id!("!r:h");
        let at = Position::from_u64;
        let ask = |since: Option<u64>, now: u64, events: &[u64]| {
            let mut events: Vec<_> = events.iter().copied().map(EventNum).collect();
            sent.keep_new(device, room, since.map(at), at(now), &mut events);
            events.into_iter().map(|num| num.0).collect::<Vec<_>>()
        };
        assert_eq!(ask(None, 10, &[1, 2]), [1, 2]);
        // The answer was lost: the client asks from before it again.
        assert_eq!(ask(Some(5), 11, &[1]), [1]);
        assert_eq!(ask(Some(10), 12, &[2, 3]), [3]);
        assert_eq!(ask(Some(10), 12, &[1]), [1]);
        assert_eq!(ask(Some(12), 13, &[1, 2, 3]), Vec::<u64>::new());
        // A first sync starts anew.
        assert_eq!(ask(None, 14, &[1, 2, 3]), [1, 2, 3]);
    }
}
