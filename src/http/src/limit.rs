//! Rate limits: token buckets per user or address, in named classes.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::DashMapStateStore,
};
use ruma::UserId;
use serde::{Deserialize, Serialize};

use crate::ApiError;

/// Above this many keys in a class, those whose bucket is full again are forgotten.
const KEYS_MAX: usize = 65_536;
/// How often the number of keys is looked at, in checks.
const CHECKS_PER_SWEEP: u32 = 4_096;

/// What a request counts as.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Class {
    /// Not limited: what costs next to nothing.
    Free,
    /// Making accounts and checks of user names, per address.
    Registration,
    /// Logging in and refreshing tokens, per address.
    Login,
    /// Attempts at one account's password, wherever they come from.
    LoginAccount,
    /// Sending events and redactions, per user.
    Message,
    /// Making and upgrading rooms, per user.
    CreateRoom,
    /// Joining and knocking, per user.
    Join,
    /// Inviting, per user.
    Invite,
    /// Searching directories, per user.
    Search,
    /// Uploading files and setting aside names for them, per user.
    Upload,
    /// Asking for thumbnails that have to be made, per user.
    Thumbnail,
    /// Asking for previews of web pages, per user.
    Preview,
    /// Other changes, per user.
    Write,
    /// Other reading, per user.
    Read,
    /// Synchronising: counted as reading, but may wait long.
    Sync,
    /// Requests without an account, per address.
    Anonymous,
}

impl Class {
    /// Whether a request counts against its user, where there is one.
    pub(crate) fn is_per_user(self) -> bool {
        !matches!(self, Self::Free | Self::Registration | Self::Login | Self::Anonymous)
    }
}

/// Every class in the order of its declaration.
const CLASSES: [Class; 16] = [
    Class::Free,
    Class::Registration,
    Class::Login,
    Class::LoginAccount,
    Class::Message,
    Class::CreateRoom,
    Class::Join,
    Class::Invite,
    Class::Search,
    Class::Upload,
    Class::Thumbnail,
    Class::Preview,
    Class::Write,
    Class::Read,
    Class::Sync,
    Class::Anonymous,
];

/// One class's limit: a bucket of `burst` requests that fills with `per_second`.
#[derive(Copy, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests per second in the long run; 0 turns the limit off.
    pub per_second: f64,
    /// Requests at once; at least 1.
    pub burst: u32,
}

impl Rate {
    const fn new(per_second: f64, burst: u32) -> Self {
        Self { per_second, burst }
    }

    fn quota(self) -> Option<Quota> {
        if !self.per_second.is_finite() || self.per_second <= 0.0 {
            return None;
        }
        let period = Duration::try_from_secs_f64(1.0 / self.per_second).ok()?;
        // A period below the clock's resolution is no limit.
        let quota = Quota::with_period(period)?;
        Some(quota.allow_burst(NonZeroU32::new(self.burst).unwrap_or(NonZeroU32::MIN)))
    }
}

/// The `limits` section of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Making accounts and checks of user names, per address.
    pub registration: Rate,
    /// Logging in and refreshing tokens, per address.
    pub login: Rate,
    /// Attempts at one account's password, wherever they come from.
    pub login_account: Rate,
    /// Sending events and redactions, per user.
    pub message: Rate,
    /// Making and upgrading rooms, per user.
    pub create_room: Rate,
    /// Joining and knocking, per user.
    pub join: Rate,
    /// Inviting, per user.
    pub invite: Rate,
    /// Searching directories, per user.
    pub search: Rate,
    /// Uploading files and setting aside names for them, per user.
    pub upload: Rate,
    /// Asking for thumbnails that have to be made, per user.
    pub thumbnail: Rate,
    /// Asking for previews of web pages, per user.
    pub preview: Rate,
    /// Other changes, per user.
    pub write: Rate,
    /// Other reading, per user.
    pub read: Rate,
    /// Requests without an account, per address.
    pub anonymous: Rate,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            registration: Rate::new(0.2, 20),
            login: Rate::new(0.5, 10),
            login_account: Rate::new(0.2, 10),
            message: Rate::new(10.0, 100),
            create_room: Rate::new(0.5, 20),
            join: Rate::new(2.0, 50),
            invite: Rate::new(2.0, 50),
            search: Rate::new(2.0, 20),
            upload: Rate::new(10.0, 100),
            thumbnail: Rate::new(10.0, 200),
            preview: Rate::new(2.0, 20),
            write: Rate::new(20.0, 200),
            read: Rate::new(100.0, 1000),
            anonymous: Rate::new(10.0, 100),
        }
    }
}

impl Config {
    /// No limits at all: for tests and load measurements.
    pub fn off() -> Self {
        let off = Rate::new(0.0, 1);
        Self {
            registration: off,
            login: off,
            login_account: off,
            message: off,
            create_room: off,
            join: off,
            invite: off,
            search: off,
            upload: off,
            thumbnail: off,
            preview: off,
            write: off,
            read: off,
            anonymous: off,
        }
    }

    fn rate(&self, class: Class) -> Option<Rate> {
        Some(match class {
            Class::Free => return None,
            Class::Registration => self.registration,
            Class::Login => self.login,
            Class::LoginAccount => self.login_account,
            Class::Message => self.message,
            Class::CreateRoom => self.create_room,
            Class::Join => self.join,
            Class::Invite => self.invite,
            Class::Search => self.search,
            Class::Upload => self.upload,
            Class::Thumbnail => self.thumbnail,
            Class::Preview => self.preview,
            Class::Write => self.write,
            Class::Read | Class::Sync => self.read,
            Class::Anonymous => self.anonymous,
        })
    }
}

/// What an address counts as: one client has a whole network of 64 bits of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Keys are hashed with a secret of this process, so that a bucket is a few words whoever it belongs to.
type Store = DashMapStateStore<u64>;

struct Bucket<C: Clock> {
    limiter: RateLimiter<u64, Store, C, NoOpMiddleware<C::Instant>>,
    checks: AtomicU32,
}

/// All buckets. `C` is the clock, monotonic except in tests.
pub struct Limits<C: Clock = DefaultClock> {
    /// By the class's place in [`CLASSES`].
    buckets: [Option<Bucket<C>>; CLASSES.len()],
    clock: C,
    hasher: RandomState,
}

impl Limits {
    /// Limits as configured.
    pub fn new(config: &Config) -> Self {
        Self::with_clock(config, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limits<C> {
    /// Limits on another clock.
    pub fn with_clock(config: &Config, clock: C) -> Self {
        let mut buckets = [const { None }; CLASSES.len()];
        for (bucket, class) in buckets.iter_mut().zip(CLASSES) {
            let Some(quota) = config.rate(class).and_then(Rate::quota) else { continue };
            let limiter = RateLimiter::new(quota, DashMapStateStore::default(), clock.clone());
            *bucket = Some(Bucket { limiter, checks: AtomicU32::new(0) });
        }
        Self { buckets, clock, hasher: RandomState::new() }
    }

    /// Counts a request of a user.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED`.
    pub fn check_user(&self, class: Class, user: &UserId) -> Result<(), ApiError> {
        self.check(class, user.as_str())
    }

    /// Counts a request of an address, by its [`network`].
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED`.
    pub fn check_address(&self, class: Class, address: IpAddr) -> Result<(), ApiError> {
        self.check(class, network(address))
    }

    fn check(&self, class: Class, key: impl Hash) -> Result<(), ApiError> {
        // Waiting for news and reading share one bucket.
        let class = if class == Class::Sync { Class::Read } else { class };
        let Some(bucket) = &self.buckets[class as usize] else { return Ok(()) };
        if bucket.checks.fetch_add(1, Ordering::Relaxed) % CHECKS_PER_SWEEP == CHECKS_PER_SWEEP - 1
            && bucket.limiter.len() > KEYS_MAX
        {
            bucket.limiter.retain_recent();
        }
        let key = self.hasher.hash_one(key);
        match bucket.limiter.check_key(&key) {
            Ok(()) => Ok(()),
            Err(not_until) => Err(ApiError::limit_exceeded(not_until.wait_time_from(self.clock.now()))),
        }
    }
}
