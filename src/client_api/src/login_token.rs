//! Module "Login": tokens with which one client logs in another.

use std::sync::Arc;

use axum::extract::State;
use haima_http::{ApiError, Interactive, JsonBytes, Session};
use ruma::api::client::session::get_login_token::v1::Request;
use serde_json::json;
use users::Users;

use crate::{
    Config,
    error::Result,
    uia::{Ask, Uia},
};

/// `POST /_matrix/client/v1/login/get_token`
pub(crate) async fn generate_login_token(
    State(config): State<Arc<Config>>,
    State(users): State<Users>,
    State(uia): State<Arc<Uia>>,
    caller: Session,
    mut req: Interactive<Request>,
) -> Result<JsonBytes> {
    if !config.login_with_password {
        return Err(ApiError::bad_request("Login tokens are switched off").into());
    }
    uia.recall(Some(&caller.user), &mut req);
    let create = |_| async {
        let (token, lifetime_ms) = users.create_login_token(&caller.user).await?;
        Ok(json!({ "login_token": token, "expires_in_ms": lifetime_ms }))
    };
    uia.confirm(&Ask::password(&req, &caller.user), create).await
}
