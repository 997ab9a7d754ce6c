//! Module "Login": tokens with which one client logs in another.

use std::time::Duration;

use haima_http::{ApiError, Interactive, Session};
use ruma::api::client::session::get_login_token::v1::{Request, Response};

use crate::{
    ClientApi,
    error::Result,
    uia::{Ask, Binding, Stage},
};

/// `POST /_matrix/client/v1/login/get_token`
pub(crate) async fn generate_login_token(
    api: ClientApi,
    caller: Session,
    req: Interactive<Request>,
) -> Result<Response> {
    if !api.config.login_with_password {
        return Err(ApiError::bad_request("Login tokens are switched off").into());
    }
    let ask = Ask {
        flows: vec![vec![Stage::Password]],
        binding: Binding::Request(req.fingerprint),
        user: Some(&caller.user),
    };
    api.uia.authorize(&ask, req.request.auth.as_ref()).await?;
    let (token, lifetime_ms) = api.users.create_login_token(&caller.user).await?;
    Ok(Response::new(Duration::from_millis(lifetime_ms), token))
}
