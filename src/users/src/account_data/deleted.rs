//! Account data that is deleted: it has empty content.
//!
//! Proposal: MSC3391. The row stays, so that clients are told, but is no account data any more: reading it gives nothing, and it
//! counts for none of the user's limits. Only so many of these rows are kept; the oldest go.

use ruma::UserId;
use store::{Batch, Position, Range, View};

use crate::{
    Result,
    rows::{AccountDataKey, ChangedAccountData},
    tables,
};

/// Deletions of a user's account data that are remembered for clients that have not heard of them. A client that was away while
/// there were more isn't told of the first.
pub const ACCOUNT_DATA_DELETIONS_KEPT: u64 = 1_000;

/// The content of what is deleted.
pub(super) const DELETED: &str = "{}";

/// Whether a content, which is a JSON object, is empty.
pub(super) fn is_deletion(content: &str) -> bool {
    let inside = content.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inside.is_some_and(|inside| inside.trim().is_empty())
}

/// Notes that a row told of a deletion at `old`, and does so at `new`. If that is one too many, the oldest is forgotten.
pub(super) async fn note(
    view: &View,
    batch: &mut Batch,
    user: &UserId,
    old: Option<Position>,
    new: Option<Position>,
) -> Result<()> {
    if old.is_none() && new.is_none() {
        return Ok(());
    }
    let stored = view.get::<tables::AccountDataDeletionCounts>(&user).await?;
    let mut count = stored.unwrap_or(0);
    if let Some(position) = old {
        batch.delete::<tables::AccountDataDeletions>(&(user, position));
        count = count.saturating_sub(1);
    }
    if let Some(position) = new {
        batch.put::<tables::AccountDataDeletions>(&(user, position), &());
        count += 1;
    }
    if count > ACCOUNT_DATA_DELETIONS_KEPT {
        forget_oldest(view, batch, user).await?;
        count -= 1;
    }
    batch.expect::<tables::AccountDataDeletionCounts>(&user, stored.as_ref());
    batch.put::<tables::AccountDataDeletionCounts>(&user, &count);
    Ok(())
}

async fn forget_oldest(view: &View, batch: &mut Batch, user: &UserId) -> Result<()> {
    let oldest = view.first(Range::<tables::AccountDataDeletions>::prefix(&(user,))).await?;
    let Some(((_, position), ())) = oldest else { return Ok(()) };
    batch.delete::<tables::AccountDataDeletions>(&(user, position));
    let what = view.get::<tables::AccountDataChanges>(&(user, position)).await?;
    let Some(ChangedAccountData { room, event_type }) = what else { return Ok(()) };
    batch.delete::<tables::AccountDataChanges>(&(user, position));
    // Who sets it at this moment counts one deletion less, and so conflicts.
    batch.delete::<tables::AccountData>(&AccountDataKey { user, room, event_type });
    Ok(())
}

/// Counts that rows which told of deletions are gone.
pub(super) async fn forgotten(view: &View, batch: &mut Batch, user: &UserId, deletions: u64) -> Result<()> {
    if deletions == 0 {
        return Ok(());
    }
    let stored = view.get::<tables::AccountDataDeletionCounts>(&user).await?;
    batch.expect::<tables::AccountDataDeletionCounts>(&user, stored.as_ref());
    batch.put::<tables::AccountDataDeletionCounts>(&user, &stored.unwrap_or(0).saturating_sub(deletions));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use event::{SystemClock, SystemRandom};
    use ruma::{RoomId, room_id, user_id};
    use serde_json::value::{RawValue, to_raw_value};
    use store::Store;

    use super::*;
    use crate::{ACCOUNT_DATA_ROWS_MAX, Config, Error, Users};

    fn alice() -> &'static UserId {
        user_id!("@alice:h")
    }

    fn content() -> Box<RawValue> {
        to_raw_value(&serde_json::json!({ "n": 1 })).unwrap()
    }

    async fn users() -> (Store, Users) {
        let store = Store::in_memory(&[crate::TABLES]).await.unwrap();
        let users = Users::open(Config::default(), store.clone(), Arc::new(SystemClock), Arc::new(SystemRandom)).await;
        (store, users.unwrap())
    }

    /// The number of rows of account data and of deletions among them, which must be what is counted.
    async fn counts(store: &Store) -> (usize, usize) {
        let view = store.view().await.unwrap();
        let rows = view.scan_all(Range::<tables::AccountData>::all()).await.unwrap();
        let deletions = view.scan_all(Range::<tables::AccountDataDeletions>::all()).await.unwrap().len();
        assert_eq!(rows.iter().filter(|(_, row)| is_deletion(&row.content)).count(), deletions);
        assert_eq!(view.scan_all(Range::<tables::AccountDataChanges>::all()).await.unwrap().len(), rows.len());
        let counted = view.get::<tables::AccountDataDeletionCounts>(&alice()).await.unwrap();
        assert_eq!(counted.unwrap_or(0), deletions as u64);
        let live = view.get::<tables::AccountDataCounts>(&alice()).await.unwrap();
        assert_eq!(live.unwrap_or(0), (rows.len() - deletions) as u64);
        (rows.len(), deletions)
    }

    #[tokio::test]
    async fn a_bounded_number_of_deletions_is_remembered() {
        let (store, users) = users().await;
        let kept = usize::try_from(ACCOUNT_DATA_DELETIONS_KEPT).unwrap();
        let room = room_id!("!room:h");
        let place = |number: usize| (number.is_multiple_of(2).then_some(room), format!("org.{number}"));
        for number in 0..kept + 10 {
            let (room, event_type) = place(number);
            users.set_account_data(alice(), room, &event_type, &content()).await.unwrap();
            users.delete_account_data(alice(), room, &event_type).await.unwrap();
        }
        assert_eq!(counts(&store).await, (kept, kept));
        let view = store.view().await.unwrap();
        let told = users.account_data_since(&view, alice(), Position::ZERO, view.position()).await.unwrap();
        assert_eq!((told.len(), told[0].event_type.as_str()), (kept, "org.10"), "the newest");
        // What is set again is no deletion any more; what is deleted twice is one.
        for number in 10..20 {
            let (room, event_type) = place(number);
            users.set_account_data(alice(), room, &event_type, &content()).await.unwrap();
        }
        let empty = RawValue::from_string(DELETED.to_owned()).unwrap();
        users.set_account_data(alice(), None, "org.21", &empty).await.unwrap();
        assert_eq!(counts(&store).await, (kept, kept - 10));
        let mut batch = Batch::new();
        assert!(users.prepare_forget_room(&store.view().await.unwrap(), &mut batch, alice(), room).await.unwrap());
        store.commit(batch).await.unwrap();
        assert_eq!(counts(&store).await, (kept / 2, kept / 2 - 5));
    }

    #[tokio::test]
    async fn what_is_deleted_makes_room_for_other_kinds() {
        let (store, users) = users().await;
        let mut batch = Batch::new();
        batch.put::<tables::AccountDataCounts>(&alice(), &(ACCOUNT_DATA_ROWS_MAX - 1));
        store.commit(batch).await.unwrap();
        let set =
            async |event_type: &str| users.set_account_data(alice(), None::<&RoomId>, event_type, &content()).await;
        set("org.a").await.unwrap();
        assert!(matches!(set("org.b").await, Err(Error::UserLimit(_))));
        users.delete_account_data(alice(), None, "org.a").await.unwrap();
        set("org.b").await.unwrap();
        assert!(matches!(set("org.a").await, Err(Error::UserLimit(_))), "it counts again");
    }
}
