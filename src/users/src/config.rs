//! What an admin decides about accounts, sessions and presence.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use settings::{Days, Fault, Seconds, Settings, refuse};

const MINUTE_MS: u64 = 60 * 1000;

/// Settings of accounts, sessions and presence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Config {
    /// New users get their name as display name, so that others don't see a whole user id.
    pub new_user_displayname: bool,

    /// What follows the name in the display name of new users.
    pub new_user_displayname_suffix: String,

    /// Seconds that an access token lives if its client can refresh it. Clients that can't keep theirs until they log out.
    pub access_token_ttl: Seconds,

    /// Days after which a device that nobody used is logged out and deleted, with the messages that wait for it; 0 to keep them.
    pub unused_device_retention_days: Days,

    /// How many passwords are hashed or checked at once. Each takes about 19 MiB of memory and one core for some
    /// 20 milliseconds.
    pub password_hashes_at_once: usize,

    /// Whether users see each other's presence.
    pub allow_local_presence: bool,

    /// Seconds without activity after which an online user counts as idle.
    pub presence_idle_timeout_s: Seconds,

    /// Seconds without a sync after which a user counts as offline.
    pub presence_offline_timeout_s: Seconds,

    /// How passwords are hashed.
    #[serde(skip)]
    pub password: PasswordConfig,
    /// How long tokens live.
    #[serde(skip)]
    pub tokens: TokenConfig,
    /// Localparts that nobody may register. An administrator and application services still can.
    #[serde(skip)]
    pub reserved_localparts: Vec<String>,
    /// Memory for sessions, push rules, ignore lists, filters and what is known of devices' queues, in bytes.
    #[serde(skip)]
    pub cache_bytes: u64,
    /// The most bytes of the keys in all key backups of a user.
    #[serde(skip)]
    pub key_backup_bytes_max: u64,
    /// The most bytes that wait of one sender for all devices together, each message counted with
    /// [`TO_DEVICE_ROW_BYTES`](crate::TO_DEVICE_ROW_BYTES).
    #[serde(skip)]
    pub to_device_sender_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            new_user_displayname: true,
            new_user_displayname_suffix: String::new(),
            access_token_ttl: Seconds::of(7 * 24 * 60 * 60),
            unused_device_retention_days: Days::of(0),
            password_hashes_at_once: 2,
            allow_local_presence: true,
            presence_idle_timeout_s: Seconds::of(300),
            presence_offline_timeout_s: Seconds::of(1_800),
            password: PasswordConfig::default(),
            tokens: TokenConfig::default(),
            reserved_localparts: vec!["haima".to_owned(), "server".to_owned()],
            cache_bytes: 16 << 20,
            key_backup_bytes_max: 1024 * 1024 * 1024,
            // Some 500,000 keys of rooms.
            to_device_sender_bytes_max: 1024 * 1024 * 1024,
        }
    }
}

impl Settings for Config {
    fn faults(&self) -> Vec<Fault> {
        refuse([
            ("access_token_ttl", self.access_token_ttl.is_zero(), "must be at least 1"),
            ("password_hashes_at_once", !(1..=64).contains(&self.password_hashes_at_once), "must be from 1 to 64"),
            (
                "presence_offline_timeout_s",
                self.presence_offline_timeout_s < self.presence_idle_timeout_s,
                "must not be below presence_idle_timeout_s",
            ),
        ])
    }
}

/// How passwords are hashed (argon2id).
#[derive(Clone, Debug, PartialEq)]
pub struct PasswordConfig {
    /// The least number of characters of a new password.
    pub length_min: usize,
    /// Memory of one hash in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes of one hash.
    pub lanes: u32,
    /// How many hashes may wait for their turn before callers are told that the server is busy.
    pub waiting: usize,
}

impl Default for PasswordConfig {
    fn default() -> Self {
        Self { length_min: 8, memory_kib: 19 * 1024, passes: 2, lanes: 1, waiting: 500 }
    }
}

/// How long tokens live. A missing value means for ever.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenConfig {
    /// Lifetime in milliseconds of access tokens of clients that can't refresh them. When it is over the client has to log in
    /// again (a soft logout, which keeps its encryption keys).
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
            plain_access_token_ms: None,
            refresh_token_ms: None,
            login_token_ms: 2 * MINUTE_MS,
            last_seen_interval_ms: 5 * MINUTE_MS,
        }
    }
}
