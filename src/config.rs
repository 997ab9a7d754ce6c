//! The configuration file: one typed structure, from which `conduit.toml` is generated.
//!
//! A value comes from the environment (`CONDUIT_` and the key in capitals, `__` between a table and its key), else from
//! the file, else from [`Default`]. Every error names the key, and the line or the variable that it came from.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use documented::DocumentedFields;
use event::Secret;
use haima_http::Networks;
use rooms::EncryptionByDefault;
use ruma::{OwnedServerName, OwnedUserId, RoomVersionId};
use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct File {
    /// Everything.
    pub global: Config,
}

/// The `[global]` table.
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Config {
    /// The name of this server: what stands after the colon in user ids and room aliases. It can't be changed once the
    /// database exists. It need not be the host name that clients connect to: see `well_known`.
    pub server_name: OwnedServerName,

    /// The directory of the database. It is made where it is missing.
    pub database_path: PathBuf,

    /// Memory in MiB that the database's caches and buffers and all other caches of the server share. Decoding images for
    /// thumbnails takes as much besides at most; an image that needs more gets no thumbnail.
    pub db_cache_capacity_mb: u64,

    /// The addresses to listen on: one, or a list.
    pub address: OneOrMany<IpAddr>,

    /// The ports to listen on, at each address: one, or a list.
    pub port: OneOrMany<u16>,

    /// How many connections one address may have at a time (of IPv6, one network of 64 bits). Connections from this machine and
    /// from `trusted_proxies` are not counted; of requests that those hand on, each counts as one from its client.
    pub max_connections_per_address: usize,

    /// Reverse proxies, as addresses or networks, whose `X-Forwarded-For` tells where a request comes from; any number may stand in
    /// a row. Whoever else sends the header is not believed.
    pub trusted_proxies: Vec<String>,

    /// The largest file that can be uploaded, in bytes.
    pub max_request_size: usize,

    /// The largest body of any other request, in bytes. The largest that clients send are keys for many devices and for backups.
    pub max_json_request_size: usize,

    /// The directory of uploaded files. It is made where it is missing; without this key it is `media` in the directory
    /// of the database.
    pub media_path: Option<PathBuf>,

    /// Whether uploaded files can be downloaded without a token, as clients from before Matrix 1.11 do.
    pub allow_legacy_media: bool,

    /// How many uploads a user may announce that are still to be made.
    pub max_pending_media_uploads: usize,

    /// Seconds after which an announced upload that was not made is forgotten.
    pub media_create_unused_expiration_time: u64,

    /// MiB that all files of a user may take together; 0 for no limit.
    pub media_user_quota_mb: u64,

    /// Days after which uploaded files are deleted, for everybody; 0 to keep them.
    pub media_retention_days: u64,

    /// MiB that all files may take together; above that the oldest are deleted, for everybody. 0 to keep them.
    pub media_retention_mb: u64,

    /// Web pages that users may ask this server to preview: those whose host contains one of these. `*` stands for all.
    /// While all the allow lists are empty there are no previews.
    pub url_preview_domain_contains_allowlist: Vec<String>,

    /// Hosts whose pages may be previewed. `*` stands for all.
    pub url_preview_domain_explicit_allowlist: Vec<String>,

    /// Hosts whose pages are not previewed, whatever the allow lists say.
    pub url_preview_domain_explicit_denylist: Vec<String>,

    /// Pages may be previewed whose URL contains one of these. `*` stands for all.
    pub url_preview_url_contains_allowlist: Vec<String>,

    /// Whether a host in the explicit lists stands for those below it as well: `example.org` for `www.example.org`.
    pub url_preview_check_root_domain: bool,

    /// How much of a page is read for its preview, in bytes.
    pub url_preview_max_spider_size: usize,

    /// MiB that the pictures of all previews may take together; 0 for no limit. Each is kept for a day. Those that one user asked for may
    /// take an eighth. A preview for whose picture there is no room has none.
    pub url_preview_pictures_mb: u64,

    /// Addresses and networks that this server doesn't connect to for a user: those that only its own network reaches.
    pub ip_range_denylist: Vec<String>,

    /// Seconds after which a request that is not a long poll is given up.
    pub client_request_timeout: u64,

    /// Seconds that a client's long poll may wait at most, whatever it asks for.
    pub client_sync_timeout_max: u64,

    /// Seconds that a shutdown waits for requests under way.
    pub client_shutdown_timeout: u64,

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

    /// New users get their name as display name, so that others don't see a whole user id.
    pub new_user_displayname: bool,

    /// What follows the name in the display name of new users.
    pub new_user_displayname_suffix: String,

    /// Whether users may log in with a password.
    pub login_with_password: bool,

    /// Seconds that an access token lives if its client can refresh it. Clients that can't keep theirs until they log out.
    pub access_token_ttl: u64,

    /// Days after which a device that nobody used is logged out and deleted, with the messages that wait for it; 0 to keep them.
    pub unused_device_retention_days: u64,

    /// How many passwords are hashed or checked at once. Each takes about 19 MiB of memory and one core for some
    /// 20 milliseconds.
    pub password_hashes_at_once: usize,

    /// The room version of new rooms whose creator names none.
    pub default_room_version: RoomVersionId,

    /// Which new rooms are encrypted from the start where their creator doesn't say how: `off`, `invite` (those that are entered
    /// by invite, direct chats among them) or `all`. Spaces never are.
    pub encryption_enabled_by_default_for_room_type: EncryptionByDefault,

    /// Whether this server takes part in federation. Rooms made while this is false are closed to other servers for ever
    /// (`m.federate` is false in them), unless their creator's client asks for the contrary. This release does not exchange
    /// events with other servers yet.
    pub allow_federation: bool,

    /// Whether users see each other's presence.
    pub allow_local_presence: bool,

    /// Seconds without activity after which an online user counts as idle.
    pub presence_idle_timeout_s: u64,

    /// Seconds without a sync after which a user counts as offline.
    pub presence_offline_timeout_s: u64,

    /// A room with more joined members than this is large. In large rooms users don't see each other's presence unless they are
    /// in a smaller room together as well, who is typing and what others have read is told a little late, and changed keys are told
    /// only if the room is encrypted.
    pub large_room_members: usize,

    /// The TURN servers that clients call through, as URIs such as `turn:turn.example.org?transport=udp`. Without any, calls
    /// work only between clients that reach each other by themselves.
    pub turn_uris: Vec<String>,

    /// The secret that the TURN server shares with this one (`static-auth-secret` of coturn). Names and passwords for it
    /// are made from it, for each user and for a while.
    pub turn_secret: Option<Secret>,

    /// Seconds that names and passwords for the TURN server hold.
    pub turn_ttl: u64,

    /// The name that all users have at the TURN server, where it shares no secret.
    pub turn_username: Option<String>,

    /// The password that belongs to `turn_username`.
    pub turn_password: Option<Secret>,

    /// Whether the public room directory can be read without logging in.
    pub allow_public_room_directory_without_auth: bool,

    /// Whether the user directory search finds every local user. Otherwise it finds those who share a room with the
    /// searcher or are in a public room.
    pub show_all_local_users_in_user_directory: bool,

    /// User ids, in addition to those who registered as such, that may use the admin calls.
    pub admins: Vec<OwnedUserId>,

    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or filters by module such as
    /// `info,rooms=debug`.
    pub log: String,

    /// How the log is written.
    pub log_format: LogFormat,

    /// Certificates for HTTPS by this server itself. Leave it out behind a reverse proxy.
    pub tls: Option<Tls>,

    /// Keep uploaded files in a bucket of S3 or of a service with the same protocol. Files that were uploaded before stay
    /// where they are, and are found there.
    pub media_s3: Option<media::S3Config>,

    /// What the server tells clients and servers that only know its name (`/.well-known/matrix/…`).
    pub well_known: WellKnown,

    /// Rate limits by kind of request. A request over the limit is answered `M_LIMIT_EXCEEDED` with the time to wait.
    pub rate_limit: RateLimits,
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A single value.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values in order.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// How log lines are written.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// HTTPS by the server itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Tls {
    /// PEM file with the certificate and those of its issuers.
    pub certs: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
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

/// The limits by kind of request; see [`RateLimit`].
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct RateLimits {
    /// Registrations, per client address: a class of pupils has one.
    pub registration: RateLimit,
    /// Questions whether a user name is free or a registration token holds, per client address.
    pub availability: RateLimit,
    /// Log-ins and token refreshes, per client address.
    pub login: RateLimit,
    /// Wrong passwords per account and client address; per account five times as many from all addresses that its user has not
    /// logged in from. Right ones don't count.
    pub login_account: RateLimit,
    /// Sent events and redactions, per user.
    pub message: RateLimit,
    /// New rooms and upgrades, per user.
    pub create_room: RateLimit,
    /// Joins and knocks, per user.
    pub join: RateLimit,
    /// Invites, per user.
    pub invite: RateLimit,
    /// Searches of directories, per user.
    pub search: RateLimit,
    /// Uploaded files and names set aside for them, per user.
    pub upload: RateLimit,
    /// Thumbnails that have to be made, per user (those that were made before count as reading).
    pub thumbnail: RateLimit,
    /// Previews of web pages, per user.
    pub preview: RateLimit,
    /// Everything else that writes, per user.
    pub write: RateLimit,
    /// Everything else that reads, per user.
    pub read: RateLimit,
    /// Requests without an account, per client address.
    pub anonymous: RateLimit,
}

/// A bucket that fills with `per_second` and holds `burst`. `per_second = 0` switches the limit off.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimit {
    /// Requests a second in the long run; 0 for no limit.
    pub per_second: f64,
    /// Requests that may come at once.
    pub burst: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { per_second: 0.0, burst: 1 }
    }
}

const fn limit(per_second: f64, burst: u32) -> RateLimit {
    RateLimit { per_second, burst }
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            registration: limit(0.2, 60),
            availability: limit(5.0, 300),
            login: limit(1.0, 60),
            login_account: limit(0.2, 10),
            message: limit(10.0, 100),
            create_room: limit(0.5, 20),
            join: limit(2.0, 50),
            invite: limit(2.0, 50),
            search: limit(2.0, 20),
            upload: limit(10.0, 100),
            thumbnail: limit(10.0, 200),
            preview: limit(2.0, 20),
            write: limit(20.0, 200),
            read: limit(100.0, 1000),
            anonymous: limit(10.0, 100),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_name: OwnedServerName::try_from("localhost").expect("a valid name"),
            database_path: "haima-data".into(),
            db_cache_capacity_mb: 128,
            address: OneOrMany::Many(vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1])]),
            port: OneOrMany::Many(vec![8008]),
            max_connections_per_address: 2048,
            trusted_proxies: Vec::new(),
            max_request_size: 20 * 1024 * 1024,
            max_json_request_size: 4 * 1024 * 1024,
            media_path: None,
            allow_legacy_media: false,
            max_pending_media_uploads: 5,
            media_create_unused_expiration_time: 24 * 60 * 60,
            media_user_quota_mb: 0,
            media_retention_days: 0,
            media_retention_mb: 0,
            url_preview_domain_contains_allowlist: Vec::new(),
            url_preview_domain_explicit_allowlist: Vec::new(),
            url_preview_domain_explicit_denylist: Vec::new(),
            url_preview_url_contains_allowlist: Vec::new(),
            url_preview_check_root_domain: false,
            url_preview_max_spider_size: 256_000,
            url_preview_pictures_mb: 1024,
            ip_range_denylist: net::DENIED_DEFAULT.map(str::to_owned).to_vec(),
            client_request_timeout: 60,
            client_sync_timeout_max: 300,
            client_shutdown_timeout: 10,
            allow_registration: false,
            registration_token: None,
            yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse: false,
            allow_guest_registration: false,
            new_user_displayname: true,
            new_user_displayname_suffix: String::new(),
            login_with_password: true,
            access_token_ttl: 7 * 24 * 60 * 60,
            unused_device_retention_days: 0,
            password_hashes_at_once: 2,
            default_room_version: event::DEFAULT_ROOM_VERSION,
            encryption_enabled_by_default_for_room_type: EncryptionByDefault::Off,
            allow_federation: true,
            allow_local_presence: true,
            presence_idle_timeout_s: 300,
            presence_offline_timeout_s: 1800,
            large_room_members: 500,
            turn_uris: Vec::new(),
            turn_secret: None,
            turn_ttl: 24 * 60 * 60,
            turn_username: None,
            turn_password: None,
            allow_public_room_directory_without_auth: false,
            show_all_local_users_in_user_directory: false,
            admins: Vec::new(),
            log: "info".into(),
            log_format: LogFormat::Human,
            tls: None,
            media_s3: None,
            well_known: WellKnown::default(),
            rate_limit: RateLimits::default(),
        }
    }
}

/// What is wrong with values that are each of the right type: `key -> reason`.
pub(crate) fn impossible(config: &Config) -> BTreeMap<&'static str, String> {
    let mut wrong = BTreeMap::new();
    let mut refuse = |key, bad: bool, why: &str| {
        if bad {
            wrong.insert(key, why.to_owned());
        }
    };
    let open = config.allow_registration && config.registration_token.is_none();
    refuse(
        "allow_registration",
        open && !config.yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse,
        "registration without a registration_token is open to everybody; set a token, or also set \
         yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse = true",
    );
    refuse("registration_token", config.registration_token.as_deref() == Some(""), "must not be empty");
    refuse("address", config.address.as_slice().is_empty(), "needs at least one address");
    refuse("port", config.port.as_slice().is_empty(), "needs at least one port");
    refuse("max_request_size", config.max_request_size < 65_536, "must be at least 65536, the size of an event");
    refuse(
        "max_json_request_size",
        !(65_536..=64 * 1024 * 1024).contains(&config.max_json_request_size),
        "must be from 65536, the size of an event, to 67108864",
    );
    refuse("max_connections_per_address", config.max_connections_per_address == 0, "must be at least 1");
    let proxies = Networks::parse(config.trusted_proxies.iter().map(String::as_str));
    refuse("trusted_proxies", proxies.is_err(), "must be addresses and networks, such as \"10.0.0.0/8\"");
    refuse("client_request_timeout", config.client_request_timeout == 0, "must be at least 1");
    refuse("client_sync_timeout_max", config.client_sync_timeout_max == 0, "must be at least 1");
    refuse("password_hashes_at_once", !(1..=64).contains(&config.password_hashes_at_once), "must be from 1 to 64");
    refuse("db_cache_capacity_mb", config.db_cache_capacity_mb < 16, "must be at least 16");
    refuse("access_token_ttl", config.access_token_ttl == 0, "must be at least 1");
    let is_turn = |uri: &String| uri.starts_with("turn:") || uri.starts_with("turns:");
    refuse("turn_uris", !config.turn_uris.iter().all(is_turn), "must begin with turn: or turns:");
    let has_account = config.turn_username.is_some() && config.turn_password.is_some();
    refuse(
        "turn_uris",
        !config.turn_uris.is_empty() && config.turn_secret.is_none() && !has_account,
        "needs turn_secret, or turn_username and turn_password",
    );
    refuse("turn_ttl", config.turn_ttl == 0, "must be at least 1");
    refuse(
        "presence_offline_timeout_s",
        config.presence_offline_timeout_s < config.presence_idle_timeout_s,
        "must not be below presence_idle_timeout_s",
    );
    refuse(
        "default_room_version",
        event::rules(&config.default_room_version).is_none(),
        "is not a room version that this server can host",
    );
    refuse(
        "admins",
        config.admins.iter().any(|admin| admin.server_name() != config.server_name),
        "must be users of this server",
    );
    let networks = net::Guard::parse(config.ip_range_denylist.iter().map(String::as_str));
    refuse("ip_range_denylist", networks.is_err(), "must be addresses and networks, such as \"10.0.0.0/8\"");
    let previewed = 1_024..=16 * 1024 * 1024;
    refuse(
        "url_preview_max_spider_size",
        !previewed.contains(&config.url_preview_max_spider_size),
        "must be from 1024 to 16777216",
    );
    refuse("media_s3", config.media_s3.as_ref().is_some_and(|s3| s3.bucket.is_empty()), "needs a bucket");
    refuse("log", config.log.parse::<tracing_subscriber::EnvFilter>().is_err(), "is not a level or a list of filters");
    wrong
}
