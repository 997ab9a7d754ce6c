//! Handing out one-time keys.
//!
//! Specification: client-server API, `POST /keys/claim`: the oldest first, each at most once, the fallback key when
//! there are none left.

use futures_util::{StreamExt, TryStreamExt, stream};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::value::RawValue;
use store::{Batch, View};

use super::pool::{Kind, Pool, PoolKey};
use crate::{Error, Result, Users};

/// The greatest number of devices that keys are claimed of in one request.
pub const CLAIMED_DEVICES_MAX: usize = 10_000;

/// Devices of which keys are claimed in one commit: also with the largest keys well below what the store takes at once.
const CLAIMS_PER_COMMIT: usize = 64;
/// Commits at the same time; they share the waiting for the disk.
const COMMITS_AT_ONCE: usize = 8;

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
    pub async fn claim_keys(&self, mut claims: Vec<KeyClaim>) -> Result<Vec<ClaimedKey>> {
        if claims.len() > CLAIMED_DEVICES_MAX {
            return Err(Error::TooMany("devices in one claim"));
        }
        claims.sort_by(|a, b| (&a.user, &a.device).cmp(&(&b.user, &b.device)));
        let chunks =
            stream::iter(chunks(claims)).map(|chunk| self.claim_chunk(chunk)).buffer_unordered(COMMITS_AT_ONCE);
        let claimed: Vec<Vec<ClaimedKey>> = chunks.try_collect().await?;
        Ok(claimed.into_iter().flatten().collect())
    }

    /// Hands out keys of different devices in one commit.
    async fn claim_chunk(&self, claims: Vec<KeyClaim>) -> Result<Vec<ClaimedKey>> {
        let _turns = self.inner.key_turns.take_all(claims.iter().map(|claim| (&*claim.user, &*claim.device))).await;
        let claims = &claims;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let mut keys = Vec::with_capacity(claims.len());
            for claim in claims {
                if let Some(key) = prepare_claim(&view, &mut batch, claim).await? {
                    keys.push(claimed(claim, key)?);
                }
            }
            Ok((batch, keys))
        };
        self.inner.store.retry(decide).await
    }
}

/// Takes a key from a device's pool, if there is one.
async fn prepare_claim(view: &View, batch: &mut Batch, claim: &KeyClaim) -> Result<Option<PoolKey>> {
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
            return Ok(Some(key));
        }
        key
    } else {
        return Ok(None);
    };
    pool.log(batch);
    pool.save(batch)?;
    Ok(Some(key))
}

/// Divides claims, in the order of their devices, so that no device is twice in a chunk: each would be decided without the other.
fn chunks(claims: Vec<KeyClaim>) -> Vec<Vec<KeyClaim>> {
    let mut chunks: Vec<Vec<KeyClaim>> = Vec::new();
    for claim in claims {
        let is_new = |last: &KeyClaim| (&last.user, &last.device) != (&claim.user, &claim.device);
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < CLAIMS_PER_COMMIT && chunk.last().is_none_or(is_new) => chunk.push(claim),
            _ => chunks.push(vec![claim]),
        }
    }
    chunks
}

fn claimed(claim: &KeyClaim, key: PoolKey) -> Result<ClaimedKey> {
    let id = key.id();
    let damaged = |source| Error::Damaged { what: "a one-time key", source };
    let key = RawValue::from_string(key.json).map_err(damaged)?;
    Ok(ClaimedKey { user: claim.user.clone(), device: claim.device.clone(), id, key })
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn many_devices_share_a_commit_and_none_is_in_it_twice() {
        let claim = |device: usize| KeyClaim {
            user: user_id!("@alice:example.org").to_owned(),
            device: format!("{device:04}").into(),
            algorithm: "signed_curve25519".to_owned(),
        };
        let lengths = |devices: Vec<usize>| -> Vec<usize> {
            chunks(devices.into_iter().map(claim).collect()).iter().map(Vec::len).collect()
        };
        assert_eq!(lengths((0..200).collect()), [64, 64, 64, 8]);
        assert_eq!(lengths(vec![1, 1, 2, 2, 2, 3]), [1, 2, 1, 2]);
        assert_eq!(lengths(Vec::new()), [0; 0]);
    }
}
