//! Read receipts: up to which event each user has read, by kind and thread.
//!
//! Specification: client-server API, "Receipts". A receipt only moves forward. It is written in order with
//! everything else, but nobody waits for the disk.

use std::collections::BTreeMap;

use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};
use serde::Serialize;
use serde_json::value::RawValue;
use store::{Batch, Position, Range, View};

use crate::{
    Rooms, RoomsError,
    json::to_json,
    log::ReceiptMoved,
    rows::{MovedReceipt, ReceiptKey, ReceiptRow},
    tables::{ReceiptLog, Receipts},
    types::{Membership, StoredEvent, TimelineIndex},
};

/// The thread id of the main timeline.
pub const MAIN: &str = "main";

/// Receipts of one room that a client gets when it sees the room for the first time: the newest.
pub const ROOM_RECEIPTS_MAX: usize = 2_000;

/// Receipts that one user can have in one room: kinds times threads.
pub const USER_RECEIPTS_MAX: usize = 1_000;

/// Who may know of a receipt.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReceiptType {
    /// Everybody in the room: `m.read`.
    Read,
    /// The user alone: `m.read.private`.
    ReadPrivate,
}

impl ReceiptType {
    /// As the specification writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "m.read",
            Self::ReadPrivate => "m.read.private",
        }
    }

    /// From the specification's name. `m.fully_read` is none: it isn't a receipt but account data.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "m.read" => Some(Self::Read),
            "m.read.private" => Some(Self::ReadPrivate),
            _ => None,
        }
    }
}

/// A receipt that a client or another server sends.
#[derive(Copy, Clone, Debug)]
pub struct NewReceipt<'a> {
    /// Whose.
    pub user: &'a UserId,
    /// In which room.
    pub room: &'a RoomId,
    /// Who may know.
    pub receipt_type: ReceiptType,
    /// The event read up to.
    pub event: &'a EventId,
    /// `main`, the root of a thread, or `None` for the room whatever the thread.
    pub thread: Option<&'a str>,
}

/// A receipt as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Whose.
    pub user: OwnedUserId,
    /// Who may know.
    pub receipt_type: ReceiptType,
    /// `main`, the root of a thread, or `None` for the room whatever the thread.
    pub thread: Option<String>,
    /// The event read up to.
    pub event: OwnedEventId,
    /// When, in Unix ms.
    pub ts: u64,
    /// The position of the log at which it moved here.
    pub position: Position,
}

impl<'a> NewReceipt<'a> {
    fn key(&self) -> ReceiptKey<&'a RoomId, &'a UserId, &'a str> {
        let (receipt_type, thread) = (self.receipt_type.as_str(), self.thread.unwrap_or(""));
        ReceiptKey { room: self.room, user: self.user, receipt_type, thread }
    }
}

impl Rooms {
    /// Moves a local user's receipt. A receipt that would go back stays where it is; that is no error.
    ///
    /// Fails with [`RoomsError::NotJoined`], with [`RoomsError::EventNotFound`] if the event isn't in the
    /// room's timeline, with [`RoomsError::BadValue`] if it isn't in the thread, and with [`RoomsError::UserLimit`] if the user has
    /// [`USER_RECEIPTS_MAX`] in the room.
    pub async fn set_receipt(&self, receipt: NewReceipt<'_>) -> Result<(), RoomsError> {
        let view = self.inner.store.view().await?;
        let row = self.membership(&view, receipt.user, receipt.room).await?;
        if row.is_none_or(|row| row.membership != Membership::Join) {
            return Err(RoomsError::NotJoined);
        }
        if receipt.thread == Some("") {
            return Err(RoomsError::BadValue("thread_id must not be empty".to_owned()));
        }
        let event = self.event_by_id(&view, receipt.event).await?;
        let event = event.filter(|event| event.pdu.room_id() == receipt.room);
        let event = event.ok_or(RoomsError::EventNotFound)?;
        self.check_thread(&view, &event, receipt.thread).await?;
        let index = self.meta(&view, event.num).await?.index.ok_or(RoomsError::EventNotFound)?;
        self.move_receipt(receipt, index, self.inner.clock.now_ms()).await
    }

    /// Moves the receipt of another server's user, as that server says. One that can't be right is dropped.
    pub async fn receive_receipt(&self, receipt: NewReceipt<'_>, ts: u64) -> Result<(), RoomsError> {
        let view = self.inner.store.view().await?;
        if receipt.receipt_type != ReceiptType::Read || receipt.thread == Some("") {
            return Ok(());
        }
        let Some(head) = self.head(&view, receipt.room).await? else { return Ok(()) };
        if self.state(&view, receipt.room, head.root).membership(receipt.user).await? != Membership::Join {
            return Ok(());
        }
        let event = self.event_by_id(&view, receipt.event).await?;
        let Some(event) = event.filter(|event| event.pdu.room_id() == receipt.room) else {
            return Ok(());
        };
        match self.meta(&view, event.num).await?.index {
            Some(index) => self.move_receipt(receipt, index, ts).await,
            None => Ok(()),
        }
    }

    /// Checks that a threaded receipt stands on an event of its thread, or on the thread's root.
    async fn check_thread(&self, view: &View, event: &StoredEvent, thread: Option<&str>) -> Result<(), RoomsError> {
        let Some(thread) = thread else { return Ok(()) };
        if thread == event.pdu.event_id() {
            return Ok(());
        }
        let root = self.thread_of(view, event).await?;
        if root.as_ref().map_or(MAIN, |root| root.as_str()) != thread {
            return Err(RoomsError::BadValue("the event is not in the thread".to_owned()));
        }
        Ok(())
    }

    async fn move_receipt(&self, receipt: NewReceipt<'_>, index: TimelineIndex, ts: u64) -> Result<(), RoomsError> {
        let decide = |view: View| async move {
            let old = view.get::<Receipts>(&receipt.key()).await?;
            if let Some(old) = &old
                && self.index_of(&view, &old.event).await?.is_some_and(|old| index <= old)
            {
                return Ok((Batch::new(), ()));
            }
            if old.is_none() {
                self.check_room_for_one(&view, receipt).await?;
            }
            Ok((receipt_batch(receipt, old.as_ref(), ts), ()))
        };
        self.inner.store.retry(decide).await
    }

    /// A user can't have receipts without end by naming ever more threads.
    async fn check_room_for_one(&self, view: &View, receipt: NewReceipt<'_>) -> Result<(), RoomsError> {
        if receipt.thread.is_none() {
            return Ok(());
        }
        let rows = Range::<Receipts>::prefix(&(receipt.room, receipt.user)).limit(USER_RECEIPTS_MAX);
        if view.scan::<Receipts>(rows).await?.rows.len() >= USER_RECEIPTS_MAX {
            return Err(RoomsError::UserLimit("receipts in the room"));
        }
        Ok(())
    }

    async fn index_of(&self, view: &View, event: &EventId) -> Result<Option<TimelineIndex>, RoomsError> {
        match self.num(view, event).await? {
            Some(num) => Ok(self.meta(view, num).await?.index),
            None => Ok(None),
        }
    }

    /// All receipts of one user in a room, private ones too.
    pub async fn receipts_of(&self, view: &View, user: &UserId, room: &RoomId) -> Result<Vec<Receipt>, RoomsError> {
        let rows = Range::<Receipts>::prefix(&(room, user)).limit(USER_RECEIPTS_MAX);
        let mut receipts = Vec::new();
        for (ReceiptKey { user, receipt_type, thread, .. }, row) in view.scan::<Receipts>(rows).await?.rows {
            receipts.extend(receipt(MovedReceipt { user, receipt_type, thread }, row));
        }
        Ok(receipts)
    }

    /// The receipts of a room that `viewer` may know of: the newest, and all of the viewer's own.
    pub async fn receipts(&self, view: &View, viewer: &UserId, room: &RoomId) -> Result<Vec<Receipt>, RoomsError> {
        let rows = Range::<ReceiptLog>::prefix(&(room,)).reverse().limit(ROOM_RECEIPTS_MAX);
        let mut receipts = self.moved(view, room, rows).await?;
        receipts.retain(|receipt| receipt.user != viewer && receipt.receipt_type == ReceiptType::Read);
        receipts.extend(self.receipts_of(view, viewer, room).await?);
        Ok(receipts)
    }

    /// The receipts of a room that moved after `since` and not after `until`, as far as `viewer` may know.
    /// If more than `limit` did (or [`ROOM_RECEIPTS_MAX`]), the newest. `None` if none at all moved, whoever may know.
    pub async fn receipts_since(
        &self,
        view: &View,
        viewer: &UserId,
        room: &RoomId,
        (since, until): (Position, Position),
        limit: usize,
    ) -> Result<Option<Vec<Receipt>>, RoomsError> {
        let rows = Range::<ReceiptLog>::prefix(&(room,))
            .after(&(room, since))
            .through(&(room, until))
            .reverse()
            .limit(limit.min(ROOM_RECEIPTS_MAX));
        let mut receipts = self.moved(view, room, rows).await?;
        if receipts.is_empty() {
            return Ok(None);
        }
        receipts.retain(|receipt| receipt.user == viewer || receipt.receipt_type == ReceiptType::Read);
        Ok(Some(receipts))
    }

    /// The receipts that rows of the log of receipts speak of.
    async fn moved(&self, view: &View, room: &RoomId, rows: Range<ReceiptLog>) -> Result<Vec<Receipt>, RoomsError> {
        let moved = view.scan::<ReceiptLog>(rows).await?.rows;
        let mut keys = Vec::with_capacity(moved.len());
        for (_, MovedReceipt { user, receipt_type, thread }) in &moved {
            keys.push(ReceiptKey { room, user, receipt_type, thread });
        }
        let found = view.get_many::<Receipts>(&keys).await?;
        let mut receipts = Vec::with_capacity(moved.len());
        for ((_, moved), row) in moved.into_iter().zip(found) {
            let Some(row) = row else { continue };
            receipts.extend(receipt(moved, row));
        }
        Ok(receipts)
    }
}

fn receipt(of: MovedReceipt, row: ReceiptRow) -> Option<Receipt> {
    Some(Receipt {
        user: of.user.into_inner(),
        receipt_type: ReceiptType::parse(&of.receipt_type)?,
        thread: (!of.thread.is_empty()).then_some(of.thread),
        event: row.event.into_inner(),
        ts: row.ts,
        position: row.position,
    })
}

fn receipt_batch(receipt: NewReceipt<'_>, old: Option<&ReceiptRow>, ts: u64) -> Batch {
    let key = receipt.key();
    let ReceiptKey { room, user, receipt_type, thread } = key;
    let mut batch = Batch::new();
    let stamp = batch.log(&ReceiptMoved {
        room: room.to_owned(),
        user: user.to_owned(),
        receipt_type: receipt_type.to_owned(),
        thread: receipt.thread.map(str::to_owned),
        event: receipt.event.to_owned(),
    });
    batch.expect::<Receipts>(&key, old);
    batch.put::<Receipts>(&key, &ReceiptRow { event: receipt.event, ts, position: stamp });
    if let Some(old) = old {
        batch.delete::<ReceiptLog>(&(room, old.position));
    }
    batch.put::<ReceiptLog>(&(room, stamp), &MovedReceipt { user, receipt_type, thread });
    batch.relaxed();
    batch
}

/// `m.receipt` as clients get it: by event, by kind, by user.
#[derive(Serialize)]
struct ReceiptEvent<'a> {
    content: ReceiptContent<'a>,
    #[serde(rename = "type")]
    event_type: &'static str,
}

type ReceiptContent<'a> = BTreeMap<&'a EventId, BTreeMap<&'static str, BTreeMap<&'a UserId, ReceiptData<'a>>>>;

#[derive(Serialize)]
struct ReceiptData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
    ts: u64,
}

/// Receipts as `m.receipt` events for clients: one if possible, more where a user has several receipts on
/// one event that differ in the thread, because one event has room for only one of them.
pub fn receipt_events(receipts: &[Receipt]) -> Result<Vec<Box<RawValue>>, RoomsError> {
    let mut contents: Vec<ReceiptContent<'_>> = Vec::new();
    for receipt in receipts {
        let (event, kind) = (&*receipt.event, receipt.receipt_type.as_str());
        let has_room = |content: &ReceiptContent<'_>| {
            let users = content.get(event).and_then(|kinds| kinds.get(kind));
            users.is_none_or(|users| !users.contains_key(&*receipt.user))
        };
        let at = match contents.iter().position(has_room) {
            Some(at) => at,
            None => {
                contents.push(ReceiptContent::new());
                contents.len() - 1
            }
        };
        let data = ReceiptData { thread_id: receipt.thread.as_deref(), ts: receipt.ts };
        let users = contents[at].entry(event).or_default().entry(kind).or_default();
        users.insert(&receipt.user, data);
    }
    let mut events = Vec::with_capacity(contents.len());
    for content in contents {
        events.push(to_json(&ReceiptEvent { content, event_type: "m.receipt" })?);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, user_id};

    use super::*;

    #[test]
    fn two_threads_on_one_event_need_two_events() {
        let receipt = |thread: Option<&str>, receipt_type| Receipt {
            user: user_id!("@a:h").to_owned(),
            receipt_type,
            thread: thread.map(str::to_owned),
            event: event_id!("$e:h").to_owned(),
            ts: 5,
            position: Position::ZERO,
        };
        let receipts = [
            receipt(None, ReceiptType::Read),
            receipt(Some(MAIN), ReceiptType::Read),
            receipt(None, ReceiptType::ReadPrivate),
        ];
        let events = receipt_events(&receipts).expect("JSON");
        let texts: Vec<&str> = events.iter().map(|event| event.get()).collect();
        assert_eq!(
            texts,
            [
                r#"{"content":{"$e:h":{"m.read":{"@a:h":{"ts":5}},"m.read.private":{"@a:h":{"ts":5}}}},"type":"m.receipt"}"#,
                r#"{"content":{"$e:h":{"m.read":{"@a:h":{"thread_id":"main","ts":5}}}},"type":"m.receipt"}"#,
            ]
        );
        assert!(receipt_events(&[]).expect("JSON").is_empty());
    }
}
