//! Module "Account registration".

use std::sync::Arc;

use axum::extract::State;
use haima_http::{Anyone, ApiError, Class, Gate, Interactive, JsonBytes, StatusCode};
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::client::account::{
        get_username_availability as available,
        register::{self, RegistrationKind},
    },
};
use serde::Serialize;
use store::Store;
use users::{Created, Kind, Login, NewAccount, Origin, Users, user_id_for};

use crate::{
    Config, Registration,
    device_names::device_name,
    error::Result,
    uia::{Ask, Passed, Stage, Uia},
};

/// `POST /_matrix/client/v3/register`
///
/// Counts as registration where an account is made and where a step goes wrong, and not for every request of a form.
pub(crate) async fn register(
    State(config): State<Arc<Config>>,
    State(gate): State<Arc<Gate>>,
    State(store): State<Store>,
    State(users): State<Users>,
    State(uia): State<Arc<Uia>>,
    caller: Anyone,
    mut req: Interactive<register::v3::Request>,
) -> Result<JsonBytes> {
    let count = || gate.limits().check_address(Class::Registration, caller.origin.address);
    uia.recall(None, &mut req);
    let request = req.request()?;
    match request.kind {
        RegistrationKind::User => {}
        RegistrationKind::Guest => {
            count()?;
            return register_guest(&config, &users, &caller, request).await;
        }
        _ => return Err(ApiError::invalid_param("Unknown kind of account").into()),
    }
    let ask = Ask::stranger(&req, flows(&config, &users).await?, caller.origin.address);
    if let Some(answer) = uia.answered(&ask).await? {
        return Ok(answer);
    }
    if ask.is_question() {
        // Clients ask every other second whether a step was done elsewhere, as long as somebody looks at their form.
        // They are only told what is left to do: no step can be done elsewhere. No name is looked at before.
        uia.challenge(&ask).await?;
    }
    let user_id = match &request.guest_access_token {
        Some(token) => name_of_guest(&users, token, request.username.as_deref()).await?,
        None => wanted_name(&config, &store, &users, request.username.as_deref()).await?,
    };
    match &request.password {
        Some(password) => users.check_new_password(password)?,
        // Who only asks for the flows needs none; a step that is done is not to be lost for want of it.
        None if req.auth.is_some() => return Err(ApiError::missing_param("Missing password").into()),
        None => {}
    }
    let create = |passed| async {
        count()?;
        let is_guest = request.guest_access_token.is_some();
        let new = new_account(&caller, user_id, request, passed)?;
        let created = if is_guest { users.upgrade_guest(new).await } else { users.create_account(new).await };
        Ok(shape(created?))
    };
    uia.confirm(&ask, create).await
}

/// The account that a completed request asks for.
fn new_account(
    caller: &Anyone,
    user_id: OwnedUserId,
    request: register::v3::Request,
    passed: Passed,
) -> Result<NewAccount> {
    let Some(password) = request.password else {
        return Err(ApiError::missing_param("Missing password").into());
    };
    let login = Login {
        device_id: request.device_id,
        display_name: Some(device_name(request.initial_device_display_name, &caller.origin)),
        refreshable: request.refresh_token,
    };
    Ok(NewAccount {
        user_id,
        password: Some(password),
        kind: Kind::User,
        admin: false,
        origin: passed.token.map_or(Origin::Registration, Origin::Token),
        display_name: None,
        login: (!request.inhibit_login).then_some(login),
    })
}

/// `GET /_matrix/client/v3/register/available`
pub(crate) async fn check_username_availability(
    State(config): State<Arc<Config>>,
    State(store): State<Store>,
    State(users): State<Users>,
    _: Anyone,
    req: available::v3::Request,
) -> Result<available::v3::Response> {
    let user_id = user_id_for(&req.username, &config.server_name)?;
    users.check_available(&store.view().await?, &user_id).await?;
    Ok(available::v3::Response::new(true))
}

async fn register_guest(
    config: &Config,
    users: &Users,
    caller: &Anyone,
    req: register::v3::Request,
) -> Result<JsonBytes> {
    if !config.allow_guest_registration {
        return Err(ApiError::forbidden("Guests are not allowed on this server").into());
    }
    let device_name = device_name(req.initial_device_display_name, &caller.origin);
    let created = users.create_guest(&config.server_name, Some(device_name)).await?;
    Ok(JsonBytes(serde_json::to_vec(&shape(created))?.into()))
}

/// What is asked of somebody who registers.
async fn flows(config: &Config, users: &Users) -> Result<Vec<Vec<Stage>>> {
    let with_token = vec![Stage::RegistrationToken];
    match config.registration() {
        Registration::Token => Ok(vec![with_token]),
        // The first account of a new server, which becomes an admin's if the token is known. Later the token is not
        // offered: clients that leave the dummy step out of what they can do would choose to ask for it.
        Registration::Open if users.bootstrap_token().await?.is_some() => Ok(vec![vec![Stage::Dummy], with_token]),
        Registration::Open => Ok(vec![vec![Stage::Dummy]]),
        Registration::Closed if users.bootstrap_token().await?.is_some() => Ok(vec![with_token]),
        Registration::Closed => Err(ApiError::forbidden("Registration is switched off").into()),
    }
}

/// The id for the name that was asked for, or a free one.
async fn wanted_name(config: &Config, store: &Store, users: &Users, username: Option<&str>) -> Result<OwnedUserId> {
    let user_id = match username {
        Some(name) => user_id_for(name, &config.server_name)?,
        None => users.pick_user_id(&config.server_name)?,
    };
    users.check_available(&store.view().await?, &user_id).await?;
    Ok(user_id)
}

/// The id of the guest who becomes an ordinary user; they must name themselves (client-server API, "Guest Access").
async fn name_of_guest(users: &Users, token: &str, username: Option<&str>) -> Result<OwnedUserId> {
    let session = users.authenticate(token).await?;
    if session.kind != Kind::Guest {
        return Err(ApiError::forbidden("The guest_access_token is not a guest's").into());
    }
    if username != Some(session.user_id.localpart()) {
        let message = "The username must be the guest's";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "M_INVALID_USERNAME", message).into());
    }
    Ok(session.user_id.clone())
}

/// The answer to a registration. Without a session its fields are left out.
#[derive(Serialize)]
struct Registered {
    user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<OwnedDeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
}

fn shape(created: Created) -> Registered {
    let mut registered = Registered {
        user_id: created.user_id,
        access_token: None,
        device_id: None,
        refresh_token: None,
        expires_in_ms: None,
    };
    if let Some(session) = created.session {
        registered.access_token = Some(session.access_token);
        registered.device_id = Some(session.device_id);
        registered.refresh_token = session.refresh_token;
        registered.expires_in_ms = session.expires_in_ms;
    }
    registered
}
