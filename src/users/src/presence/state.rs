//! The state machine of presence: plain values, with the time as an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{PRESENCE_ENTRIES_MAX, PresenceInfo, PresenceState, RemotePresence};
use crate::Config;

/// The greatest number of devices of a user that count.
const DEVICES_MAX: usize = 100;
/// For how long after an action, in milliseconds, a user counts as currently active.
const ACTIVE_MS: u64 = 60 * 1000;
/// After how long without news from its server, in milliseconds, a remote user counts as offline.
const REMOTE_OFFLINE_MS: u64 = 30 * 60 * 1000;

/// When those who do nothing become idle, and then offline.
#[derive(Copy, Clone)]
struct Timeouts {
    /// After their last sync as online and their last action, in milliseconds.
    idle_ms: u64,
    /// After the last sync of a device, in milliseconds.
    offline_ms: u64,
}

pub(super) struct State {
    timeouts: Timeouts,
    users: HashMap<OwnedUserId, Entry>,
    /// Users by the number of their last change.
    changes: BTreeMap<u64, OwnedUserId>,
    sequence: u64,
    /// When to look at a user again, in Unix milliseconds.
    timers: BTreeSet<(u64, OwnedUserId)>,
    /// Stored status messages are still being read.
    loading: bool,
}

#[derive(Default)]
struct Entry {
    devices: HashMap<OwnedDeviceId, DeviceEntry>,
    remote: Option<Remote>,
    last_active_ms: Option<u64>,
    status_msg: Option<String>,
    shown: Shown,
    /// The number of the last change of `shown`, or of when the entry was made.
    sequence: u64,
    /// Whether `shown` ever changed.
    announced: bool,
    timer: Option<u64>,
}

/// What others were told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    state: PresenceState,
    currently_active: bool,
    status_msg: Option<String>,
    /// For remote users who aren't currently active: each new time is told.
    remote_active_ms: Option<u64>,
}

struct DeviceEntry {
    /// What it said at its last sync.
    reported: Option<PresenceState>,
    /// What it says it is: set since, or what it reported when that was something new. `None` if it never said.
    said: Option<PresenceState>,
    /// When the user last did something on it since it said so.
    acted_ms: Option<u64>,
    /// Syncs that go on.
    syncing: u32,
    seen_ms: u64,
}

struct Remote {
    state: PresenceState,
    currently_active: bool,
    received_ms: u64,
}

impl State {
    pub(super) fn new(config: &Config) -> Self {
        let timeouts = Timeouts {
            idle_ms: config.presence_idle_timeout_s.ms(),
            offline_ms: config.presence_offline_timeout_s.ms(),
        };
        let (users, changes, timers) = (HashMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { timeouts, users, changes, sequence: 0, timers, loading: true }
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn changed_since(&self, sequence: u64) -> Vec<(u64, OwnedUserId)> {
        let mut changed = Vec::new();
        for (sequence, user) in self.changes.range(sequence.saturating_add(1)..) {
            if self.users.get(user).is_some_and(|entry| entry.announced) {
                changed.push((*sequence, user.clone()));
            }
        }
        changed
    }

    pub(super) fn loaded(&mut self, user: OwnedUserId, status: String, now: u64) {
        if self.users.contains_key(&user) {
            return;
        }
        let Some(entry) = self.entry(&user) else {
            return;
        };
        entry.status_msg = Some(status);
        self.review(&user, now);
    }

    /// All stored status messages were read that will be.
    pub(super) fn loaded_all(&mut self) {
        self.loading = false;
    }

    pub(super) fn begin_sync(&mut self, user: &UserId, device: &DeviceId, state: PresenceState, now: u64) {
        let timeouts = self.timeouts;
        let Some(entry) = self.entry(user) else {
            return;
        };
        let Some(known) = entry.device(device) else {
            return;
        };
        let was_online = known.show(timeouts, now).0 == PresenceState::Online;
        known.seen_ms = now;
        known.syncing += 1;
        let says_something_new = known.reported != Some(state);
        if says_something_new {
            known.reported = Some(state);
            known.say(state);
        }
        let comes = says_something_new || !was_online;
        if comes && state == PresenceState::Online && known.said == Some(state) {
            entry.last_active_ms = Some(now);
        }
        self.review(user, now);
    }

    pub(super) fn end_sync(&mut self, user: &UserId, device: &DeviceId, now: u64) {
        let Some(entry) = self.users.get_mut(user) else {
            return;
        };
        let Some(known) = entry.devices.get_mut(device) else {
            return;
        };
        known.syncing = known.syncing.saturating_sub(1);
        known.seen_ms = now;
        self.review(user, now);
    }

    pub(super) fn active(&mut self, user: &UserId, device: &DeviceId, now: u64) {
        let Some(entry) = self.entry(user) else {
            return;
        };
        let Some(known) = entry.device(device) else {
            return;
        };
        known.seen_ms = now;
        // Who says that they are offline suppresses what others would learn from what they do ("Presence").
        if known.said != Some(PresenceState::Offline) {
            known.acted_ms = Some(now);
            entry.last_active_ms = Some(now);
        }
        self.review(user, now);
    }

    /// Returns whether the status message changed.
    pub(super) fn set(
        &mut self,
        user: &UserId,
        device: &DeviceId,
        state: PresenceState,
        status_msg: Option<String>,
        now: u64,
    ) -> bool {
        let Some(entry) = self.entry(user) else {
            return false;
        };
        let differs = entry.status_msg != status_msg;
        entry.status_msg = status_msg;
        if let Some(known) = entry.device(device) {
            known.say(state);
            known.seen_ms = now;
        }
        // Setting any state is an activity (`PUT /presence/{userId}/status`).
        entry.last_active_ms = Some(now);
        self.review(user, now);
        differs
    }

    pub(super) fn set_remote(&mut self, user: &UserId, presence: RemotePresence, now: u64) {
        let Some(entry) = self.entry(user) else {
            return;
        };
        entry.last_active_ms = Some(now.saturating_sub(presence.last_active_ago_ms));
        entry.status_msg = presence.status_msg;
        entry.remote =
            Some(Remote { state: presence.state, currently_active: presence.currently_active, received_ms: now });
        self.review(user, now);
    }

    pub(super) fn deactivated(&mut self, user: &UserId, now: u64) {
        if self.loading {
            // So that what they said before isn't taken from a view that still has it.
            self.entry(user);
        }
        if let Some(entry) = self.users.get_mut(user) {
            entry.devices.clear();
            entry.status_msg = None;
            self.review(user, now);
        }
    }

    fn forget(&mut self, user: &UserId) {
        if let Some(entry) = self.users.remove(user) {
            self.changes.remove(&entry.sequence);
            if let Some(timer) = entry.timer {
                self.timers.remove(&(timer, user.to_owned()));
            }
        }
    }

    pub(super) fn info(&self, user: &UserId, now: u64) -> Option<PresenceInfo> {
        let entry = self.users.get(user)?;
        Some(PresenceInfo {
            user_id: user.to_owned(),
            state: entry.shown.state,
            last_active_ago_ms: entry.last_active_ms.map(|at| now.saturating_sub(at)),
            currently_active: entry.shown.currently_active,
            status_msg: entry.shown.status_msg.clone(),
            sequence: if entry.announced { entry.sequence } else { 0 },
        })
    }

    pub(super) fn tick(&mut self, now: u64) {
        while let Some((at, user)) = self.timers.first().cloned() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            if let Some(entry) = self.users.get_mut(&user) {
                entry.timer = None;
            }
            self.review(&user, now);
        }
    }

    /// The entry of a user, made if there is room for it.
    fn entry(&mut self, user: &UserId) -> Option<&mut Entry> {
        if !self.users.contains_key(user) {
            if self.users.len() >= PRESENCE_ENTRIES_MAX {
                let oldest = self.changes.first_key_value();
                let oldest = oldest.map(|(_, user)| user.clone())?;
                self.forget(&oldest);
            }
            self.sequence += 1;
            let entry = Entry { sequence: self.sequence, ..Entry::default() };
            self.changes.insert(self.sequence, user.to_owned());
            self.users.insert(user.to_owned(), entry);
        }
        self.users.get_mut(user)
    }

    /// Works out what a user is at `now`, notes a change, and sets the timer for the next look.
    fn review(&mut self, user: &UserId, now: u64) {
        let Some(entry) = self.users.get_mut(user) else {
            return;
        };
        let (shown, next) = match &entry.remote {
            Some(remote) => remote.show(entry, now),
            None => entry.show(self.timeouts, now),
        };
        if shown != entry.shown {
            self.sequence += 1;
            self.changes.remove(&entry.sequence);
            self.changes.insert(self.sequence, user.to_owned());
            entry.sequence = self.sequence;
            entry.shown = shown;
            entry.announced = true;
        }
        entry.devices.retain(|_, device| !device.is_gone(self.timeouts, now));
        if entry.timer != next {
            if let Some(timer) = entry.timer {
                self.timers.remove(&(timer, user.to_owned()));
            }
            if let Some(next) = next {
                self.timers.insert((next, user.to_owned()));
            }
            entry.timer = next;
        }
    }
}

impl DeviceEntry {
    fn say(&mut self, state: PresenceState) {
        self.said = Some(state);
        self.acted_ms = None;
    }

    fn gone_at(&self, timeouts: Timeouts) -> Option<u64> {
        (self.syncing == 0).then(|| self.seen_ms.saturating_add(timeouts.offline_ms))
    }

    fn is_gone(&self, timeouts: Timeouts, now: u64) -> bool {
        self.gone_at(timeouts).is_some_and(|at| at <= now)
    }

    /// What it makes of its user, and when that may change by itself.
    ///
    /// Who syncs as online is online: "the default state when the user is connected to an event stream". What the user does on
    /// it makes them online whatever it said, unless that was to be offline; when that is long ago they are idle.
    fn show(&self, timeouts: Timeouts, now: u64) -> (PresenceState, Option<u64>) {
        if self.is_gone(timeouts, now) || self.said == Some(PresenceState::Offline) {
            return (PresenceState::Offline, None);
        }
        let gone_at = self.gone_at(timeouts);
        let says_online = self.said == Some(PresenceState::Online);
        if says_online && self.syncing > 0 {
            return (PresenceState::Online, None);
        }
        let connected_ms = says_online.then_some(self.seen_ms);
        let idle_at = connected_ms.max(self.acted_ms).map(|last| last.saturating_add(timeouts.idle_ms));
        match idle_at {
            Some(idle_at) if now < idle_at => (PresenceState::Online, earliest(gone_at, Some(idle_at))),
            _ => (PresenceState::Unavailable, gone_at),
        }
    }
}

impl Entry {
    fn device(&mut self, device: &DeviceId) -> Option<&mut DeviceEntry> {
        if !self.devices.contains_key(device) {
            if self.devices.len() >= DEVICES_MAX {
                return None;
            }
            let fresh = DeviceEntry { reported: None, said: None, acted_ms: None, syncing: 0, seen_ms: 0 };
            self.devices.insert(device.to_owned(), fresh);
        }
        self.devices.get_mut(device)
    }

    /// What a local user is, and when that may change by itself.
    fn show(&self, timeouts: Timeouts, now: u64) -> (Shown, Option<u64>) {
        let mut state = PresenceState::Offline;
        let mut next: Option<u64> = None;
        for device in self.devices.values() {
            let (shown, change) = device.show(timeouts, now);
            next = earliest(next, change);
            state = state.max(shown);
        }
        let active_until = self.last_active_ms.map_or(0, |last| last.saturating_add(ACTIVE_MS));
        let currently_active = state == PresenceState::Online && now < active_until;
        if currently_active {
            next = earliest(next, Some(active_until));
        }
        let shown = Shown { state, currently_active, status_msg: self.status_msg.clone(), remote_active_ms: None };
        (shown, next)
    }
}

impl Remote {
    /// What a remote user is: what their server said last, unless it has been silent for long.
    fn show(&self, entry: &Entry, now: u64) -> (Shown, Option<u64>) {
        let silent_at = self.received_ms.saturating_add(REMOTE_OFFLINE_MS);
        let silent = silent_at <= now;
        let state = if silent { PresenceState::Offline } else { self.state };
        let currently_active = state == PresenceState::Online && self.currently_active;
        let shown = Shown {
            state,
            currently_active,
            status_msg: entry.status_msg.clone(),
            remote_active_ms: entry.last_active_ms.filter(|_| !currently_active),
        };
        let next = (state != PresenceState::Offline).then_some(silent_at);
        (shown, next)
    }
}

fn earliest(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
