//! Handing out one-time keys.
//!
//! Specification: client-server API, `POST /keys/claim`: the oldest first, each at most once, the fallback key when
//! there are none left.

use futures_util::{StreamExt, TryStreamExt, stream};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::value::RawValue;

use super::pool::{Kind, Pool, PoolKey};
use crate::{Error, Result, Users};

/// The greatest number of devices that keys are claimed of in one request.
pub const CLAIMED_DEVICES_MAX: usize = 10_000;

/// Devices whose keys are claimed at the same time; their commits share the waiting for the disk.
const CLAIMS_AT_ONCE: usize = 64;

/// Which key is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyClaim {
    /// The user, of this server.
    pub user: OwnedUserId,
    /// The device.
    pub device: OwnedDeviceId,
    /// The key's algorithm.
    pub algorithm: String,
}

/// A key for the claimer alone, unless it is a fallback key.
#[derive(Clone, Debug)]
pub struct ClaimedKey {
    /// The user.
    pub user: OwnedUserId,
    /// The device.
    pub device: OwnedDeviceId,
    /// `<algorithm>:<name>`
    pub id: String,
    /// The key as it was uploaded.
    pub key: Box<RawValue>,
}

impl Users {
    /// Hands out a key of each of these devices. Devices that have none are left out.
    ///
    /// A key that was handed out is never handed out again, whatever happens to the answer.
    ///
    /// # Errors
    ///
    /// [`Error::TooMany`], [`Error::Contended`].
    pub async fn claim_keys(&self, claims: Vec<KeyClaim>) -> Result<Vec<ClaimedKey>> {
        if claims.len() > CLAIMED_DEVICES_MAX {
            return Err(Error::TooMany("devices in one claim"));
        }
        let claimed = stream::iter(claims).map(|claim| self.claim_key(claim)).buffer_unordered(CLAIMS_AT_ONCE);
        let claimed = claimed.try_filter_map(|key| async move { Ok(key) });
        claimed.try_collect().await
    }

    async fn claim_key(&self, claim: KeyClaim) -> Result<Option<ClaimedKey>> {
        let _turn = self.inner.key_turns.take(&claim.user, &claim.device).await;
        let mut attempts = self.attempts();
        loop {
            let mut attempt = attempts.next()?;
            let (view, batch) = (&attempt.view, &mut attempt.batch);
            let mut pool = Pool::load(view, &claim.user, &claim.device).await?;
            if pool.is_new() {
                return Ok(None);
            }
            let key = if let Some(key) = pool.oldest(view, Kind::OneTime, &claim.algorithm).await? {
                pool.delete(batch, Kind::OneTime, &key);
                pool.put(batch, Kind::HandedOut, &key);
                let count = pool.counts.one_time.entry(claim.algorithm.clone()).or_default();
                *count = count.saturating_sub(1);
                key
            } else if let Some(key) = pool.oldest(view, Kind::Fallback, &claim.algorithm).await? {
                if !pool.counts.unused_fallbacks.remove(&claim.algorithm) {
                    return Ok(Some(claimed(claim, key)?));
                }
                key
            } else {
                return Ok(None);
            };
            pool.log(batch);
            pool.save(batch)?;
            if attempt.commit().await? {
                return Ok(Some(claimed(claim, key)?));
            }
        }
    }
}

fn claimed(claim: KeyClaim, key: PoolKey) -> Result<ClaimedKey> {
    let id = key.id();
    let damaged = |source| Error::Damaged { what: "a one-time key", source };
    let key = RawValue::from_string(key.json).map_err(damaged)?;
    Ok(ClaimedKey { user: claim.user, device: claim.device, id, key })
}
