//! What there is of a device's one-time and fallback keys.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{DeviceId, UserId};
use serde::{Deserialize, Serialize};
use store::{Batch, View};

use crate::{Error, Result, Users, tables};

/// The algorithm of one-time keys that clients use today; its count is always told, even if it is zero.
pub(crate) const SIGNED_CURVE25519: &str = "signed_curve25519";

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
        self.one_time.entry(SIGNED_CURVE25519.to_owned()).or_default();
        self
    }
}

/// The row of a device in [`tables::KeyPools`] as it was read.
pub(crate) struct Pool {
    stored: Option<(u64, String)>,
    pub(crate) counts: KeyCounts,
}

impl Pool {
    pub(crate) async fn load(view: &View, user: &UserId, device: &str) -> Result<Self> {
        let stored = view.get::<tables::KeyPools>(&(user, device)).await?;
        let counts = match &stored {
            Some((_, json)) => serde_json::from_str(json)
                .map_err(|source| Error::Damaged { what: "the counts of one-time keys", source })?,
            None => KeyCounts::default(),
        };
        Ok(Self { stored, counts: KeyCounts::counting_from_zero(counts) })
    }

    /// Writes the counts, if nobody else changed the device's one-time and fallback keys meanwhile.
    pub(crate) fn save(&self, batch: &mut Batch, user: &UserId, device: &str) -> Result<()> {
        let json = serde_json::to_string(&self.counts)
            .map_err(|source| Error::Damaged { what: "the counts of one-time keys", source })?;
        let version = self.stored.as_ref().map_or(0, |(version, _)| *version) + 1;
        batch.expect::<tables::KeyPools>(&(user, device), self.stored.as_ref());
        batch.put::<tables::KeyPools>(&(user, device), &(version, json));
        Ok(())
    }
}

impl Users {
    /// How many one-time keys a device has left, and which fallback keys are unused. Costs one look-up.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn key_counts(&self, view: &View, user: &UserId, device: &DeviceId) -> Result<KeyCounts> {
        Ok(Pool::load(view, user, device.as_str()).await?.counts)
    }

    /// [`KeyCounts::one_time`] of a device.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn one_time_key_counts(
        &self,
        view: &View,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<BTreeMap<String, u64>> {
        Ok(self.key_counts(view, user, device).await?.one_time)
    }

    /// [`KeyCounts::unused_fallbacks`] of a device.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn unused_fallback_key_types(
        &self,
        view: &View,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<BTreeSet<String>> {
        Ok(self.key_counts(view, user, device).await?.unused_fallbacks)
    }
}
