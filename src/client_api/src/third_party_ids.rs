//! Module "Adding account administrative contact information".

use haima_http::{Json, Session};
use ruma::api::client::account::get_3pids::v3::Request;
use serde_json::{Value, json};

use crate::error::Result;

/// `GET /_matrix/client/v3/account/3pid`: nobody has one, since none can be added (capability `m.3pid_changes`).
///
/// The empty list is written out: clients read it without looking whether it is there.
pub(crate) async fn get_account_3pids(_: Session, _: Request) -> Result<Json<Value>> {
    Ok(Json(json!({ "threepids": [] })))
}
