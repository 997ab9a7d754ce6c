//! Module "Room upgrades".

use haima_http::{Session, Unsuspended};
use ruma::api::client::room::upgrade_room::v3::{Request, Response};

use crate::{ClientApi, error::Result};

/// `POST /_matrix/client/v3/rooms/{roomId}/upgrade`
pub(crate) async fn upgrade_room(api: ClientApi, caller: Unsuspended<Session>, req: Request) -> Result<Response> {
    let (version, creators) = (req.new_version, req.additional_creators);
    let new = api.flows.upgrade_room(&caller.user, &req.room_id, version, creators).await?;
    Ok(Response::new(new))
}
