//! Maps by user, address or device that requests on different threads rarely wait for: many small ones, by hash.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
};

use parking_lot::{Mutex, MutexGuard};
use ruma::UserId;

use super::limit::network;

/// How many small maps make one.
const SHARDS: usize = 64;

/// Names users and networks by hashes with a secret of this process, so that a key is one word whoever it stands for and nobody can
/// choose two that are the same.
#[derive(Clone, Default)]
pub(crate) struct Hasher(RandomState);

impl Hasher {
    /// The key of anything.
    pub(crate) fn of(&self, what: impl Hash) -> u64 {
        self.0.hash_one(what)
    }

    /// The key of a user.
    pub(crate) fn user(&self, user: &UserId) -> u64 {
        self.of(user.as_str())
    }

    /// The key of an address's network.
    pub(crate) fn network(&self, address: IpAddr) -> u64 {
        self.of(network(address))
    }
}

/// A map from such keys.
pub(crate) struct Shards<T>([Mutex<HashMap<u64, T>>; SHARDS]);

impl<T> Default for Shards<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl<T> Shards<T> {
    /// The part that a key is in. Held only for moments, never across an await.
    pub(crate) fn of(&self, key: u64) -> MutexGuard<'_, HashMap<u64, T>> {
        // The remainder is below the number of shards, so it fits.
        self.0[(key % SHARDS as u64) as usize].lock()
    }
}
