//! Module "Event context".

use axum::extract::State;
use haima_http::{Guest, Json, WithQuery};
use reading::{CONTEXT_LIMIT_MAX, Reading};
use ruma::{UInt, api::client::context::get_context::v3::Request};
use serde::Serialize;
use store::Store;
use users::Users;

use crate::{
    asker::Asker,
    error::Result,
    events::{Events, page_size},
    message_pagination::FilterQuery,
};

/// Events around the event if the client doesn't say.
const CONTEXT_EVENTS_DEFAULT: usize = 10;

/// An event and those around it.
#[derive(Serialize)]
pub(crate) struct Context {
    event: Box<serde_json::value::RawValue>,
    events_before: Events,
    events_after: Events,
    start: String,
    end: String,
    state: Events,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}`
pub(crate) async fn get_event_context(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Guest,
    req: WithQuery<Request, FilterQuery>,
) -> Result<Json<Context>> {
    let WithQuery { request, query } = req;
    let filter = query.parse()?;
    let limit = match request.limit == UInt::MIN {
        // The event alone.
        true => 0,
        false => page_size(Some(request.limit), CONTEXT_EVENTS_DEFAULT, CONTEXT_LIMIT_MAX),
    };
    let asker = Asker::begin(&store, &users, &caller).await?;
    let found = asker.room(&reading, &request.room_id).context(&request.event_id, limit, &filter).await?;
    Ok(Json(Context {
        event: (*found.event).to_owned(),
        events_before: Events(found.events_before),
        events_after: Events(found.events_after),
        start: found.start.to_string(),
        end: found.end.to_string(),
        state: Events(found.state),
    }))
}
