//! Module "Room membership": the rooms that one is in.

use haima_http::Session;
use ruma::api::client::membership::joined_rooms::v3::{Request, Response};

use crate::{ClientApi, error::Result};

/// `GET /_matrix/client/v3/joined_rooms`
pub(crate) async fn get_joined_rooms(api: ClientApi, caller: Session, _: Request) -> Result<Response> {
    Ok(Response::new(api.rooms.joined_rooms(&api.store.view(), &caller.user).await?))
}
