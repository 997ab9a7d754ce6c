//! Module "Mutual rooms".

use axum::extract::State;
use flows::Flows;
use haima_http::{ApiError, Json, Session};
use ruma::{OwnedRoomId, api::client::membership::get_mutual_rooms::v1::Request};
use serde::Serialize;
use store::Store;

use crate::error::Result;

/// Rooms on a page.
const PAGE_ROOMS_MAX: usize = 500;

/// A page of rooms that two users share.
#[derive(Serialize)]
pub(crate) struct Page {
    count: usize,
    joined: Vec<OwnedRoomId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<OwnedRoomId>,
}

/// `GET /_matrix/client/v1/mutual_rooms`. A page's token is the last room of the page before.
pub(crate) async fn get_mutual_rooms(
    State(store): State<Store>,
    State(flows): State<Flows>,
    caller: Session,
    req: Request,
) -> Result<Json<Page>> {
    if caller.user == req.user_id {
        return Err(ApiError::invalid_param("Everybody shares all rooms with themselves").into());
    }
    let from = req.from.as_deref().map(OwnedRoomId::try_from).transpose();
    let from = from.map_err(|_| ApiError::invalid_param("Unknown pagination token"))?;
    let mutual = flows.mutual_rooms(&store.view().await?, &caller.user, &req.user_id).await?;
    let begin = from.map_or(0, |from| mutual.partition_point(|room| *room <= from));
    let joined: Vec<_> = mutual[begin..].iter().take(PAGE_ROOMS_MAX).cloned().collect();
    let more = begin + joined.len() < mutual.len();
    let next_batch = joined.last().filter(|_| more).cloned();
    Ok(Json(Page { count: mutual.len(), joined, next_batch }))
}
