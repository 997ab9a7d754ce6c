//! Module "Sending events to a room": messages.

use axum::extract::State;
use haima_http::{Content, Guest, Keeping, Unsuspended};
use rooms::{Rooms, SendOptions, Sender};
use ruma::api::client::message::send_message_event::v3::{Request, Response};
use sync::{Sending, Sync};
use users::Users;

use crate::error::Result;

/// `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}`
pub(crate) async fn send_message(
    State(users): State<Users>,
    State(rooms): State<Rooms>,
    State(sync): State<Sync>,
    caller: Unsuspended<Guest>,
    Content(req): Content<Request>,
) -> Result<Keeping<Response, Sending>> {
    let sending = sync.sending(&caller.user, &caller.device);
    let sender = Sender { user: &caller.user, device: Some(&caller.device), txn_id: Some(req.txn_id.as_str()) };
    let event_type = req.event_type.to_string();
    let content = req.body.into_json();
    let sent = rooms.send(&sender, &req.room_id, &event_type, content, SendOptions::default()).await?;
    users.presence().active(&caller.user, &caller.device);
    Ok(Keeping { reply: Response::new(sent.event_id), kept: sending })
}
