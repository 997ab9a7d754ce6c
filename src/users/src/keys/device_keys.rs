//! Identity keys of devices.
//!
//! A device's ed25519 and curve25519 keys never change: who verified a device has verified these keys. What else the
//! uploaded object says may change as long as the device signs it.
//!
//! Specification: client-server API, "Device keys" and "Uploading keys".

use ruma::{DeviceId, UserId};
use serde_json::value::RawValue;
use store::{Batch, View};
use vodozemac::Ed25519PublicKey;

use super::{
    cross_signing::{CrossSigning, Usage},
    signed::{SignedObject, ed25519_id, ed25519_key, public_key_bytes, verifies},
};
use crate::{Error, Result, bump_version, device_lists, tables};

/// The greatest number of bytes of a device's identity keys with the object around them.
pub const DEVICE_KEYS_BYTES_MAX: usize = 8 * 1024;

/// The fields of device keys (client-server API, `DeviceKeys`).
const REQUIRED: [&str; 5] = ["algorithms", "device_id", "keys", "signatures", "user_id"];

/// The identity keys of a device, signed by it.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) ed25519: Ed25519PublicKey,
    pub(super) object: SignedObject,
}

impl Identity {
    /// Checks what a device uploads.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], [`Error::MissingKeyField`], [`Error::InvalidSignature`], [`Error::TooLarge`].
    pub(super) fn parse(user: &UserId, device: &DeviceId, json: &RawValue) -> Result<Self> {
        let object = SignedObject::parse("the device keys", json, DEVICE_KEYS_BYTES_MAX, &REQUIRED)?;
        if object.text("user_id") != Some(user.as_str()) {
            return Err(Error::InvalidKey("user_id must be the user who uploads it"));
        }
        if object.text("device_id") != Some(device.as_str()) {
            return Err(Error::InvalidKey("device_id must be the device that uploads it"));
        }
        if object.texts("algorithms").is_none() {
            return Err(Error::InvalidKey("algorithms must be an array of names"));
        }
        let identity = Self::of(device, object)?;
        let curve25519 = identity.key_text("curve25519", device);
        if curve25519.is_some_and(|key| public_key_bytes(key).is_none()) {
            return Err(Error::InvalidKey("the curve25519 key must be 32 bytes in unpadded base64"));
        }
        let id = ed25519_id(device.as_str());
        let signature = identity.object.signature(user, &id);
        let signature = signature.ok_or(Error::InvalidSignature("the device keys must be signed by the device"))?;
        if !verifies(&identity.ed25519, &identity.object.signed_text(), signature) {
            return Err(Error::InvalidSignature("the device's signature of its keys is wrong"));
        }
        Ok(identity)
    }

    fn of(device: &DeviceId, object: SignedObject) -> Result<Self> {
        let text = object.object("keys").and_then(|keys| keys.get(&ed25519_id(device.as_str()))?.as_str());
        let ed25519 = text.and_then(ed25519_key);
        let ed25519 = ed25519.ok_or(Error::InvalidKey("keys must hold the device's ed25519 key in unpadded base64"))?;
        Ok(Self { ed25519, object })
    }

    /// What is stored of a device.
    pub(super) async fn load(view: &View, user: &UserId, device: &DeviceId) -> Result<Option<Self>> {
        let row = view.get::<tables::DeviceKeys>(&(user, device.as_str())).await?;
        let Some(json) = row else { return Ok(None) };
        Ok(Some(Self::of(device, SignedObject::stored(&json)?)?))
    }

    fn key_text(&self, algorithm: &str, device: &DeviceId) -> Option<&str> {
        self.object.object("keys")?.get(&format!("{algorithm}:{device}"))?.as_str()
    }

    /// The keys with only those signatures that count: the device's own, and that of the user's self-signing key
    /// from whichever of `sources` has one that is right.
    fn with_signatures_from(
        &self,
        sources: &[&SignedObject],
        user: &UserId,
        device: &DeviceId,
        cross_signing: &CrossSigning,
    ) -> SignedObject {
        let mut object = self.object.unsigned();
        let text = object.signed_text();
        let own = (ed25519_id(device.as_str()), self.ed25519);
        let self_signing = cross_signing.key(Usage::SelfSigning).map(|key| (key.id(), key.public));
        for (id, key) in [Some(own), self_signing].into_iter().flatten() {
            let right = sources.iter().filter_map(|source| source.signature(user, &id));
            let right = right.filter(|signature| verifies(&key, &text, signature));
            if let Some(signature) = right.into_iter().next() {
                object.add_signature(user, &id, signature);
            }
        }
        object
    }
}

/// Writes a device's identity keys in place of the `stored` ones, and says so to those who see them. Does nothing if
/// nothing changes.
///
/// # Errors
///
/// [`Error::IdentityChanged`].
pub(super) async fn prepare_identity(
    view: &View,
    batch: &mut Batch,
    owner: (&UserId, &DeviceId),
    stored: Option<&Identity>,
    uploaded: &Identity,
) -> Result<()> {
    let (user, device) = owner;
    let mut sources = vec![&uploaded.object];
    if let Some(stored) = stored {
        let same = |algorithm| stored.key_text(algorithm, device) == uploaded.key_text(algorithm, device);
        if !same("ed25519") || !same("curve25519") {
            return Err(Error::IdentityChanged);
        }
        sources.push(&stored.object);
    }
    let cross_signing = CrossSigning::load(view, user).await?;
    let object = uploaded.with_signatures_from(&sources, user, device, &cross_signing);
    if stored.is_none_or(|stored| stored.object != object) {
        bump_version(view, batch, user).await?;
        put_identity(batch, owner, &object);
        device_lists::mark_changed(view, batch, user).await?;
    }
    Ok(())
}

/// Writes the row of a device's identity keys.
pub(super) fn put_identity(batch: &mut Batch, (user, device): (&UserId, &DeviceId), object: &SignedObject) {
    batch.put::<tables::DeviceKeys>(&(user, device.as_str()), &object.to_json());
}
