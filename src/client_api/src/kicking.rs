//! Module "Kicking users from a room".

use haima_http::{Session, Unsuspended};
use ruma::api::client::membership::kick_user::v3::{Request, Response};

use crate::{ClientApi, error::Result};

/// `POST /_matrix/client/v3/rooms/{roomId}/kick`
pub(crate) async fn kick(api: ClientApi, caller: Unsuspended<Session>, req: Request) -> Result<Response> {
    api.rooms.kick(&caller.user, &req.room_id, &req.user_id, req.reason.as_deref()).await?;
    Ok(Response::new())
}
