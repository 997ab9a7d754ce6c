//! Module "Account registration".

use std::time::Duration;

use haima_http::{Anyone, ApiError, Interactive, StatusCode};
use ruma::{
    OwnedUserId,
    api::client::account::{
        get_username_availability as available,
        register::{self, RegistrationKind},
    },
};
use users::{Created, Kind, Login, NewAccount, Origin, user_id_for};

use crate::{
    ClientApi, Registration,
    error::Result,
    uia::{Ask, Binding, Passed, Stage},
};

/// Characters of a name that the server picks for somebody who names none.
const PICKED_NAME_CHARS: usize = 12;

/// `POST /_matrix/client/v3/register`
pub(crate) async fn register(
    api: ClientApi,
    _: Anyone,
    req: Interactive<register::v3::Request>,
) -> Result<register::v3::Response> {
    let Interactive { request, fingerprint } = req;
    if request.kind == RegistrationKind::Guest {
        return register_guest(&api, request).await;
    }
    let flows = flows(&api).await?;
    let guest = request.guest_access_token.clone();
    let user_id = match &guest {
        Some(token) => name_of_guest(&api, token, request.username.as_deref()).await?,
        None => wanted_name(&api, request.username.as_deref()).await?,
    };
    if let Some(password) = &request.password {
        api.users.check_new_password(password)?;
    }
    let ask = Ask { flows, binding: Binding::Operation(fingerprint.operation), user: None };
    let passed = api.uia.authorize(&ask, request.auth.as_ref()).await?;
    let new = new_account(user_id, request, passed)?;
    let created =
        if guest.is_some() { api.users.upgrade_guest(new).await } else { api.users.create_account(new).await };
    Ok(shape(created?))
}

/// The account that a completed request asks for.
fn new_account(user_id: OwnedUserId, request: register::v3::Request, passed: Passed) -> Result<NewAccount> {
    let Some(password) = request.password else {
        return Err(ApiError::missing_param("Missing password").into());
    };
    let login = Login {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
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
    api: ClientApi,
    _: Anyone,
    req: available::v3::Request,
) -> Result<available::v3::Response> {
    let user_id = user_id_for(&req.username, &api.config.server_name)?;
    api.users.check_available(&api.store.view(), &user_id).await?;
    Ok(available::v3::Response::new(true))
}

async fn register_guest(api: &ClientApi, req: register::v3::Request) -> Result<register::v3::Response> {
    if !api.config.guests {
        return Err(ApiError::forbidden("Guests are not allowed on this server").into());
    }
    let created = api.users.create_guest(&api.config.server_name, req.initial_device_display_name).await?;
    Ok(shape(created))
}

/// What is asked of somebody who registers.
async fn flows(api: &ClientApi) -> Result<Vec<Vec<Stage>>> {
    let with_token = vec![Stage::RegistrationToken];
    match api.config.registration {
        Registration::Token => Ok(vec![with_token]),
        Registration::Open => Ok(vec![vec![Stage::Dummy], with_token]),
        // The first account of a new server.
        Registration::Closed if api.users.bootstrap_token().await?.is_some() => Ok(vec![with_token]),
        Registration::Closed => Err(ApiError::forbidden("Registration is switched off").into()),
    }
}

/// The id for the name that was asked for, or a free one.
async fn wanted_name(api: &ClientApi, username: Option<&str>) -> Result<OwnedUserId> {
    let picked;
    let name = match username {
        Some(name) => name,
        None => {
            // A letter first: names of digits alone belong to guests.
            picked = format!("u{}", api.random.alphanumeric(PICKED_NAME_CHARS));
            &picked
        }
    };
    let user_id = user_id_for(name, &api.config.server_name)?;
    api.users.check_available(&api.store.view(), &user_id).await?;
    Ok(user_id)
}

/// The id of the guest who becomes an ordinary user; they must name themselves (client-server API, "Guest Access").
async fn name_of_guest(api: &ClientApi, token: &str, username: Option<&str>) -> Result<OwnedUserId> {
    let session = api.users.authenticate(token).await?;
    if session.kind != Kind::Guest {
        return Err(ApiError::forbidden("The guest_access_token is not a guest's").into());
    }
    if username != Some(session.user_id.localpart()) {
        let message = "The username must be the guest's";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "M_INVALID_USERNAME", message).into());
    }
    Ok(session.user_id.clone())
}

fn shape(created: Created) -> register::v3::Response {
    let mut response = register::v3::Response::new(created.user_id);
    if let Some(session) = created.session {
        response.access_token = Some(session.access_token);
        response.device_id = Some(session.device_id);
        response.refresh_token = session.refresh_token;
        response.expires_in = session.expires_in_ms.map(Duration::from_millis);
    }
    response
}
