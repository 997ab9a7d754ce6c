//! Module "Knocking on rooms".

use axum::extract::State;
use flows::Flows;
use haima_http::{Session, Unsuspended};
use rooms::Rooms;
use ruma::api::client::knock::knock_room::v3::{Request, Response};
use store::Store;

use crate::{
    error::{Result, or_no_room},
    joining::resolve,
};

/// `POST /_matrix/client/v3/knock/{roomIdOrAlias}`
pub(crate) async fn knock_room(
    State(store): State<Store>,
    State(rooms): State<Rooms>,
    State(flows): State<Flows>,
    caller: Unsuspended<Session>,
    req: Request,
) -> Result<Response> {
    let room_id = resolve(&store, &rooms, req.room_id_or_alias).await?;
    flows.knock(&caller.user, &room_id, req.reason.as_deref()).await.map_err(or_no_room)?;
    Ok(Response::new(room_id))
}
