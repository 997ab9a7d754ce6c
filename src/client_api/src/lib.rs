//! The client-server API: one file for each module of the specification, one handler for each operation.
//!
//! A handler is `async fn operation(State(users): State<Users>, …, caller, request) -> Result<response>`: it checks, calls one
//! function of the domain and shapes the answer. Its signature says which parts of [`ClientApi`] it uses (see
//! [`haima_http::Handler`]); who may call is the type of `caller` (see [`haima_http::Caller`]).

mod account_data;
mod account_deactivation;
mod accounts;
mod asker;
mod banning;
mod capabilities;
mod config;
mod content_repo;
mod create_room;
mod dehydrated_devices;
mod device_management;
mod device_names;
mod directory;
mod end_to_end_encryption;
mod error;
mod event_context;
mod events;
mod filter;
mod inviting;
mod joining;
mod key_backup;
mod keys_changes;
mod kicking;
mod knocking;
mod leaving;
mod list_joined_rooms;
mod list_public_rooms;
mod login;
mod login_token;
mod logout;
mod members;
mod message_pagination;
mod mutual_rooms;
mod openid;
mod password_management;
mod presence;
mod profile;
mod pushrules;
mod read_markers;
mod receipts;
mod redaction;
mod refresh;
mod registration;
mod registration_tokens;
mod relations;
mod room_event;
mod room_event_by_timestamp;
mod room_send;
mod room_state;
mod room_summary;
mod room_upgrades;
mod room_versions;
mod routes;
mod send_to_device;
mod space_hierarchy;
mod support;
mod sync;
mod tags;
mod third_party_ids;
mod third_party_lookup;
mod threads_list;
mod typing;
mod uia;
mod user_directory;
mod versions;
mod voip;
mod wellknown;
mod whoami;

use std::sync::Arc;

use ::sync::Sync;
use axum::extract::FromRef;
use event::{Clock, Random};
use flows::Flows;
use haima_http::{AnyAccount, ApiError, Gate};
use media::Media;
use reading::Reading;
use rooms::Rooms;
use ruma::UserId;
use store::Store;
use users::Users;

use self::uia::{Uia, UiaParts};
pub use self::{
    accounts::Accounts,
    config::{Config, Registration, WellKnown},
    routes::router,
};

/// What there is to work with. A handler takes those parts that it uses.
#[derive(FromRef)]
pub struct ClientApi {
    config: Arc<Config>,
    gate: Arc<Gate>,
    store: Store,
    users: Users,
    rooms: Rooms,
    reading: Reading,
    flows: Flows,
    sync: Sync,
    media: Media,
    clock: Arc<dyn Clock>,
    uia: Arc<Uia>,
}

/// The parts of the server that the API serves.
pub struct Domains {
    /// The store that all of them are kept in.
    pub store: Store,
    /// Accounts and what belongs to them.
    pub users: Users,
    /// Rooms, and what readers see of them.
    pub reading: Reading,
    /// What spans rooms and users.
    pub flows: Flows,
    /// News for clients.
    pub sync: Sync,
    /// Files.
    pub media: Media,
}

impl ClientApi {
    /// The API of these domains. The gate's [`haima_http::Authenticate`] must be [`Accounts`] of the same users.
    pub fn new(
        config: Config,
        gate: Arc<Gate>,
        domains: Domains,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let Domains { store, users, reading, flows, sync, media } = domains;
        let config = Arc::new(config);
        let uia = Arc::new(Uia::new(UiaParts {
            gate: gate.clone(),
            store: store.clone(),
            users: users.clone(),
            config: config.clone(),
            clock: clock.clone(),
            random,
        }));
        let rooms = reading.rooms().clone();
        Self { config, gate, store, users, rooms, reading, flows, sync, media, clock, uia }
    }
}

/// Refuses what somebody asks of another user's things.
fn require_self(account: &AnyAccount, user: &UserId) -> Result<(), ApiError> {
    if account.user == user {
        return Ok(());
    }
    Err(ApiError::forbidden("This belongs to another user"))
}
