//! Waiting for the end of an account's sessions: who is in the middle of a long request must not go on getting answers.

use std::{collections::HashMap, pin::pin, sync::Arc};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedUserId, UserId};
use store::Position;
use tokio::sync::Notify;

use crate::{Error, Result, Users, tables};

/// Those who wait, by user.
#[derive(Default)]
pub(crate) struct Watchers {
    by_user: Mutex<HashMap<OwnedUserId, Arc<Notify>>>,
}

impl Watchers {
    /// A user's account, or their devices, changed.
    pub(crate) fn changed(&self, user: &UserId) {
        if let Some(waiting) = self.by_user.lock().get(user) {
            waiting.notify_waiters();
        }
    }

    /// Anything may have changed.
    pub(crate) fn all_changed(&self) {
        for waiting in self.by_user.lock().values() {
            waiting.notify_waiters();
        }
    }
}

/// Waits for the end of a session; see [`Users::watch_session`].
pub struct SessionWatch<'a> {
    users: &'a Users,
    user: &'a UserId,
    device: &'a DeviceId,
    /// The session was there as of this.
    known_at: Position,
    /// Set by the first wait.
    changes: Option<Arc<Notify>>,
}

impl SessionWatch<'_> {
    /// Ends when the session does, with why it ended: the account was locked or deactivated, or the device deleted.
    pub async fn end(&mut self) -> Error {
        let changes = self.users.inner.watchers.by_user.lock().entry(self.user.to_owned()).or_default().clone();
        self.changes = Some(changes.clone());
        loop {
            let mut changed = pin!(changes.notified());
            // Before looking, so that nothing is missed between the look and the wait.
            changed.as_mut().enable();
            if let Err(error) = self.check().await {
                return error;
            }
            changed.await;
        }
    }

    /// Whether the session still is, where [`SessionWatch::end`] was waited for: what ended it may be news that ended the wait.
    ///
    /// # Errors
    ///
    /// Why it ended.
    pub async fn check_after_wait(&mut self) -> Result<()> {
        if self.changes.is_some() { self.check().await } else { Ok(()) }
    }

    async fn check(&mut self) -> Result<()> {
        let changed = self.users.inner.sessions.last_change(self.user);
        if changed <= self.known_at {
            return Ok(());
        }
        // Boxed, so that a waiting request is small.
        self.known_at = Box::pin(self.look(changed)).await?;
        Ok(())
    }

    /// Reads whether the session is there after what changed at a position, as of the position that this gives.
    async fn look(&self, changed: Position) -> Result<Position> {
        // Changes are told before views show them.
        self.users.inner.store.reached(changed).await?;
        let view = self.users.inner.store.view().await?;
        match self.users.usable_account(&view, self.user).await {
            Err(Error::UnknownUser | Error::Deactivated) => return Err(Error::UnknownToken),
            account => account?,
        };
        match view.contains::<tables::Devices>(&(self.user, self.device.as_str())).await? {
            true => Ok(view.position()),
            false => Err(Error::UnknownToken),
        }
    }
}

impl Drop for SessionWatch<'_> {
    fn drop(&mut self) {
        let Some(changes) = &self.changes else { return };
        let mut by_user = self.users.inner.watchers.by_user.lock();
        // The map's reference and this one. Others are made only under the lock.
        if Arc::strong_count(changes) <= 2 {
            by_user.remove(self.user);
        }
    }
}

impl Users {
    /// Watches a session that was authenticated with everything up to `known_at` in view, for as long as a request of it takes. What
    /// the log says to have changed since is looked at, and nothing else.
    pub fn watch_session<'a>(&'a self, user: &'a UserId, device: &'a DeviceId, known_at: Position) -> SessionWatch<'a> {
        SessionWatch { users: self, user, device, known_at, changes: None }
    }
}
