//! The log entries that rooms write, and that sync, federation, appservices, push and search follow.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use state_tree::{EventNum, Root};
use store::log_entry;

use crate::{
    notable::SENT,
    types::{MemberChange, Membership},
};

/// A room's head moved: a new event, or a state that changed without one (a resolution, a finished partial join).
///
/// It is written with every event, so what is not there takes no bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomAdvanced {
    /// The room.
    pub room: OwnedRoomId,
    /// The new event; its timeline index is this entry's position. `None` where only the state moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<LoggedEvent>,
    /// Current state before, if it was another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_root: Option<Root>,
    /// Current state after.
    pub root: Root,
    /// Memberships of this server's users that differ between the two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberChange>,
    /// Servers that came to have joined members in the room, or have none any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<(OwnedServerName, bool)>,
    /// Whether the room is encrypted (has `m.room.encryption`) after, if that event differs between the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
}

/// What followers have to know of a new event to tell whose business it is, without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedEvent {
    /// Its number.
    pub num: EventNum,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its type, as it was received: what a room's place in lists (MSC4186, `bump_stamp`) and interests in types depend on.
    #[serde(rename = "type")]
    pub event_type: String,
    /// What it is and whom it concerns by the default push rules: bits of [`crate::notable`], of what a redaction left of it if one came
    /// before it.
    pub flags: u8,
    /// Whether events before it are missing here: there is a gap in the timeline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_gap: bool,
}

impl LoggedEvent {
    /// Whether it has a state key.
    pub fn is_state(&self) -> bool {
        self.flags & SENT == 0
    }
}

/// An event lost its content to a redaction that applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRedacted {
    /// The room.
    pub room: OwnedRoomId,
    /// The event redacted.
    pub target: EventNum,
    /// The redaction.
    pub redaction: EventNum,
}

/// A user's membership row changed outside of a room that we hold (an invite by another server, its refusal), or the user forgot a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipMoved {
    /// Whose.
    pub user: OwnedUserId,
    /// The room.
    pub room: OwnedRoomId,
    /// The membership now.
    pub membership: Membership,
    /// The room was forgotten.
    pub forgotten: bool,
}

/// A read receipt moved (client-server API, "Receipts").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptMoved {
    /// The room.
    pub room: OwnedRoomId,
    /// Whose receipt.
    pub user: OwnedUserId,
    /// `m.read` or `m.read.private`.
    pub receipt_type: String,
    /// The thread (`main` or its root's id), or `None` for an unthreaded receipt.
    pub thread: Option<String>,
    /// The event read up to.
    pub event: OwnedEventId,
}

/// A room was put into the directory of published rooms, or taken out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryChanged {
    /// The room.
    pub room: OwnedRoomId,
}

log_entry!(RoomAdvanced = 16);
log_entry!(EventRedacted = 17);
log_entry!(MembershipMoved = 18);
log_entry!(ReceiptMoved = 19);
log_entry!(DirectoryChanged = 24);
