//! Module "Redactions".

use axum::extract::State;
use haima_http::{Keeping, Session};
use reading::Reading;
use rooms::{Rooms, Sender};
use ruma::api::client::redact::redact_event::v3::{Request, Response};
use store::Store;
use sync::{Sending, Sync};
use users::Users;

use crate::{asker::Asker, error::Result};

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`. Who is suspended may take back their own events
/// alone (client-server API, "Account suspension").
pub(crate) async fn redact_event(
    State(store): State<Store>,
    State(users): State<Users>,
    State(rooms): State<Rooms>,
    State(reading): State<Reading>,
    State(sync): State<Sync>,
    caller: Session,
    req: Request,
) -> Result<Keeping<Response, Sending>> {
    let sending = sync.sending(&caller.user, &caller.device);
    let (room, target) = (&req.room_id, &req.event_id);
    if caller.suspended {
        let asker = Asker::begin(&store, &users, &caller).await?;
        let (event, ..) = asker.room(&reading, room).visible_event(target).await?;
        if event.pdu.sender() != caller.user {
            caller.require_unsuspended()?;
        }
    }
    let sender = Sender { user: &caller.user, device: Some(&caller.device), txn_id: Some(req.txn_id.as_str()) };
    let sent = rooms.redact(&sender, room, target, req.reason.as_deref(), &|_| ()).await?;
    users.presence().active(&caller.user, &caller.device);
    Ok(Keeping { reply: Response::new(sent.event_id), kept: sending })
}
