//! Module "Voice over IP".

use haima_http::{Guest, Json};
use ruma::api::client::voip::get_turn_server_info::v3::Request;
use serde_json::{Map, Value};

use crate::{ClientApi, error::Result};

/// `GET /_matrix/client/v3/voip/turnServer`: an empty object, since no TURN server is configured.
pub(crate) async fn get_turn_server(_: ClientApi, _: Guest, _: Request) -> Result<Json<Map<String, Value>>> {
    Ok(Json(Map::new()))
}
