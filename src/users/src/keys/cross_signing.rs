//! Cross-signing keys: a user's master, self-signing and user-signing keys.
//!
//! What is stored is consistent: the self-signing and user-signing keys are signed by the stored master key.
//!
//! Specification: client-server API, "Cross-signing".

use ruma::{DeviceId, UserId};
use serde_json::value::RawValue;
use store::{Batch, Range, View};
use vodozemac::Ed25519PublicKey;

use super::{
    device_keys::Identity,
    signed::{SignedObject, ed25519_id, ed25519_key, verifies},
};
use crate::{Error, Result, Users, bump_version, device_lists, rows::CrossSigningRow, tables};

/// The greatest number of bytes of an uploaded cross-signing key with the object around it.
pub const CROSS_SIGNING_KEY_BYTES_MAX: usize = 8 * 1024;
/// The greatest number of bytes of a master key with the signatures of the user's devices.
pub const MASTER_KEY_BYTES_MAX: usize = 64 * 1024;

/// What a cross-signing key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    /// Stands for the user, and signs the other two.
    Master = 0,
    /// Signs the user's devices.
    SelfSigning = 1,
    /// Signs other users' master keys; only its user sees it.
    UserSigning = 2,
}

impl Usage {
    pub(super) const ALL: [Self; 3] = [Self::Master, Self::SelfSigning, Self::UserSigning];

    fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

/// The fields of a cross-signing key (client-server API, `CrossSigningKey`).
const REQUIRED: [&str; 3] = ["keys", "usage", "user_id"];

/// A cross-signing key.
#[derive(Clone, Debug)]
pub(super) struct CrossKey {
    pub(super) public: Ed25519PublicKey,
    pub(super) object: SignedObject,
}

impl CrossKey {
    fn parse(user: &UserId, usage: Usage, json: &RawValue) -> Result<Self> {
        let object = SignedObject::parse("the cross-signing key", json, CROSS_SIGNING_KEY_BYTES_MAX, &REQUIRED)?;
        if object.text("user_id") != Some(user.as_str()) {
            return Err(Error::InvalidKey("user_id must be the user who uploads it"));
        }
        if !object.texts("usage").is_some_and(|usages| usages.contains(&usage.name())) {
            return Err(Error::InvalidKey("usage must name what the key is uploaded as"));
        }
        Self::of(object)
    }

    fn of(object: SignedObject) -> Result<Self> {
        let invalid = Error::InvalidKey("keys must hold one ed25519 key under its own name, in unpadded base64");
        let Some(keys) = object.object("keys").filter(|keys| keys.len() == 1) else { return Err(invalid) };
        let Some((id, text)) = keys.iter().next() else { return Err(invalid) };
        match text.as_str().and_then(ed25519_key) {
            Some(public) if *id == ed25519_id(&public.to_base64()) => Ok(Self { public, object }),
            _ => Err(invalid),
        }
    }

    /// The key's name: itself in unpadded base64.
    pub(super) fn name(&self) -> String {
        self.public.to_base64()
    }

    /// `ed25519:<name>`
    pub(super) fn id(&self) -> String {
        ed25519_id(&self.name())
    }

    /// The signature of `user` with this key over `object`, if it is there and right.
    pub(super) fn signature_of<'o>(&self, user: &UserId, object: &'o SignedObject) -> Option<&'o str> {
        let signature = object.signature(user, &self.id())?;
        verifies(&self.public, &object.signed_text(), signature).then_some(signature)
    }
}

/// The cross-signing keys of a user, by [`Usage`].
#[derive(Clone, Debug, Default)]
pub(super) struct CrossSigning {
    keys: [Option<CrossKey>; 3],
}

impl CrossSigning {
    pub(super) async fn load(view: &View, user: &UserId) -> Result<Self> {
        let mut keys = [None, None, None];
        for ((_, usage), row) in view.scan_all(Range::<tables::CrossSigningKeys>::prefix(&(user,))).await? {
            if let Some(slot) = keys.get_mut(usize::from(usage)) {
                *slot = Some(CrossKey::of(SignedObject::stored(&row.json)?)?);
            }
        }
        Ok(Self { keys })
    }

    pub(super) fn key(&self, usage: Usage) -> Option<&CrossKey> {
        self.keys[usage as usize].as_ref()
    }

    fn parse(user: &UserId, upload: &CrossSigningUpload) -> Result<Self> {
        let mut keys = [None, None, None];
        let jsons = [&upload.master_key, &upload.self_signing_key, &upload.user_signing_key];
        for (usage, json) in Usage::ALL.into_iter().zip(jsons) {
            if let Some(json) = json {
                keys[usage as usize] = Some(CrossKey::parse(user, usage, json)?);
            }
        }
        Ok(Self { keys })
    }

    fn has_any(&self) -> bool {
        self.keys.iter().any(Option::is_some)
    }
}

/// What a user uploads.
#[derive(Clone, Debug, Default)]
pub struct CrossSigningUpload {
    /// The master key.
    pub master_key: Option<Box<RawValue>>,
    /// The self-signing key.
    pub self_signing_key: Option<Box<RawValue>>,
    /// The user-signing key.
    pub user_signing_key: Option<Box<RawValue>>,
}

/// Whether the user has just shown who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// Nobody asked.
    NotAsked,
    /// They have.
    Given,
}

impl Users {
    /// Stores cross-signing keys. A new master key removes the other two, unless they come with it.
    ///
    /// The first keys, and the same keys again, need no [`Confirmation`] (MSC3967).
    ///
    /// # Errors
    ///
    /// [`Error::ConfirmationNeeded`] if keys would be replaced or added; [`Error::MissingMasterKey`],
    /// [`Error::InvalidKey`], [`Error::MissingKeyField`], [`Error::InvalidSignature`], [`Error::KeyIdInUse`], [`Error::TooLarge`],
    /// [`Error::Contended`].
    pub async fn upload_cross_signing(
        &self,
        user: &UserId,
        upload: &CrossSigningUpload,
        confirmation: Confirmation,
    ) -> Result<()> {
        let uploaded = &CrossSigning::parse(user, upload)?;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            prepare_cross_signing(&view, &mut batch, user, uploaded, confirmation).await?;
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }
}

async fn prepare_cross_signing(
    view: &View,
    batch: &mut Batch,
    user: &UserId,
    uploaded: &CrossSigning,
    confirmation: Confirmation,
) -> Result<()> {
    let stored = CrossSigning::load(view, user).await?;
    let master = uploaded.key(Usage::Master).or(stored.key(Usage::Master)).ok_or(Error::MissingMasterKey)?;
    let mut new = CrossSigning::default();
    if let Some(key) = uploaded.key(Usage::Master) {
        let known = stored.key(Usage::Master).filter(|known| known.object.says_the_same(&key.object));
        let known = known.map(|known| &known.object);
        let object = master_with_signatures(view, user, key, known).await?;
        new.keys[Usage::Master as usize] = Some(CrossKey { public: key.public, object });
    }
    for usage in [Usage::SelfSigning, Usage::UserSigning] {
        if let Some(key) = uploaded.key(usage) {
            let signature = master.signature_of(user, &key.object);
            let signature = signature.ok_or(Error::InvalidSignature("the key must be signed by the master key"))?;
            let mut object = key.object.unsigned();
            object.add_signature(user, &master.id(), signature);
            new.keys[usage as usize] = Some(CrossKey { public: key.public, object });
        }
    }
    let is_new_key = |usage| is_change(&stored, &new, usage, SignedObject::says_the_same);
    if stored.has_any() && confirmation == Confirmation::NotAsked && Usage::ALL.into_iter().any(is_new_key) {
        return Err(Error::ConfirmationNeeded);
    }
    write_cross_signing(view, batch, user, &stored, &new).await
}

/// Whether a key is uploaded that isn't `alike` the stored one.
fn is_change(
    stored: &CrossSigning,
    new: &CrossSigning,
    usage: Usage,
    alike: fn(&SignedObject, &SignedObject) -> bool,
) -> bool {
    match (stored.key(usage), new.key(usage)) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(old), Some(new)) => !alike(&old.object, &new.object),
    }
}

async fn write_cross_signing(
    view: &View,
    batch: &mut Batch,
    user: &UserId,
    stored: &CrossSigning,
    new: &CrossSigning,
) -> Result<()> {
    let changed = |usage| is_change(stored, new, usage, SignedObject::eq);
    if !Usage::ALL.into_iter().any(changed) {
        return Ok(());
    }
    bump_version(view, batch, user).await?;
    let public = |keys: &CrossSigning, usage| keys.key(usage).map(|key| key.public);
    let replaces = |usage| new.key(usage).is_some() && public(stored, usage) != public(new, usage);
    for usage in Usage::ALL {
        if let Some(key) = new.key(usage) {
            let name = key.name();
            if replaces(usage) && view.contains::<tables::Devices>(&(user, name.as_str())).await? {
                return Err(Error::KeyIdInUse);
            }
            let row = CrossSigningRow { name, json: key.object.to_json() };
            batch.put::<tables::CrossSigningKeys>(&(user, usage as u8), &row);
        } else if replaces(Usage::Master) {
            // Signed by the master key that is gone.
            batch.delete::<tables::CrossSigningKeys>(&(user, usage as u8));
        }
    }
    if replaces(Usage::UserSigning) || replaces(Usage::Master) {
        batch.delete_prefix::<tables::UserSignatures>(&(user,));
    }
    device_lists::mark_changed(view, batch, user).await?;
    Ok(())
}

/// A master key with the signatures that count: those of the user's devices and its own, of those uploaded with it
/// and those `known` before.
///
/// # Errors
///
/// [`Error::InvalidSignature`] if a device's uploaded signature is wrong, [`Error::TooLarge`].
pub(super) async fn master_with_signatures(
    view: &View,
    user: &UserId,
    uploaded: &CrossKey,
    known: Option<&SignedObject>,
) -> Result<SignedObject> {
    let mut object = uploaded.object.unsigned();
    let text = object.signed_text();
    for source in known.into_iter().chain([&uploaded.object]) {
        for (id, signature) in source.signatures_of(user) {
            let Some(key) = device_or_master(view, user, uploaded, id).await? else { continue };
            if verifies(&key, &text, signature) {
                object.add_signature(user, id, signature);
            } else if known.and_then(|known| known.signature(user, id)) != Some(signature) {
                return Err(Error::InvalidSignature("a signature of the master key is wrong"));
            }
            // Otherwise a device of that id signed it that is gone now.
        }
    }
    if object.to_json().len() > MASTER_KEY_BYTES_MAX {
        return Err(Error::TooLarge { what: "the master key with its signatures", max: MASTER_KEY_BYTES_MAX });
    }
    Ok(object)
}

/// The key of this id, if it is the master key or that of one of the user's devices.
async fn device_or_master(view: &View, user: &UserId, master: &CrossKey, id: &str) -> Result<Option<Ed25519PublicKey>> {
    let Some(name) = id.strip_prefix("ed25519:") else { return Ok(None) };
    if name == master.name() {
        return Ok(Some(master.public));
    }
    let identity = Identity::load(view, user, <&DeviceId>::from(name)).await?;
    Ok(identity.map(|identity| identity.ed25519))
}

/// Whether this device id is the name of one of the user's cross-signing keys.
pub(crate) async fn is_cross_signing_key(view: &View, user: &UserId, device: &DeviceId) -> Result<bool> {
    let rows = view.scan_all(Range::<tables::CrossSigningKeys>::prefix(&(user,))).await?;
    Ok(rows.iter().any(|(_, row)| row.name == device.as_str()))
}
