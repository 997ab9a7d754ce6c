//! Module "Read and unread markers".

use axum::extract::State;
use flows::{Flows, ReadMarkers};
use haima_http::Session;
use ruma::api::client::read_marker::set_read_marker::v3::{Request, Response};
use users::Users;

use crate::error::Result;

/// `POST /_matrix/client/v3/rooms/{roomId}/read_markers`
pub(crate) async fn set_read_marker(
    State(users): State<Users>,
    State(flows): State<Flows>,
    caller: Session,
    req: Request,
) -> Result<Response> {
    let markers = ReadMarkers {
        fully_read: req.fully_read.as_deref(),
        read: req.read_receipt.as_deref(),
        read_private: req.private_read_receipt.as_deref(),
    };
    flows.set_read_markers(&caller.user, &req.room_id, markers).await?;
    users.presence().active(&caller.user, &caller.device);
    Ok(Response::new())
}
