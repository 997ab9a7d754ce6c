//! What can go wrong between users and rooms.

use rooms::RoomsError;
use store::{CommitError, StoreError};

/// Why a flow was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// The invited user wants no invites (client-server API, "Invite permission").
    #[error("the user does not accept invites")]
    InviteBlocked,
    /// The room doesn't let guests in (client-server API, "Guest access").
    #[error("guests may not join this room")]
    GuestForbidden,
    /// Others kept changing the same rows; the caller may try again.
    #[error("too many changes at the same time")]
    Contended,
    /// What a user stored can't be written as JSON again.
    #[error("stored data is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// The users' part refused or failed.
    #[error(transparent)]
    Users(#[from] users::Error),
    /// The rooms' part refused or failed.
    #[error(transparent)]
    Rooms(#[from] RoomsError),
    /// Reading failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writing failed.
    #[error(transparent)]
    Commit(CommitError),
}

impl From<CommitError> for FlowsError {
    fn from(error: CommitError) -> Self {
        if matches!(error, CommitError::Contended) { Self::Contended } else { Self::Commit(error) }
    }
}
