//! What the keys and values of this crate's tables are, where a key has more than two fields or a value more than one.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use state_tree::EventNum;
use store::{Fixed, Key, Position, Text, Value};

use crate::types::{Membership, TimelineIndex};

/// A room's id in a key or value.
pub(crate) type Room = Text<OwnedRoomId>;
/// A user's id in a key or value.
pub(crate) type User = Text<OwnedUserId>;

/// A child of an event.
#[derive(Clone, PartialEq, Eq, Debug, Key)]
pub(crate) struct RelationKey {
    /// The event that it relates to.
    pub(crate) parent: EventNum,
    /// The child's place in the timeline.
    pub(crate) index: TimelineIndex,
    /// The child.
    pub(crate) child: EventNum,
}

/// What is told of a child without reading it.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct RelationRow<S = String> {
    /// How it relates to its parent: `rel_type`.
    pub(crate) rel_type: S,
    /// Its type.
    pub(crate) event_type: S,
    /// Who sent it.
    pub(crate) sender: S,
}

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

/// A transaction id with its scope.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Key)]
pub(crate) struct TxnKey {
    /// Who sent the request.
    pub(crate) user: String,
    /// From which device.
    pub(crate) device: String,
    /// Method, room, and what else the path names.
    pub(crate) endpoint: String,
    /// The transaction id.
    pub(crate) txn_id: String,
}

/// What a request with a transaction id made.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct TxnRow {
    /// The event.
    pub(crate) event: EventNum,
    /// When, in Unix milliseconds.
    pub(crate) at_ms: u64,
}

/// The transaction id with which an event was sent.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub struct EventTxn<S = String> {
    /// Who sent it.
    pub user: S,
    /// From which device.
    pub device: S,
    /// The transaction id.
    pub txn_id: S,
}

/// A receipt.
#[derive(Clone, PartialEq, Eq, Debug, Key)]
pub(crate) struct ReceiptKey<R = Room, U = User, S = String> {
    /// In which room.
    pub(crate) room: R,
    /// Whose.
    pub(crate) user: U,
    /// Its kind, as the specification names it.
    pub(crate) receipt_type: S,
    /// `main`, the root of a thread, or empty for the room whatever the thread.
    pub(crate) thread: S,
}

/// Where a receipt is.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct ReceiptRow<E = Text<OwnedEventId>, P = Position> {
    /// The event read up to.
    pub(crate) event: E,
    /// When it was read, in Unix milliseconds.
    pub(crate) ts: u64,
    /// The position of the log at which the receipt moved here.
    pub(crate) position: P,
}

/// Which receipt of a room moved.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct MovedReceipt<U = User, S = String> {
    /// As [`ReceiptKey::user`].
    pub(crate) user: U,
    /// As [`ReceiptKey::receipt_type`].
    pub(crate) receipt_type: S,
    /// As [`ReceiptKey::thread`].
    pub(crate) thread: S,
}

/// What an alias names.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct AliasRow<R = Room, U = User> {
    /// The room.
    pub(crate) room: R,
    /// Who made the alias.
    pub(crate) creator: U,
}

/// An event by its time.
#[derive(Clone, PartialEq, Eq, Debug, Key)]
pub struct TimestampKey<R = Room> {
    /// Its room.
    pub room: R,
    /// `origin_server_ts`, in Unix milliseconds.
    pub origin_server_ts: u64,
    /// Its place in the timeline.
    pub index: TimelineIndex,
}

/// A PDU of another server that was acknowledged and is not yet stored.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct InboxRow<S = String> {
    /// The server that sent it.
    pub(crate) origin: S,
    /// How often it was tried.
    pub(crate) attempts: u32,
    /// How often it was in quarantine.
    pub(crate) visits: u32,
    /// The PDU.
    pub(crate) json: S,
}

/// A PDU given up on for a while.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct QuarantineRow<S = String> {
    /// The server that sent it.
    pub(crate) origin: S,
    /// How often it was in quarantine, this time included.
    pub(crate) visits: u32,
    /// When it is looked at again, in Unix milliseconds.
    pub(crate) again_ms: u64,
    /// Why it couldn't be taken in, for admins who look.
    pub(crate) reason: S,
    /// The PDU.
    pub(crate) json: S,
}

/// A signing key of this server.
#[derive(Clone, PartialEq, Eq, Value)]
pub(crate) struct SigningKeyRow<B = Vec<u8>> {
    /// The 32 bytes that it is made from.
    pub(crate) seed: B,
    /// When it was made, in Unix milliseconds.
    pub(crate) created_ms: u64,
}

/// An event in a thread.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub struct ThreadReply<S = String> {
    /// The root of the thread.
    pub root: EventNum,
    /// The event.
    pub event: EventNum,
    /// Who sent it.
    pub sender: S,
}

/// An event that notifies by the default push rules.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub struct NotableRow<S = String> {
    /// Whom and how, see [`crate::notable`].
    pub flags: u8,
    /// The event.
    pub event: EventNum,
    /// Who sent it.
    pub sender: S,
    /// The id of the root of its thread; empty for events in none.
    pub thread: S,
}

/// An annotation by a user of this server.
#[derive(Clone, PartialEq, Eq, Debug, Key)]
pub(crate) struct AnnotationKey<U = User> {
    /// What is annotated.
    pub(crate) parent: EventNum,
    /// By whom.
    pub(crate) user: U,
    /// A hash of the annotation's type and key, which can be long.
    pub(crate) hash: Fixed<32>,
}

/// A forward extremity for which the room's head has no place.
#[derive(Clone, PartialEq, Eq, Debug, Key)]
pub(crate) struct SidelinedKey<R = Room, S = Text<OwnedServerName>> {
    /// The room.
    pub(crate) room: R,
    /// The server that sent it.
    pub(crate) server: S,
    /// The event.
    pub(crate) event: EventNum,
}
