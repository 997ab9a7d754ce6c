//! Module "Token-authenticated registration".

use haima_http::{Anyone, ApiError};
use ruma::api::client::account::check_registration_token_validity::v1::{Request, Response};

use crate::{ClientApi, Registration, error::Result};

/// `GET /_matrix/client/v1/register/m.login.registration_token/validity`
pub(crate) async fn registration_token_validity(api: ClientApi, _: Anyone, req: Request) -> Result<Response> {
    let closed = api.config.registration() == Registration::Closed;
    if closed && api.users.bootstrap_token().await?.is_none() {
        return Err(ApiError::forbidden("Registration is switched off").into());
    }
    let valid = api.uia.is_configured_token(&req.token) || api.users.is_registration_token_valid(&req.token).await?;
    Ok(Response::new(valid))
}
