//! Module "Kicking users from a room".

use axum::extract::State;
use haima_http::{Session, Unsuspended};
use rooms::Rooms;
use ruma::api::client::membership::kick_user::v3::{Request, Response};

use crate::error::Result;

/// `POST /_matrix/client/v3/rooms/{roomId}/kick`
pub(crate) async fn kick(State(rooms): State<Rooms>, caller: Unsuspended<Session>, req: Request) -> Result<Response> {
    rooms.kick(&caller.user, &req.room_id, &req.user_id, req.reason.as_deref()).await?;
    Ok(Response::new())
}
