//! Module "Getting events for a room": by their time.

use axum::extract::State;
use haima_http::{ApiError, Json, Session};
use reading::Reading;
use ruma::api::client::room::get_event_by_timestamp::v1::Request;
use serde_json::{Value, json};
use store::Store;
use users::Users;

use crate::{asker::Asker, error::Result, message_pagination::direction};

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
pub(crate) async fn get_event_by_timestamp(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Session,
    req: Request,
) -> Result<Json<Value>> {
    let (at_ms, dir) = (u64::from(req.ts.0), direction(req.dir));
    let asker = Asker::begin(&store, &users, &caller).await?;
    let found = asker.room(&reading, &req.room_id).event_by_timestamp(at_ms, dir).await?;
    let (event_id, ts) = found.ok_or(ApiError::not_found("There is no event at that side of that time"))?;
    Ok(Json(json!({ "event_id": event_id, "origin_server_ts": ts })))
}
