//! Module "Inviting users".

use axum::extract::State;
use flows::Flows;
use haima_http::{ApiError, Incoming, Session, StatusCode, Unsuspended, json_object};
use ruma::{
    api::client::membership::invite_user::v3::{InvitationRecipient, Request, Response},
    exports::http,
};

use crate::error::Result;

/// An invite by user id or by third-party identifier, whose type can't say what is missing.
pub(crate) struct InviteRequest(Request);

impl Incoming for InviteRequest {
    const METHOD: http::Method = http::Method::POST;

    fn paths() -> Vec<&'static str> {
        <Request as Incoming>::paths()
    }

    fn read(request: http::Request<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        let body = *request.body();
        <Request as Incoming>::read(request, path_args).map(Self).map_err(|error| match json_object(body) {
            Ok(body) if !body.contains_key("user_id") && !body.contains_key("medium") => {
                ApiError::missing_param("Missing `user_id`")
            }
            _ => error,
        })
    }
}

/// `POST /_matrix/client/v3/rooms/{roomId}/invite`
pub(crate) async fn invite_user(
    State(flows): State<Flows>,
    caller: Unsuspended<Session>,
    req: InviteRequest,
) -> Result<Response> {
    let InviteRequest(req) = req;
    let InvitationRecipient::UserId(target) = req.recipient else {
        let message = "This server has no identity server to invite by";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "M_THREEPID_DENIED", message).into());
    };
    flows.invite(&caller.user, &req.room_id, &target.user_id, target.reason.as_deref()).await?;
    Ok(Response::new())
}
