//! How much is kept of what a server tells beside the events that it sends: states, and events that authorise others, which anybody can
//! make up in any number.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ruma::{OwnedServerName, ServerName};

use crate::RoomsError;

/// Bytes of events that are kept for the sake of one event.
pub(super) const EVENT_BYTES_MAX: usize = 64 << 20;

/// Bytes of events that are kept to enter one room.
pub(super) const ROOM_BYTES_MAX: usize = 512 << 20;

/// Bytes of such events that are kept of one server in one day.
pub(super) const DAY_BYTES_MAX: usize = 1 << 30;

/// A day, in milliseconds.
const DAY_MS: u64 = 24 * 3_600_000;

/// What was kept of each server today.
#[derive(Default)]
pub(crate) struct Allowances(Mutex<Today>);

#[derive(Default)]
struct Today {
    day: u64,
    kept_bytes: HashMap<OwnedServerName, usize>,
}

impl Allowances {
    /// Counts what is about to be kept. Fails with [`RoomsError::LimitExceeded`] if that would be too much for today.
    pub(super) fn take(&self, server: &ServerName, bytes: usize, now_ms: u64) -> Result<(), RoomsError> {
        let mut today = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day != now_ms / DAY_MS {
            *today = Today { day: now_ms / DAY_MS, kept_bytes: HashMap::new() };
        }
        let kept_bytes = today.kept_bytes.entry(server.to_owned()).or_default();
        if *kept_bytes + bytes > DAY_BYTES_MAX {
            return Err(RoomsError::LimitExceeded(format!("events told by {server} in a day")));
        }
        *kept_bytes += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn what_a_server_makes_up_is_bounded_each_day() {
        let allowances = Allowances::default();
        let (hostile, honest) = (server_name!("hostile"), server_name!("honest"));
        for _ in 0..DAY_BYTES_MAX / EVENT_BYTES_MAX {
            allowances.take(hostile, EVENT_BYTES_MAX, DAY_MS).unwrap();
        }
        assert!(matches!(allowances.take(hostile, 1, 2 * DAY_MS - 1), Err(RoomsError::LimitExceeded(_))));
        allowances.take(honest, ROOM_BYTES_MAX, 2 * DAY_MS - 1).unwrap();
        allowances.take(hostile, EVENT_BYTES_MAX, 2 * DAY_MS).unwrap();
    }
}
