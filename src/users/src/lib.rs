//! Local users: accounts, sessions and devices, public keys, profiles, account data, push rules, filters, presence
//! and the user directory.
//!
//! [`Users`] is a cheap handle with one module of operations per area. An operation that changes something
//! comes in two forms: `prepare_…(&View, &mut Batch, …)` decides from one view and writes into the caller's
//! batch, so that it can be part of a larger change; the plain form prepares, commits, and tries again when
//! somebody else changed the same rows meanwhile. Each change leaves a [`UserChanged`] entry in the log.
//!
//! What is cached in memory (sessions, rulesets, ignore lists) is told of each change before anybody sees it (`projection`), so it
//! answers as the view would that is read from.

mod account_data;
mod accounts;
mod change;
mod config;
mod dehydrated;
mod device_lists;
mod device_runs;
mod devices;
mod directory;
mod erased;
mod error;
mod filters;
mod group_cache;
mod key_backup;
mod keys;
mod openid;
mod password;
mod presence;
mod profile;
mod projection;
mod push_rules;
mod registration_tokens;
mod rows;
mod sessions;
mod tables;
mod tags;
mod to_device;
mod tokens;
mod unused_devices;
mod watch;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use event::{Clock, Random};
use ruma::UserId;
use store::{Batch, Position, Store, View};
use tokio::time::MissedTickBehavior;

pub use account_data::{
    ACCOUNT_DATA_BYTES_MAX, ACCOUNT_DATA_DELETIONS_KEPT, ACCOUNT_DATA_ROWS_MAX, ACCOUNT_DATA_TOTAL_BYTES_MAX,
    AccountDataRow, Entry as AccountDataEntry, SERVER_MANAGED_TYPES,
};
pub use accounts::{AccountFlag, Created, Erasure, NewAccount, Origin, USER_ID_BYTES_MAX, user_id_for};
pub use change::{Change, UserChanged};
pub use config::{Config, PasswordConfig, TokenConfig};
pub use dehydrated::{DEHYDRATED_DEVICE_BYTES_MAX, DehydratedDevice, NewDehydratedDevice};
pub use device_lists::DEVICE_LIST_CHANGES_KEPT;
pub use devices::{DEVICE_ID_BYTES_MAX, DEVICE_NAME_BYTES_MAX, DEVICES_PER_USER_MAX, Device, PutDevice};
pub use directory::{DIRECTORY_CANDIDATES_MAX, DirectoryMatch, DirectoryResults};
pub use error::{Error, Result};
pub use filters::{FILTER_BYTES_MAX, FILTERS_PER_USER_MAX};
pub use key_backup::{
    BackedUpKey, BackupKey, BackupScope, KEY_BACKUP_ALGORITHM_BYTES_MAX, KEY_BACKUP_AUTH_DATA_BYTES_MAX,
    KEY_BACKUP_KEYS_MAX, KEY_BACKUP_NAME_BYTES_MAX, KEY_BACKUP_SESSION_BYTES_MAX, KEY_BACKUPS_PER_USER_MAX, KeyBackup,
};
pub use keys::{
    CLAIMED_DEVICES_MAX, CROSS_SIGNING_KEY_BYTES_MAX, ClaimedKey, Confirmation, CrossSigningUpload,
    DEVICE_KEYS_BYTES_MAX, FALLBACK_KEYS_PER_DEVICE_MAX, KeyClaim, KeyCounts, KeyUpload, MASTER_KEY_BYTES_MAX,
    ONE_TIME_KEY_BYTES_MAX, ONE_TIME_KEY_ID_BYTES_MAX, ONE_TIME_KEYS_PER_DEVICE_MAX, QUERY_BYTES_MAX,
    SIGNED_KEY_BYTES_MAX, SIGNED_KEYS_PER_UPLOAD_MAX, SignatureFailure, SignatureFailures, SignedKey, UserKeys,
};
pub use openid::OPENID_TOKEN_MS;
pub use password::{OtherDevices, PASSWORD_BYTES_MAX};
pub use presence::{
    PRESENCE_ENTRIES_MAX, Presence, PresenceInfo, PresenceState, RemotePresence, STATUS_MSG_BYTES_MAX, Syncing,
};
pub use profile::{PROFILE_BYTES_MAX, PROFILE_KEY_BYTES_MAX, Profile, ProfileChange, ProfileDelta};
pub use push_rules::RulePlace;
pub use registration_tokens::{NewRegistrationToken, RegistrationToken, RegistrationTokenUpdate, Reservation};
pub use rows::{Account, BackupContents, Kind};
pub use sessions::Session;
pub use tables::TABLES;
pub use tags::{TAG_BYTES_MAX, check_tag};
pub use to_device::{
    TO_DEVICE_BYTES_PER_REQUEST_MAX, TO_DEVICE_MESSAGE_BYTES_MAX, TO_DEVICE_MESSAGES_PER_REQUEST_MAX,
    TO_DEVICE_NAME_BYTES_MAX, TO_DEVICE_PER_SYNC_MAX, TO_DEVICE_QUEUE_BYTES_MAX, TO_DEVICE_ROW_BYTES,
    TO_DEVICE_SENDER_BYTES_MAX, TO_DEVICE_TXN_KEPT_MS, ToDeviceMessage, ToDevicePage, ToDeviceQueued, ToDeviceRequest,
    ToDeviceSent,
};
pub use tokens::{IssuedSession, Login};
pub use watch::SessionWatch;

/// How often presence looks whose time is up.
const PRESENCE_TICK: Duration = Duration::from_secs(1);

/// All operations on local users. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    store: Store,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    passwords: password::Passwords,
    sessions: sessions::SessionCache,
    rules: push_rules::RulesCache,
    ignored: account_data::IgnoredCache,
    erased: erased::ErasedCache,
    filters: filters::FilterCache,
    queues: to_device::Queues,
    reservations: registration_tokens::Reservations,
    key_turns: keys::Turns,
    unused_devices: unused_devices::Cursor,
    watchers: watch::Watchers,
    presence: Presence,
}

impl Users {
    /// Users of `store` (opened with [`TABLES`]).
    ///
    /// Starts tasks that end when the last clone is gone, so it must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Hash`] if the configured cost of password hashes is out of argon2's range; otherwise fails only if the store does.
    pub async fn open(config: Config, store: Store, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self> {
        // Before anything can be queued or taken.
        let at_start = store.view().await?;
        let fifth = config.cache_bytes / 5;
        let passwords = password::Passwords::new(&config, random.clone())?;
        let projecting = store.clone();
        let make = |view: View| {
            let from = view.position();
            Arc::new(Inner {
                passwords,
                sessions: group_cache::GroupCache::new(fifth, from),
                rules: push_rules::RulesCache::new(fifth, from),
                ignored: group_cache::GroupCache::new(fifth, from),
                erased: erased::ErasedCache::new(store.hold()),
                filters: filters::FilterCache::new(fifth),
                queues: to_device::Queues::new(fifth, config.to_device_sender_bytes_max, store.hold()),
                reservations: registration_tokens::Reservations::new(random.as_ref()),
                key_turns: keys::Turns::default(),
                unused_devices: unused_devices::Cursor::default(),
                watchers: watch::Watchers::default(),
                presence: Presence::new(&config, store.clone(), clock.clone()),
                config,
                store,
                clock,
                random,
            })
        };
        let inner = projecting.project(make).await?;
        tokio::spawn(keep_presence(Arc::downgrade(&inner)));
        tokio::spawn(to_device::count_waiting(Arc::downgrade(&inner), at_start));
        Ok(Self { inner })
    }

    /// Presence of local and remote users.
    pub fn presence(&self) -> &Presence {
        &self.inner.presence
    }

    /// The store's position, as of which the next answers are at least.
    pub fn position(&self) -> Position {
        self.inner.store.published()
    }

    /// The configuration that these users were made with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Forgets transaction ids and tokens that have expired, and devices that are no longer used. To be called now and then; returns how many went.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn sweep_expired(&self) -> Result<usize> {
        let expired =
            self.sweep_to_device_txns().await? + self.sweep_openid_tokens().await? + self.sweep_login_tokens().await?;
        Ok(expired + self.sweep_unused_devices().await?)
    }

    fn now_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }
}

/// Guards the rows of `user`'s account, devices and tokens: no two batches that change them and were
/// decided from the same state both succeed.
async fn bump_version(view: &View, batch: &mut Batch, user: &UserId) -> Result<()> {
    let old = view.get::<tables::Versions>(&user).await?;
    batch.expect::<tables::Versions>(&user, old.as_ref());
    batch.put::<tables::Versions>(&user, &(old.unwrap_or(0) + 1));
    Ok(())
}

/// Lets a batch that changes none of the rows that [`bump_version`] guards fail if somebody else does: the account and the devices
/// that it writes for must still be there.
async fn expect_version(view: &View, batch: &mut Batch, user: &UserId) -> Result<()> {
    let version = view.get::<tables::Versions>(&user).await?;
    batch.expect::<tables::Versions>(&user, version.as_ref());
    Ok(())
}

fn log(batch: &mut Batch, user: &UserId, change: Change) -> store::Stamp {
    batch.log(&UserChanged { user: user.to_owned(), change })
}

/// Reads the stored status messages, and lets presence time out until `users` is dropped.
async fn keep_presence(users: Weak<Inner>) {
    let Some(presence) = users.upgrade().map(|inner| inner.presence.clone()) else { return };
    if let Err(error) = presence.load().await {
        tracing::warn!(%error, "stored status messages could not be read");
    }
    drop(presence);
    let mut seconds = tokio::time::interval(PRESENCE_TICK);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        seconds.tick().await;
        let Some(inner) = users.upgrade() else { return };
        inner.presence.tick();
    }
}
