//! Module "OpenID".

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use haima_http::Session;
use ruma::{
    api::client::account::request_openid_token::v3::{Request, Response},
    authentication::TokenType,
};
use users::{OPENID_TOKEN_MS, Users};

use crate::{Config, error::Result, require_self};

/// `POST /_matrix/client/v3/user/{userId}/openid/request_token`
pub(crate) async fn request_open_id_token(
    State(config): State<Arc<Config>>,
    State(users): State<Users>,
    caller: Session,
    req: Request,
) -> Result<Response> {
    require_self(&caller, &req.user_id)?;
    let token = users.create_openid_token(&caller.user).await?;
    let lifetime = Duration::from_millis(OPENID_TOKEN_MS);
    Ok(Response::new(token, TokenType::Bearer, config.server_name.clone(), lifetime))
}
