//! Devices that nobody uses any more: who encrypts for a user does so for each of their devices.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use store::{Range, Text, View};

use crate::{Result, Users, dehydrated, tables};

/// Devices that are looked at in one sweep.
const DEVICES_PER_SWEEP: usize = 2_000;

/// Where the next sweep goes on, in the order of users and devices.
pub(crate) type Cursor = Mutex<Option<(OwnedUserId, String)>>;

impl Users {
    /// Deletes devices that weren't used for longer than is configured, among the next so many; returns how many.
    pub(crate) async fn sweep_unused_devices(&self) -> Result<usize> {
        let kept = self.inner.config.unused_device_retention_days;
        if kept.is_zero() {
            return Ok(0);
        }
        let before_ms = self.now_ms().saturating_sub(kept.ms());
        let view = self.inner.store.view().await?;
        let mut range = Range::<tables::Devices>::all().limit(DEVICES_PER_SWEEP);
        let from = self.inner.unused_devices.lock().clone();
        if let Some((user, device)) = &from {
            range = range.after(&(user, device.as_str()));
        }
        let page = view.scan(range).await?;
        // After the last device the first is the next.
        let last = page.rows.last().filter(|_| page.next.is_some());
        let next = last.map(|((Text(user), device), _)| (user.clone(), device.clone()));
        let mut unused: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>> = BTreeMap::new();
        for ((Text(user), device), _) in page.rows {
            let device = OwnedDeviceId::from(device);
            if self.is_unused(&view, &user, &device, before_ms).await? {
                unused.entry(user).or_default().push(device);
            }
        }
        let mut deleted = 0;
        for (user, devices) in unused {
            self.delete_devices(&user, &devices).await?;
            deleted += devices.len();
        }
        *self.inner.unused_devices.lock() = next;
        Ok(deleted)
    }

    /// Whether a device wasn't used since. The dehydrated one waits to be used, and those of an application service's users are its
    /// own affair: it may use them without a token of theirs.
    async fn is_unused(&self, view: &View, user: &UserId, device: &OwnedDeviceId, before_ms: u64) -> Result<bool> {
        let Some(found) = self.device(view, user, device).await? else { return Ok(false) };
        if found.last_used_ms() >= before_ms || dehydrated::is_dehydrated(view, user, device).await? {
            return Ok(false);
        }
        let account = self.account(view, user).await?;
        Ok(account.is_none_or(|account| account.appservice.is_none()))
    }
}
