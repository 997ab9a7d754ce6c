//! Presence: who is online, and how recently they did something. Kept in memory; only status messages are
//! stored.
//!
//! Specification: client-server API, "Presence". Each device of a local user is online, idle or gone; the
//! user is what their most present device is. A device is online while it syncs as online, and for a while
//! after that and after what the user does on it. Changes have a sequence number of their own, valid in this
//! process only, beside the log.

mod state;

use std::sync::Arc;

use event::Clock;
use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use state::State;
use store::{Batch, Range, Store, Text};
use tokio::sync::watch;

use crate::{Config, Error, Result, tables};

/// The greatest number of users whose presence is kept; beyond it those who changed longest ago are
/// forgotten.
pub const PRESENCE_ENTRIES_MAX: usize = 100_000;
/// The greatest number of bytes of a status message.
pub const STATUS_MSG_BYTES_MAX: usize = 2048;
/// How many stored status messages are read at the start.
const LOADED_STATUSES_MAX: usize = PRESENCE_ENTRIES_MAX / 2;

/// How present somebody is, in ascending order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PresenceState {
    /// Not connected, or pretending not to be.
    #[default]
    Offline,
    /// Connected but idle.
    Unavailable,
    /// Connected.
    Online,
}

/// The presence of a user as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceInfo {
    /// The user.
    pub user_id: OwnedUserId,
    /// How present they are.
    pub state: PresenceState,
    /// How long ago they last did something, in milliseconds, if that is known.
    pub last_active_ago_ms: Option<u64>,
    /// Whether they are doing something right now.
    pub currently_active: bool,
    /// What they say about it.
    pub status_msg: Option<String>,
    /// The sequence number of the last change; 0 if there was none.
    pub sequence: u64,
}

/// What another server says about one of its users.
#[derive(Clone, Debug)]
pub struct RemotePresence {
    /// How present they are.
    pub state: PresenceState,
    /// How long ago they last did something, in milliseconds.
    pub last_active_ago_ms: u64,
    /// Whether they are doing something right now.
    pub currently_active: bool,
    /// What they say about it.
    pub status_msg: Option<String>,
}

/// Presence of local and remote users. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    shared: Arc<Shared>,
}

struct Shared {
    /// Whether there is presence on this server.
    enabled: bool,
    store: Store,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    sequence: watch::Sender<u64>,
}

/// A device is syncing as long as this lives.
#[must_use]
pub struct Syncing {
    presence: Presence,
    session: Option<(OwnedUserId, OwnedDeviceId)>,
}

impl Drop for Syncing {
    fn drop(&mut self) {
        if let Some((user, device)) = self.session.take() {
            self.presence.update(|state, now| state.end_sync(&user, &device, now));
        }
    }
}

impl Presence {
    pub(crate) fn new(config: &Config, store: Store, clock: Arc<dyn Clock>) -> Self {
        let state = Mutex::new(State::new(config));
        let (sequence, _) = watch::channel(0);
        let shared = Arc::new(Shared { enabled: config.allow_local_presence, store, clock, state, sequence });
        Self { shared }
    }

    /// Whether there is presence on this server. Without it nothing is kept and everybody is unknown.
    pub fn enabled(&self) -> bool {
        self.shared.enabled
    }

    /// Changes the state and tells those who wait.
    fn update<T>(&self, change: impl FnOnce(&mut State, u64) -> T) -> Option<T> {
        if !self.enabled() {
            return None;
        }
        let now = self.shared.clock.now_ms();
        let mut state = self.shared.state.lock();
        let result = change(&mut state, now);
        let sequence = state.sequence();
        drop(state);
        self.shared.sequence.send_if_modified(|told| {
            let newer = *told < sequence;
            *told = sequence.max(*told);
            newer
        });
        Some(result)
    }

    /// Reads the stored status messages of the users not heard of yet.
    pub(crate) async fn load(&self) -> Result<()> {
        let loaded = self.load_statuses().await;
        self.update(|state, _| state.loaded_all());
        loaded
    }

    async fn load_statuses(&self) -> Result<()> {
        if !self.enabled() {
            return Ok(());
        }
        let view = self.shared.store.view().await?;
        let mut next = Some(Range::<tables::PresenceStatus>::all());
        let mut loaded = 0;
        while let Some(range) = next.filter(|_| loaded < LOADED_STATUSES_MAX) {
            let page = view.scan(range).await?;
            loaded += page.rows.len();
            for (Text(user), status) in page.rows {
                self.update(|state, now| state.loaded(user, status, now));
            }
            next = page.next;
        }
        Ok(())
    }

    /// A device syncs and says how present it is (`set_presence`), until the answer is dropped.
    ///
    /// Only a sync that brings the device back, or says something else than the one before, counts as something
    /// that the user did.
    pub fn begin_sync(&self, user: &UserId, device: &DeviceId, state: PresenceState) -> Syncing {
        let begun = self.update(|states, now| states.begin_sync(user, device, state, now));
        let session = begun.map(|()| (user.to_owned(), device.to_owned()));
        Syncing { presence: self.clone(), session }
    }

    /// The user did something on this device: sent a message, read one. They are online now, unless the device
    /// said that they are offline.
    pub fn active(&self, user: &UserId, device: &DeviceId) {
        self.update(|state, now| state.active(user, device, now));
    }

    /// The user sets how present they are on this device, with a status message or none.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`]; otherwise fails only if the store does.
    pub async fn set(
        &self,
        user: &UserId,
        device: &DeviceId,
        presence: PresenceState,
        status_msg: Option<&str>,
    ) -> Result<()> {
        let status = status_msg.filter(|status| !status.is_empty());
        if status.is_some_and(|status| status.len() > STATUS_MSG_BYTES_MAX) {
            return Err(Error::TooLarge { what: "the status message", max: STATUS_MSG_BYTES_MAX });
        }
        let status = status.map(str::to_owned);
        let stored = status.clone();
        let differs = self.update(|state, now| state.set(user, device, presence, status, now));
        if differs != Some(true) {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.relaxed();
        match stored {
            Some(status) => batch.put::<tables::PresenceStatus>(&user, &status),
            None => batch.delete::<tables::PresenceStatus>(&user),
        }
        self.shared.store.commit(batch).await?;
        Ok(())
    }

    /// Another server tells the presence of one of its users.
    pub fn set_remote(&self, user: &UserId, mut presence: RemotePresence) {
        let status = presence.status_msg.take();
        presence.status_msg = status.filter(|status| !status.is_empty() && status.len() <= STATUS_MSG_BYTES_MAX);
        self.update(|state, now| state.set_remote(user, presence, now));
    }

    /// A user was deactivated: they are offline and say nothing.
    pub(crate) fn deactivated(&self, user: &UserId) {
        self.update(|state, now| state.deactivated(user, now));
    }

    /// The presence of one user, if anything is known about it.
    pub fn get_one(&self, user: &UserId) -> Option<PresenceInfo> {
        self.update(|state, now| state.info(user, now)).flatten()
    }

    /// The presence of those of `users` about whom anything is known.
    pub fn get<'u>(&self, users: impl IntoIterator<Item = &'u UserId>) -> Vec<PresenceInfo> {
        let all = self.update(|state, now| {
            let mut found = Vec::new();
            for user in users {
                found.extend(state.info(user, now));
            }
            found
        });
        all.unwrap_or_default()
    }

    /// The number of the last change.
    pub fn sequence(&self) -> u64 {
        self.shared.state.lock().sequence()
    }

    /// Tells the number of the last change whenever it rises.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.sequence.subscribe()
    }

    /// Who changed after `sequence`, each with the number of their last change, in ascending order.
    pub fn changed_since(&self, sequence: u64) -> Vec<(u64, OwnedUserId)> {
        self.shared.state.lock().changed_since(sequence)
    }

    /// Lets time pass: those whose time is up become idle or offline. The users' own task does it every
    /// second.
    pub fn tick(&self) {
        self.update(|state, now| state.tick(now));
    }
}
