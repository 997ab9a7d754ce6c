//! The client-server API: one file for each module of the specification, one handler for each operation.
//!
//! A handler is `async fn operation(api: ClientApi, caller, request) -> Result<response>`: it checks, calls one function
//! of the domain and shapes the answer. Who may call is the type of `caller` (see [`haima_http::Caller`]).

mod account_data;
mod accounts;
mod capabilities;
mod config;
mod device_management;
mod error;
mod filter;
mod login;
mod login_token;
mod logout;
mod password_management;
mod pushrules;
mod refresh;
mod registration;
mod registration_tokens;
mod routes;
mod support;
mod tags;
mod third_party_lookup;
mod uia;
mod versions;
mod voip;
mod wellknown;
mod whoami;

use std::{ops::Deref, sync::Arc};

use event::{Clock, Random};
use haima_http::{AnyAccount, ApiError, Gate};
use ruma::UserId;
use store::Store;
use users::Users;

pub use self::{
    accounts::Accounts,
    config::{Config, Registration},
    routes::router,
};
use self::uia::{Uia, UiaParts};

/// What the handlers work with. Cloning is cheap.
#[derive(Clone)]
pub struct ClientApi(Arc<Inner>);

/// See [`ClientApi`].
pub struct Inner {
    config: Config,
    gate: Arc<Gate>,
    store: Store,
    users: Users,
    random: Arc<dyn Random>,
    uia: Uia,
}

/// The parts of the server that the API serves.
pub struct Domains {
    /// The store that all of them are kept in.
    pub store: Store,
    /// Accounts and what belongs to them.
    pub users: Users,
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
        let uia = Uia::new(UiaParts {
            gate: gate.clone(),
            store: domains.store.clone(),
            users: domains.users.clone(),
            server_name: config.server_name.clone(),
            registration_token: config.registration_token.clone(),
            clock,
            random: random.clone(),
        });
        Self(Arc::new(Inner { config, gate, store: domains.store, users: domains.users, random, uia }))
    }
}

impl Deref for ClientApi {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Refuses what somebody asks of another user's things.
fn require_self(account: &AnyAccount, user: &UserId) -> Result<(), ApiError> {
    if account.user == user {
        return Ok(());
    }
    Err(ApiError::forbidden("This belongs to another user"))
}
