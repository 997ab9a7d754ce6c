//! Which member events a device has been sent, so that lazy loading can leave out those that would be redundant.
//!
//! Specification: client-server API, "Lazy-loading room members".

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
};

use lru::LruCache;
use parking_lot::Mutex;
use rooms::EventNum;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId};
use store::Position;

/// Devices that are remembered; the one that synced least recently is forgotten first.
const DEVICES_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Member events that are remembered of one device; at the limit all are forgotten, and so sent again.
const MEMBERS_PER_DEVICE_MAX: usize = 1_024;

/// Member events by a hash of room and event, each with the position of the answer that it went out with.
type Sent = HashMap<u64, Position>;

/// See the module. Bounded; what is forgotten is only sent once more.
pub(crate) struct SentMembers {
    devices: Mutex<LruCache<(OwnedUserId, OwnedDeviceId), Sent>>,
    hasher: RandomState,
}

impl SentMembers {
    pub(crate) fn new() -> Self {
        Self { devices: Mutex::new(LruCache::new(DEVICES_MAX)), hasher: RandomState::new() }
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
        let sent = devices.get_or_insert_mut(key, Sent::new);
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
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, room_id, user_id};

    use super::*;

    #[test]
    fn a_member_is_left_out_only_once_the_client_has_shown_that_it_has_it() {
        let sent = SentMembers::new();
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
