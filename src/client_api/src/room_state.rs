//! Modules "Getting events for a room" and "Sending events to a room": state.

use axum::extract::State;
use flows::Flows;
use haima_http::{ApiError, Content, Guest, Json, JsonBytes, Unsuspended};
use reading::{Reading, Viewer};
use rooms::{NewState, SendOptions, Sender};
use ruma::api::client::state::{
    get_state_event_for_key::{self as get_one, v3::StateEventFormat},
    get_state_events as get_all, send_state_event as set,
};
use store::Store;
use users::Users;

use crate::{
    asker::Asker,
    error::Result,
    events::{Events, raw},
};

/// `GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn get_room_state_with_key(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Guest,
    req: get_one::v3::Request,
) -> Result<JsonBytes> {
    let event_type = req.event_type.to_string();
    let (room, key) = (&req.room_id, (&*event_type, &*req.state_key));
    let found = match req.format {
        StateEventFormat::Event => {
            let asker = Asker::begin(&store, &users, &caller).await?;
            asker.room(&reading, room).state_event(key).await?.map(|event| raw(&event))
        }
        // What isn't known is asked for like what isn't said.
        _ => {
            let view = store.view().await?;
            let reader = reading.room(&view, Viewer::new(&caller.user), room);
            reader.state_content(key).await?.map(|content| raw(&content))
        }
    };
    Ok(found.ok_or(ApiError::not_found("The room has no such state"))?)
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state`
pub(crate) async fn get_room_state(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Guest,
    req: get_all::v3::Request,
) -> Result<Json<Events>> {
    let asker = Asker::begin(&store, &users, &caller).await?;
    Ok(Json(Events(asker.room(&reading, &req.room_id).current_state().await?)))
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn set_room_state_with_key(
    State(users): State<Users>,
    State(flows): State<Flows>,
    caller: Unsuspended<Guest>,
    Content(req): Content<set::v3::Request>,
) -> Result<set::v3::Response> {
    let event_type = req.event_type.to_string();
    let state = NewState::new((&*event_type, &*req.state_key), req.body.into_json())?;
    let sender = Sender { user: &caller.user, device: Some(&caller.device), txn_id: None };
    let sent = flows.send_state(&sender, &req.room_id, state, SendOptions::default()).await?;
    users.presence().active(&caller.user, &caller.device);
    Ok(set::v3::Response::new(sent.event_id))
}
