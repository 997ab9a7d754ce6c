//! Dehydrated devices: one device of a user that no client uses, whose private keys are stored here, encrypted. It gets messages
//! while no other device is logged in, and the user's next client reads them with those keys.
//!
//! Proposal: MSC3814. To others it is a device like any other, so it has a row among the user's devices; it has no tokens.

use std::slice::from_ref;

use ruma::{DeviceId, OwnedDeviceId, UserId};
use serde_json::value::RawValue;
use store::{Batch, View};

use crate::{Change, Error, KeyUpload, PutDevice, Result, Users, bump_version, keys, log, rows::DehydratedRow, tables};

/// The most bytes of the stored keys of a dehydrated device with the object around them.
pub const DEHYDRATED_DEVICE_BYTES_MAX: usize = 65_536;

/// A device to store.
#[derive(Clone, Debug)]
pub struct NewDehydratedDevice<'a> {
    /// Its id, which no other device of the user has.
    pub device_id: &'a DeviceId,
    /// Its display name.
    pub display_name: Option<&'a str>,
    /// Its private keys, encrypted: a JSON object.
    pub data: &'a RawValue,
    /// Its public keys.
    pub keys: KeyUpload,
}

/// A stored device.
#[derive(Clone, Debug)]
pub struct DehydratedDevice {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// What was stored.
    pub data: Box<RawValue>,
}

impl Users {
    /// Stores the user's dehydrated device in place of the one before, which is deleted with all that belongs to it. The same device
    /// again changes what is stored of it.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceIdInUse`]; [`Error::NotAnObject`], [`Error::TooLarge`], [`Error::InvalidDeviceId`],
    /// [`Error::TooManyDevices`], [`Error::UnknownUser`], [`Error::Deactivated`], [`Error::Contended`], and those of
    /// [`Users::upload_keys`].
    pub async fn put_dehydrated_device(&self, user: &UserId, new: &NewDehydratedDevice<'_>) -> Result<()> {
        if new.data.get().len() > DEHYDRATED_DEVICE_BYTES_MAX {
            return Err(Error::TooLarge { what: "the dehydrated device", max: DEHYDRATED_DEVICE_BYTES_MAX });
        }
        if !new.data.get().starts_with('{') {
            return Err(Error::NotAnObject);
        }
        // What a crash left undone.
        self.delete_replaced(user).await?;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            self.prepare_dehydrated(&view, &mut batch, user, new).await?;
            Ok::<_, Error>((batch, ()))
        };
        self.inner.store.retry(decide).await?;
        // The new device is there with its keys before the old one goes, so that at no time there is none.
        self.delete_replaced(user).await
    }

    async fn prepare_dehydrated(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        new: &NewDehydratedDevice<'_>,
    ) -> Result<()> {
        self.active_account(view, user).await?;
        let old = view.get::<tables::DehydratedDevices>(&user).await?;
        let is_same = old.as_ref().is_some_and(|old| old.device == new.device_id.as_str());
        bump_version(view, batch, user).await?;
        let put = self.prepare_put_device(view, batch, user, new.device_id, new.display_name).await?;
        if put == PutDevice::Updated && !is_same {
            return Err(Error::DeviceIdInUse);
        }
        keys::prepare_keys(view, batch, (user, new.device_id), &new.keys).await?;
        let replaces = match &old {
            Some(old) if is_same => old.replaces.as_deref(),
            Some(old) => Some(&*old.device),
            None => None,
        };
        batch.expect::<tables::DehydratedDevices>(&user, old.as_ref());
        let row = DehydratedRow { device: new.device_id.as_str(), data: new.data.get(), replaces };
        batch.put::<tables::DehydratedDevices>(&user, &row);
        let (changed, deleted) = (vec![new.device_id.to_owned()], Vec::new());
        log(batch, user, Change::Devices { changed, deleted });
        Ok(())
    }

    /// Deletes the dehydrated device that was replaced by that of now.
    async fn delete_replaced(&self, user: &UserId) -> Result<()> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let row = view.get::<tables::DehydratedDevices>(&user).await?;
            let Some(DehydratedRow { device, data, replaces: Some(replaced) }) = &row else {
                return Ok((Batch::new(), ()));
            };
            bump_version(&view, &mut batch, user).await?;
            self.prepare_delete_device(&view, &mut batch, user, replaced).await?;
            batch.expect::<tables::DehydratedDevices>(&user, row.as_ref());
            batch.put::<tables::DehydratedDevices>(&user, &DehydratedRow { device, data, replaces: None });
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// The user's dehydrated device.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn dehydrated_device(&self, view: &View, user: &UserId) -> Result<Option<DehydratedDevice>> {
        let Some(row) = view.get::<tables::DehydratedDevices>(&user).await? else {
            return Ok(None);
        };
        let data = RawValue::from_string(row.data);
        let data = data.map_err(|source| Error::Damaged { what: "a dehydrated device", source })?;
        Ok(Some(DehydratedDevice { device_id: row.device.into(), data }))
    }

    /// Deletes the user's dehydrated device with all that belongs to it, and says which it was.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`] if there is none; [`Error::Contended`].
    pub async fn delete_dehydrated_device(&self, user: &UserId) -> Result<OwnedDeviceId> {
        self.delete_replaced(user).await?;
        let device = self.dehydrated_device(&self.inner.store.view().await?, user).await?;
        let device = device.ok_or(Error::UnknownDevice)?.device_id;
        self.delete_devices(user, from_ref(&device)).await?;
        Ok(device)
    }
}

/// Whether a device is the user's dehydrated device, or one that it replaced and that is still to be deleted.
pub(crate) async fn is_dehydrated(view: &View, user: &UserId, device: &DeviceId) -> Result<bool> {
    let row = view.get::<tables::DehydratedDevices>(&user).await?;
    Ok(row.is_some_and(|row| row.device == device.as_str() || row.replaces.as_deref() == Some(device.as_str())))
}

/// Forgets a dehydrated device that is among the devices that are deleted. The caller guards the user's version.
pub(crate) async fn prepare_forget(
    view: &View,
    batch: &mut Batch,
    user: &UserId,
    deleted: &[OwnedDeviceId],
) -> Result<()> {
    let Some(row) = view.get::<tables::DehydratedDevices>(&user).await? else {
        return Ok(());
    };
    if deleted.iter().any(|deleted| deleted.as_str() == row.device) {
        batch.delete::<tables::DehydratedDevices>(&user);
    }
    Ok(())
}
