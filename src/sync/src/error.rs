//! What can go wrong in a sync.

use store::StoreError;

use crate::BadToken;

/// Why a sync was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The `since` token is not one that this server gave.
    #[error("unknown sync token")]
    BadToken,
    /// The filter can't be read.
    #[error("malformed filter: {0}")]
    BadFilter(String),
    /// The user has no filter with this id.
    #[error("no such filter")]
    UnknownFilter,
    /// Too many large answers wait to be made.
    #[error("too many large answers at once")]
    Busy,
    /// Reading from the store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event can't be read or written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Reading of rooms failed.
    #[error(transparent)]
    Rooms(#[from] rooms::RoomsError),
    /// Reading of users failed.
    #[error(transparent)]
    Users(#[from] users::Error),
}

impl From<BadToken> for SyncError {
    fn from(_: BadToken) -> Self {
        Self::BadToken
    }
}
