//! What an admin decides about the client-server API.

use documented::DocumentedFields;
use event::Secret;
use ruma::{
    OwnedServerName, OwnedUserId,
    api::client::discovery::discover_support::{Contact, ContactRole},
    owned_server_name,
};
use serde::{Deserialize, Serialize};
use settings::{Fault, Seconds, Settings, Table, refuse};

/// Settings of the client-server API.
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Config {
    /// Whether new users may register. With `registration_token` they must know it; without one, registration is open to
    /// everybody and needs the next-but-one key as well. The first account of a new server never depends on this: it is
    /// registered with the one-time token that the log shows.
    pub allow_registration: bool,

    /// What new users must enter to register. Registration tokens are checked with the client's `m.login.registration_token`.
    pub registration_token: Option<Secret>,

    /// Confirms that `allow_registration` without a `registration_token` is meant.
    pub yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse: bool,

    /// Whether guests may register (client-server API, "Guest access").
    pub allow_guest_registration: bool,

    /// Whether users may log in with a password.
    pub login_with_password: bool,

    /// User ids, in addition to those who registered as such, that may use the admin calls.
    pub admins: Vec<OwnedUserId>,

    /// Whether the public room directory can be read without logging in.
    pub allow_public_room_directory_without_auth: bool,

    /// Whether the user directory search finds every local user. Otherwise it finds those who share a room with the
    /// searcher or are in a public room.
    pub show_all_local_users_in_user_directory: bool,

    /// Whether uploaded files can be downloaded without a token, as clients from before Matrix 1.11 do.
    pub allow_legacy_media: bool,

    /// The TURN servers that clients call through, as URIs such as `turn:turn.example.org?transport=udp`. Without any, calls
    /// work only between clients that reach each other by themselves.
    pub turn_uris: Vec<String>,

    /// The secret that the TURN server shares with this one (`static-auth-secret` of coturn). Names and passwords for it
    /// are made from it, for each user and for a while.
    pub turn_secret: Option<Secret>,

    /// Seconds that names and passwords for the TURN server hold.
    pub turn_ttl: Seconds,

    /// The name that all users have at the TURN server, where it shares no secret.
    pub turn_username: Option<String>,

    /// The password that belongs to `turn_username`.
    pub turn_password: Option<Secret>,

    /// What the server tells clients and servers that only know its name (`/.well-known/matrix/…`).
    pub well_known: WellKnown,

    /// This server's name.
    #[serde(skip)]
    pub server_name: OwnedServerName,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_registration: false,
            registration_token: None,
            yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse: false,
            allow_guest_registration: false,
            login_with_password: true,
            admins: Vec::new(),
            allow_public_room_directory_without_auth: false,
            show_all_local_users_in_user_directory: false,
            allow_legacy_media: false,
            turn_uris: Vec::new(),
            turn_secret: None,
            turn_ttl: Seconds::of(24 * 60 * 60),
            turn_username: None,
            turn_password: None,
            well_known: WellKnown::default(),
            server_name: owned_server_name!("localhost"),
        }
    }
}

impl Config {
    /// The defaults for a server of this name.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self { server_name, ..Self::default() }
    }

    /// Who may register.
    pub fn registration(&self) -> Registration {
        match (self.allow_registration, &self.registration_token) {
            (false, _) => Registration::Closed,
            (true, Some(_)) => Registration::Token,
            (true, None) => Registration::Open,
        }
    }

    /// The TURN server, if there is one. Its secret goes before the account.
    pub(crate) fn turn(&self) -> Option<Turn<'_>> {
        if self.turn_uris.is_empty() {
            return None;
        }
        let access = match (&self.turn_secret, &self.turn_username, &self.turn_password) {
            (Some(secret), ..) => TurnAccess::Secret(secret),
            (None, Some(username), Some(password)) => TurnAccess::Account { username, password },
            _ => return None,
        };
        Some(Turn { uris: &self.turn_uris, ttl_s: u64::from(self.turn_ttl), access })
    }
}

impl Settings for Config {
    fn faults(&self) -> Vec<Fault> {
        let open = self.registration() == Registration::Open;
        let confirmed = self.yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse;
        let is_turn = |uri: &String| uri.starts_with("turn:") || uri.starts_with("turns:");
        refuse([
            (
                "allow_registration",
                open && !confirmed,
                "registration without a registration_token is open to everybody; set a token, or also set \
                 yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse = true",
            ),
            ("registration_token", self.registration_token.as_deref() == Some(""), "must not be empty"),
            ("turn_uris", !self.turn_uris.iter().all(is_turn), "must begin with turn: or turns:"),
            (
                "turn_uris",
                !self.turn_uris.is_empty() && self.turn().is_none(),
                "needs turn_secret, or turn_username and turn_password",
            ),
            ("turn_ttl", self.turn_ttl.is_zero(), "must be at least 1"),
        ])
    }

    fn tables() -> Vec<Table> {
        vec![Table::of::<WellKnown>("well_known")]
    }
}

/// Discovery documents.
#[derive(Clone, Debug, Default, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct WellKnown {
    /// The base URL for clients, for example `https://matrix.example.org`. Without it the document is not served.
    pub client: Option<String>,
    /// Host and port for other servers, for example `matrix.example.org:443`. Without it the document is not served.
    pub server: Option<String>,
    /// A page with help for users.
    pub support_page: Option<String>,
    /// The role of the contact below: `m.role.admin` or `m.role.security`.
    pub support_role: Option<String>,
    /// Mail address of the contact.
    pub support_email: Option<String>,
    /// Matrix user id of the contact.
    pub support_mxid: Option<OwnedUserId>,
}

impl WellKnown {
    /// The contact, if it is said how to reach them.
    pub(crate) fn contact(&self) -> Option<Contact> {
        let role = ContactRole::from(self.support_role.as_deref().unwrap_or("m.role.admin"));
        let mut contact = match (&self.support_email, &self.support_mxid) {
            (Some(email), _) => Contact::with_email_address(role, email.clone()),
            (None, Some(user)) => Contact::with_matrix_id(role, user.clone()),
            (None, None) => return None,
        };
        contact.matrix_id.clone_from(&self.support_mxid);
        Some(contact)
    }
}

/// Who may register.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Registration {
    /// Nobody, but for the first account of a new server (with the one-time token that the log shows).
    Closed,
    /// Who knows a registration token.
    Token,
    /// Everybody.
    Open,
}

/// The TURN server that clients call through.
pub(crate) struct Turn<'a> {
    /// Its URIs.
    pub(crate) uris: &'a [String],
    /// For how long clients may use the answer, in seconds.
    pub(crate) ttl_s: u64,
    /// How clients get in.
    pub(crate) access: TurnAccess<'a>,
}

/// How clients get into a TURN server.
pub(crate) enum TurnAccess<'a> {
    /// With names and passwords made from a secret that it shares with this server.
    Secret(&'a str),
    /// With one name and password for all.
    Account {
        /// The name.
        username: &'a str,
        /// The password.
        password: &'a str,
    },
}
