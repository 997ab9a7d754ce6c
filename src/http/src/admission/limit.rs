//! Rate limits: token buckets per user or address, in named classes.
//!
//! A request costs one unit before it is answered. What it turns out to have cost beyond that is charged afterwards, and may
//! leave a debt of another whole bucket.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use ruma::UserId;
use tokio::time::Instant;

pub use super::classes::{Class, Config, Rate};
use super::shards::{Hasher, Shards};
use crate::ApiError;

/// Keys of one class in one shard above which those whose bucket is full again are forgotten.
const SHARD_KEYS_MAX: usize = 2_048;
/// A guess at a password counts against its account this many times less than against its account and network: who guesses from
/// one network keeps nobody else from logging in.
const GUESSING_NETWORKS: u32 = 5;

impl Rate {
    fn bucket(self) -> Option<Bucket> {
        if !self.per_second.is_finite() || self.per_second <= 0.0 {
            return None;
        }
        // A period below the clock's resolution is no limit, one of more than a year is one of a year.
        let period = Duration::try_from_secs_f64(1.0 / self.per_second).unwrap_or(PERIOD_MAX).min(PERIOD_MAX);
        let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let burst_ns = period_ns.saturating_mul(self.burst.max(1).into());
        (period_ns > 0).then(|| Bucket { period_ns, burst_ns, empty_until: Shards::default() })
    }

    fn times(self, factor: u32) -> Self {
        Self { per_second: self.per_second * f64::from(factor), burst: self.burst.saturating_mul(factor) }
    }
}

/// What an address counts as: one client has a whole network of 64 bits of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// The longest time that one unit may take to come back.
const PERIOD_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Buckets of one size. What is kept of one is the moment when it would be full again: as one number says all, a look costs
/// one look-up.
struct Bucket {
    period_ns: u64,
    burst_ns: u64,
    /// By key: nanoseconds after the start of the process when the bucket is full.
    empty_until: Shards<u64>,
}

impl Bucket {
    /// Takes `units` if one is there; what is missing of the others becomes debt, up to another whole bucket.
    fn take(&self, key: u64, now_ns: u64, units: u64) -> Result<(), Duration> {
        let mut shard = self.empty_until.of(key);
        if shard.len() >= SHARD_KEYS_MAX && !shard.contains_key(&key) {
            shard.retain(|_, full_ns| *full_ns > now_ns);
            if shard.len() >= SHARD_KEYS_MAX * 16 {
                // More than a million at once: nobody is limited by what can't be kept.
                shard.clear();
            }
        }
        let full_ns = shard.entry(key).or_insert(0);
        let from_ns = (*full_ns).max(now_ns);
        wait(from_ns.saturating_add(self.period_ns), now_ns.saturating_add(self.burst_ns))?;
        *full_ns = self.charged(from_ns, now_ns, units);
        Ok(())
    }

    /// Takes `units`, into debt if they aren't there.
    fn charge(&self, key: u64, now_ns: u64, units: u64) {
        let mut shard = self.empty_until.of(key);
        let full_ns = shard.entry(key).or_insert(0);
        *full_ns = self.charged((*full_ns).max(now_ns), now_ns, units);
    }

    fn charged(&self, from_ns: u64, now_ns: u64, units: u64) -> u64 {
        let deepest = now_ns.saturating_add(self.burst_ns.saturating_mul(2));
        from_ns.saturating_add(self.period_ns.saturating_mul(units)).min(deepest.max(from_ns))
    }

    /// Gives a unit back.
    fn give_back(&self, key: u64) {
        if let Some(full_ns) = self.empty_until.of(key).get_mut(&key) {
            *full_ns = full_ns.saturating_sub(self.period_ns);
        }
    }
}

/// The wait until a bucket that will be full at `full_ns` may be so.
fn wait(full_ns: u64, allowed_ns: u64) -> Result<(), Duration> {
    if full_ns <= allowed_ns { Ok(()) } else { Err(Duration::from_nanos(full_ns.saturating_sub(allowed_ns))) }
}

/// Where an attempt at a password comes from.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Guesser {
    /// Somebody who is logged in to the account.
    Session,
    /// A network that the account's user has logged in from.
    Known(IpAddr),
    /// Another.
    Unknown(IpAddr),
}

/// All buckets, on tokio's clock.
pub struct Limits {
    /// By the class's place in [`Class::ALL`]. Guesses at passwords count by account and network.
    buckets: [Option<Bucket>; Class::ALL.len()],
    /// Guesses by account, from all networks that its user did not log in from.
    unknown_guesses: Option<Bucket>,
    /// Users and networks that they logged in from.
    remembered: Shards<()>,
    hasher: Hasher,
    start: Instant,
}

impl Limits {
    /// Limits as configured.
    pub fn new(config: &Config) -> Self {
        let mut buckets = [const { None }; Class::ALL.len()];
        for (bucket, class) in buckets.iter_mut().zip(Class::ALL) {
            *bucket = config.rate(*class).and_then(Rate::bucket);
        }
        Self {
            buckets,
            unknown_guesses: config.login_account.times(GUESSING_NETWORKS).bucket(),
            remembered: Shards::default(),
            hasher: Hasher::default(),
            start: Instant::now(),
        }
    }

    /// Counts a request of a user.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED`.
    pub fn check_user(&self, class: Class, user: &UserId) -> Result<(), ApiError> {
        self.check(class, self.hasher.user(user))
    }

    /// Counts a request of an address, by its [`network`].
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED`.
    pub fn check_address(&self, class: Class, address: IpAddr) -> Result<(), ApiError> {
        self.check(class, self.hasher.network(address))
    }

    /// Takes back what [`Limits::check_address`] counted: it turned out to be nothing to count.
    pub fn forgive_address(&self, class: Class, address: IpAddr) {
        if let Some(bucket) = self.bucket(class) {
            bucket.give_back(self.hasher.network(address));
        }
    }

    /// Counts what a user's request has turned out to cost beyond its one unit: `units` more.
    pub fn charge_user(&self, class: Class, user: &UserId, units: u64) {
        self.charge(class, self.hasher.user(user), units);
    }

    /// Counts an attempt at a password, until [`Limits::forgive_guess`] says that it wasn't wrong.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED`.
    pub fn check_guess(&self, user: &UserId, from: Guesser) -> Result<(), ApiError> {
        let mut counted: Option<(&Bucket, u64)> = None;
        for (bucket, key) in self.guesses(user, from) {
            if let Err(wait) = bucket.take(key, self.now_ns(), 1) {
                // An attempt that isn't made is none.
                if let Some((bucket, key)) = counted {
                    bucket.give_back(key);
                }
                return Err(ApiError::limit_exceeded(wait));
            }
            counted = Some((bucket, key));
        }
        Ok(())
    }

    /// Takes back what [`Limits::check_guess`] counted: the password was right, or wasn't looked at.
    pub fn forgive_guess(&self, user: &UserId, from: Guesser) {
        for (bucket, key) in self.guesses(user, from) {
            bucket.give_back(key);
        }
    }

    /// Remembers that a user has logged in from an address, for as long as the process runs and there is room.
    pub fn remember(&self, user: &UserId, address: IpAddr) {
        let key = self.hasher.of((user.as_str(), network(address)));
        let mut shard = self.remembered.of(key);
        if shard.len() >= SHARD_KEYS_MAX {
            shard.clear();
        }
        shard.insert(key, ());
    }

    /// Whether it remembers that.
    pub fn remembers(&self, user: &UserId, address: IpAddr) -> bool {
        let key = self.hasher.of((user.as_str(), network(address)));
        self.remembered.of(key).contains_key(&key)
    }

    fn guesses(&self, user: &UserId, from: Guesser) -> impl Iterator<Item = (&Bucket, u64)> {
        let network = match from {
            Guesser::Session => None,
            Guesser::Known(address) | Guesser::Unknown(address) => Some(network(address)),
        };
        let of_all = matches!(from, Guesser::Unknown(_)).then_some(self.unknown_guesses.as_ref()).flatten();
        let of_network =
            self.bucket(Class::LoginAccount).map(|bucket| (bucket, self.hasher.of((user.as_str(), network))));
        of_network.into_iter().chain(of_all.map(|bucket| (bucket, self.hasher.user(user))))
    }

    fn check(&self, class: Class, key: u64) -> Result<(), ApiError> {
        let Some(bucket) = self.bucket(class) else { return Ok(()) };
        bucket.take(key, self.now_ns(), 1).map_err(ApiError::limit_exceeded)
    }

    /// The key of a user.
    pub(crate) fn user_key(&self, user: &UserId) -> u64 {
        self.hasher.user(user)
    }

    /// The key of an address's network.
    pub(crate) fn network_key(&self, address: IpAddr) -> u64 {
        self.hasher.network(address)
    }

    /// Counts what a request has turned out to cost beyond its one unit.
    pub(crate) fn charge(&self, class: Class, key: u64, units: u64) {
        if let Some(bucket) = self.bucket(class)
            && units > 0
        {
            bucket.charge(key, self.now_ns(), units);
        }
    }

    fn bucket(&self, class: Class) -> Option<&Bucket> {
        self.buckets[class.shares() as usize].as_ref()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn limits(rate: Rate) -> Limits {
        Limits::new(&Config { read: rate, login_account: rate, ..Config::off() })
    }

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_request_cost_is_charged_afterwards() {
        let limits = limits(Rate::new(1.0, 10));
        let (alice, bob) = (user_id!("@alice:example.org"), user_id!("@bob:example.org"));
        assert!(limits.check_user(Class::Sync, alice).is_ok());
        limits.charge_user(Class::Sync, alice, 1_000_000);
        assert!(limits.check_user(Class::Read, alice).is_err());
        assert!(limits.check_user(Class::Bulk, bob).is_ok());
        // However much it was: a debt of one whole bucket, and then one unit has to come.
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(limits.check_user(Class::Read, alice).is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limits.check_user(Class::Read, alice).is_ok());
        assert!(limits.check_user(Class::Read, alice).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_passwords_locks_nobody_else_out() {
        let limits = limits(Rate::new(0.001, 3));
        let alice = user_id!("@alice:example.org");
        // Right passwords cost nothing.
        for _ in 0..100 {
            assert!(limits.check_guess(alice, Guesser::Unknown(address(1))).is_ok());
            limits.forgive_guess(alice, Guesser::Unknown(address(1)));
        }
        for _ in 0..3 {
            assert!(limits.check_guess(alice, Guesser::Unknown(address(1))).is_ok());
        }
        assert!(limits.check_guess(alice, Guesser::Unknown(address(1))).is_err());
        // Many networks together come to an end too, but where the user has been before, and in a session.
        for last in 2..=5 {
            for _ in 0..3 {
                assert!(limits.check_guess(alice, Guesser::Unknown(address(last))).is_ok());
            }
        }
        for _ in 0..10 {
            assert!(limits.check_guess(alice, Guesser::Unknown(address(9))).is_err());
        }
        // What was refused because of others' guesses counts for nobody.
        for _ in 0..2 {
            assert!(limits.check_guess(alice, Guesser::Known(address(9))).is_ok());
            limits.forgive_guess(alice, Guesser::Known(address(9)));
        }
        assert!(limits.check_guess(alice, Guesser::Known(address(9))).is_ok());
        assert!(limits.check_guess(alice, Guesser::Session).is_ok());
        assert!(limits.check_guess(user_id!("@bob:example.org"), Guesser::Unknown(address(9))).is_ok());
        // A known network may not guess for ever either.
        for _ in 0..10 {
            drop(limits.check_guess(alice, Guesser::Known(address(9))));
        }
        assert!(limits.check_guess(alice, Guesser::Known(address(9))).is_err());
        limits.remember(alice, address(7));
        assert!(limits.remembers(alice, address(7)) && !limits.remembers(alice, address(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_whose_buckets_are_full_are_forgotten() {
        let bucket = Rate::new(1.0, 1).bucket().expect("a limit");
        for key in 0..1_000_000 {
            // Each a while after the one before.
            assert!(bucket.take(key, key * 1_000_000_000 * 2, 1).is_ok());
        }
        let kept: usize = (0..64).map(|key| bucket.empty_until.of(key).len()).sum();
        assert!(kept <= 64 * SHARD_KEYS_MAX, "{kept}");
    }
}
