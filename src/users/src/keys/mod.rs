//! Public keys of end-to-end encryption: devices' identity keys, their one-time and fallback keys, and users'
//! cross-signing keys.
//!
//! Signatures are checked before anything is stored, and only signatures that are right and mean something are stored.
//! Identity keys, cross-signing keys and signatures are guarded by the user's row in [`tables::Versions`].
//!
//! Specification: client-server API, "End-to-End Encryption".

mod claim;
mod cross_signing;
mod device_keys;
mod pool;
mod query;
mod signatures;
mod signed;
mod upload;

use ruma::{OwnedDeviceId, UserId};
use store::{Batch, Range, View};

use crate::{Result, device_lists, device_runs::Run, tables};

pub use claim::{CLAIMED_DEVICES_MAX, ClaimedKey, KeyClaim};
pub use cross_signing::{CROSS_SIGNING_KEY_BYTES_MAX, Confirmation, CrossSigningUpload, MASTER_KEY_BYTES_MAX};
pub use device_keys::DEVICE_KEYS_BYTES_MAX;
pub use pool::KeyCounts;
pub use query::{QUERY_BYTES_MAX, UserKeys};
pub use signatures::{
    SIGNED_KEY_BYTES_MAX, SIGNED_KEYS_PER_UPLOAD_MAX, SignatureFailure, SignatureFailures, SignedKey,
};
pub use upload::{
    FALLBACK_KEYS_PER_DEVICE_MAX, KeyUpload, ONE_TIME_KEY_BYTES_MAX, ONE_TIME_KEY_ID_BYTES_MAX,
    ONE_TIME_KEYS_PER_DEVICE_MAX,
};

pub(crate) use cross_signing::is_cross_signing_key;
pub(crate) use pool::Turns;
pub(crate) use upload::prepare_keys;

/// Deletes all keys of devices that are deleted. The caller guards the user's version, and [marks](mark_deleted) them.
pub(crate) fn prepare_delete_device_keys(batch: &mut Batch, user: &UserId, devices: &Run) {
    devices.delete_rows::<tables::DeviceKeys>(batch, user);
    devices.delete_rows::<tables::KeyPools>(batch, user);
    devices.delete_below::<tables::KeyPool>(batch, user);
}

/// Says to those who see the keys of devices that these are deleted, once for each batch.
pub(crate) async fn mark_deleted(
    view: &View,
    batch: &mut Batch,
    user: &UserId,
    devices: &[OwnedDeviceId],
) -> Result<()> {
    let keys: Vec<(&UserId, &str)> = devices.iter().map(|id| (user, id.as_str())).collect();
    let had_keys = view.get_many::<tables::DeviceKeys>(&keys).await?;
    if had_keys.iter().any(Option::is_some) {
        device_lists::mark_changed(view, batch, user).await
    } else {
        device_lists::mark_own(view, batch, user).await
    }
}

/// Deletes cross-signing keys and signatures of a user who is deactivated and whose devices are deleted in the same
/// batch. The caller guards the user's version.
pub(crate) async fn prepare_delete_cross_signing(view: &View, batch: &mut Batch, user: &UserId) -> Result<()> {
    let key = view.first(Range::<tables::CrossSigningKeys>::prefix(&(user,))).await?;
    let device = view.first(Range::<tables::DeviceKeys>::prefix(&(user,))).await?;
    // Otherwise it is marked with the devices.
    if key.is_some() && device.is_none() {
        device_lists::mark_changed(view, batch, user).await?;
    }
    batch.delete_prefix::<tables::CrossSigningKeys>(&(user,));
    batch.delete_prefix::<tables::UserSignatures>(&(user,));
    device_lists::prepare_delete_signed(batch, user);
    Ok(())
}

/// Says to those who see a device's keys that its display name changed.
pub(crate) async fn prepare_renamed(view: &View, batch: &mut Batch, user: &UserId, device: &str) -> Result<()> {
    if view.contains::<tables::DeviceKeys>(&(user, device)).await? {
        device_lists::mark_changed(view, batch, user).await
    } else {
        device_lists::mark_own(view, batch, user).await
    }
}
