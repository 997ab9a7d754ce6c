//! Module "Getting events for a room": single events.

use axum::extract::State;
use haima_http::{Guest, JsonBytes};
use reading::Reading;
use ruma::api::client::room::get_room_event::v3::Request;
use store::Store;
use users::Users;

use crate::{asker::Asker, error::Result, events::raw};

/// `GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}`
pub(crate) async fn get_one_room_event(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Guest,
    req: Request,
) -> Result<JsonBytes> {
    let asker = Asker::begin(&store, &users, &caller).await?;
    let event = asker.room(&reading, &req.room_id).one_event(&req.event_id).await?;
    Ok(raw(&event))
}
