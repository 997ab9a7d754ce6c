//! Server-side key backups: keys of encrypted rooms that a user's devices store here, encrypted, for each other.
//!
//! Specification: client-server API, "Server-side key backups". Keys are written to the newest backup that exists; versions are
//! numbered from 1 and a number is never given twice, not even after a restore.
//!
//! Every batch that changes keys expects and writes the row with the backup's number of keys and etag, so the number is exact at
//! any time, also between the batches of one large request. So are the bytes of its keys.

mod keys;

use ruma::UserId;
use serde_json::value::RawValue;
use store::{Batch, Range, View};

use crate::{
    Error, Result, Users, expect_version,
    rows::{BackupContents, KeyBackupRow},
    tables,
};

pub use self::keys::{
    BackedUpKey, BackupKey, BackupScope, KEY_BACKUP_KEYS_MAX, KEY_BACKUP_NAME_BYTES_MAX, KEY_BACKUP_SESSION_BYTES_MAX,
};

/// The most backups of a user.
pub const KEY_BACKUPS_PER_USER_MAX: usize = 1_000;
/// The most bytes of a backup's `auth_data`.
pub const KEY_BACKUP_AUTH_DATA_BYTES_MAX: usize = 65_536;
/// The most bytes of the name of a backup's algorithm.
pub const KEY_BACKUP_ALGORITHM_BYTES_MAX: usize = 255;

/// How many versions and etags there are in one epoch of the store. Those of the next begin above them.
const NUMBERS_PER_EPOCH: u64 = 1 << 32;

/// A backup.
#[derive(Clone, Debug)]
pub struct KeyBackup {
    /// Its version.
    pub version: u64,
    /// How keys are encrypted.
    pub algorithm: String,
    /// What the algorithm needs to know, a JSON object.
    pub auth_data: Box<RawValue>,
    /// What is in it.
    pub contents: BackupContents,
}

impl Users {
    /// Makes a backup, which is the one that keys are written to from now on, and returns its version.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnObject`], [`Error::TooLarge`], [`Error::UserLimit`], [`Error::UnknownUser`], [`Error::Deactivated`],
    /// [`Error::Contended`].
    pub async fn create_key_backup(&self, user: &UserId, algorithm: &str, auth_data: &RawValue) -> Result<u64> {
        check(algorithm, auth_data)?;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            self.active_account(&view, user).await?;
            expect_version(&view, &mut batch, user).await?;
            let range = Range::<tables::KeyBackupContents>::prefix(&(user,)).limit(KEY_BACKUPS_PER_USER_MAX);
            if view.scan(range).await?.rows.len() >= KEY_BACKUPS_PER_USER_MAX {
                return Err(Error::UserLimit("key backups"));
            }
            let last = view.get::<tables::KeyBackupLast>(&user).await?;
            let version = self.number_after(last.unwrap_or(0));
            batch.expect::<tables::KeyBackupLast>(&user, last.as_ref());
            batch.put::<tables::KeyBackupLast>(&user, &version);
            let row = KeyBackupRow { algorithm, auth_data: auth_data.get() };
            batch.put::<tables::KeyBackups>(&(user, version), &row);
            batch.put::<tables::KeyBackupContents>(&(user, version), &BackupContents { count: 0, etag: 0 });
            Ok((batch, version))
        };
        self.inner.store.retry(decide).await
    }

    /// The version of the newest backup, to which keys are written.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn current_key_backup(&self, view: &View, user: &UserId) -> Result<Option<u64>> {
        let range = Range::<tables::KeyBackupContents>::prefix(&(user,)).reverse();
        Ok(view.first(range).await?.map(|((_, version), _)| version))
    }

    /// A backup.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn key_backup(&self, view: &View, user: &UserId, version: u64) -> Result<Option<KeyBackup>> {
        let Some(contents) = backup_contents(view, user, version).await? else { return Ok(None) };
        let row = view.get::<tables::KeyBackups>(&(user, version)).await?;
        let Some(KeyBackupRow { algorithm, auth_data }) = row else { return Ok(None) };
        let auth_data = RawValue::from_string(auth_data);
        let auth_data = auth_data.map_err(|source| Error::Damaged { what: "a key backup", source })?;
        Ok(Some(KeyBackup { version, algorithm, auth_data, contents }))
    }

    /// Replaces the `auth_data` of a backup. `algorithm` must be the one that it has.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKeyBackup`], [`Error::KeyBackupAlgorithm`], [`Error::NotAnObject`], [`Error::TooLarge`],
    /// [`Error::Contended`].
    pub async fn update_key_backup(
        &self,
        user: &UserId,
        version: u64,
        algorithm: &str,
        auth_data: &RawValue,
    ) -> Result<()> {
        check(algorithm, auth_data)?;
        let key = (user, version);
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let old = view.get::<tables::KeyBackups>(&key).await?.ok_or(Error::UnknownKeyBackup)?;
            if old.algorithm != algorithm {
                return Err(Error::KeyBackupAlgorithm);
            }
            batch.expect::<tables::KeyBackups>(&key, Some(&old));
            batch.put::<tables::KeyBackups>(&key, &KeyBackupRow { algorithm, auth_data: auth_data.get() });
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Deletes a backup with its keys. Does nothing to one that was deleted before.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKeyBackup`] if there never was one of this version; [`Error::Contended`].
    pub async fn delete_key_backup(&self, user: &UserId, version: u64) -> Result<()> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let last = view.get::<tables::KeyBackupLast>(&user).await?.unwrap_or(0);
            if version == 0 || version > last {
                return Err(Error::UnknownKeyBackup);
            }
            if backup_contents(&view, user, version).await?.is_none() {
                return Ok((Batch::new(), ()));
            }
            batch.delete::<tables::KeyBackups>(&(user, version));
            batch.delete::<tables::KeyBackupContents>(&(user, version));
            batch.delete::<tables::KeyBackupBytes>(&(user, version));
            // One range, however many keys there are.
            batch.delete_prefix::<tables::KeyBackupKeys>(&(user, version));
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// The version or etag after `last`. Clients may know some that a restored store has forgotten; they are not given again
    /// either.
    fn number_after(&self, last: u64) -> u64 {
        let epochs_over = self.inner.store.epoch().saturating_sub(1);
        last.max(epochs_over.saturating_mul(NUMBERS_PER_EPOCH)).saturating_add(1)
    }

    pub(crate) fn prepare_delete_key_backups(&self, batch: &mut Batch, user: &UserId) {
        batch.delete_prefix::<tables::KeyBackups>(&(user,));
        batch.delete_prefix::<tables::KeyBackupContents>(&(user,));
        batch.delete_prefix::<tables::KeyBackupBytes>(&(user,));
        batch.delete_prefix::<tables::KeyBackupKeys>(&(user,));
        batch.delete::<tables::KeyBackupLast>(&user);
    }
}

async fn backup_contents(view: &View, user: &UserId, version: u64) -> Result<Option<BackupContents>> {
    Ok(view.get::<tables::KeyBackupContents>(&(user, version)).await?)
}

fn check(algorithm: &str, auth_data: &RawValue) -> Result<()> {
    if algorithm.len() > KEY_BACKUP_ALGORITHM_BYTES_MAX {
        return Err(Error::TooLarge { what: "the algorithm", max: KEY_BACKUP_ALGORITHM_BYTES_MAX });
    }
    if auth_data.get().len() > KEY_BACKUP_AUTH_DATA_BYTES_MAX {
        return Err(Error::TooLarge { what: "auth_data", max: KEY_BACKUP_AUTH_DATA_BYTES_MAX });
    }
    if !auth_data.get().starts_with('{') {
        return Err(Error::NotAnObject);
    }
    Ok(())
}
