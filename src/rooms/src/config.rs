//! What an admin decides about rooms.

use documented::DocumentedFields;
use ruma::{OwnedServerName, RoomVersionId, owned_server_name};
use serde::{Deserialize, Serialize};
use settings::{Fault, Settings, refuse};

use crate::Cpu;

/// Settings of rooms.
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Config {
    /// The room version of new rooms whose creator names none.
    pub default_room_version: RoomVersionId,

    /// Which new rooms are encrypted from the start where their creator doesn't say how: `off`, `invite` (those that are entered
    /// by invite, direct chats among them) or `all`. Spaces never are.
    pub encryption_enabled_by_default_for_room_type: EncryptionByDefault,

    /// Whether this server takes part in federation. Rooms made while this is false are closed to other servers for ever
    /// (`m.federate` is false in them), unless their creator's client asks for the contrary. This release does not exchange
    /// events with other servers yet.
    pub allow_federation: bool,

    /// The name of this server: the part after the colon in its users' ids.
    #[serde(skip)]
    pub server_name: OwnedServerName,
    /// Memory for events, in bytes.
    #[serde(skip)]
    pub event_cache_bytes: u64,
    /// Memory for nodes of state trees, in bytes.
    #[serde(skip)]
    pub node_cache_bytes: u64,
    /// Memory for states that were resolved, in bytes.
    #[serde(skip)]
    pub resolution_cache_bytes: u64,
    /// Who may compute for long, resolving states: the bound may be shared with others.
    #[serde(skip)]
    pub cpu: Cpu,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_room_version: event::DEFAULT_ROOM_VERSION,
            encryption_enabled_by_default_for_room_type: EncryptionByDefault::Off,
            allow_federation: true,
            server_name: owned_server_name!("localhost"),
            event_cache_bytes: 32 << 20,
            node_cache_bytes: 32 << 20,
            resolution_cache_bytes: 2 << 20,
            cpu: Cpu::default(),
        }
    }
}

impl Config {
    /// The defaults for a server of this name.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self { server_name, ..Self::default() }
    }
}

impl Settings for Config {
    fn faults(&self) -> Vec<Fault> {
        refuse([(
            "default_room_version",
            event::rules(&self.default_room_version).is_none(),
            "is not a room version that this server can host",
        )])
    }
}

/// Which new rooms are encrypted where their creator doesn't say how.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionByDefault {
    /// None.
    #[default]
    Off,
    /// Those that are entered by invite.
    Invite,
    /// All.
    All,
}
