//! Module "Joining rooms".

use haima_http::{ApiError, Guest, Unsuspended};
use ruma::{
    OwnedRoomId, OwnedRoomOrAliasId, RoomId,
    api::client::membership::{join_room_by_id as by_id, join_room_by_id_or_alias as by_name},
};

use crate::{
    ClientApi,
    error::{Result, or_no_room},
};

/// `POST /_matrix/client/v3/rooms/{roomId}/join`
pub(crate) async fn join_room_by_id(
    api: ClientApi,
    caller: Unsuspended<Guest>,
    req: by_id::v3::Request,
) -> Result<by_id::v3::Response> {
    join(&api, &caller, &req.room_id, req.reason.as_deref()).await?;
    Ok(by_id::v3::Response::new(req.room_id))
}

/// `POST /_matrix/client/v3/join/{roomIdOrAlias}`
pub(crate) async fn join_room(
    api: ClientApi,
    caller: Unsuspended<Guest>,
    req: by_name::v3::Request,
) -> Result<by_name::v3::Response> {
    let room_id = resolve(&api, req.room_id_or_alias).await?;
    join(&api, &caller, &room_id, req.reason.as_deref()).await?;
    Ok(by_name::v3::Response::new(room_id))
}

async fn join(api: &ClientApi, caller: &Unsuspended<Guest>, room: &RoomId, reason: Option<&str>) -> Result<()> {
    let joined = if caller.guest {
        api.flows.join_guest(&caller.user, room, reason).await
    } else {
        api.flows.join(&caller.user, room, reason).await
    };
    joined.map_err(or_no_room)
}

/// The room of a name.
pub(crate) async fn resolve(api: &ClientApi, name: OwnedRoomOrAliasId) -> Result<OwnedRoomId> {
    match OwnedRoomId::try_from(name) {
        Ok(room) => Ok(room),
        Err(alias) => {
            let found = api.rooms.resolve_alias(&api.store.view(), &alias).await?;
            let (room, _) = found.ok_or(ApiError::not_found("There is no such alias"))?;
            Ok(room)
        }
    }
}
