//! Module "Banning users in a room".

use axum::extract::State;
use haima_http::{Session, Unsuspended};
use rooms::Rooms;
use ruma::api::client::membership::{ban_user, unban_user};

use crate::error::Result;

/// `POST /_matrix/client/v3/rooms/{roomId}/ban`
pub(crate) async fn ban(
    State(rooms): State<Rooms>,
    caller: Unsuspended<Session>,
    req: ban_user::v3::Request,
) -> Result<ban_user::v3::Response> {
    rooms.ban(&caller.user, &req.room_id, &req.user_id, req.reason.as_deref()).await?;
    Ok(ban_user::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/unban`
pub(crate) async fn unban(
    State(rooms): State<Rooms>,
    caller: Unsuspended<Session>,
    req: unban_user::v3::Request,
) -> Result<unban_user::v3::Response> {
    rooms.unban(&caller.user, &req.room_id, &req.user_id, req.reason.as_deref()).await?;
    Ok(unban_user::v3::Response::new())
}
