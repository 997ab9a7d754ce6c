//! A clock that moves only when it is told to.

use std::sync::atomic::{AtomicU64, Ordering};

use event::Clock;

/// Where a new clock stands, in Unix ms: some day in 2023.
const START_MS: u64 = 1_700_000_000_000;

/// A clock for tests.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicU64,
}

impl ManualClock {
    /// A clock at a fixed time in the past.
    pub fn new() -> Self {
        Self { now_ms: AtomicU64::new(START_MS) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by_ms: u64) {
        self.now_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Sets the clock, backwards too.
    pub fn set(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }
}
