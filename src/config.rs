//! The configuration: the parts of all crates, put together.
//!
//! A value comes from the environment (`CONDUIT_` and the key in capitals, `__` between a table and its key), else from
//! the file, else from the part's [`Default`]. Every error names the key, and the line or the variable that it came from.

use std::path::PathBuf;

use documented::DocumentedFields;
use ruma::{OwnedServerName, OwnedUserId, owned_server_name};
use serde::{Deserialize, Serialize};
use settings::{Fault, Mebibytes, Settings, refuse};

/// The `[global]` table.
#[derive(Clone, Debug)]
pub struct Config {
    /// What concerns the whole process.
    pub server: ServerConfig,
    /// Listening and limits.
    pub http: haima_http::Config,
    /// The client-server API.
    pub api: client_api::Config,
    /// Accounts.
    pub users: users::Config,
    /// Rooms.
    pub rooms: rooms::Config,
    /// Sync.
    pub sync: sync::Config,
    /// Files.
    pub media: media::Config,
    /// Previews of web pages.
    pub previews: media::PreviewConfig,
}

/// What gives each part, or looks at what it is made of.
pub(crate) trait Parts {
    /// The part of this type.
    fn part<T: Settings>(&mut self) -> T;
}

impl Config {
    /// Puts the parts together, in the order in which the generated file has them.
    pub(crate) fn compose(parts: &mut impl Parts) -> Self {
        Self {
            server: parts.part(),
            http: parts.part(),
            api: parts.part(),
            users: parts.part(),
            rooms: parts.part(),
            sync: parts.part(),
            media: parts.part(),
            previews: parts.part(),
        }
    }

    /// What is wrong with values that are each possible for their part.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let is_strange = |admin: &OwnedUserId| admin.server_name() != self.server.server_name;
        refuse([("admins", self.api.admins.iter().any(is_strange), "must be users of this server")])
    }
}

/// Settings of the whole process.
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct ServerConfig {
    /// The name of this server: what stands after the colon in user ids and room aliases. It can't be changed once the
    /// database exists. It need not be the host name that clients connect to: see `well_known`.
    pub server_name: OwnedServerName,

    /// The directory of the database. It is made where it is missing.
    pub database_path: PathBuf,

    /// Memory in MiB that the database's caches and buffers and all other caches of the server share. Decoding images for
    /// thumbnails takes as much besides at most; an image that needs more gets no thumbnail.
    pub db_cache_capacity_mb: Mebibytes,

    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or filters by module such as
    /// `info,rooms=debug`.
    pub log: String,

    /// How the log is written.
    pub log_format: LogFormat,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            server_name: owned_server_name!("localhost"),
            database_path: "haima-data".into(),
            db_cache_capacity_mb: Mebibytes::of(128),
            log: "info".into(),
            log_format: LogFormat::Human,
        }
    }
}

impl Settings for ServerConfig {
    fn faults(&self) -> Vec<Fault> {
        let filter = self.log.parse::<tracing_subscriber::EnvFilter>();
        refuse([
            ("db_cache_capacity_mb", self.db_cache_capacity_mb < Mebibytes::of(16), "must be at least 16"),
            ("log", filter.is_err(), "is not a level or a list of filters"),
        ])
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
