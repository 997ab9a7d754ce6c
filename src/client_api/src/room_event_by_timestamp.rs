//! Module "Getting events for a room": by their time.

use haima_http::{ApiError, Json, Session};
use ruma::api::client::room::get_event_by_timestamp::v1::Request;
use serde_json::{Value, json};

use crate::{ClientApi, asker::Asker, error::Result, message_pagination::direction};

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
pub(crate) async fn get_event_by_timestamp(api: ClientApi, caller: Session, req: Request) -> Result<Json<Value>> {
    let (at_ms, dir) = (u64::from(req.ts.0), direction(req.dir));
    let asker = Asker::begin(&api, &caller).await?;
    let found = api.reading.event_by_timestamp(&asker.view, &asker.viewer(), &req.room_id, at_ms, dir).await?;
    let (event_id, ts) = found.ok_or(ApiError::not_found("There is no event at that side of that time"))?;
    Ok(Json(json!({ "event_id": event_id, "origin_server_ts": ts })))
}
