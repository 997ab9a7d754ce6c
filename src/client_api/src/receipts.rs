//! Module "Receipts".

use axum::extract::State;
use flows::{Flows, ReadMarkers};
use haima_http::{ApiError, Session};
use rooms::{NewReceipt, ReceiptType, Rooms};
use ruma::{
    api::client::receipt::create_receipt::v3::{ReceiptType as Asked, Request, Response},
    events::receipt::ReceiptThread,
};
use users::Users;

use crate::error::Result;

/// `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`
pub(crate) async fn post_receipt(
    State(users): State<Users>,
    State(rooms): State<Rooms>,
    State(flows): State<Flows>,
    caller: Session,
    req: Request,
) -> Result<Response> {
    let (user, room, event) = (&*caller.user, &*req.room_id, &*req.event_id);
    let receipt_type = match req.receipt_type {
        Asked::Read => ReceiptType::Read,
        Asked::ReadPrivate => ReceiptType::ReadPrivate,
        Asked::FullyRead if req.thread != ReceiptThread::Unthreaded => {
            return Err(ApiError::invalid_param("m.fully_read has no threads").into());
        }
        Asked::FullyRead => {
            let markers = ReadMarkers { fully_read: Some(event), ..ReadMarkers::default() };
            flows.set_read_markers(user, room, markers).await?;
            users.presence().active(&caller.user, &caller.device);
            return Ok(Response::new());
        }
        _ => return Err(ApiError::invalid_param("Unknown type of receipt").into()),
    };
    let thread = thread(&req.thread)?;
    rooms.set_receipt(NewReceipt { user, room, receipt_type, event, thread }).await?;
    users.presence().active(&caller.user, &caller.device);
    Ok(Response::new())
}

fn thread(thread: &ReceiptThread) -> Result<Option<&str>> {
    match thread {
        ReceiptThread::Unthreaded => Ok(None),
        ReceiptThread::Main => Ok(Some("main")),
        ReceiptThread::Thread(root) => Ok(Some(root.as_str())),
        _ => Err(ApiError::invalid_param("Not a thread").into()),
    }
}
