//! Module "Current account information".

use haima_http::{Guest, Json};
use ruma::api::client::account::whoami::v3::Request;
use serde_json::{Value, json};

use crate::error::Result;

/// `GET /_matrix/client/v3/account/whoami`
pub(crate) async fn get_token_owner(caller: Guest, _: Request) -> Result<Json<Value>> {
    Ok(Json(json!({ "user_id": caller.user, "device_id": caller.device, "is_guest": caller.guest })))
}
