//! Module "Receipts".

use flows::ReadMarkers;
use haima_http::{ApiError, Session};
use rooms::{NewReceipt, ReceiptType};
use ruma::{
    api::client::receipt::create_receipt::v3::{ReceiptType as Asked, Request, Response},
    events::receipt::ReceiptThread,
};

use crate::{ClientApi, error::Result};

/// `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`
pub(crate) async fn post_receipt(api: ClientApi, caller: Session, req: Request) -> Result<Response> {
    let (user, room, event) = (&*caller.user, &*req.room_id, &*req.event_id);
    let receipt_type = match req.receipt_type {
        Asked::Read => ReceiptType::Read,
        Asked::ReadPrivate => ReceiptType::ReadPrivate,
        Asked::FullyRead if req.thread != ReceiptThread::Unthreaded => {
            return Err(ApiError::invalid_param("m.fully_read has no threads").into());
        }
        Asked::FullyRead => {
            let markers = ReadMarkers { fully_read: Some(event), ..ReadMarkers::default() };
            api.flows.set_read_markers(user, room, markers).await?;
            api.acted(&caller);
            return Ok(Response::new());
        }
        _ => return Err(ApiError::invalid_param("Unknown type of receipt").into()),
    };
    let thread = thread(&req.thread)?;
    api.rooms.set_receipt(NewReceipt { user, room, receipt_type, event, thread }).await?;
    api.acted(&caller);
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
