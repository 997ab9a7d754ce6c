//! Module "Inviting users".

use haima_http::{ApiError, Session, StatusCode, Unsuspended};
use ruma::api::client::membership::invite_user::v3::{InvitationRecipient, Request, Response};

use crate::{ClientApi, error::Result};

/// `POST /_matrix/client/v3/rooms/{roomId}/invite`
pub(crate) async fn invite_user(api: ClientApi, caller: Unsuspended<Session>, req: Request) -> Result<Response> {
    let InvitationRecipient::UserId(target) = req.recipient else {
        let message = "This server has no identity server to invite by";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "M_THREEPID_DENIED", message).into());
    };
    api.flows.invite(&caller.user, &req.room_id, &target.user_id, target.reason.as_deref()).await?;
    Ok(Response::new())
}
