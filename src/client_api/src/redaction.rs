//! Module "Redactions".

use haima_http::{Keeping, Session};
use rooms::Sender;
use ruma::api::client::redact::redact_event::v3::{Request, Response};
use sync::Sending;

use crate::{ClientApi, asker::Asker, error::Result};

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`. Who is suspended may take back their own events
/// alone (client-server API, "Account suspension").
pub(crate) async fn redact_event(api: ClientApi, caller: Session, req: Request) -> Result<Keeping<Response, Sending>> {
    let sending = api.sync.sending(&caller.user, &caller.device);
    let (room, target) = (&req.room_id, &req.event_id);
    if caller.suspended {
        let asker = Asker::begin(&api, &caller).await?;
        let (event, ..) = api.reading.visible_event(&asker.view, &asker.viewer(), room, target).await?;
        if event.pdu.sender() != caller.user {
            caller.require_unsuspended()?;
        }
    }
    let sender = Sender { user: &caller.user, device: Some(&caller.device), txn_id: Some(req.txn_id.as_str()) };
    let sent = api.rooms.redact(&sender, room, target, req.reason.as_deref(), &|_| ()).await?;
    api.acted(&caller);
    Ok(Keeping { reply: Response::new(sent.event_id), kept: sending })
}
