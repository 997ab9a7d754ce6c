//! What a device uploads: its identity keys, one-time keys and fallback keys.
//!
//! Specification: client-server API, "Uploading keys" and "One-time and fallback keys".

use std::collections::{BTreeMap, HashMap, HashSet};

use ruma::{DeviceId, OneTimeKeyAlgorithm, OwnedOneTimeKeyId, UserId};
use serde_json::value::RawValue;
use store::{Batch, Position, View};
use vodozemac::Ed25519PublicKey;

use super::{
    device_keys::{Identity, prepare_identity},
    pool::{Kind, Pool, PoolKey, SIGNED_CURVE25519},
    signed::{SignedObject, all_verify, ed25519_id, public_key_bytes, verifies},
};
use crate::{Error, Result, Users, expect_version, tables};

/// The greatest number of bytes of a one-time or fallback key with the object around it.
pub const ONE_TIME_KEY_BYTES_MAX: usize = 2 * 1024;
/// The greatest number of bytes of a one-time key's id, `<algorithm>:<name>`.
pub const ONE_TIME_KEY_ID_BYTES_MAX: usize = 255;
/// The greatest number of one-time keys that a device has waiting, of all algorithms together. Clients keep 50 to
/// 100; so many fit into one batch.
pub const ONE_TIME_KEYS_PER_DEVICE_MAX: usize = 300;
/// The greatest number of fallback keys of a device, one for each algorithm.
pub const FALLBACK_KEYS_PER_DEVICE_MAX: usize = 10;

/// How many claimed one-time keys of a device are remembered when it uploads new ones.
const HANDED_OUT_KEPT_MAX: usize = 200;
/// After how many signature checks others have a turn on the thread.
const CHECKS_PER_TURN: usize = 64;

/// What a device uploads.
#[derive(Clone, Debug, Default)]
pub struct KeyUpload {
    /// Its identity keys.
    pub device_keys: Option<Box<RawValue>>,
    /// New one-time keys.
    pub one_time_keys: BTreeMap<OwnedOneTimeKeyId, Box<RawValue>>,
    /// New fallback keys, at most one for each algorithm.
    pub fallback_keys: BTreeMap<OwnedOneTimeKeyId, Box<RawValue>>,
}

/// A [`KeyUpload`] that is in order, but for the signatures of the one-time keys.
struct Upload {
    identity: Option<Identity>,
    one_time: Vec<UploadedKey>,
    fallback: Vec<UploadedKey>,
}

/// A one-time or fallback key.
struct UploadedKey {
    algorithm: String,
    name: String,
    json: String,
    /// What is signed and the signature of the device; `None` for keys that aren't signed.
    signed: Option<(String, Option<String>)>,
}

impl Upload {
    fn parse(user: &UserId, device: &DeviceId, upload: &KeyUpload) -> Result<Self> {
        let identity = match &upload.device_keys {
            Some(json) => Some(Identity::parse(user, device, json)?),
            None => None,
        };
        let one_time = parse_keys((user, device), &upload.one_time_keys)?;
        let fallback = parse_keys((user, device), &upload.fallback_keys)?;
        let algorithms: HashSet<&str> = fallback.iter().map(|key| key.algorithm.as_str()).collect();
        if algorithms.len() < fallback.len() {
            return Err(Error::InvalidKey("there can be only one fallback key for each algorithm"));
        }
        Ok(Self { identity, one_time, fallback })
    }
}

fn parse_keys(
    (user, device): (&UserId, &DeviceId),
    keys: &BTreeMap<OwnedOneTimeKeyId, Box<RawValue>>,
) -> Result<Vec<UploadedKey>> {
    let key_id = ed25519_id(device.as_str());
    let mut parsed = Vec::with_capacity(keys.len().min(ONE_TIME_KEYS_PER_DEVICE_MAX));
    for (id, json) in keys {
        if id.as_str().len() > ONE_TIME_KEY_ID_BYTES_MAX {
            return Err(Error::TooLarge { what: "the id of a one-time key", max: ONE_TIME_KEY_ID_BYTES_MAX });
        }
        if parsed.len() == ONE_TIME_KEYS_PER_DEVICE_MAX {
            return Err(Error::UserLimit("one-time keys"));
        }
        let (json, signed) = match id.algorithm() {
            OneTimeKeyAlgorithm::SignedCurve25519 => {
                let object = parse_signed_curve25519(json)?;
                let signature = object.signature(user, &key_id).map(str::to_owned);
                (object.to_json(), Some((object.signed_text(), signature)))
            }
            // Of other algorithms the server knows nothing; their keys are kept as they are.
            _ => (parse_unknown(json)?, None),
        };
        let (algorithm, name) = (id.algorithm().to_string(), id.key_name().to_string());
        parsed.push(UploadedKey { algorithm, name, json, signed });
    }
    Ok(parsed)
}

fn parse_signed_curve25519(json: &RawValue) -> Result<SignedObject> {
    let object = SignedObject::parse("a one-time key", json, ONE_TIME_KEY_BYTES_MAX, &["key", "signatures"])?;
    let key = object.text("key").and_then(public_key_bytes);
    key.ok_or(Error::InvalidKey("a signed_curve25519 key must be 32 bytes in unpadded base64"))?;
    Ok(object)
}

fn parse_unknown(json: &RawValue) -> Result<String> {
    let text = json.get();
    if text.len() > ONE_TIME_KEY_BYTES_MAX {
        return Err(Error::TooLarge { what: "a one-time key", max: ONE_TIME_KEY_BYTES_MAX });
    }
    if !text.starts_with(['"', '{']) {
        return Err(Error::InvalidKey("a one-time key must be text or an object"));
    }
    Ok(text.to_owned())
}

impl Users {
    /// Stores what a device uploads, and gives the number of one-time keys that it has now, by algorithm.
    ///
    /// The same upload twice is the same as once, also if keys of the first were claimed meanwhile. One-time keys
    /// that come before the identity keys can't be checked yet; those that turn out not to be the device's go when
    /// these come.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::InvalidKey`], [`Error::MissingKeyField`], [`Error::InvalidSignature`], [`Error::IdentityChanged`],
    /// [`Error::KeyExists`], [`Error::TooLarge`], [`Error::UserLimit`], [`Error::Contended`].
    pub async fn upload_keys(
        &self,
        user: &UserId,
        device: &DeviceId,
        upload: &KeyUpload,
    ) -> Result<BTreeMap<String, u64>> {
        let upload = &Upload::parse(user, device, upload)?;
        let _turn = self.inner.key_turns.take(user, device).await;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let counts = prepare_upload(&view, &mut batch, (user, device), upload).await?;
            Ok((batch, counts))
        };
        self.inner.store.retry(decide).await
    }
}

async fn prepare_upload(
    view: &View,
    batch: &mut Batch,
    owner: (&UserId, &DeviceId),
    upload: &Upload,
) -> Result<BTreeMap<String, u64>> {
    if !view.contains::<tables::Devices>(&(owner.0, owner.1.as_str())).await? {
        return Err(Error::UnknownDevice);
    }
    prepare_parsed(view, batch, owner, upload).await
}

/// As [`Users::upload_keys`], for a device that is there or is made in this batch.
pub(crate) async fn prepare_keys(
    view: &View,
    batch: &mut Batch,
    owner: (&UserId, &DeviceId),
    upload: &KeyUpload,
) -> Result<()> {
    let upload = Upload::parse(owner.0, owner.1, upload)?;
    prepare_parsed(view, batch, owner, &upload).await?;
    Ok(())
}

async fn prepare_parsed(
    view: &View,
    batch: &mut Batch,
    owner: (&UserId, &DeviceId),
    upload: &Upload,
) -> Result<BTreeMap<String, u64>> {
    let (user, device) = owner;
    let stored = Identity::load(view, user, device).await?;
    if let Some(identity) = &upload.identity {
        prepare_identity(view, batch, owner, stored.as_ref(), identity).await?;
    }
    let mut pool = Pool::load(view, user, device).await?;
    let mut changes = Changes::default();
    let signing_key = upload.identity.as_ref().or(stored.as_ref()).map(|identity| identity.ed25519);
    if let Some(key) = signing_key {
        check_signatures(&key, &upload.one_time).await?;
        check_signatures(&key, &upload.fallback).await?;
        if stored.is_none() && !pool.is_new() {
            changes.drop_foreign(view, &pool, owner, &key).await?;
        }
    }
    changes.add_one_time(view, &pool, &upload.one_time).await?;
    changes.add_fallback(view, &pool, &upload.fallback).await?;
    if changes.any() {
        // The device must still be there when this is written.
        expect_version(view, batch, user).await?;
        changes.write(view, batch, &mut pool).await?;
    }
    Ok(pool.counts.one_time)
}

/// Refuses signed keys that the device didn't sign.
async fn check_signatures(signing_key: &Ed25519PublicKey, keys: &[UploadedKey]) -> Result<()> {
    let unsigned = || Error::InvalidSignature("a one-time key must be signed by its device");
    let mut signed = Vec::with_capacity(keys.len());
    for (text, signature) in keys.iter().filter_map(|key| key.signed.as_ref()) {
        signed.push((text.as_str(), signature.as_deref().ok_or_else(unsigned)?));
    }
    for some in signed.chunks(CHECKS_PER_TURN) {
        if !all_verify(signing_key, some) {
            return Err(unsigned());
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn is_signed_by(
    signing_key: &Ed25519PublicKey,
    (user, device): (&UserId, &DeviceId),
    algorithm: &str,
    json: &str,
) -> Result<bool> {
    if algorithm != SIGNED_CURVE25519 {
        return Ok(true);
    }
    let object = SignedObject::stored(json)?;
    let signature = object.signature(user, &ed25519_id(device.as_str()));
    Ok(signature.is_some_and(|signature| verifies(signing_key, &object.signed_text(), signature)))
}

/// What an upload does to a device's pool.
#[derive(Default)]
struct Changes {
    deleted: Vec<(Kind, PoolKey)>,
    added: Vec<(Kind, PoolKey)>,
}

impl Changes {
    fn any(&self) -> bool {
        !self.deleted.is_empty() || !self.added.is_empty()
    }

    fn add(&mut self, kind: Kind, key: &UploadedKey) {
        let UploadedKey { algorithm, name, json, .. } = key;
        let (algorithm, name, json) = (algorithm.clone(), name.clone(), json.clone());
        self.added.push((kind, PoolKey { algorithm, name, position: Position::ZERO, json }));
    }

    /// Keys that were uploaded when nobody could tell whether they are the device's.
    async fn drop_foreign(
        &mut self,
        view: &View,
        pool: &Pool<'_>,
        owner: (&UserId, &DeviceId),
        signing_key: &Ed25519PublicKey,
    ) -> Result<()> {
        for kind in [Kind::OneTime, Kind::Fallback] {
            for key in pool.keys(view, kind).await? {
                if !is_signed_by(signing_key, owner, &key.algorithm, &key.json)? {
                    self.deleted.push((kind, key));
                }
            }
        }
        Ok(())
    }

    fn is_deleted(&self, kind: Kind, id: &str) -> bool {
        self.deleted.iter().any(|(deleted, key)| *deleted == kind && key.id() == id)
    }

    async fn add_one_time(&mut self, view: &View, pool: &Pool<'_>, uploaded: &[UploadedKey]) -> Result<()> {
        if uploaded.is_empty() || pool.is_new() {
            uploaded.iter().for_each(|key| self.add(Kind::OneTime, key));
            return Ok(());
        }
        let mut waiting = by_id(pool.keys(view, Kind::OneTime).await?);
        waiting.retain(|id, _| !self.is_deleted(Kind::OneTime, id));
        let handed_out = by_id(pool.keys(view, Kind::HandedOut).await?);
        let mut count = waiting.len();
        for key in uploaded {
            let id = format!("{}:{}", key.algorithm, key.name);
            match waiting.get(&id) {
                Some(json) if *json == key.json => continue,
                Some(_) => return Err(Error::KeyExists { id }),
                None => {}
            }
            if handed_out.get(&id).is_some_and(|json| *json == key.json) {
                continue;
            }
            count += 1;
            if count > ONE_TIME_KEYS_PER_DEVICE_MAX {
                return Err(Error::UserLimit("one-time keys"));
            }
            self.add(Kind::OneTime, key);
        }
        Ok(())
    }

    async fn add_fallback(&mut self, view: &View, pool: &Pool<'_>, uploaded: &[UploadedKey]) -> Result<()> {
        if uploaded.is_empty() {
            return Ok(());
        }
        let mut stored = pool.keys(view, Kind::Fallback).await?;
        stored.retain(|key| !self.is_deleted(Kind::Fallback, &key.id()));
        let mut count = stored.len();
        for key in uploaded {
            match stored.iter().find(|old| old.algorithm == key.algorithm) {
                // Sent again: whether it was used stays as it is.
                Some(old) if old.name == key.name && old.json == key.json => continue,
                Some(old) => self.deleted.push((Kind::Fallback, old.clone())),
                None => count += 1,
            }
            if count > FALLBACK_KEYS_PER_DEVICE_MAX {
                return Err(Error::UserLimit("fallback keys"));
            }
            self.add(Kind::Fallback, key);
        }
        Ok(())
    }

    async fn write(mut self, view: &View, batch: &mut Batch, pool: &mut Pool<'_>) -> Result<()> {
        for (kind, key) in &self.deleted {
            pool.delete(batch, *kind, key);
            count_removed(pool, *kind, key);
        }
        let position = pool.log(batch);
        for (kind, key) in &mut self.added {
            key.position = position;
            pool.put(batch, *kind, key);
            match kind {
                Kind::OneTime => *pool.counts.one_time.entry(key.algorithm.clone()).or_default() += 1,
                Kind::Fallback => _ = pool.counts.unused_fallbacks.insert(key.algorithm.clone()),
                Kind::HandedOut => {}
            }
        }
        forget_handed_out(view, batch, pool).await?;
        pool.save(batch)
    }
}

fn count_removed(pool: &mut Pool<'_>, kind: Kind, key: &PoolKey) {
    if kind == Kind::Fallback {
        pool.counts.unused_fallbacks.remove(&key.algorithm);
    } else if let Some(count) = pool.counts.one_time.get_mut(&key.algorithm) {
        *count = count.saturating_sub(1);
    }
}

/// Forgets the oldest of the claimed keys when they are many. Between two uploads there can't be more of them than
/// there were keys to claim.
async fn forget_handed_out(view: &View, batch: &mut Batch, pool: &Pool<'_>) -> Result<()> {
    let handed_out = pool.keys(view, Kind::HandedOut).await?;
    let surplus = handed_out.len().saturating_sub(HANDED_OUT_KEPT_MAX);
    for key in &handed_out[..surplus] {
        pool.delete(batch, Kind::HandedOut, key);
    }
    Ok(())
}

fn by_id(keys: Vec<PoolKey>) -> HashMap<String, String> {
    keys.into_iter().map(|key| (key.id(), key.json)).collect()
}
