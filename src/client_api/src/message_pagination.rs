//! Module "Getting events for a room": pages of its timeline.

use axum::extract::State;
use haima_http::{ApiError, Guest, Json, WithQuery};
use reading::{MESSAGES_LIMIT_MAX, MessagesQuery, Reading, RoomEventFilter};
use rooms::Direction;
use ruma::{api::Direction as Asked, api::client::message::get_message_events::v3::Request};
use serde::{Deserialize, Serialize};
use store::Store;
use users::Users;

use crate::{
    asker::Asker,
    error::Result,
    events::{Events, optional_token, page_size},
};

/// Events on a page if the client doesn't say.
const PAGE_EVENTS_DEFAULT: usize = 10;

/// The filter as it was sent, since not every field of it is in the request's type.
#[derive(Debug, Deserialize)]
pub(crate) struct FilterQuery {
    filter: Option<String>,
}

impl FilterQuery {
    pub(crate) fn parse(&self) -> Result<RoomEventFilter> {
        let Some(text) = &self.filter else { return Ok(RoomEventFilter::default()) };
        let filter = serde_json::from_str(text).map_err(|error| ApiError::invalid_param(format!("filter: {error}")))?;
        Ok(filter)
    }
}

/// A page of events.
#[derive(Serialize)]
pub(crate) struct Page {
    chunk: Events,
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(skip_serializing_if = "Events::is_empty")]
    state: Events,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/messages`
pub(crate) async fn get_room_events(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Guest,
    req: WithQuery<Request, FilterQuery>,
) -> Result<Json<Page>> {
    let WithQuery { request, query } = req;
    let query = MessagesQuery {
        from: optional_token(request.from.as_deref())?,
        to: optional_token(request.to.as_deref())?,
        direction: direction(request.dir),
        limit: page_size(Some(request.limit), PAGE_EVENTS_DEFAULT, MESSAGES_LIMIT_MAX),
        filter: query.parse()?,
    };
    let asker = Asker::begin(&store, &users, &caller).await?;
    let page = asker.room(&reading, &request.room_id).messages(&query).await?;
    Ok(Json(Page {
        chunk: Events(page.chunk),
        start: page.start.to_string(),
        end: page.end.map(|token| token.to_string()),
        state: Events(page.state),
    }))
}

/// The direction as `rooms` has it.
pub(crate) fn direction(asked: Asked) -> Direction {
    match asked {
        Asked::Forward => Direction::Forward,
        Asked::Backward => Direction::Backward,
    }
}
