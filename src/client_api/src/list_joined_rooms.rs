//! Module "Room membership": the rooms that one is in.

use axum::extract::State;
use haima_http::Session;
use rooms::Rooms;
use ruma::api::client::membership::joined_rooms::v3::{Request, Response};
use store::Store;

use crate::error::Result;

/// `GET /_matrix/client/v3/joined_rooms`
pub(crate) async fn get_joined_rooms(
    State(store): State<Store>,
    State(rooms): State<Rooms>,
    caller: Session,
    _: Request,
) -> Result<Response> {
    Ok(Response::new(rooms.joined_rooms(&store.view().await?, &caller.user).await?))
}
