//! What a device has on the server to start conversations with: one-time keys, each handed out at most once, and
//! fallback keys for when there are none left.
//!
//! All writers of a device's rows bump and expect its row in [`tables::KeyPools`], which holds the counts as well.
//! The turns only save those who would be too late the trouble of trying again.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
};

use ruma::{DeviceId, UserId};
use serde::{Deserialize, Serialize};
use store::{Batch, Position, Range, Row, View};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    Change, Error, Result, Users, log,
    rows::{PoolKeyPlace, PoolRow},
    tables,
};

/// The algorithm of one-time keys that clients use today; its count is always told, even if it is zero.
pub(super) const SIGNED_CURVE25519: &str = "signed_curve25519";

/// Devices share this many turns.
const TURNS: usize = 256;

/// How many one-time keys a device has left, and which of its fallback keys nobody was given yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyCounts {
    /// Unclaimed one-time keys by algorithm; `signed_curve25519` is always there.
    pub one_time: BTreeMap<String, u64>,
    /// Algorithms of fallback keys that were not handed out since they were uploaded.
    pub unused_fallbacks: BTreeSet<String>,
}

impl KeyCounts {
    fn counting_from_zero(mut self) -> Self {
        self.one_time.retain(|_, count| *count > 0);
        self.one_time.entry(SIGNED_CURVE25519.to_owned()).or_default();
        self
    }
}

/// What a row in [`tables::KeyPool`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A one-time key that waits to be claimed.
    OneTime = 0,
    /// A one-time key that was claimed, kept for a while so that a client that sends it again doesn't have it
    /// handed out again.
    HandedOut = 1,
    /// A fallback key.
    Fallback = 2,
}

/// A row of [`tables::KeyPool`].
#[derive(Clone, Debug)]
pub(super) struct PoolKey {
    pub(super) algorithm: String,
    pub(super) name: String,
    pub(super) position: Position,
    pub(super) json: String,
}

impl PoolKey {
    /// `<algorithm>:<name>`
    pub(super) fn id(&self) -> String {
        format!("{}:{}", self.algorithm, self.name)
    }
}

/// The one-time and fallback keys of a device, as one view shows them.
pub(super) struct Pool<'a> {
    user: &'a UserId,
    device: &'a DeviceId,
    stored: Option<PoolRow>,
    pub(super) counts: KeyCounts,
}

impl<'a> Pool<'a> {
    pub(super) async fn load(view: &View, user: &'a UserId, device: &'a DeviceId) -> Result<Self> {
        let stored = view.get::<tables::KeyPools>(&(user, device.as_str())).await?;
        let counts = match &stored {
            Some(row) => serde_json::from_str(&row.counts).map_err(damaged)?,
            None => KeyCounts::default(),
        };
        Ok(Self { user, device, stored, counts: counts.counting_from_zero() })
    }

    /// Whether the device has no rows at all.
    pub(super) fn is_new(&self) -> bool {
        self.stored.is_none()
    }

    /// All keys of a kind, those of one algorithm together and the oldest first.
    pub(super) async fn keys(&self, view: &View, kind: Kind) -> Result<Vec<PoolKey>> {
        let range = Range::<tables::KeyPool>::prefix(&(self.user, self.device.as_str(), kind as u8));
        let rows = view.scan_all(range).await?;
        Ok(rows.into_iter().map(pool_key).collect())
    }

    /// The oldest key of a kind and algorithm.
    pub(super) async fn oldest(&self, view: &View, kind: Kind, algorithm: &str) -> Result<Option<PoolKey>> {
        let range = Range::<tables::KeyPool>::prefix(&(self.user, self.device.as_str(), kind as u8, algorithm));
        Ok(view.first(range).await?.map(pool_key))
    }

    pub(super) fn put(&self, batch: &mut Batch, kind: Kind, key: &PoolKey) {
        batch.put::<tables::KeyPool>(&self.key(kind, key), &key.json);
    }

    pub(super) fn delete(&self, batch: &mut Batch, kind: Kind, key: &PoolKey) {
        batch.delete::<tables::KeyPool>(&self.key(kind, key));
    }

    fn key<'k>(&'k self, kind: Kind, key: &'k PoolKey) -> PoolKeyPlace<&'k UserId, &'k str> {
        let PoolKey { algorithm, name, position, .. } = key;
        let (user, device) = (self.user, self.device.as_str());
        PoolKeyPlace { user, device, kind: kind as u8, algorithm, position: *position, name }
    }

    /// Notes the change in the log; the position of the entry orders the keys that come with it.
    pub(super) fn log(&self, batch: &mut Batch) -> Position {
        log(batch, self.user, Change::OneTimeKeys { device: self.device.to_owned() }).into()
    }

    /// Writes the counts, if nobody else changed the device's keys meanwhile.
    pub(super) fn save(&self, batch: &mut Batch) -> Result<()> {
        let key = (self.user, self.device.as_str());
        let counts = serde_json::to_string(&self.counts).map_err(damaged)?;
        let version = self.stored.as_ref().map_or(0, |row| row.version) + 1;
        batch.expect::<tables::KeyPools>(&key, self.stored.as_ref());
        batch.put::<tables::KeyPools>(&key, &PoolRow { version, counts });
        Ok(())
    }
}

fn pool_key((place, json): Row<tables::KeyPool>) -> PoolKey {
    let PoolKeyPlace { algorithm, position, name, .. } = place;
    PoolKey { algorithm, name, position, json }
}

fn damaged(source: serde_json::Error) -> Error {
    Error::Damaged { what: "the counts of one-time keys", source }
}

/// One after the other for those who change the keys of one device.
pub(crate) struct Turns {
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self { locks: (0..TURNS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Turns {
    /// Waits for the turn of a device.
    pub(super) async fn take(&self, user: &UserId, device: &DeviceId) -> MutexGuard<'_, ()> {
        self.locks[self.place(user, device)].lock().await
    }

    /// Waits for the turns of several devices. All who hold more than one take them in the same order.
    pub(super) async fn take_all<'d>(
        &self,
        devices: impl Iterator<Item = (&'d UserId, &'d DeviceId)>,
    ) -> Vec<MutexGuard<'_, ()>> {
        let places: BTreeSet<usize> = devices.map(|(user, device)| self.place(user, device)).collect();
        let mut turns = Vec::with_capacity(places.len());
        for place in places {
            turns.push(self.locks[place].lock().await);
        }
        turns
    }

    fn place(&self, user: &UserId, device: &DeviceId) -> usize {
        self.hasher.hash_one((user, device)) as usize % self.locks.len()
    }
}

impl Users {
    /// How many one-time keys a device has left, and which fallback keys are unused. Costs one look-up.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn key_counts(&self, view: &View, user: &UserId, device: &DeviceId) -> Result<KeyCounts> {
        Ok(Pool::load(view, user, device).await?.counts)
    }
}
