//! What an admin decides about the client-server API.

use std::fmt;

use event::Secret;
use ruma::{OwnedServerName, OwnedUserId, RoomVersionId, api::client::discovery::discover_support};
use serde::{Deserialize, Serialize};

/// Who may register.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Nobody, but for the first account of a new server (with the one-time token that the log shows).
    #[default]
    Closed,
    /// Who knows a registration token.
    Token,
    /// Everybody.
    Open,
}

/// The TURN server that clients call through.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Its URIs.
    pub uris: Vec<String>,
    /// For how long clients may use the answer, in seconds.
    pub ttl_s: u64,
    /// How clients get in.
    pub access: TurnAccess,
}

/// How clients get into a TURN server.
#[derive(Clone)]
pub enum TurnAccess {
    /// With names and passwords made from a secret that it shares with this server.
    Secret(String),
    /// With one name and password for all.
    Account {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for TurnAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TurnAccess")
    }
}

/// The `client_api` section of the configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// This server's name.
    pub server_name: OwnedServerName,
    /// The room version of new rooms whose creator names none, as [`rooms::Config`] has it.
    pub default_room_version: RoomVersionId,
    /// Who may register.
    pub registration: Registration,
    /// A registration token that holds without limit, besides those that admins make.
    pub registration_token: Option<Secret>,
    /// Whether guests may register.
    pub guests: bool,
    /// Whether users may log in with a password, and change it.
    pub login_with_password: bool,
    /// Users who are admins whatever their account says.
    pub admins: Vec<OwnedUserId>,
    /// Whether the room directory can be read without logging in.
    pub public_rooms_without_auth: bool,
    /// Whether the user directory finds every local user, and not only those who share a room with the searcher or are
    /// in a public one.
    pub search_all_users: bool,
    /// The longest time that `/sync` waits, in milliseconds.
    pub sync_timeout_ms_max: u64,
    /// Whether files are served without a token, at the paths that are deprecated for it.
    pub legacy_media: bool,
    /// The TURN server, if there is one.
    pub turn: Option<Turn>,
    /// The base URL that `/.well-known/matrix/client` tells; without it the document is not served.
    pub well_known_client: Option<String>,
    /// The host and port that `/.well-known/matrix/server` tells; without it the document is not served.
    pub well_known_server: Option<String>,
    /// The page of `/.well-known/matrix/support`.
    pub support_page: Option<String>,
    /// The contacts of `/.well-known/matrix/support`.
    pub support_contacts: Vec<discover_support::Contact>,
}

impl Config {
    /// The defaults for a server of this name.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            default_room_version: event::DEFAULT_ROOM_VERSION,
            registration: Registration::Closed,
            registration_token: None,
            guests: false,
            login_with_password: true,
            admins: Vec::new(),
            public_rooms_without_auth: false,
            search_all_users: false,
            sync_timeout_ms_max: 300_000,
            legacy_media: false,
            turn: None,
            well_known_client: None,
            well_known_server: None,
            support_page: None,
            support_contacts: Vec::new(),
        }
    }
}
