//! The glue between HTTP and the domain: reading requests, telling who is calling, limits, errors as JSON, answering,
//! listening.
//!
//! An API crate describes its endpoints with [`Routes`]: each is a plain async function ([`Handler`]) of the parts of the crate's state
//! that it uses, a [`Caller`] (who may call is the type of this argument) and a request type. The [`Front`] wraps the resulting router
//! with what every request gets (CORS headers, a request id, a time limit, compression, an answer even after a panic),
//! and [`Server`] listens.
//!
//! Order of use: [`Gate::new`], [`Routes::new`] with [`Routes::on`] for each operation, [`Front::new`], [`Server::bind`],
//! [`Server::run`].

mod admission;
mod body;
mod caller;
mod config;
mod error;
mod file;
mod front;
mod gate;
mod handler;
mod incoming;
mod interactive;
mod json;
mod reply;
mod requests;
mod routes;
mod serve;
mod tls;
mod upload;

pub use admission::{
    address::{Networks, Origin, Peer},
    answers::Turn,
    limit::{self, Class},
    polls::Poll,
};
pub use caller::{AnyAccount, Anyone, Authenticate, Caller, Guest, MaybeGuest, Session, Unsuspended, Waiting};
pub use config::{Config, OneOrMany, Tls};
pub use error::{ApiError, ApiResult, StatusCode};
pub use file::{Conditions, FileReply, Selection, WithConditions};
pub use front::{Front, RequestId};
pub use gate::Gate;
pub use handler::Handler;
pub use incoming::{Content, Incoming, WithBody, WithQuery, json_object, path_arg, query_pairs, read_with_default};
pub use interactive::{Fingerprint, Interactive};
pub use json::{JSON_DEPTH_MAX, check_json};
pub use reply::{Json, JsonBytes, JsonStream, Keeping, Reply};
pub use routes::{Endpoint, Routes};
pub use serve::{ServeError, Server};
pub use tls::Certificates;
pub use upload::{Upload, UploadBody};

/// What [`Routes::finish`] gives and [`Front::new`] takes: the routers of several APIs are merged before.
pub use axum::Router;
/// Cancelled when the server begins to shut down; long polls end early then.
pub use tokio_util::sync::CancellationToken;
