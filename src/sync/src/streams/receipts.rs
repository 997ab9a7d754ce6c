//! Read receipts.
//!
//! Specification: client-server API, "Receipts".

use ::rooms::{ReceiptMoved, ReceiptType, Rooms};
use store::{LogRecord, StoreError};

use crate::{hub::Router, inbox::Kind};

/// Routes a receipt: to everybody in the room, or to its owner alone if it is private or the room large. Of those in a large
/// room others are told when there is something else to tell ([`crate::hub::Hub::large_rooms_with_receipts`]).
pub(crate) fn route(router: &mut Router<'_>, _: &Rooms, record: &LogRecord) -> Result<(), StoreError> {
    let Some(entry) = record.decode::<ReceiptMoved>()? else { return Ok(()) };
    let residents = &router.hub.residents;
    let (room, user) = (residents.room(&entry.room), residents.known_user(&entry.user));
    router.receipt_moved(room, record.position);
    if let Some(user) = user {
        router.tell_user(user, room, Kind::OwnReceipt, record.position);
    }
    let private = ReceiptType::parse(&entry.receipt_type) == Some(ReceiptType::ReadPrivate);
    if !private && !router.hub.is_large(room) {
        router.tell_room(room, Kind::Receipt, record.position);
    }
    Ok(())
}
