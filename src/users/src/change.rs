//! The log entry of this crate.

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

/// Something of a local user changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserChanged {
    /// The user.
    pub user: OwnedUserId,
    /// What changed.
    pub change: Change,
}

/// What changed of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The account was created, its password was set, or one of its flags was set or cleared.
    Account,
    /// The account was deactivated, and everything that it stored is gone.
    Deactivated,
    /// Access tokens were revoked or replaced; the devices stay.
    Sessions,
    /// Devices were created, renamed or given new tokens (`changed`), or deleted.
    Devices {
        /// Devices that were created, renamed or logged in to again.
        changed: Vec<OwnedDeviceId>,
        /// Devices that are gone.
        deleted: Vec<OwnedDeviceId>,
    },
    /// Account data of one type was set or deleted (`room`: of that room only). The entry's position is the row's
    /// position.
    AccountData {
        /// The room, or the whole account.
        room: Option<OwnedRoomId>,
        /// The type.
        event_type: String,
    },
    /// A field of the profile was set or deleted.
    Profile {
        /// The field's name.
        key: String,
    },
    /// What others see of the user's device keys or cross-signing keys.
    DeviceKeys,
    /// What is known here of the keys of a user of another server.
    RemoteDeviceKeys {
        /// The rooms in which users of this server meet them.
        rooms: Vec<OwnedRoomId>,
    },
    /// The user, or another of their devices, signed somebody's master key, which only the user sees.
    SignedUser {
        /// Whose key was signed.
        other: OwnedUserId,
    },
    /// The number of a device's one-time keys, or whether its fallback keys are unused.
    OneTimeKeys {
        /// The device.
        device: OwnedDeviceId,
    },
}

store::log_entry!(UserChanged = 128);
