//! Jobs that are not done yet.

use ruma::OwnedUserId;
use store::{TableInfo, Text, table};

table! {
    /// Users whose rooms have to be told their profile: a number that grows with each change, and the last room told.
    pub(crate) ProfileJobs = 192, Ranges: Text<OwnedUserId> => (u64, String)
}
table! {
    /// Deactivated users who have to leave all their rooms.
    pub(crate) LeaveJobs = 193, Ranges: Text<OwnedUserId> => ()
}

/// All of them, for [`store::Store`]'s opening.
pub const TABLES: &[TableInfo] = &[TableInfo::of::<ProfileJobs>(), TableInfo::of::<LeaveJobs>()];
