//! Module "End-to-end encryption": whose keys changed.

use haima_http::{Json, Session};
use ruma::api::client::keys::get_key_changes::v3::Request;
use sync::DeviceLists;

use crate::{ClientApi, error::Result};

/// `GET /_matrix/client/v3/keys/changes`
pub(crate) async fn get_keys_changes(api: ClientApi, caller: Session, req: Request) -> Result<Json<DeviceLists>> {
    Ok(Json(api.sync.key_changes(&caller.user, &req.from, &req.to).await?))
}
