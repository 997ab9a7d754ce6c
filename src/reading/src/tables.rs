//! The tables of the crate. Those that it reads are declared where they are written, in [`rooms::tables`].

use ruma::{OwnedRoomId, OwnedUserId};
use store::{Key, Record, TableInfo, Text, table};

/// What is counted.
#[derive(Clone, PartialEq, Eq, Debug, Key)]
pub(crate) struct UnreadKey<U = Text<OwnedUserId>, R = Text<OwnedRoomId>, S = String> {
    /// For whom.
    pub(crate) user: U,
    /// In which room.
    pub(crate) room: R,
    /// In which thread; empty for all of the room.
    pub(crate) thread: S,
}

table! {
    /// Unread counts as last computed.
    pub(crate) Unread = 39, Ranges: UnreadKey => Record<crate::unread::StoredCounts>
}

/// All of them, for [`store::Store`]'s opening.
pub const TABLES: &[TableInfo] = &[TableInfo::of::<Unread>()];
