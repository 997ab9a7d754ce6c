//! Waiting for the end of an account's sessions: who is in the middle of a long request must not go on getting answers.

use std::collections::HashMap;

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedUserId, UserId};
use tokio::sync::watch;

use crate::{Error, Result, Users, tables};

/// Those who wait, by user.
#[derive(Default)]
pub(crate) struct Watchers {
    by_user: Mutex<HashMap<OwnedUserId, watch::Sender<()>>>,
}

impl Watchers {
    /// A user's account, or their devices, changed.
    pub(crate) fn changed(&self, user: &UserId) {
        if let Some(sender) = self.by_user.lock().get(user) {
            sender.send_replace(());
        }
    }

    /// Anything may have changed.
    pub(crate) fn all_changed(&self) {
        for sender in self.by_user.lock().values() {
            sender.send_replace(());
        }
    }
}

/// Waits for changes of an account; see [`Users::watch_session`].
pub struct SessionWatch<'a> {
    users: &'a Users,
    user: &'a UserId,
    device: &'a DeviceId,
    changes: watch::Receiver<()>,
    has_waited: bool,
}

impl SessionWatch<'_> {
    /// Ends when the session does, with why it ended: the account was locked or deactivated, or the device deleted.
    pub async fn end(&mut self) -> Error {
        self.has_waited = true;
        loop {
            if let Err(error) = self.check().await {
                return error;
            }
            // The sender is kept as long as this waits.
            if self.changes.changed().await.is_err() {
                return Error::UnknownToken;
            }
        }
    }

    /// Whether the session still is, where [`SessionWatch::end`] was waited for: what ended it may be news that ended the wait.
    ///
    /// # Errors
    ///
    /// Why it ended.
    pub async fn check_after_wait(&self) -> Result<()> {
        if self.has_waited { self.check().await } else { Ok(()) }
    }

    async fn check(&self) -> Result<()> {
        let view = self.users.inner.store.view();
        match self.users.usable_account(&view, self.user).await {
            Err(Error::UnknownUser | Error::Deactivated) => return Err(Error::UnknownToken),
            account => account?,
        };
        match view.contains::<tables::Devices>(&(self.user, self.device.as_str())).await? {
            true => Ok(()),
            false => Err(Error::UnknownToken),
        }
    }
}

impl Drop for SessionWatch<'_> {
    fn drop(&mut self) {
        let mut by_user = self.users.inner.watchers.by_user.lock();
        if by_user.get(self.user).is_some_and(|sender| sender.receiver_count() <= 1) {
            by_user.remove(self.user);
        }
    }
}

impl Users {
    /// Watches a session that was authenticated, for as long as a request of it takes.
    pub fn watch_session<'a>(&'a self, user: &'a UserId, device: &'a DeviceId) -> SessionWatch<'a> {
        let mut by_user = self.inner.watchers.by_user.lock();
        let sender = by_user.entry(user.to_owned()).or_insert_with(|| watch::Sender::new(()));
        SessionWatch { users: self, user, device, changes: sender.subscribe(), has_waited: false }
    }
}
