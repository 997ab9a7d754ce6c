//! Module "Joining rooms".

use axum::extract::State;
use flows::Flows;
use haima_http::{ApiError, Guest, Unsuspended};
use rooms::Rooms;
use ruma::{
    OwnedRoomId, OwnedRoomOrAliasId, RoomId,
    api::client::membership::{join_room_by_id as by_id, join_room_by_id_or_alias as by_name},
};
use store::Store;

use crate::error::{Result, or_no_room};

/// `POST /_matrix/client/v3/rooms/{roomId}/join`
pub(crate) async fn join_room_by_id(
    State(flows): State<Flows>,
    caller: Unsuspended<Guest>,
    req: by_id::v3::Request,
) -> Result<by_id::v3::Response> {
    join(&flows, &caller, &req.room_id, req.reason.as_deref()).await?;
    Ok(by_id::v3::Response::new(req.room_id))
}

/// `POST /_matrix/client/v3/join/{roomIdOrAlias}`
pub(crate) async fn join_room(
    State(store): State<Store>,
    State(rooms): State<Rooms>,
    State(flows): State<Flows>,
    caller: Unsuspended<Guest>,
    req: by_name::v3::Request,
) -> Result<by_name::v3::Response> {
    let room_id = resolve(&store, &rooms, req.room_id_or_alias).await?;
    join(&flows, &caller, &room_id, req.reason.as_deref()).await?;
    Ok(by_name::v3::Response::new(room_id))
}

async fn join(flows: &Flows, caller: &Unsuspended<Guest>, room: &RoomId, reason: Option<&str>) -> Result<()> {
    flows.join(&caller.user, room, reason).await.map_err(or_no_room)
}

/// The room of a name.
pub(crate) async fn resolve(store: &Store, rooms: &Rooms, name: OwnedRoomOrAliasId) -> Result<OwnedRoomId> {
    match OwnedRoomId::try_from(name) {
        Ok(room) => Ok(room),
        Err(alias) => {
            let found = rooms.resolve_alias(&store.view().await?, &alias).await?;
            let (room, _) = found.ok_or(ApiError::not_found("There is no such alias"))?;
            Ok(room)
        }
    }
}
