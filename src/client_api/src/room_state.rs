//! Module "Sending events to a room": state.

use haima_http::{Content, Guest, Unsuspended};
use rooms::{SendOptions, Sender};
use ruma::api::client::state::send_state_event::v3::{Request, Response};

use crate::{ClientApi, error::Result};

/// `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn set_room_state_with_key(
    api: ClientApi,
    caller: Unsuspended<Guest>,
    Content(req): Content<Request>,
) -> Result<Response> {
    let event_type = req.event_type.to_string();
    let (key, content) = ((&*event_type, &*req.state_key), req.body.into_json());
    let sender = Sender { user: &caller.user, device: Some(&caller.device), txn_id: None };
    if caller.guest {
        api.flows.check_guest_state(&caller.user, &req.room_id, key, &content).await?;
    }
    api.flows.check_invite_state(key, &content).await?;
    let sent = api.rooms.send_state(&sender, &req.room_id, key, content, SendOptions::default()).await?;
    api.acted(&caller);
    Ok(Response::new(sent.event_id))
}
