//! What happens in rooms, and ways into and out of them.

use ::rooms::{MembershipMoved, RoomAdvanced, Rooms};
use store::{LogEntry, LogRecord, StoreError};

use crate::{
    hub::{RoomMove, Router},
    inbox::Kind,
};

/// Routes an advance of a room to those in it, and a change of a membership that no advance told to the user.
pub(crate) fn route(router: &mut Router<'_>, rooms: &Rooms, record: &LogRecord) -> Result<(), StoreError> {
    match record.kind {
        RoomAdvanced::KIND => {
            let Some(entry) = record.decode::<RoomAdvanced>()? else { return Ok(()) };
            router.advance(&RoomMove {
                room: &entry.room,
                position: record.position,
                event: entry.event,
                local: entry.sender.is_some_and(|sender| rooms.is_local(&sender)),
                old_root: entry.old_root,
                new_root: entry.new_root,
                members: &entry.members,
                encrypted: entry.encrypted,
            });
        }
        MembershipMoved::KIND => {
            let Some(entry) = record.decode::<MembershipMoved>()? else { return Ok(()) };
            let residents = &router.hub.residents;
            let (user, room) = (residents.user(&entry.user), residents.room(&entry.room));
            router.tell_user(user, room, Kind::Membership, record.position);
        }
        _ => {}
    }
    Ok(())
}
