//! Account data: contents by type, for the whole account or for one room.
//!
//! Each row knows the position of its last change, and a second table orders the rows of a user by it, so
//! that a sync reads what changed and nothing else.

mod deleted;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use store::{Batch, Position, Range, Text, View};

use self::deleted::{DELETED, is_deletion};
use crate::{
    Change, Error, Result, Users,
    group_cache::GroupCache,
    log, push_rules,
    rows::{AccountDataKey, ChangedAccountData, StoredAccountData},
    tables,
};

pub use deleted::ACCOUNT_DATA_DELETIONS_KEPT;

/// The greatest number of bytes of one content.
pub const ACCOUNT_DATA_BYTES_MAX: usize = 256 * 1024;
/// The greatest number of rows of one user: types of the account, and types in each room.
pub const ACCOUNT_DATA_ROWS_MAX: u64 = 20_000;
/// The greatest number of bytes of all contents of one user together, types included: a first sync sends them all.
pub const ACCOUNT_DATA_TOTAL_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Types that clients can read but not set.
pub const SERVER_MANAGED_TYPES: &[&str] = &["m.fully_read", push_rules::TYPE];

/// Contents that are read at once: few enough for what one scan returns, whatever their size.
const PAGE_ROWS: usize = 200;

pub(crate) const IGNORED_TYPE: &str = "m.ignored_user_list";
const DIRECT_TYPE: &str = "m.direct";
const INVITE_PERMISSION_TYPE: &str = "m.invite_permission_config";
const EVENT_TYPE_BYTES_MAX: usize = 255;

/// What an ignored user takes in memory besides the id.
const IGNORED_OVERHEAD_BYTES: usize = 48;

pub(crate) type IgnoredCache = GroupCache<OwnedUserId, OwnedUserId, Arc<HashSet<OwnedUserId>>>;

/// One content of a user's account data.
#[derive(Clone, Debug)]
pub struct AccountDataRow {
    /// Where it changed last.
    pub position: Position,
    /// The room it is about, or the whole account.
    pub room: Option<OwnedRoomId>,
    /// Its type.
    pub event_type: String,
    /// Its content, a JSON object.
    pub content: Box<RawValue>,
}

fn check_object(content: &RawValue) -> Result<()> {
    if content.get().len() > ACCOUNT_DATA_BYTES_MAX {
        return Err(Error::TooLarge { what: "account data", max: ACCOUNT_DATA_BYTES_MAX });
    }
    if !content.get().starts_with('{') {
        return Err(Error::NotAnObject);
    }
    Ok(())
}

/// What of a content counts for what its user may have: nothing where it only tells of a deletion.
#[derive(Copy, Clone, Default)]
struct Weight {
    rows: u64,
    bytes: u64,
}

impl Weight {
    fn of(event_type: &str, content: &str) -> Self {
        if is_deletion(content) {
            return Self::default();
        }
        Self { rows: 1, bytes: (event_type.len() + content.len()) as u64 }
    }

    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// Counts that a user has `new` in place of `old`. What shrinks, or takes no more than before, always fits.
async fn count(view: &View, batch: &mut Batch, user: &UserId, old: Weight, new: Weight) -> Result<()> {
    if new.rows != old.rows {
        let rows = view.get::<tables::AccountDataCounts>(&user).await?;
        let left = rows.unwrap_or(0).saturating_sub(old.rows);
        if new.rows > old.rows && left + new.rows > ACCOUNT_DATA_ROWS_MAX {
            return Err(Error::UserLimit("kinds of account data"));
        }
        batch.expect::<tables::AccountDataCounts>(&user, rows.as_ref());
        batch.put::<tables::AccountDataCounts>(&user, &(left + new.rows));
    }
    if new.bytes != old.bytes {
        let bytes = view.get::<tables::AccountDataBytes>(&user).await?;
        let left = bytes.unwrap_or(0).saturating_sub(old.bytes);
        if new.bytes > old.bytes && left + new.bytes > ACCOUNT_DATA_TOTAL_BYTES_MAX {
            return Err(Error::UserLimit("bytes of account data"));
        }
        batch.expect::<tables::AccountDataBytes>(&user, bytes.as_ref());
        batch.put::<tables::AccountDataBytes>(&user, &(left + new.bytes));
    }
    Ok(())
}

fn raw(json: String) -> Result<Box<RawValue>> {
    RawValue::from_string(json).map_err(|source| Error::Damaged { what: "account data", source })
}

impl Users {
    /// Sets account data on behalf of a client. Empty content deletes it.
    ///
    /// # Errors
    ///
    /// [`Error::ServerManagedType`], [`Error::NotAnObject`], [`Error::TooLarge`], [`Error::UserLimit`],
    /// [`Error::Contended`].
    pub async fn set_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
        content: &RawValue,
    ) -> Result<()> {
        if SERVER_MANAGED_TYPES.contains(&event_type) {
            return Err(Error::ServerManagedType);
        }
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            self.prepare_account_data(&view, &mut batch, user, Entry::new(room, event_type, content)).await?;
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Deletes account data on behalf of a client. It need not be there.
    ///
    /// # Errors
    ///
    /// [`Error::ServerManagedType`], [`Error::Contended`].
    pub async fn delete_account_data(&self, user: &UserId, room: Option<&RoomId>, event_type: &str) -> Result<()> {
        if SERVER_MANAGED_TYPES.contains(&event_type) {
            return Err(Error::ServerManagedType);
        }
        let deleted = &*raw(DELETED.to_owned())?;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            if self.account_data(&view, user, room, event_type).await?.is_none() {
                return Ok((Batch::new(), ()));
            }
            self.prepare_account_data(&view, &mut batch, user, Entry::new(room, event_type, deleted)).await?;
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Writes account data of any type, server-managed ones as well. At most one write for each user in a batch, as what they
    /// have is counted.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnObject`], [`Error::TooLarge`], [`Error::UserLimit`].
    pub async fn prepare_account_data(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        entry: Entry<'_>,
    ) -> Result<()> {
        let Entry { room, event_type, content } = entry;
        check_object(content)?;
        if event_type.len() > EVENT_TYPE_BYTES_MAX {
            return Err(Error::TooLarge { what: "the type", max: EVENT_TYPE_BYTES_MAX });
        }
        let content = if is_deletion(content.get()) { DELETED } else { content.get() };
        let key = AccountDataKey { user, room, event_type };
        let old = view.get::<tables::AccountData>(&key).await?;
        if let Some(old) = &old {
            batch.delete::<tables::AccountDataChanges>(&(user, old.position));
        }
        let weight = old.as_ref().map_or(Weight::default(), |old| Weight::of(event_type, &old.content));
        count(view, batch, user, weight, Weight::of(event_type, content)).await?;
        let change = Change::AccountData { room: room.map(RoomId::to_owned), event_type: event_type.to_owned() };
        let position = Position::from(log(batch, user, change));
        let old_deletion = old.as_ref().filter(|old| is_deletion(&old.content)).map(|old| old.position);
        let deletion = is_deletion(content).then_some(position);
        deleted::note(view, batch, user, old_deletion, deletion).await?;
        batch.expect::<tables::AccountData>(&key, old.as_ref());
        batch.put::<tables::AccountData>(&key, &StoredAccountData { position, content });
        batch.put::<tables::AccountDataChanges>(&(user, position), &ChangedAccountData { room, event_type });
        Ok(())
    }

    /// One content. Push rules that were never changed are there as well, with the server's defaults.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn account_data(
        &self,
        view: &View,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
    ) -> Result<Option<Box<RawValue>>> {
        if room.is_none() && event_type == push_rules::TYPE {
            let rules = self.push_rules(view, user).await?;
            return Ok(Some(push_rules::to_content(&rules)?));
        }
        let row = view.get::<tables::AccountData>(&AccountDataKey { user, room, event_type }).await?;
        row.filter(|row| !is_deletion(&row.content)).map(|row| raw(row.content)).transpose()
    }

    /// What changed after `from` and not after `to`, in the order of the last changes; what was deleted has empty content. What
    /// changed again after `to` isn't there: the next range has it.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn account_data_since(
        &self,
        view: &View,
        user: &UserId,
        from: Position,
        to: Position,
    ) -> Result<Vec<AccountDataRow>> {
        let mut changed = Vec::new();
        let range = Range::<tables::AccountDataChanges>::prefix(&(user,)).after(&(user, from)).through(&(user, to));
        let mut next = Some(range);
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for ((_, position), ChangedAccountData { room, event_type }) in page.rows {
                let room = room.map(Text::into_inner);
                let key = AccountDataKey { user, room: room.as_deref(), event_type: event_type.as_str() };
                let row = view.get::<tables::AccountData>(&key).await?;
                let Some(row) = row.filter(|row| row.position == position) else {
                    continue;
                };
                let content = self.current_content(user, room.as_deref(), &event_type, row.content)?;
                changed.push(AccountDataRow { position, room, event_type, content });
            }
            next = page.next;
        }
        Ok(changed)
    }

    /// All account data of a user: the account's first, then room by room. Push rules are always there.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn account_data_all(&self, view: &View, user: &UserId) -> Result<Vec<AccountDataRow>> {
        let mut all = self.account_data_rows(view, user, Range::prefix(&(user,))).await?;
        all.retain(|row| !is_deletion(row.content.get()));
        if !all.iter().any(|row| row.room.is_none() && row.event_type == push_rules::TYPE) {
            all.insert(
                0,
                AccountDataRow {
                    position: Position::ZERO,
                    room: None,
                    event_type: push_rules::TYPE.to_owned(),
                    content: push_rules::to_content(&push_rules::defaults(user))?,
                },
            );
        }
        Ok(all)
    }

    /// All account data of a user about one room, for clients that may have known the room before: what was deleted is there with
    /// empty content.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn account_data_of_room(&self, view: &View, user: &UserId, room: &RoomId) -> Result<Vec<AccountDataRow>> {
        self.account_data_rows(view, user, Range::prefix(&(user, Some(room)))).await
    }

    async fn account_data_rows(
        &self,
        view: &View,
        user: &UserId,
        range: Range<tables::AccountData>,
    ) -> Result<Vec<AccountDataRow>> {
        let mut rows = Vec::new();
        let mut next = Some(range.limit(PAGE_ROWS));
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for (AccountDataKey { room, event_type, .. }, row) in page.rows {
                let room = room.map(Text::into_inner);
                let content = self.current_content(user, room.as_deref(), &event_type, row.content)?;
                rows.push(AccountDataRow { position: row.position, room, event_type, content });
            }
            next = page.next;
        }
        Ok(rows)
    }

    /// The stored content; push rules with the defaults of today.
    fn current_content(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
        content: String,
    ) -> Result<Box<RawValue>> {
        if room.is_none() && event_type == push_rules::TYPE {
            let ruleset = push_rules::from_content(user, &content)?;
            return push_rules::to_content(&ruleset);
        }
        raw(content)
    }

    /// Deletes what the user stored about a room, when they forget it: as much of it as fits into the batch. `false` if something is
    /// left, for the next batch.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn prepare_forget_room(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        room: &RoomId,
    ) -> Result<bool> {
        let mut next = Some(Range::<tables::AccountData>::prefix(&(user, Some(room))).limit(PAGE_ROWS));
        let mut gone = Weight::default();
        let mut deletions = 0;
        let mut is_all = true;
        while let Some(range) = next {
            if batch.is_filled() {
                is_all = false;
                break;
            }
            let page = view.scan(range).await?;
            next = page.next;
            for (key, row) in page.rows {
                gone.add(Weight::of(&key.event_type, &row.content));
                if is_deletion(&row.content) {
                    deletions += 1;
                    batch.delete::<tables::AccountDataDeletions>(&(user, row.position));
                }
                batch.delete::<tables::AccountData>(&key);
                batch.delete::<tables::AccountDataChanges>(&(user, row.position));
            }
        }
        count(view, batch, user, gone, Weight::default()).await?;
        deleted::forgotten(view, batch, user, deletions).await?;
        Ok(is_all)
    }

    pub(crate) fn prepare_delete_account_data(&self, batch: &mut Batch, user: &UserId) {
        batch.delete_prefix::<tables::AccountData>(&(user,));
        batch.delete_prefix::<tables::AccountDataChanges>(&(user,));
        batch.delete::<tables::AccountDataCounts>(&user);
        batch.delete::<tables::AccountDataBytes>(&user);
        batch.delete_prefix::<tables::AccountDataDeletions>(&(user,));
        batch.delete::<tables::AccountDataDeletionCounts>(&user);
    }

    /// Whom the user ignores (`m.ignored_user_list`). Entries that aren't user ids are passed over, and so
    /// is the user themselves.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn ignored_users(&self, view: &View, user: &UserId) -> Result<Arc<HashSet<OwnedUserId>>> {
        if let Some(ignored) = self.inner.ignored.get(view.position(), user) {
            return Ok(ignored);
        }
        // Boxed, as hardly ever anything is to be read.
        Box::pin(self.read_ignored_users(view, user)).await
    }

    async fn read_ignored_users(&self, view: &View, user: &UserId) -> Result<Arc<HashSet<OwnedUserId>>> {
        let row = view.get::<tables::AccountData>(&AccountDataKey::global(user, IGNORED_TYPE)).await?;
        let mut ignored = HashSet::new();
        if let Some(row) = row {
            ignored = parse_ignored(&row.content);
            ignored.remove(user);
        }
        let ignored = Arc::new(ignored);
        let cache = &self.inner.ignored;
        let ids: usize = ignored.iter().map(|user| user.as_str().len() + IGNORED_OVERHEAD_BYTES).sum();
        let bytes = 2 * user.as_str().len() + ids;
        cache.insert(view.position(), user.to_owned(), user.to_owned(), ignored.clone(), bytes);
        Ok(ignored)
    }

    /// Whether the user wants no invites (client-server API, "Invite permission").
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn blocks_invites(&self, view: &View, user: &UserId) -> Result<bool> {
        let row = view.get::<tables::AccountData>(&AccountDataKey::global(user, INVITE_PERMISSION_TYPE)).await?;
        // Content of another form sets no permission.
        let content = row.and_then(|row| serde_json::from_str::<InvitePermission>(&row.content).ok());
        Ok(content.is_some_and(|content| content.default_action == "block"))
    }

    /// The rooms that the user marked as private chats (`m.direct`).
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn direct_rooms(&self, view: &View, user: &UserId) -> Result<HashSet<OwnedRoomId>> {
        let row = view.get::<tables::AccountData>(&AccountDataKey::global(user, DIRECT_TYPE)).await?;
        Ok(row.map(|row| parse_direct(&row.content)).unwrap_or_default())
    }
}

/// One content to write.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The room it is about, or the whole account.
    pub room: Option<&'a RoomId>,
    /// Its type.
    pub event_type: &'a str,
    /// Its content, a JSON object.
    pub content: &'a RawValue,
}

impl<'a> Entry<'a> {
    /// A content to write.
    pub fn new(room: Option<&'a RoomId>, event_type: &'a str, content: &'a RawValue) -> Self {
        Self { room, event_type, content }
    }
}

#[derive(Deserialize)]
struct InvitePermission {
    default_action: String,
}

#[derive(Default, Deserialize)]
struct IgnoredUserList {
    ignored_users: BTreeMap<String, IgnoredAny>,
}

/// What a client stored is its own business: what can't be understood counts as nothing.
fn parse_ignored(content: &str) -> HashSet<OwnedUserId> {
    let content: IgnoredUserList = serde_json::from_str(content).unwrap_or_default();
    content.ignored_users.keys().filter_map(|name| UserId::parse(name).ok()).collect()
}

fn parse_direct(content: &str) -> HashSet<OwnedRoomId> {
    let content: serde_json::Value = serde_json::from_str(content).unwrap_or_default();
    let mut rooms = HashSet::new();
    let Some(users) = content.as_object() else {
        return rooms;
    };
    for listed in users.values() {
        for room in listed.as_array().into_iter().flatten() {
            if let Some(Ok(room)) = room.as_str().map(RoomId::parse) {
                rooms.insert(room);
            }
        }
    }
    rooms
}

#[cfg(test)]
mod tests {
    use event::{SystemClock, SystemRandom};
    use ruma::{room_id, user_id};
    use store::Store;

    use super::*;
    use crate::Config;

    #[tokio::test]
    async fn for_one_room_the_data_of_others_is_not_read() {
        let store = Store::in_memory(&[crate::TABLES]).await.unwrap();
        let users =
            Users::open(Config::default(), store.clone(), Arc::new(SystemClock), Arc::new(SystemRandom)).await.unwrap();
        let (alice, here, elsewhere) = (user_id!("@alice:h"), room_id!("!m:h"), [room_id!("!a:h"), room_id!("!z:h")]);
        let mut batch = Batch::new();
        let mut put = |room, content| {
            let key = AccountDataKey { user: alice, room: Some(room), event_type: "m.tag" };
            batch.put::<tables::AccountData>(&key, &StoredAccountData { position: Position::ZERO, content });
        };
        put(here, "{}");
        for room in elsewhere {
            // Who reads it, fails.
            put(room, "damaged");
        }
        store.commit(batch).await.unwrap();
        let view = store.view().await.unwrap();
        let rows = users.account_data_of_room(&view, alice, here).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.room.as_deref()).collect::<Vec<_>>(), [Some(here)]);
        assert!(users.account_data_all(&view, alice).await.is_err());
    }
}
