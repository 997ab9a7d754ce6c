//! Read receipts.
//!
//! Specification: client-server API, "Receipts".

use ::rooms::{ROOM_RECEIPTS_MAX, Receipt, ReceiptMoved, ReceiptType};
use ruma::RoomId;
use store::{LogRecord, Position, StoreError};

use super::{
    Stream, StreamId, Subject,
    changes::{Changes, Hints},
    span::Span,
};
use crate::{
    SyncError,
    hub::{Hub, Router},
    inbox::Kind,
};

/// Receipts of others that are told in an answer about a large room: the newest.
const RECEIPTS_IN_LARGE_ROOM_MAX: usize = 50;

/// See the module.
pub(crate) struct Receipts;

/// The user's own, which changes what is unread.
pub(crate) const OWN_MOVED: Kind = StreamId::Receipts.urgent();
const MOVED: Kind = StreamId::Receipts.relaxed();

impl Stream for Receipts {
    const SUBJECT: Subject = Subject::Room;
    type Part = ();

    /// Routes a receipt: to everybody in the room, or to its owner alone if it is private or the room large.
    fn route(router: &mut Router<'_>, record: &LogRecord) -> Result<(), StoreError> {
        let Some(entry) = record.decode::<ReceiptMoved>()? else { return Ok(()) };
        let residents = &router.hub.residents;
        let (room, user) = (residents.room(&entry.room), residents.known_user(&entry.user));
        router.receipt_moved(room, record.position);
        if let Some(user) = user {
            router.tell_user(user, room, OWN_MOVED, record.position);
        }
        let private = ReceiptType::parse(&entry.receipt_type) == Some(ReceiptType::ReadPrivate);
        if !private && !router.hub.is_large(room) {
            router.tell_room(room, MOVED, record.position);
        }
        Ok(())
    }

    fn may_have_changed(hub: &Hub, room: u32, since: Position) -> bool {
        hub.receipts_since(room, since)
    }
}

impl Receipts {
    /// Those of others in large rooms are in no inbox: they are told when there is something else to tell.
    pub(super) fn add_of_large_rooms(span: &Span<'_>, since: Position, changes: &mut Changes) {
        let hub = &span.inner.hub;
        if !span.wanted.contains(StreamId::Receipts) {
            return;
        }
        for number in hub.large_rooms_with_receipts(span.number, since) {
            if let Some(room) = hub.residents.room_id(number) {
                changes.add_room(room.clone(), number, StreamId::Receipts);
            }
        }
    }

    /// What moved in a room after a position, or all that there are, of those whom the user doesn't ignore.
    pub(crate) async fn read(
        span: &Span<'_>,
        room: &RoomId,
        hints: Hints,
        since: Option<Position>,
    ) -> Result<Vec<Receipt>, SyncError> {
        let (rooms, view, viewer) = (span.reader.rooms, span.reader.view, &span.reader.viewer);
        let mut receipts = match since {
            None => rooms.receipts(view, viewer.user, room).await?,
            Some(since) if hints.has(StreamId::Receipts) => Self::read_since(span, room, hints.number, since).await?,
            Some(_) => Vec::new(),
        };
        receipts.retain(|receipt| !viewer.ignored.contains(&receipt.user));
        Ok(receipts)
    }

    async fn read_since(
        span: &Span<'_>,
        room: &RoomId,
        number: u32,
        since: Position,
    ) -> Result<Vec<Receipt>, SyncError> {
        let (rooms, view, user) = (span.reader.rooms, span.reader.view, span.reader.viewer.user);
        let (hub, now) = (&span.inner.hub, span.reader.now());
        let others_max = if hub.is_large(number) { RECEIPTS_IN_LARGE_ROOM_MAX } else { ROOM_RECEIPTS_MAX - 1 };
        let Some(mut moved) = rooms.receipts_since(view, user, room, (since, now), others_max + 1).await? else {
            hub.receipts_quiet(number, since, now);
            return Ok(Vec::new());
        };
        if moved.len() > others_max {
            // The newest come first, and the user's own may be older.
            moved.retain(|receipt| receipt.user != user);
            moved.truncate(others_max);
            let own = rooms.receipts_of(view, user, room).await?;
            moved.extend(own.into_iter().filter(|receipt| since < receipt.position && receipt.position <= now));
        }
        Ok(moved)
    }
}
