//! Answers about very many rooms: built in parts side by side, as bulk work of the store.
//!
//! Most requests are about few rooms, and most of what they read is in memory. A first sync of a thousand rooms reads much that
//! is not, and is worth more than one core.

use std::sync::Arc;

use futures_util::{StreamExt, future::BoxFuture, stream};
use store::View;

use crate::SyncError;

/// What is about up to so many rooms is built by the task that asks.
pub(crate) const ROOMS_INLINE_MAX: usize = 64;

/// Rooms of one part.
const ROOMS_PER_PART: usize = 32;

/// Parts of one answer that are built at the same time.
const PARTS_AT_ONCE: usize = 4;

/// Builds a part, reading from this view, from what all parts are made from.
pub(crate) type Build<C, T, R> = fn(View, Arc<C>, Vec<T>) -> BoxFuture<'static, Result<R, SyncError>>;

/// Builds what there is to say about rooms, in their order, as of a view.
pub(crate) async fn side_by_side<C, T, R>(
    view: &View,
    common: C,
    rooms: Vec<T>,
    build: Build<C, T, R>,
) -> Result<Vec<R>, SyncError>
where
    C: Send + Sync + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    let common = Arc::new(common);
    let mut parts = Vec::with_capacity(rooms.len().div_ceil(ROOMS_PER_PART));
    let mut rooms = rooms.into_iter();
    loop {
        let part: Vec<T> = rooms.by_ref().take(ROOMS_PER_PART).collect();
        if part.is_empty() {
            break;
        }
        let common = common.clone();
        parts.push(view.bulk(move |view| build(view, common, part)));
    }
    let mut parts = stream::iter(parts).buffered(PARTS_AT_ONCE);
    let mut built = Vec::new();
    while let Some(part) = parts.next().await {
        built.push(part??);
    }
    Ok(built)
}
