//! Module "Leaving rooms".

use axum::extract::State;
use flows::Flows;
use haima_http::{Guest, Session};
use ruma::api::client::membership::{forget_room as forget, leave_room as leave};

use crate::error::Result;

/// `POST /_matrix/client/v3/rooms/{roomId}/leave`
pub(crate) async fn leave_room(
    State(flows): State<Flows>,
    caller: Guest,
    req: leave::v3::Request,
) -> Result<leave::v3::Response> {
    flows.leave(&caller.user, &req.room_id, req.reason.as_deref()).await?;
    Ok(leave::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/forget`
pub(crate) async fn forget_room(
    State(flows): State<Flows>,
    caller: Session,
    req: forget::v3::Request,
) -> Result<forget::v3::Response> {
    flows.forget(&caller.user, &req.room_id).await?;
    Ok(forget::v3::Response::new())
}
