//! Module "Login": tokens with which one client logs in another.

use haima_http::{ApiError, Interactive, JsonBytes, Session};
use ruma::api::client::session::get_login_token::v1::Request;
use serde_json::json;

use crate::{ClientApi, error::Result, uia::Ask};

/// `POST /_matrix/client/v1/login/get_token`
pub(crate) async fn generate_login_token(
    api: ClientApi,
    caller: Session,
    mut req: Interactive<Request>,
) -> Result<JsonBytes> {
    if !api.config.login_with_password {
        return Err(ApiError::bad_request("Login tokens are switched off").into());
    }
    api.uia.recall(Some(&caller.user), &mut req);
    let create = |_| async {
        let (token, lifetime_ms) = api.users.create_login_token(&caller.user).await?;
        Ok(json!({ "login_token": token, "expires_in_ms": lifetime_ms }))
    };
    api.uia.confirm(&Ask::password(&req, &caller.user), create).await
}
