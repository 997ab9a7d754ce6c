//! Module "OpenID".

use std::time::Duration;

use haima_http::Session;
use ruma::{
    api::client::account::request_openid_token::v3::{Request, Response},
    authentication::TokenType,
};
use users::OPENID_TOKEN_MS;

use crate::{ClientApi, error::Result, require_self};

/// `POST /_matrix/client/v3/user/{userId}/openid/request_token`
pub(crate) async fn request_open_id_token(api: ClientApi, caller: Session, req: Request) -> Result<Response> {
    require_self(&caller, &req.user_id)?;
    let token = api.users.create_openid_token(&caller.user).await?;
    let lifetime = Duration::from_millis(OPENID_TOKEN_MS);
    Ok(Response::new(token, TokenType::Bearer, api.config.server_name.clone(), lifetime))
}
