//! Module "Knocking on rooms".

use haima_http::{Session, Unsuspended};
use ruma::api::client::knock::knock_room::v3::{Request, Response};

use crate::{
    ClientApi,
    error::{Result, or_no_room},
    joining::resolve,
};

/// `POST /_matrix/client/v3/knock/{roomIdOrAlias}`
pub(crate) async fn knock_room(api: ClientApi, caller: Unsuspended<Session>, req: Request) -> Result<Response> {
    let room_id = resolve(&api, req.room_id_or_alias).await?;
    api.flows.knock(&caller.user, &room_id, req.reason.as_deref()).await.map_err(or_no_room)?;
    Ok(Response::new(room_id))
}
