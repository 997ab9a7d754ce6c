//! Module "Room summaries".

use std::sync::Arc;

use axum::extract::State;
use haima_http::{Json, MaybeGuest};
use reading::{Reading, RoomDescription};
use rooms::Rooms;
use ruma::api::client::room::get_summary::v1::Request;
use serde::{Serialize, Serializer};
use store::Store;

use crate::{
    error::{Result, or_no_room},
    joining::resolve,
};

/// A room, and the caller's membership of it.
#[derive(Serialize)]
pub(crate) struct Summary {
    #[serde(flatten, serialize_with = "shared")]
    description: Arc<RoomDescription>,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'static str>,
}

fn shared<S: Serializer>(description: &Arc<RoomDescription>, s: S) -> std::result::Result<S::Ok, S::Error> {
    (**description).serialize(s)
}

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`
pub(crate) async fn get_room_summary(
    State(store): State<Store>,
    State(rooms): State<Rooms>,
    State(reading): State<Reading>,
    caller: MaybeGuest,
    req: Request,
) -> Result<Json<Summary>> {
    let room = resolve(&store, &rooms, req.room_id_or_alias).await?;
    let user = caller.account.as_ref().map(|account| &*account.user);
    let found = reading.room_summary(&store.view().await?, user, &room).await;
    let (description, membership) = found.map_err(|error| or_no_room(error.into()))?;
    Ok(Json(Summary { description, membership }))
}
