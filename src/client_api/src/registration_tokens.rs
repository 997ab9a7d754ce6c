//! Module "Token-authenticated registration".

use std::sync::Arc;

use axum::extract::State;
use haima_http::{Anyone, ApiError};
use ruma::api::client::account::check_registration_token_validity::v1::{Request, Response};
use users::Users;

use crate::{Config, Registration, error::Result, uia::Uia};

/// `GET /_matrix/client/v1/register/m.login.registration_token/validity`
pub(crate) async fn registration_token_validity(
    State(config): State<Arc<Config>>,
    State(users): State<Users>,
    State(uia): State<Arc<Uia>>,
    _: Anyone,
    req: Request,
) -> Result<Response> {
    let closed = config.registration() == Registration::Closed;
    if closed && users.bootstrap_token().await?.is_none() {
        return Err(ApiError::forbidden("Registration is switched off").into());
    }
    let valid = uia.is_configured_token(&req.token) || users.is_registration_token_valid(&req.token).await?;
    Ok(Response::new(valid))
}
