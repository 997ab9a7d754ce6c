//! Module "Login".

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::extract::{FromRef, State};
use haima_http::{
    Anyone, ApiError, Gate, Incoming, json_object,
    limit::{Guesser, network},
};
use ruma::{
    OwnedUserId, UserId,
    api::client::{
        session::{
            get_login_types::{
                self,
                v3::{LoginType, PasswordLoginType, TokenLoginType},
            },
            login::{
                self,
                v3::{DiscoveryInfo, HomeserverInfo, LoginInfo, Password},
            },
        },
        uiaa::UserIdentifier,
    },
    exports::http::{Method, Request},
};
use store::Store;
use users::{Error, Login, Users};

use crate::{ClientApi, Config, device_names::device_name, error::Result};

/// `GET /_matrix/client/v3/login`
pub(crate) async fn get_login_flows(
    State(config): State<Arc<Config>>,
    _: Anyone,
    _: get_login_types::v3::Request,
) -> Result<get_login_types::v3::Response> {
    let mut flows = Vec::new();
    if config.login_with_password {
        flows.push(LoginType::Password(PasswordLoginType::new()));
        let mut token = TokenLoginType::new();
        token.get_login_token = true;
        flows.push(LoginType::Token(token));
    }
    Ok(get_login_types::v3::Response::new(flows))
}

/// A request to log in. Its type panics on a body without `type`, which is looked for before.
pub(crate) struct LoginRequest(login::v3::Request);

impl Incoming for LoginRequest {
    const METHOD: Method = Method::POST;

    fn paths() -> Vec<&'static str> {
        <login::v3::Request as Incoming>::paths()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        if !json_object(request.body())?.contains_key("type") {
            return Err(ApiError::bad_json("missing field `type`"));
        }
        Ok(Self(<login::v3::Request as Incoming>::read(request, path_args)?))
    }
}

/// `POST /_matrix/client/v3/login`
pub(crate) async fn login(
    State(config): State<Arc<Config>>,
    State(users): State<Users>,
    State(passwords): State<Passwords>,
    caller: Anyone,
    req: LoginRequest,
) -> Result<login::v3::Response> {
    let LoginRequest(req) = req;
    let user = match &req.login_info {
        LoginInfo::Password(password) => passwords.user(password, caller.origin.address).await?,
        LoginInfo::Token(token) => match users.use_login_token(&token.token).await {
            Err(Error::UnknownToken) => return Err(ApiError::forbidden("Invalid login token").into()),
            user => user?,
        },
        _ => return Err(ApiError::bad_request("Unknown login type").into()),
    };
    let login = Login {
        device_id: req.device_id,
        display_name: Some(device_name(req.initial_device_display_name, &caller.origin)),
        refreshable: req.refresh_token,
    };
    let issued = users.login(&user, &login).await?;
    passwords.gate.limits().remember(&user, caller.origin.address);
    let mut response = login::v3::Response::new(issued.user_id, issued.access_token, issued.device_id);
    response.refresh_token = issued.refresh_token;
    response.expires_in = issued.expires_in_ms.map(Duration::from_millis);
    let base_url = config.well_known.client.clone();
    response.well_known = base_url.map(|base_url| DiscoveryInfo::new(HomeserverInfo::new(base_url)));
    Ok(response)
}

/// Tells whose a password is, and keeps others from guessing it.
#[derive(Clone)]
pub(crate) struct Passwords {
    config: Arc<Config>,
    gate: Arc<Gate>,
    store: Store,
    users: Users,
}

impl FromRef<ClientApi> for Passwords {
    fn from_ref(api: &ClientApi) -> Self {
        let ClientApi { config, gate, store, users, .. } = api;
        Self { config: config.clone(), gate: gate.clone(), store: store.clone(), users: users.clone() }
    }
}

impl Passwords {
    /// The user whose name and password these are.
    async fn user(&self, login: &Password, address: IpAddr) -> Result<OwnedUserId> {
        let wrong = || ApiError::forbidden("Invalid user name or password");
        if !self.config.login_with_password {
            return Err(ApiError::forbidden("Logging in with a password is switched off").into());
        }
        #[expect(deprecated, reason = "older clients name the user in this field")]
        let name = match (&login.identifier, &login.user) {
            (Some(UserIdentifier::Matrix(matrix)), _) => &matrix.user,
            (Some(_), _) => return Err(wrong().into()),
            (None, Some(user)) => user,
            (None, None) => return Err(ApiError::missing_param("Missing identifier").into()),
        };
        let view = self.store.view().await?;
        let user = match self.users.find_login_name(&view, name, &self.config.server_name).await {
            Err(Error::InvalidUserName) => return Err(wrong().into()),
            user => user?,
        };
        let (limits, guesser) = (self.gate.limits(), self.guesser(&user, address).await?);
        limits.check_guess(&user, guesser)?;
        let checked = self.users.check_password(&user, &login.password).await;
        if !matches!(checked, Err(Error::WrongPassword)) {
            limits.forgive_guess(&user, guesser);
        }
        checked?;
        Ok(user)
    }

    /// Where an attempt at a user's password comes from: who guesses elsewhere keeps nobody from logging in where they have before.
    async fn guesser(&self, user: &UserId, address: IpAddr) -> Result<Guesser> {
        let seen = self.users.seen_addresses(&self.store.view().await?, user).await?;
        let is_seen = seen.into_iter().any(|seen| network(seen) == network(address));
        let is_known = is_seen || self.gate.limits().remembers(user, address);
        Ok(if is_known { Guesser::Known(address) } else { Guesser::Unknown(address) })
    }
}
