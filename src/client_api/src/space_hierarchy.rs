//! Module "Spaces".

use axum::extract::State;
use haima_http::{ApiError, Json, Session};
use reading::{HierarchyQuery, HierarchyRoom, Reading, Viewer};
use ruma::{UInt, api::client::space::get_hierarchy::v1::Request};
use serde::Serialize;
use store::Store;

use crate::error::Result;

/// A page of a space's rooms.
#[derive(Serialize)]
pub(crate) struct Page {
    rooms: Vec<HierarchyRoom>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
pub(crate) async fn get_space_hierarchy(
    State(store): State<Store>,
    State(reading): State<Reading>,
    caller: Session,
    req: Request,
) -> Result<Json<Page>> {
    let number = |asked: Option<UInt>| asked.and_then(|asked| usize::try_from(u64::from(asked)).ok());
    if req.limit == Some(UInt::MIN) {
        return Err(ApiError::invalid_param("`limit` must be greater than zero").into());
    }
    let from = req.from.as_deref().map(str::parse).transpose();
    let query = HierarchyQuery {
        suggested_only: req.suggested_only,
        max_depth: number(req.max_depth),
        limit: number(req.limit),
        from: from.map_err(|_| ApiError::invalid_param("Unknown pagination token"))?,
    };
    let view = store.view().await?;
    let page = reading.room(&view, Viewer::new(&caller.user), &req.room_id).hierarchy(&query).await?;
    Ok(Json(Page { rooms: page.rooms, next_batch: page.next.map(|token| token.to_string()) }))
}
