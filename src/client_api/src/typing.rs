//! Module "Typing notifications".

use axum::extract::State;
use haima_http::{ApiError, Incoming, Session, read_with_default};
use rooms::{Rooms, TYPING_TIMEOUT_MS_MAX};
use ruma::{
    api::client::typing::create_typing_event::v3::{Request, Response, Typing},
    exports::http,
};
use store::Store;
use users::Users;

use crate::{error::Result, require_self};

/// How long somebody types who doesn't say, in milliseconds.
const TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// The request. The specification doesn't require `timeout`, the library's type does.
pub(crate) struct SetTyping(Request);

impl Incoming for SetTyping {
    const METHOD: http::Method = <Request as Incoming>::METHOD;

    fn paths() -> Vec<&'static str> {
        <Request as Incoming>::paths()
    }

    fn read(request: http::Request<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        read_with_default(request, path_args, ("timeout", TIMEOUT_MS_DEFAULT.into())).map(Self)
    }
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
pub(crate) async fn set_typing(
    State(store): State<Store>,
    State(users): State<Users>,
    State(rooms): State<Rooms>,
    caller: Session,
    req: SetTyping,
) -> Result<Response> {
    let SetTyping(req) = req;
    require_self(&caller, &req.user_id)?;
    let timeout_ms = match req.state {
        Typing::No => None,
        Typing::Yes(info) => Some(u64::try_from(info.timeout.as_millis()).unwrap_or(TYPING_TIMEOUT_MS_MAX)),
    };
    rooms.set_typing(&store.view().await?, &caller.user, &req.room_id, timeout_ms).await?;
    if timeout_ms.is_some() {
        users.presence().active(&caller.user, &caller.device);
    }
    Ok(Response::new())
}
