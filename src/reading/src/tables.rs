//! The tables of the crate. Those that it reads are declared where they are written, in [`rooms::tables`].

use ruma::{OwnedRoomId, OwnedUserId};
use store::{Record, TableInfo, Text, table};

table! {
    /// Unread counts as last computed: user, room, thread ("" main timeline, "*" all).
    pub(crate) Unread = 39, Ranges: (Text<OwnedUserId>, Text<OwnedRoomId>, String) => Record<crate::unread::StoredCounts>
}

/// All of them, for [`store::Store`]'s opening.
pub const TABLES: &[TableInfo] = &[TableInfo::of::<Unread>()];
