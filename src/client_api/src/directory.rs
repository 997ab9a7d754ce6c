//! Module "Room aliases".

use axum::extract::State;
use haima_http::{Anyone, ApiError, Session, StatusCode, Unsuspended};
use rooms::{Rooms, RoomsError};
use ruma::api::client::{
    alias::{create_alias as set, delete_alias as delete, get_alias as get},
    room::aliases as list,
};
use store::Store;

use crate::error::Result;

/// `PUT /_matrix/client/v3/directory/room/{roomAlias}`
pub(crate) async fn set_room_alias(
    State(rooms): State<Rooms>,
    caller: Unsuspended<Session>,
    req: set::v3::Request,
) -> Result<set::v3::Response> {
    match rooms.create_alias(&caller.user, &req.room_alias, &req.room_id).await {
        Ok(()) => Ok(set::v3::Response::new()),
        Err(RoomsError::AliasTaken) => {
            Err(ApiError::new(StatusCode::CONFLICT, "M_UNKNOWN", "The alias is in use").into())
        }
        Err(error) => Err(error.into()),
    }
}

/// `GET /_matrix/client/v3/directory/room/{roomAlias}`
pub(crate) async fn get_room_id_by_alias(
    State(store): State<Store>,
    State(rooms): State<Rooms>,
    _: Anyone,
    req: get::v3::Request,
) -> Result<get::v3::Response> {
    let found = rooms.resolve_alias(&store.view().await?, &req.room_alias).await?;
    let (room, servers) = found.ok_or(ApiError::not_found("There is no such alias"))?;
    Ok(get::v3::Response::new(room, servers))
}

/// `DELETE /_matrix/client/v3/directory/room/{roomAlias}`
pub(crate) async fn delete_room_alias(
    State(rooms): State<Rooms>,
    caller: Session,
    req: delete::v3::Request,
) -> Result<delete::v3::Response> {
    rooms.delete_alias(&caller.user, &req.room_alias, caller.admin).await?;
    Ok(delete::v3::Response::new())
}

/// `GET /_matrix/client/v3/rooms/{roomId}/aliases`
pub(crate) async fn get_local_aliases(
    State(store): State<Store>,
    State(rooms): State<Rooms>,
    caller: Session,
    req: list::v3::Request,
) -> Result<list::v3::Response> {
    let aliases = rooms.local_aliases(&store.view().await?, &caller.user, &req.room_id).await?;
    Ok(list::v3::Response::new(aliases))
}
