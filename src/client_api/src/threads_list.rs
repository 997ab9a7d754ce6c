//! Module "Threading": the threads of a room.

use axum::extract::State;
use haima_http::{ApiError, Json, Session};
use reading::{Reading, ThreadsInclude};
use ruma::api::client::threads::get_threads::v1::{IncludeThreads, Request};
use serde::Serialize;
use store::Store;
use users::Users;

use crate::{
    asker::Asker,
    error::Result,
    events::{Events, optional_token, page_size},
};

/// Threads on a page if the client doesn't say.
const PAGE_THREADS_DEFAULT: usize = 20;
/// Threads on a page at most.
const PAGE_THREADS_MAX: usize = 100;

/// A page of thread roots.
#[derive(Serialize)]
pub(crate) struct Page {
    chunk: Events,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/threads`
pub(crate) async fn get_thread_roots(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Session,
    req: Request,
) -> Result<Json<Page>> {
    let include = match req.include {
        IncludeThreads::Participated => ThreadsInclude::Participated,
        IncludeThreads::All => ThreadsInclude::All,
        _ => return Err(ApiError::invalid_param("Unknown value of `include`").into()),
    };
    let from = optional_token(req.from.as_deref())?;
    let limit = page_size(req.limit, PAGE_THREADS_DEFAULT, PAGE_THREADS_MAX);
    let asker = Asker::begin(&store, &users, &caller).await?;
    let page = asker.room(&reading, &req.room_id).threads(include, from, limit).await?;
    Ok(Json(Page { chunk: Events(page.chunk), next_batch: page.next.map(|token| token.to_string()) }))
}
