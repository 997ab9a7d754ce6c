//! Module "Relationships API".

use axum::extract::State;
use haima_http::{Guest, Json};
use reading::{RELATIONS_LIMIT_MAX, Reading, RelationsQuery};
use ruma::{
    EventId, RoomId, UInt,
    api::{
        Direction,
        client::relations::{
            get_relating_events as all, get_relating_events_with_rel_type as by_rel_type,
            get_relating_events_with_rel_type_and_event_type as by_event_type,
        },
    },
};
use serde::Serialize;
use store::Store;
use users::Users;

use crate::{
    asker::Asker,
    error::Result,
    events::{Events, optional_token, page_size},
    message_pagination::direction,
};

/// Events on a page if the client doesn't say.
const PAGE_EVENTS_DEFAULT: usize = 5;

/// A page of events that relate to another.
#[derive(Serialize)]
pub(crate) struct Page {
    chunk: Events,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recursion_depth: Option<usize>,
}

/// What the three requests have in common.
struct Asked<'a> {
    room: &'a RoomId,
    event: &'a EventId,
    from: Option<&'a str>,
    to: Option<&'a str>,
    dir: Direction,
    limit: Option<UInt>,
    recurse: bool,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}`
pub(crate) async fn get_relating_events(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Guest,
    req: all::v1::Request,
) -> Result<Json<Page>> {
    let asked = Asked {
        room: &req.room_id,
        event: &req.event_id,
        from: req.from.as_deref(),
        to: req.to.as_deref(),
        dir: req.dir,
        limit: req.limit,
        recurse: req.recurse,
    };
    page(&store, &users, &reading, &caller, asked, RelationsQuery::default()).await
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}`
pub(crate) async fn get_relating_events_with_rel_type(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Guest,
    req: by_rel_type::v1::Request,
) -> Result<Json<Page>> {
    let asked = Asked {
        room: &req.room_id,
        event: &req.event_id,
        from: req.from.as_deref(),
        to: req.to.as_deref(),
        dir: req.dir,
        limit: req.limit,
        recurse: req.recurse,
    };
    let query = RelationsQuery { rel_type: Some(req.rel_type.to_string()), ..RelationsQuery::default() };
    page(&store, &users, &reading, &caller, asked, query).await
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
pub(crate) async fn get_relating_events_with_rel_type_and_event_type(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Guest,
    req: by_event_type::v1::Request,
) -> Result<Json<Page>> {
    let asked = Asked {
        room: &req.room_id,
        event: &req.event_id,
        from: req.from.as_deref(),
        to: req.to.as_deref(),
        dir: req.dir,
        limit: req.limit,
        recurse: req.recurse,
    };
    let query = RelationsQuery {
        rel_type: Some(req.rel_type.to_string()),
        event_type: Some(req.event_type.to_string()),
        ..RelationsQuery::default()
    };
    page(&store, &users, &reading, &caller, asked, query).await
}

async fn page(
    store: &Store,
    users: &Users,
    reading: &Reading,
    caller: &Guest,
    asked: Asked<'_>,
    query: RelationsQuery,
) -> Result<Json<Page>> {
    let query = RelationsQuery {
        from: optional_token(asked.from)?,
        to: optional_token(asked.to)?,
        direction: direction(asked.dir),
        limit: page_size(asked.limit, PAGE_EVENTS_DEFAULT, RELATIONS_LIMIT_MAX),
        recurse: asked.recurse,
        ..query
    };
    let asker = Asker::begin(store, users, caller).await?;
    let page = asker.room(reading, asked.room).relations(asked.event, &query).await?;
    Ok(Json(Page {
        chunk: Events(page.chunk),
        next_batch: page.next.map(|token| token.to_string()),
        prev_batch: page.prev.map(|token| token.to_string()),
        recursion_depth: page.recursion_depth,
    }))
}
