//! Timelines and state of rooms. What a range has of one is its [`crate::room_view::RoomView`].

use ::rooms::{LoggedEvent, Membership, RoomAdvanced};
use store::{LogRecord, Position, StoreError};

use super::{Stream, StreamId, Subject, memberships};
use crate::{
    hub::{Hub, RoomMove, Router},
    inbox::Kind,
    tail::{Advance, NewEvent},
};

/// See the module.
pub(crate) struct Rooms;

const ADVANCED: Kind = StreamId::Rooms.urgent();

impl Stream for Rooms {
    const SUBJECT: Subject = Subject::Room;
    type Part = ();

    /// Routes an advance of a room to those in it, and to those who just left.
    fn route(router: &mut Router<'_>, record: &LogRecord) -> Result<(), StoreError> {
        let Some(entry) = record.decode::<RoomAdvanced>()? else { return Ok(()) };
        let RoomAdvanced { room, event, old_root, root, members, servers: _, encrypted } = entry;
        let (position, residents) = (record.position, &router.hub.residents);
        let room = residents.room(&room);
        let event = event.map(|LoggedEvent { num, sender, flags, after_gap, .. }| NewEvent {
            num,
            sender: residents.known_user(&sender),
            flags,
            after_gap,
        });
        let advance = Advance { position, event, root };
        router.advance(RoomMove { room, advance, old_root: old_root.unwrap_or(root), encrypted });
        // Those who leave hear of it as members, those who come as well.
        for member in &members {
            let user = router.hub.residents.user(&member.user);
            router.tell_user(user, room, memberships::MOVED, position);
        }
        let counts = |membership| membership == Membership::Join;
        if members.iter().any(|member| counts(member.old) != counts(member.new)) {
            router.members_counted(room);
        }
        router.tell_room(room, ADVANCED, position);
        Ok(())
    }

    fn may_have_changed(hub: &Hub, room: u32, since: Position) -> bool {
        hub.advanced_since(room, since)
    }
}
