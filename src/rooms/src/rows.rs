//! What the keys and values of this crate's tables are, where a key has more than two fields or a value more than one.

use ruma::{OwnedRoomId, OwnedUserId};
use state_tree::EventNum;
use store::{Key, Position, Text, Value};

use crate::types::Membership;

/// A room's id in a key or value.
pub(crate) type Room = Text<OwnedRoomId>;
/// A user's id in a key or value.
pub(crate) type User = Text<OwnedUserId>;

/// A change of a local user's membership.
#[derive(Clone, PartialEq, Eq, Debug, Key)]
pub(crate) struct MembershipLogKey<U = User, P = Position, R = Room> {
    /// Whose.
    pub(crate) user: U,
    /// When: the position of the log entry that tells it.
    pub(crate) position: P,
    /// Of which room.
    pub(crate) room: R,
}

/// What a local user's membership is from a change on.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct LoggedMembership {
    /// The membership.
    pub(crate) membership: Membership,
    /// The member event, where it is held.
    pub(crate) event: Option<EventNum>,
    /// Whether nothing changed but that the user has forgotten the room.
    pub(crate) forgotten: bool,
}
