//! Every table of the crate in one place. Id 16 is the state tree's, 39 the reading side's.

use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedServerName};
use state_tree::{EventNum, Root};
use store::{Json, Position, Record, TableInfo, Text, table};

use crate::{
    rows::{
        AliasRow, AnnotationKey, EventTxn, InboxRow, LoggedMembership, MembershipLogKey, MovedReceipt, NotableRow,
        QuarantineRow, ReceiptKey, ReceiptRow, RelationKey, RelationRow, Room, SidelinedKey, SigningKeyRow,
        ThreadReply, TimestampKey, TxnKey, TxnRow, User,
    },
    types::{Membership, MembershipRow, TimelineIndex},
};

table! {
    /// Event id to its number. Present from the first mention on.
    pub(crate) EventNums = 18, Points: Text<OwnedEventId> => EventNum
}
table! {
    /// What never changes about an event (see `events.rs` for the encoding of a body).
    pub(crate) Bodies = 19, Points: EventNum => crate::events::Body
}
table! {
    /// What may change about an event. Absent means [`crate::EventStatus::Missing`].
    pub(crate) Metas = 20, Points: EventNum => crate::types::EventMeta
}
table! {
    /// The order of events for clients.
    pub Timeline = 21, Ranges: (Room, TimelineIndex) => EventNum
}
table! {
    /// Gaps: the event at this index has prev events that we don't hold.
    pub(crate) Gaps = 22, Ranges: (Room, TimelineIndex) => Json<Vec<OwnedEventId>>
}
table! {
    /// What a room is (its version, who made it, …); written once.
    pub(crate) RoomInfos = 23, Points: Room => Record<crate::room::RoomInfo>
}
table! {
    /// The current head.
    pub(crate) Heads = 24, Points: Room => crate::types::RoomHead
}
table! {
    /// The resolved current state from a position on, for every change of it.
    pub(crate) Roots = 25, Ranges: (Room, Position) => Root
}
table! {
    /// The position of a room's last advance.
    pub(crate) LastPositions = 26, Ranges: Room => Position
}
table! {
    /// Redactions by the event id that they name, whichever came first: the redaction, and whether it applies.
    pub Redactions = 27, Ranges: (Text<OwnedEventId>, EventNum) => u8
}
table! {
    /// Children of an event, in timeline order.
    pub(crate) Relations = 28, Ranges: RelationKey => RelationRow
}
table! {
    /// A local user's present membership.
    pub(crate) Memberships = 29, Ranges: (User, Room) => MembershipRow
}
table! {
    /// A local user's membership changes in order.
    pub(crate) MembershipLog = 30, Ranges: MembershipLogKey => LoggedMembership
}
table! {
    /// Stripped state of rooms that we don't hold and a local user is invited to or knocks on.
    pub(crate) StrippedStates = 31, Ranges: (User, Room) => Json<Vec<Box<serde_json::value::RawValue>>>
}
table! {
    /// Number of joined members of each server.
    pub(crate) JoinedServers = 32, Ranges: (Room, Text<OwnedServerName>) => u64
}
table! {
    /// Local users joined to a room; how readers and the notifier find them.
    pub(crate) LocalMembers = 33, Ranges: (Room, User) => Membership
}
table! {
    /// What requests with transaction ids made.
    pub(crate) TxnIds = 34, Points: TxnKey => TxnRow
}
table! {
    /// The transaction id that a device gave an event, for `unsigned.transaction_id`.
    pub EventTxnIds = 35, Points: EventNum => EventTxn
}
table! {
    /// Transaction ids by time (Unix ms), for their removal.
    pub(crate) TxnTimes = 36, Ranges: (u64, TxnKey) => ()
}
table! {
    /// Receipts.
    pub(crate) Receipts = 37, Ranges: ReceiptKey => ReceiptRow
}
table! {
    /// Receipts in the order in which they moved.
    pub(crate) ReceiptLog = 38, Ranges: (Room, Position) => MovedReceipt
}
table! {
    /// Aliases of this server.
    pub(crate) Aliases = 40, Points: Text<OwnedRoomAliasId> => AliasRow
}
table! {
    /// The local aliases of a room.
    pub(crate) RoomAliases = 41, Ranges: (Room, Text<OwnedRoomAliasId>) => ()
}
table! {
    /// Rooms published in the directory, ordered as the directory lists them.
    pub Directory = 42, Ranges: Room => Record<crate::directory::Published>
}
table! {
    /// Events by their timestamp, for timestamp to event.
    pub Timestamps = 43, Ranges: TimestampKey => EventNum
}
table! {
    /// PDUs of other servers that were acknowledged and are not yet stored, in the order in which they came.
    pub(crate) Inbox = 44, Ranges: (Room, u64) => InboxRow
}
table! {
    /// This server's signing keys by version.
    pub(crate) SigningKeys = 46, Ranges: String => SigningKeyRow
}
table! {
    /// Secrets of this database: name to bytes.
    pub(crate) Secrets = 47, Points: String => Vec<u8>
}
table! {
    /// Rows of [`Inbox`] given up on for a while.
    pub(crate) Quarantine = 48, Ranges: (Room, u64) => QuarantineRow
}
table! {
    /// Events in threads in timeline order.
    pub ThreadReplies = 49, Ranges: (Room, TimelineIndex) => ThreadReply
}
table! {
    /// Events that notify by the default push rules, in timeline order.
    pub Notable = 50, Ranges: (Room, TimelineIndex) => NotableRow
}

table! {
    /// Annotations by users of this server: the newest event.
    pub(crate) Annotations = 52, Points: AnnotationKey => EventNum
}

table! {
    /// The ids of state events and of what authorises them, to be followed without reading bodies.
    pub(crate) Edges = 58, Points: EventNum => crate::events::Edge
}

table! {
    /// Forward extremities for which the room's head has no place, by the server that sent them: the state after the event.
    pub(crate) SidelinedExtremities = 56, Ranges: SidelinedKey => Root
}

table! {
    /// Events just before the one with which this server entered a room, and that it doesn't hold: when they come, they are history
    /// and not news.
    pub(crate) BackwardExtremities = 60, Points: EventNum => ()
}

table! {
    /// Since when a local user is in a room: the position of the change that made them a member.
    pub JoinedSince = 53, Points: (User, Room) => Position
}
table! {
    /// How many are joined to a room from a position on, for every change of that number.
    pub JoinedCounts = 54, Ranges: (Room, Position) => u64
}

table! {
    /// State events that were redacted, by when: what is in a room's state and changes without it.
    pub(crate) StateRedactions = 55, Ranges: (Room, Position) => EventNum
}

table! {
    /// Rooms whose current state doesn't follow the resolved one to the end yet.
    pub(crate) Behind = 250, Ranges: Room => ()
}

table! {
    /// The last checkpoint of who is where; the key is always 0.
    pub(crate) ResidentCheckpoints = 61, Points: u8 => Record<crate::residents::CheckpointInfo>
}
table! {
    /// The parts of checkpoints of who is where: generation, number.
    pub(crate) ResidentParts = 62, Ranges: (u64, u32) => Record<crate::residents::Part>
}

/// All of them, for [`store::Store`]'s opening.
pub const TABLES: &[TableInfo] = &[
    TableInfo::of::<state_tree::Nodes>(),
    TableInfo::of::<EventNums>(),
    TableInfo::of::<Bodies>(),
    TableInfo::of::<Metas>(),
    TableInfo::of::<Timeline>(),
    TableInfo::of::<Gaps>(),
    TableInfo::of::<RoomInfos>(),
    TableInfo::of::<Heads>(),
    TableInfo::of::<Roots>(),
    TableInfo::of::<LastPositions>(),
    TableInfo::of::<Redactions>(),
    TableInfo::of::<Relations>(),
    TableInfo::of::<Memberships>(),
    TableInfo::of::<MembershipLog>(),
    TableInfo::of::<StrippedStates>(),
    TableInfo::of::<JoinedServers>(),
    TableInfo::of::<LocalMembers>(),
    TableInfo::of::<TxnIds>(),
    TableInfo::of::<EventTxnIds>(),
    TableInfo::of::<TxnTimes>(),
    TableInfo::of::<Receipts>(),
    TableInfo::of::<ReceiptLog>(),
    TableInfo::of::<Aliases>(),
    TableInfo::of::<RoomAliases>(),
    TableInfo::of::<Directory>(),
    TableInfo::of::<Timestamps>(),
    TableInfo::of::<Inbox>(),
    TableInfo::of::<SigningKeys>(),
    TableInfo::of::<Secrets>(),
    TableInfo::of::<Quarantine>(),
    TableInfo::of::<Edges>(),
    TableInfo::of::<SidelinedExtremities>(),
    TableInfo::of::<BackwardExtremities>(),
    TableInfo::of::<ThreadReplies>(),
    TableInfo::of::<Notable>(),
    TableInfo::of::<Annotations>(),
    TableInfo::of::<JoinedSince>(),
    TableInfo::of::<JoinedCounts>(),
    TableInfo::of::<StateRedactions>(),
    TableInfo::of::<Behind>(),
    TableInfo::of::<ResidentCheckpoints>(),
    TableInfo::of::<ResidentParts>(),
];
