//! What an administrator configures about accounts, sessions and presence.

use serde::{Deserialize, Serialize};

const MINUTE_MS: u64 = 60 * 1000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// Settings of accounts, sessions and presence.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How passwords are checked and hashed.
    pub password: PasswordConfig,
    /// How long tokens live.
    pub tokens: TokenConfig,
    /// How presence is worked out.
    pub presence: PresenceConfig,
    /// Localparts that nobody may register. An administrator and application services still can.
    pub reserved_localparts: Vec<String>,
    /// After how long without use, in milliseconds, a device is deleted; without a value none is.
    pub device_unused_ms_max: Option<u64>,
    /// What follows the localpart in the display name that new users get; without it they get none. Those of application services
    /// and guests get none.
    pub new_user_displayname_suffix: Option<String>,
    /// Memory for sessions, push rules, ignore lists, filters and what is known of devices' queues, in bytes.
    pub cache_bytes: u64,
    /// The most bytes of the keys in all key backups of a user.
    pub key_backup_bytes_max: u64,
    /// The most bytes that wait of one sender for all devices together, each message counted with
    /// [`TO_DEVICE_ROW_BYTES`](crate::TO_DEVICE_ROW_BYTES).
    pub to_device_sender_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            password: PasswordConfig::default(),
            tokens: TokenConfig::default(),
            presence: PresenceConfig::default(),
            reserved_localparts: vec!["haima".to_owned(), "server".to_owned()],
            device_unused_ms_max: None,
            new_user_displayname_suffix: None,
            cache_bytes: 16 << 20,
            key_backup_bytes_max: 1024 * 1024 * 1024,
            // Some 500,000 keys of rooms.
            to_device_sender_bytes_max: 1024 * 1024 * 1024,
        }
    }
}

/// How passwords are checked and hashed (argon2id).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct PasswordConfig {
    /// The least number of characters of a new password.
    pub length_min: usize,
    /// Memory of one hash in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes of one hash.
    pub lanes: u32,
    /// How many hashes are computed at the same time; each takes `memory_kib`.
    pub concurrent: usize,
    /// How many more may wait for their turn before callers are told that the server is busy.
    pub waiting: usize,
}

impl Default for PasswordConfig {
    fn default() -> Self {
        Self { length_min: 8, memory_kib: 19 * 1024, passes: 2, lanes: 1, concurrent: 2, waiting: 500 }
    }
}

/// How long tokens live. A missing value means for ever.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TokenConfig {
    /// Lifetime in milliseconds of access tokens of clients that can refresh them.
    pub refreshable_access_token_ms: Option<u64>,
    /// Lifetime in milliseconds of access tokens of clients that can't. When it is over the client
    /// has to log in again (a soft logout, which keeps its encryption keys).
    pub plain_access_token_ms: Option<u64>,
    /// Lifetime in milliseconds of a refresh token that isn't used.
    pub refresh_token_ms: Option<u64>,
    /// Lifetime in milliseconds of a single-use login token.
    pub login_token_ms: u64,
    /// How often at most, in milliseconds, it is written down when a device was last seen.
    pub last_seen_interval_ms: u64,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            refreshable_access_token_ms: Some(24 * HOUR_MS),
            plain_access_token_ms: None,
            refresh_token_ms: None,
            login_token_ms: 2 * MINUTE_MS,
            last_seen_interval_ms: 5 * MINUTE_MS,
        }
    }
}

/// How presence is worked out.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct PresenceConfig {
    /// Whether there is presence at all.
    pub enabled: bool,
    /// For how long after an action, in milliseconds, a user counts as currently active.
    pub active_ms: u64,
    /// How long after the last sync as online and the last action, in milliseconds, a user becomes unavailable.
    pub idle_ms: u64,
    /// After how long without a sync, in milliseconds, a device counts as gone.
    pub offline_ms: u64,
    /// After how long without news from its server, in milliseconds, a remote user counts as offline.
    pub remote_offline_ms: u64,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            active_ms: MINUTE_MS,
            idle_ms: 5 * MINUTE_MS,
            offline_ms: 30 * 1000,
            remote_offline_ms: 30 * MINUTE_MS,
        }
    }
}
