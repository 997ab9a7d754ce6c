//! Module "End-to-end encryption": whose keys changed.

use axum::extract::State;
use haima_http::{Json, Session};
use ruma::api::client::keys::get_key_changes::v3::Request;
use sync::{DeviceListChanges, Sync};

use crate::error::Result;

/// `GET /_matrix/client/v3/keys/changes`
pub(crate) async fn get_keys_changes(
    State(sync): State<Sync>,
    caller: Session,
    req: Request,
) -> Result<Json<DeviceListChanges>> {
    Ok(Json(sync.key_changes(&caller.user, &req.from, &req.to).await?))
}
