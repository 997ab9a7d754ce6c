//! Devices and logging in and out.
//!
//! A session is a device: logging in creates one or takes over an existing one with new tokens, logging out
//! deletes it.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ruma::{DeviceId, OwnedDeviceId, UserId};
use store::{Batch, Range, Record, Text, View};

use crate::{
    Change, Error, Result, Users, bump_version, dehydrated, device_lists,
    device_runs::{Run, runs_of},
    keys, log,
    rows::{DeviceRow, DeviceSeenRow},
    tables, to_device,
    tokens::{self, IssuedSession, Login},
};

/// The greatest number of bytes of a device id.
pub const DEVICE_ID_BYTES_MAX: usize = 255;
/// The greatest number of bytes of a device's display name.
pub const DEVICE_NAME_BYTES_MAX: usize = 1024;
/// The greatest number of devices of a user; so many can be deleted in one batch.
pub const DEVICES_PER_USER_MAX: usize = 1_000;
/// Characters of a device id that the server makes.
const NEW_DEVICE_ID_CHARS: usize = 10;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// Its display name.
    pub display_name: Option<String>,
    /// When it was created, in Unix milliseconds.
    pub created_ms: u64,
    /// When it was last seen, in Unix milliseconds (within the configured interval).
    pub last_seen_ms: Option<u64>,
    /// The address that it was last seen at.
    pub last_seen_ip: Option<String>,
}

impl Device {
    /// When it was last seen or, if it never was, made, in Unix milliseconds.
    pub(crate) fn last_used_ms(&self) -> u64 {
        self.last_seen_ms.unwrap_or(0).max(self.created_ms)
    }
}

/// Whether a device was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutDevice {
    /// It was made.
    Created,
    /// It was there.
    Updated,
}

fn check_device_id(id: &DeviceId) -> Result<()> {
    if id.as_str().is_empty() || id.as_str().len() > DEVICE_ID_BYTES_MAX {
        return Err(Error::InvalidDeviceId { max: DEVICE_ID_BYTES_MAX });
    }
    Ok(())
}

fn check_device_name(name: Option<&str>) -> Result<()> {
    if name.is_some_and(|name| name.len() > DEVICE_NAME_BYTES_MAX) {
        return Err(Error::TooLarge { what: "the device name", max: DEVICE_NAME_BYTES_MAX });
    }
    Ok(())
}

impl Users {
    /// Logs a user in, without asking for a proof of who they are: on the device given, whose tokens are
    /// replaced, or on a new one. A device too many takes the place of the one that was used least recently.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Deactivated`], [`Error::Locked`], [`Error::InvalidDeviceId`],
    /// [`Error::DeviceIdInUse`] if it is that of the dehydrated device, [`Error::TooManyDevices`], [`Error::TooLarge`],
    /// [`Error::Contended`].
    pub async fn login(&self, user: &UserId, login: &Login) -> Result<IssuedSession> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            self.usable_account(&view, user).await?;
            bump_version(&view, &mut batch, user).await?;
            let session = self.prepare_session(&view, &mut batch, user, login).await?;
            Ok((batch, session))
        };
        self.inner.store.retry(decide).await
    }

    /// Creates or takes over the device and issues its tokens. The caller guards the user's version.
    pub(crate) async fn prepare_session(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        login: &Login,
    ) -> Result<IssuedSession> {
        let device = match &login.device_id {
            Some(id) => id.clone(),
            None => self.new_device_id(),
        };
        let put = self.prepare_put_device(view, batch, user, &device, login.display_name.as_deref()).await?;
        if put == PutDevice::Updated {
            // A client rehydrates such a device beside its own, with its own id (MSC3814); it has none of its private keys.
            if dehydrated::is_dehydrated(view, user, &device).await? {
                return Err(Error::DeviceIdInUse);
            }
            self.supersede(view, batch, (user, device.as_str()), |_| true).await?;
        }
        log_changed(batch, user, &device);
        Ok(self.issue_tokens(batch, user, &device, login.refreshable))
    }

    fn new_device_id(&self) -> OwnedDeviceId {
        let id = self.inner.random.alphanumeric(NEW_DEVICE_ID_CHARS);
        id.to_ascii_uppercase().into()
    }

    /// Creates the device, if it isn't there.
    pub(crate) async fn prepare_put_device(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        device: &DeviceId,
        display_name: Option<&str>,
    ) -> Result<PutDevice> {
        check_device_id(device)?;
        let key = (user, device.as_str());
        if view.contains::<tables::Devices>(&key).await? {
            return Ok(PutDevice::Updated);
        }
        check_device_name(display_name)?;
        // Both are names of ed25519 keys ("Cross-signing").
        if keys::is_cross_signing_key(view, user, device).await? {
            return Err(Error::KeyIdInUse);
        }
        let range = Range::<tables::Devices>::prefix(&(user,)).limit(DEVICES_PER_USER_MAX);
        if view.scan(range).await?.rows.len() >= DEVICES_PER_USER_MAX {
            // Some clients log in anew each time they start. Who can't log in can't delete any of their devices either.
            let oldest = self.least_recently_used(view, user).await?.ok_or(Error::TooManyDevices)?;
            // Says to the user's other devices that their list changed.
            self.prepare_delete_device(view, batch, user, oldest.as_str()).await?;
        } else {
            device_lists::mark_own(view, batch, user).await?;
        }
        let row = DeviceRow { display_name: display_name.map(str::to_owned), created_ms: self.now_ms() };
        batch.put::<tables::Devices>(&key, &Record(row));
        Ok(PutDevice::Created)
    }

    /// The device that was seen least recently, or made if it never was. Not the dehydrated one, which waits to be used.
    async fn least_recently_used(&self, view: &View, user: &UserId) -> Result<Option<OwnedDeviceId>> {
        let mut devices = self.devices(view, user).await?;
        devices.sort_by_key(Device::last_used_ms);
        for device in devices {
            if !dehydrated::is_dehydrated(view, user, &device.device_id).await? {
                return Ok(Some(device.device_id));
            }
        }
        Ok(None)
    }

    /// All devices of a user.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn devices(&self, view: &View, user: &UserId) -> Result<Vec<Device>> {
        let seen = view.scan_all(Range::<tables::DeviceSeen>::prefix(&(user,))).await?;
        let mut seen: HashMap<String, DeviceSeenRow> = seen.into_iter().map(|((_, id), seen)| (id, seen)).collect();
        let rows = view.scan_all(Range::<tables::Devices>::prefix(&(user,))).await?;
        let mut devices = Vec::with_capacity(rows.len());
        for ((Text(_), id), Record(row)) in rows {
            let seen = seen.remove(&id);
            devices.push(device(id, row, seen));
        }
        Ok(devices)
    }

    /// The addresses that a user's devices were seen at last, of those that are logged in.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn seen_addresses(&self, view: &View, user: &UserId) -> Result<Vec<IpAddr>> {
        let seen = view.scan_all(Range::<tables::DeviceSeen>::prefix(&(user,))).await?;
        Ok(seen.into_iter().filter_map(|(_, seen)| seen.address.parse().ok()).collect())
    }

    /// One device of a user.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn device(&self, view: &View, user: &UserId, id: &DeviceId) -> Result<Option<Device>> {
        let key = (user, id.as_str());
        let Some(Record(row)) = view.get::<tables::Devices>(&key).await? else {
            return Ok(None);
        };
        let seen = view.get::<tables::DeviceSeen>(&key).await?;
        Ok(Some(device(id.as_str().to_owned(), row, seen)))
    }

    /// Sets the display name of a device; without a name nothing changes.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownDevice`], [`Error::TooLarge`], [`Error::Contended`].
    pub async fn rename_device(&self, user: &UserId, id: &DeviceId, display_name: Option<&str>) -> Result<()> {
        check_device_name(display_name)?;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let row = view.get::<tables::Devices>(&(user, id.as_str())).await?.ok_or(Error::UnknownDevice)?;
            let Some(name) = display_name else {
                return Ok((Batch::new(), ()));
            };
            bump_version(&view, &mut batch, user).await?;
            prepare_rename(&view, &mut batch, (user, id), row.0, name).await?;
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Creates a device without tokens, or renames it: what application services do for their users.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownUser`], [`Error::Deactivated`], [`Error::InvalidDeviceId`],
    /// [`Error::TooManyDevices`], [`Error::TooLarge`], [`Error::Contended`].
    pub async fn put_device(&self, user: &UserId, id: &DeviceId, display_name: Option<&str>) -> Result<PutDevice> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            self.active_account(&view, user).await?;
            bump_version(&view, &mut batch, user).await?;
            let put = self.prepare_put_device(&view, &mut batch, user, id, display_name).await?;
            match (put, display_name) {
                (PutDevice::Created, _) => log_changed(&mut batch, user, id),
                (PutDevice::Updated, Some(name)) => {
                    check_device_name(display_name)?;
                    let row = view.get::<tables::Devices>(&(user, id.as_str())).await?.ok_or(Error::UnknownDevice)?;
                    prepare_rename(&view, &mut batch, (user, id), row.0, name).await?;
                }
                (PutDevice::Updated, None) => {}
            }
            Ok((batch, put))
        };
        self.inner.store.retry(decide).await
    }

    /// Deletes devices with all that belongs to them, each in one batch; very many in several. Those that aren't there are passed over.
    ///
    /// # Errors
    ///
    /// [`Error::Contended`].
    pub async fn delete_devices(&self, user: &UserId, ids: &[OwnedDeviceId]) -> Result<()> {
        let wanted: &HashSet<&str> = &ids.iter().map(|id| id.as_str()).collect();
        let delete_some = |view: View| async move {
            let mut batch = Batch::new();
            let runs = runs_of(&view, user, |id| wanted.contains(id)).await?;
            if runs.is_empty() {
                return Ok((Batch::new(), false));
            }
            bump_version(&view, &mut batch, user).await?;
            let mut deleted = Vec::new();
            for run in runs {
                if batch.is_filled() {
                    break;
                }
                self.prepare_delete_run(&view, &mut batch, user, &run).await?;
                deleted.extend(run.ids);
            }
            prepare_deleted(&view, &mut batch, user, deleted).await?;
            Ok::<_, Error>((batch, true))
        };
        while self.inner.store.retry(delete_some).await? {}
        Ok(())
    }

    /// Deletes a device, if it is there. The caller guards the user's version.
    pub(crate) async fn prepare_delete_device(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        device: &str,
    ) -> Result<()> {
        self.prepare_delete_where(view, batch, user, |id| id == device).await?;
        Ok(())
    }

    /// Deletes all devices of a user: logs out everywhere.
    ///
    /// # Errors
    ///
    /// [`Error::Contended`].
    pub async fn delete_all_devices(&self, user: &UserId) -> Result<()> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            bump_version(&view, &mut batch, user).await?;
            self.prepare_delete_all_devices(&view, &mut batch, user, None).await?;
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Deletes all devices but `keep`. The caller guards the user's version.
    pub(crate) async fn prepare_delete_all_devices(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        keep: Option<&DeviceId>,
    ) -> Result<Vec<OwnedDeviceId>> {
        let keep = keep.map(DeviceId::as_str);
        self.prepare_delete_where(view, batch, user, |id| keep != Some(id)).await
    }

    /// Deletes the devices whose ids are selected: one, or all but a few.
    async fn prepare_delete_where(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        selects: impl Fn(&str) -> bool,
    ) -> Result<Vec<OwnedDeviceId>> {
        let mut deleted = Vec::new();
        for run in runs_of(view, user, selects).await? {
            self.prepare_delete_run(view, batch, user, &run).await?;
            deleted.extend(run.ids);
        }
        if !deleted.is_empty() {
            prepare_deleted(view, batch, user, deleted.clone()).await?;
        }
        Ok(deleted)
    }

    async fn prepare_delete_run(&self, view: &View, batch: &mut Batch, user: &UserId, run: &Run) -> Result<()> {
        self.note_leaving(view, user, &run.ids).await?;
        for id in &run.ids {
            tokens::delete_device_tokens(view, batch, user, id.as_str()).await?;
        }
        run.delete_rows::<tables::Devices>(batch, user);
        run.delete_rows::<tables::DeviceSeen>(batch, user);
        run.delete_below::<tables::DeviceTokens>(batch, user);
        to_device::prepare_delete_queues(batch, user, run);
        keys::prepare_delete_device_keys(batch, user, run);
        Ok(())
    }
}

/// Gives a device its display name. The caller guards the user's version.
async fn prepare_rename(
    view: &View,
    batch: &mut Batch,
    (user, id): (&UserId, &DeviceId),
    mut row: DeviceRow,
    name: &str,
) -> Result<()> {
    if row.display_name.as_deref() != Some(name) {
        keys::prepare_renamed(view, batch, user, id.as_str()).await?;
    }
    row.display_name = Some(name.to_owned());
    batch.put::<tables::Devices>(&(user, id.as_str()), &Record(row));
    log_changed(batch, user, id);
    Ok(())
}

fn log_changed(batch: &mut Batch, user: &UserId, device: &DeviceId) {
    log(batch, user, Change::Devices { changed: vec![device.to_owned()], deleted: Vec::new() });
}

/// Says that devices whose rows are deleted in the same batch are gone.
async fn prepare_deleted(view: &View, batch: &mut Batch, user: &UserId, deleted: Vec<OwnedDeviceId>) -> Result<()> {
    keys::mark_deleted(view, batch, user, &deleted).await?;
    dehydrated::prepare_forget(view, batch, user, &deleted).await?;
    let changed = Vec::new();
    log(batch, user, Change::Devices { changed, deleted });
    Ok(())
}

fn device(id: String, row: DeviceRow, seen: Option<DeviceSeenRow>) -> Device {
    let (last_seen_ms, last_seen_ip) = seen.map(|seen| (seen.at_ms, seen.address)).unzip();
    Device {
        device_id: id.into(),
        display_name: row.display_name,
        created_ms: row.created_ms,
        last_seen_ms,
        last_seen_ip,
    }
}
