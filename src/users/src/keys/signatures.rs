//! Signatures that users make of devices and master keys: their own devices' with the self-signing key, their own
//! master key's with their devices, other users' master keys' with the user-signing key.
//!
//! Specification: client-server API, `POST /keys/signatures/upload`; "Key and signature security" for who sees what.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedUserId, UserId};
use serde_json::value::RawValue;
use store::{Batch, View};

use super::{
    cross_signing::{CrossKey, CrossSigning, MASTER_KEY_BYTES_MAX, Usage, master_with_signatures},
    device_keys::{Identity, put_identity},
    signed::{SignedObject, ed25519_id},
};
use crate::{
    Error, Result, Users, bump_version, device_lists,
    rows::{CrossSigningRow, SignedUserKey, UserSignatureRow},
    tables,
};

/// The greatest number of signed keys in one upload.
pub const SIGNED_KEYS_PER_UPLOAD_MAX: usize = 1_000;

/// The greatest number of bytes of a signed key, with all the signatures that it may have already.
pub const SIGNED_KEY_BYTES_MAX: usize = MASTER_KEY_BYTES_MAX;

/// Signed keys that are written together: as many as surely fit into a batch.
const SIGNED_KEYS_PER_BATCH: usize = 64;

/// A key with new signatures.
#[derive(Clone, Debug)]
pub struct SignedKey {
    /// Whose key it is.
    pub user: OwnedUserId,
    /// The device id, or the name of the master key.
    pub key: String,
    /// The signed object.
    pub json: Box<RawValue>,
}

/// Why a signature wasn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFailure {
    /// There is no such device or master key.
    #[error("there is no such key")]
    UnknownKey,
    /// The user has no key to sign this with.
    #[error("the user has no key that could have signed this")]
    NoSigningKey,
    /// The object isn't that which was uploaded.
    #[error("the object is not the key that it should be")]
    Mismatch,
    /// The signature is missing or wrong.
    #[error("the signature is missing or wrong")]
    Invalid,
    /// The object isn't one that can be signed.
    #[error("{0}")]
    Malformed(String),
}

/// Failures by user and key.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, SignatureFailure>>;

/// A signature that counts, and what it does.
enum Accepted {
    /// It is there already.
    Known,
    /// The device's keys with it.
    Device(SignedObject),
    /// The master key with it.
    Master(CrossKey),
    /// Another user's master key has it, for the signer alone.
    Other(UserSignatureRow),
}

impl Users {
    /// Adds the signatures of `signer` to keys. Those that can't be taken are told, the others are taken all the same.
    ///
    /// # Errors
    ///
    /// [`Error::TooMany`], [`Error::Contended`].
    pub async fn upload_signatures(&self, signer: &UserId, signed: &[SignedKey]) -> Result<SignatureFailures> {
        if signed.len() > SIGNED_KEYS_PER_UPLOAD_MAX {
            return Err(Error::TooMany("signed keys in one upload"));
        }
        let mut failures = SignatureFailures::new();
        for chunk in signed.chunks(SIGNED_KEYS_PER_BATCH) {
            let decide = |view: View| async move {
                let mut batch = Batch::new();
                let failed = prepare_signatures(&view, &mut batch, signer, chunk).await?;
                Ok::<_, Error>((batch, failed))
            };
            for (key, failure) in self.inner.store.retry(decide).await? {
                failures.entry(key.user.clone()).or_default().insert(key.key.clone(), failure);
            }
        }
        Ok(failures)
    }
}

async fn prepare_signatures<'k>(
    view: &View,
    batch: &mut Batch,
    signer: &UserId,
    signed: &'k [SignedKey],
) -> Result<Vec<(&'k SignedKey, SignatureFailure)>> {
    let own = CrossSigning::load(view, signer).await?;
    let mut failures = Vec::new();
    let mut changes = Vec::new();
    for key in signed {
        let checked = if key.user == signer {
            check_own(view, signer, &own, key).await?
        } else {
            check_other(view, signer, &own, key).await?
        };
        match checked {
            Ok(accepted) => changes.push((key, accepted)),
            Err(failure) => failures.push((key, failure)),
        }
    }
    write_signatures(view, batch, signer, changes).await?;
    Ok(failures)
}

type Checked = std::result::Result<Accepted, SignatureFailure>;

async fn check_own(view: &View, signer: &UserId, own: &CrossSigning, key: &SignedKey) -> Result<Checked> {
    if let Some(master) = own.key(Usage::Master).filter(|master| master.name() == key.key) {
        let object = match parse(key, &master.object) {
            Ok(object) => object,
            Err(failure) => return Ok(Err(failure)),
        };
        return check_master(view, signer, master, object).await;
    }
    let Some(identity) = Identity::load(view, signer, <&DeviceId>::from(key.key.as_str())).await? else {
        return Ok(Err(SignatureFailure::UnknownKey));
    };
    let object = match parse(key, &identity.object) {
        Ok(object) => object,
        Err(failure) => return Ok(Err(failure)),
    };
    let Some(self_signing) = own.key(Usage::SelfSigning) else {
        return Ok(Err(SignatureFailure::NoSigningKey));
    };
    let Some(signature) = self_signing.signature_of(signer, &object) else {
        return Ok(Err(SignatureFailure::Invalid));
    };
    // Signatures of self-signing keys that are gone are worth nothing.
    let device = ed25519_id(&key.key);
    let mut signed = identity.object.unsigned();
    if let Some(by_device) = identity.object.signature(signer, &device) {
        signed.add_signature(signer, &device, by_device);
    }
    signed.add_signature(signer, &self_signing.id(), signature);
    Ok(Ok(if signed == identity.object { Accepted::Known } else { Accepted::Device(signed) }))
}

async fn check_master(view: &View, signer: &UserId, stored: &CrossKey, object: SignedObject) -> Result<Checked> {
    let uploaded = CrossKey { public: stored.public, object };
    let merged = match master_with_signatures(view, signer, &uploaded, Some(&stored.object)).await {
        Ok(merged) => merged,
        Err(Error::InvalidSignature(_)) => return Ok(Err(SignatureFailure::Invalid)),
        Err(error @ Error::TooLarge { .. }) => return Ok(Err(SignatureFailure::Malformed(error.to_string()))),
        Err(error) => return Err(error),
    };
    let mut counted = uploaded.object.signatures_of(signer).filter(|(id, _)| merged.signature(signer, id).is_some());
    if counted.next().is_none() {
        return Ok(Err(SignatureFailure::Invalid));
    }
    if merged == stored.object {
        return Ok(Ok(Accepted::Known));
    }
    Ok(Ok(Accepted::Master(CrossKey { public: stored.public, object: merged })))
}

async fn check_other(view: &View, signer: &UserId, own: &CrossSigning, key: &SignedKey) -> Result<Checked> {
    let others = CrossSigning::load(view, &key.user).await?;
    let Some(master) = others.key(Usage::Master).filter(|master| master.name() == key.key) else {
        return Ok(Err(SignatureFailure::UnknownKey));
    };
    let object = match parse(key, &master.object) {
        Ok(object) => object,
        Err(failure) => return Ok(Err(failure)),
    };
    let Some(user_signing) = own.key(Usage::UserSigning) else {
        return Ok(Err(SignatureFailure::NoSigningKey));
    };
    let Some(signature) = user_signing.signature_of(signer, &object) else {
        return Ok(Err(SignatureFailure::Invalid));
    };
    let (master, user_signing, signature) = (master.name(), user_signing.name(), signature.to_owned());
    Ok(Ok(Accepted::Other(UserSignatureRow { master, user_signing, signature })))
}

/// Reads a signed object, which must say the same as the stored one.
fn parse(key: &SignedKey, stored: &SignedObject) -> std::result::Result<SignedObject, SignatureFailure> {
    let object = SignedObject::parse("the signed key", &key.json, SIGNED_KEY_BYTES_MAX, &[]);
    let object = object.map_err(|error| SignatureFailure::Malformed(error.to_string()))?;
    if !object.says_the_same(stored) {
        return Err(SignatureFailure::Mismatch);
    }
    Ok(object)
}

async fn write_signatures(
    view: &View,
    batch: &mut Batch,
    signer: &UserId,
    changes: Vec<(&SignedKey, Accepted)>,
) -> Result<()> {
    let mut own_changed = false;
    let mut others_changed = false;
    for (key, accepted) in changes {
        match accepted {
            Accepted::Known => {}
            Accepted::Device(object) => {
                put_identity(batch, (signer, <&DeviceId>::from(key.key.as_str())), &object);
                own_changed = true;
            }
            Accepted::Master(master) => {
                let row = CrossSigningRow { name: master.name(), json: master.object.to_json() };
                batch.put::<tables::CrossSigningKeys>(&(signer, Usage::Master as u8), &row);
                own_changed = true;
            }
            Accepted::Other(row) => {
                let pair = SignedUserKey { signer, other: &key.user };
                let stored = view.get::<tables::UserSignatures>(&pair).await?;
                if stored.as_ref() != Some(&row) {
                    batch.put::<tables::UserSignatures>(&pair, &row);
                    device_lists::mark_signed(view, batch, signer, &key.user).await?;
                    others_changed = true;
                }
            }
        }
    }
    if own_changed {
        device_lists::mark_changed(view, batch, signer).await?;
    }
    if own_changed || others_changed {
        bump_version(view, batch, signer).await?;
    }
    Ok(())
}
