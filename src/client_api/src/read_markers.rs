//! Module "Read and unread markers".

use flows::ReadMarkers;
use haima_http::Session;
use ruma::api::client::read_marker::set_read_marker::v3::{Request, Response};

use crate::{ClientApi, error::Result};

/// `POST /_matrix/client/v3/rooms/{roomId}/read_markers`
pub(crate) async fn set_read_marker(api: ClientApi, caller: Session, req: Request) -> Result<Response> {
    let markers = ReadMarkers {
        fully_read: req.fully_read.as_deref(),
        read: req.read_receipt.as_deref(),
        read_private: req.private_read_receipt.as_deref(),
    };
    api.flows.set_read_markers(&caller.user, &req.room_id, markers).await?;
    api.acted(&caller);
    Ok(Response::new())
}
