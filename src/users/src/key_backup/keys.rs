//! The keys in a backup.

use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::value::RawValue;
use store::{Batch, Range, View};

use super::backup_contents;
use crate::{
    Error, Result, Users,
    rows::{BackupContents, BackupKeyPlace, BackupKeyRow},
    tables,
};

/// The most bytes of a key's `session_data`.
pub const KEY_BACKUP_SESSION_BYTES_MAX: usize = 65_536;
/// The most bytes of the id of a room or session.
pub const KEY_BACKUP_NAME_BYTES_MAX: usize = 255;
/// The most keys of a backup.
pub const KEY_BACKUP_KEYS_MAX: u64 = 1_000_000;

/// Bytes of keys after which a batch is full: well below what the store takes at once.
const BATCH_KEYS_BYTES: usize = 512 * 1024;
/// Keys of one batch.
const BATCH_KEYS: usize = 500;
/// What a key takes besides its parts, in a batch and of what a user may store.
const KEY_OVERHEAD_BYTES: usize = 128;
/// Keys read at once: even the largest stay below what a scan may return.
const PAGE_KEYS: usize = 500;

/// An encrypted key of a session, with what decides whether another replaces it.
#[derive(Clone, Debug)]
pub struct BackedUpKey {
    /// The index of the first message that it decrypts.
    pub first_message_index: u64,
    /// How often it was forwarded between devices.
    pub forwarded_count: u64,
    /// Whether the device that stored it verified the one that the key is from.
    pub is_verified: bool,
    /// The key, encrypted: a JSON object.
    pub session_data: Box<RawValue>,
}

impl BackedUpKey {
    /// Whether it replaces `old` of the same session: the verified one stays, then that with the lower first message index, then that
    /// which was forwarded less.
    fn replaces(&self, old: &BackupKeyRow) -> bool {
        if self.is_verified != old.is_verified {
            return self.is_verified;
        }
        (self.first_message_index, self.forwarded_count) < (old.first_message_index, old.forwarded_count)
    }

    fn row(&self) -> BackupKeyRow<&str> {
        let Self { first_message_index, forwarded_count, is_verified, ref session_data } = *self;
        BackupKeyRow { first_message_index, forwarded_count, is_verified, session_data: session_data.get() }
    }

    fn of_row(row: BackupKeyRow) -> Result<Self> {
        let BackupKeyRow { first_message_index, forwarded_count, is_verified, session_data } = row;
        let session_data = RawValue::from_string(session_data);
        let session_data = session_data.map_err(|source| Error::Damaged { what: "a backed up key", source })?;
        Ok(Self { first_message_index, forwarded_count, is_verified, session_data })
    }
}

/// A key with its place in the backup.
#[derive(Clone, Debug)]
pub struct BackupKey {
    /// The room.
    pub room: OwnedRoomId,
    /// The session's id.
    pub session: String,
    /// The key.
    pub key: BackedUpKey,
}

/// Which keys of a backup are meant.
#[derive(Copy, Clone, Debug)]
pub enum BackupScope<'a> {
    /// All.
    All,
    /// Those of a room.
    Room(&'a RoomId),
    /// That of a session of a room.
    Session(&'a RoomId, &'a str),
}

impl Users {
    /// Stores keys in the newest backup, where they replace those that are worse. Many keys are stored in several batches; if it fails
    /// in between, those before stay, and the client can send all of them again.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKeyBackup`] if the user has no backup; [`Error::WrongKeyBackup`] if it isn't the newest;
    /// [`Error::NotAnObject`], [`Error::TooLarge`], [`Error::UserLimit`], [`Error::Contended`].
    pub async fn put_backup_keys(&self, user: &UserId, version: u64, keys: &[BackupKey]) -> Result<BackupContents> {
        for key in keys {
            check(key)?;
        }
        let mut rest = keys;
        loop {
            let (chunk, others) = rest.split_at(chunk_len(rest));
            let contents = self.put_chunk(user, version, chunk).await?;
            rest = others;
            if rest.is_empty() {
                return Ok(contents);
            }
        }
    }

    async fn put_chunk(&self, user: &UserId, version: u64, keys: &[BackupKey]) -> Result<BackupContents> {
        let place = keys.iter().map(|BackupKey { room, session, .. }| BackupKeyPlace { user, version, room, session });
        let places: &Vec<_> = &place.collect();
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let current = self.current_key_backup(&view, user).await?.ok_or(Error::UnknownKeyBackup)?;
            if version != current {
                return Err(Error::WrongKeyBackup { current });
            }
            let old = backup_contents(&view, user, version).await?.ok_or(Error::UnknownKeyBackup)?;
            let mut new = old;
            let stored = StoredBytes::load(&view, user, version).await?;
            let mut bytes = stored.of_version;
            let rows = view.get_many::<tables::KeyBackupKeys>(places).await?;
            for ((key, place), row) in keys.iter().zip(places).zip(rows) {
                if row.as_ref().is_some_and(|old| !key.key.replaces(old)) {
                    continue;
                }
                let replaced = row.as_ref().map_or(0, |row| key_bytes(&key.room, &key.session, &row.session_data));
                bytes = bytes.saturating_sub(replaced) + key_bytes(&key.room, &key.session, key.key.session_data.get());
                batch.put::<tables::KeyBackupKeys>(place, &key.key.row());
                new.count += u64::from(row.is_none());
                new.etag = self.number_after(old.etag);
            }
            if new.count > KEY_BACKUP_KEYS_MAX {
                return Err(Error::UserLimit("keys in the backup"));
            }
            if new == old {
                return Ok((Batch::new(), old));
            }
            let max = self.inner.config.key_backup_bytes_max;
            if bytes > stored.of_version && stored.of_others + bytes > max {
                return Err(Error::UserLimit("bytes of backed up keys"));
            }
            // A newer backup that is made meanwhile is the one to write to.
            let last = view.get::<tables::KeyBackupLast>(&user).await?;
            batch.expect::<tables::KeyBackupLast>(&user, last.as_ref());
            put_contents(&mut batch, user, version, old, (new, bytes));
            Ok((batch, new))
        };
        self.inner.store.retry(decide).await
    }

    /// Deletes keys of any backup.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKeyBackup`], [`Error::Contended`].
    pub async fn delete_backup_keys(
        &self,
        user: &UserId,
        version: u64,
        scope: BackupScope<'_>,
    ) -> Result<BackupContents> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let old = backup_contents(&view, user, version).await?.ok_or(Error::UnknownKeyBackup)?;
            let stored = StoredBytes::load(&view, user, version).await?.of_version;
            let (deleted, freed) = match scope {
                BackupScope::All => (old.count, stored),
                BackupScope::Room(room) => count_room(&view, user, version, room).await?,
                BackupScope::Session(room, session) => {
                    let place = BackupKeyPlace { user, version, room, session };
                    let row = view.get::<tables::KeyBackupKeys>(&place).await?;
                    row.map_or((0, 0), |row| (1, key_bytes(room, session, &row.session_data)))
                }
            };
            if deleted == 0 {
                return Ok((Batch::new(), old));
            }
            match scope {
                BackupScope::All => batch.delete_prefix::<tables::KeyBackupKeys>(&(user, version)),
                BackupScope::Room(room) => {
                    batch.delete_prefix::<tables::KeyBackupKeys>(&(user, version, room.as_str()));
                }
                BackupScope::Session(room, session) => {
                    batch.delete::<tables::KeyBackupKeys>(&BackupKeyPlace { user, version, room, session });
                }
            }
            let new = BackupContents { count: old.count.saturating_sub(deleted), etag: self.number_after(old.etag) };
            put_contents(&mut batch, user, version, old, (new, stored.saturating_sub(freed)));
            Ok((batch, new))
        };
        self.inner.store.retry(decide).await
    }

    /// The key of a session.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKeyBackup`].
    pub async fn backup_key(
        &self,
        view: &View,
        user: &UserId,
        version: u64,
        (room, session): (&RoomId, &str),
    ) -> Result<Option<BackedUpKey>> {
        backup_contents(view, user, version).await?.ok_or(Error::UnknownKeyBackup)?;
        let place = BackupKeyPlace { user, version, room, session };
        let row = view.get::<tables::KeyBackupKeys>(&place).await?;
        row.map(BackedUpKey::of_row).transpose()
    }

    /// A page of the keys of a backup, or of one of its rooms, in the order of rooms and sessions: those after `after`. The last page
    /// is empty.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKeyBackup`].
    pub async fn backup_keys(
        &self,
        view: &View,
        user: &UserId,
        version: u64,
        room: Option<&RoomId>,
        after: Option<&BackupKey>,
    ) -> Result<Vec<BackupKey>> {
        backup_contents(view, user, version).await?.ok_or(Error::UnknownKeyBackup)?;
        let mut range = match room {
            None => Range::<tables::KeyBackupKeys>::prefix(&(user, version)),
            Some(room) => Range::<tables::KeyBackupKeys>::prefix(&(user, version, room.as_str())),
        };
        if let Some(after) = after {
            range = range.after(&(user, version, &after.room, &after.session));
        }
        let mut keys = Vec::new();
        for (BackupKeyPlace { room, session, .. }, row) in view.scan(range.limit(PAGE_KEYS)).await?.rows {
            keys.push(BackupKey { room: room.into_inner(), session, key: BackedUpKey::of_row(row)? });
        }
        Ok(keys)
    }
}

/// What the keys of a user's backups take, in bytes.
struct StoredBytes {
    of_version: u64,
    of_others: u64,
}

impl StoredBytes {
    async fn load(view: &View, user: &UserId, version: u64) -> Result<Self> {
        let mut stored = Self { of_version: 0, of_others: 0 };
        for ((_, other), bytes) in view.scan_all(Range::<tables::KeyBackupBytes>::prefix(&(user,))).await? {
            if other == version {
                stored.of_version = bytes;
            } else {
                stored.of_others += bytes;
            }
        }
        Ok(stored)
    }
}

fn key_bytes(room: &RoomId, session: &str, data: &str) -> u64 {
    (room.as_str().len() + session.len() + data.len() + KEY_OVERHEAD_BYTES) as u64
}

/// Writes what is in a backup and the bytes of it.
fn put_contents(batch: &mut Batch, user: &UserId, version: u64, old: BackupContents, new: (BackupContents, u64)) {
    let (new, bytes) = new;
    batch.expect::<tables::KeyBackupContents>(&(user, version), Some(&old));
    batch.put::<tables::KeyBackupContents>(&(user, version), &new);
    batch.put::<tables::KeyBackupBytes>(&(user, version), &bytes);
}

/// The number of keys of a room in a backup, and their bytes.
async fn count_room(view: &View, user: &UserId, version: u64, room: &RoomId) -> Result<(u64, u64)> {
    let mut next = Some(Range::<tables::KeyBackupKeys>::prefix(&(user, version, room.as_str())).limit(PAGE_KEYS));
    let (mut count, mut bytes) = (0, 0);
    while let Some(range) = next {
        let page = view.scan(range).await?;
        count += page.rows.len() as u64;
        for (place, row) in &page.rows {
            bytes += key_bytes(room, &place.session, &row.session_data);
        }
        next = page.next;
    }
    Ok((count, bytes))
}

fn check(key: &BackupKey) -> Result<()> {
    if key.room.as_str().len() > KEY_BACKUP_NAME_BYTES_MAX || key.session.len() > KEY_BACKUP_NAME_BYTES_MAX {
        return Err(Error::TooLarge { what: "the id of a room or session", max: KEY_BACKUP_NAME_BYTES_MAX });
    }
    let data = key.key.session_data.get();
    if data.len() > KEY_BACKUP_SESSION_BYTES_MAX {
        return Err(Error::TooLarge { what: "session_data", max: KEY_BACKUP_SESSION_BYTES_MAX });
    }
    if !data.starts_with('{') {
        return Err(Error::NotAnObject);
    }
    Ok(())
}

/// How many of the first keys go into one batch: at least one, if there are any.
fn chunk_len(keys: &[BackupKey]) -> usize {
    let mut bytes = 0;
    for (at, BackupKey { room, session, key }) in keys.iter().enumerate() {
        bytes += key_bytes(room, session, key.session_data.get()) as usize;
        if at > 0 && (bytes > BATCH_KEYS_BYTES || at >= BATCH_KEYS) {
            return at;
        }
    }
    keys.len()
}
