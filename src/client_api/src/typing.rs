//! Module "Typing notifications".

use haima_http::Session;
use rooms::TYPING_TIMEOUT_MS_MAX;
use ruma::api::client::typing::create_typing_event::v3::{Request, Response, Typing};

use crate::{ClientApi, error::Result, require_self};

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
pub(crate) async fn set_typing(api: ClientApi, caller: Session, req: Request) -> Result<Response> {
    require_self(&caller, &req.user_id)?;
    let timeout_ms = match req.state {
        Typing::No => None,
        Typing::Yes(info) => Some(u64::try_from(info.timeout.as_millis()).unwrap_or(TYPING_TIMEOUT_MS_MAX)),
    };
    api.rooms.set_typing(&api.store.view(), &caller.user, &req.room_id, timeout_ms).await?;
    Ok(Response::new())
}
