//! Jobs that are not done yet.

use ruma::OwnedUserId;
use store::{TableInfo, Text, Value, table};

/// How far the rooms of a user were told their profile.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct ProfileJob<S = String> {
    /// Grows with each change of the profile.
    pub(crate) version: u64,
    /// The last room told, in the order of their ids; empty at first.
    pub(crate) last: S,
}

table! {
    /// Users whose rooms have to be told their profile.
    pub(crate) ProfileJobs = 192, Ranges: Text<OwnedUserId> => ProfileJob
}
table! {
    /// Deactivated users who have to leave all their rooms.
    pub(crate) LeaveJobs = 193, Ranges: Text<OwnedUserId> => ()
}

/// All of them, for [`store::Store`]'s opening.
pub const TABLES: &[TableInfo] = &[TableInfo::of::<ProfileJobs>(), TableInfo::of::<LeaveJobs>()];
