//! What an admin decides about sync.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use settings::{Fault, Seconds, Settings, refuse};

/// Settings of sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Config {
    /// Seconds that a client's long poll may wait at most, whatever it asks for.
    pub client_sync_timeout_max: Seconds,

    /// A room with more joined members than this is large. In large rooms users don't see each other's presence unless they are
    /// in a smaller room together as well, who is typing and what others have read is told a little late, and changed keys are told
    /// only if the room is encrypted.
    pub large_room_members: usize,

    /// How many events of a room's timeline are returned if the client doesn't say.
    #[serde(skip)]
    pub timeline_limit_default: usize,
    /// How many events of a room's timeline are returned at most, whatever the client asks for.
    #[serde(skip)]
    pub timeline_limit_max: usize,
    /// For how long in milliseconds receipts and presence wait for other news before a waiting request is answered.
    #[serde(skip)]
    pub relaxed_delay_ms: u64,
    /// For how long in milliseconds a device that is sending waits at most for its answer before it hears news.
    #[serde(skip)]
    pub answer_first_ms: u64,
    /// For how long in milliseconds what changes for a user is kept in memory after their last request.
    #[serde(skip)]
    pub inbox_idle_ms: u64,
    /// Memory for the newest events of rooms and for what devices were sent of members, in bytes.
    #[serde(skip)]
    pub cache_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            client_sync_timeout_max: Seconds::of(300),
            large_room_members: 500,
            timeline_limit_default: 10,
            timeline_limit_max: 500,
            relaxed_delay_ms: 800,
            answer_first_ms: 250,
            inbox_idle_ms: 10 * 60 * 1000,
            cache_bytes: 4 << 20,
        }
    }
}

impl Config {
    /// What either of the two caches may take.
    pub(crate) fn half_of_cache(&self) -> usize {
        usize::try_from(self.cache_bytes / 2).unwrap_or(usize::MAX)
    }
}

impl Settings for Config {
    fn faults(&self) -> Vec<Fault> {
        refuse([("client_sync_timeout_max", self.client_sync_timeout_max.is_zero(), "must be at least 1")])
    }
}
