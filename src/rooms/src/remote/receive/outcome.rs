//! How taking in an event of another server ended, and if nothing came of it, whose business that is.

use store::{CommitError, StoreError};

use crate::{RoomsError, ports::RemoteError, types::EventStatus};

/// What became of an event that another server sent.
#[derive(Debug)]
pub enum Received {
    /// It is stored with this status, now or before.
    Stored(EventStatus),
    /// It isn't an event of the room's version, or its signatures are wrong: nothing of it is kept.
    Dropped(String),
    /// Other servers have to be asked first, and this attempt was to ask nobody.
    NotAtHand,
    /// Another attempt may go better: a server could not be asked, others were faster, what it builds on isn't right yet.
    Later(RoomsError),
    /// The event can't become part of the room, however often that is tried.
    Refused(RoomsError),
    /// To take it in, more would have to be read or written than this server does for one event.
    TooLarge(RoomsError),
    /// The store can't be read or written. That says nothing about the event, and others would fare no better now.
    StoreFailed(RoomsError),
}

impl From<RoomsError> for Received {
    fn from(error: RoomsError) -> Self {
        match &error {
            RoomsError::Store(StoreError::Commit(failed)) | RoomsError::Commit(failed) => match failed {
                CommitError::Conflict | CommitError::Contended => Self::Later(error),
                CommitError::TooLarge => Self::TooLarge(error),
                CommitError::Invalid(_) => Self::Refused(error),
                CommitError::Failed(_) | CommitError::Closed => Self::StoreFailed(error),
            },
            RoomsError::Store(failed) => match failed {
                // What is stored around this event is damaged: the room's other events need not wait for it.
                StoreError::Decode { .. } => Self::Later(error),
                StoreError::Engine(_) | StoreError::Closed | StoreError::Commit(_) => Self::StoreFailed(error),
            },
            RoomsError::NotAtHand => Self::NotAtHand,
            RoomsError::Open(_) => Self::StoreFailed(error),
            RoomsError::TooLarge(_) => Self::TooLarge(error),
            RoomsError::Remote(RemoteError::NotReachable(_) | RemoteError::Refused(_) | RemoteError::BadAnswer(_))
            | RoomsError::Resolve(_)
            | RoomsError::LimitExceeded(_)
            | RoomsError::UserLimit(_)
            | RoomsError::Busy
            | RoomsError::Corrupt(_) => Self::Later(error),
            RoomsError::RoomNotFound
            | RoomsError::EventNotFound
            | RoomsError::NotJoined
            | RoomsError::Forbidden(_)
            | RoomsError::BadEvent(_)
            | RoomsError::BadValue(_)
            | RoomsError::BadRelation(_)
            | RoomsError::InvalidRoomState(_)
            | RoomsError::StillInRoom
            | RoomsError::NotBanned
            | RoomsError::UnsupportedRoomVersion(_)
            | RoomsError::IncompatibleRoomVersion { .. }
            | RoomsError::DuplicateAnnotation
            | RoomsError::AliasTaken
            | RoomsError::AliasNotFound
            | RoomsError::BadAlias(_)
            | RoomsError::UnknownPos
            | RoomsError::CannotRedact(_)
            | RoomsError::UnableToAuthoriseJoin
            | RoomsError::UnableToGrantJoin
            | RoomsError::Auth(_)
            | RoomsError::Pdu(_)
            | RoomsError::Verify(_) => Self::Refused(error),
        }
    }
}

/// What an error that isn't the store's trouble means; the outer error is one that is.
pub(super) fn unless_store_failed(error: RoomsError) -> Result<Received, RoomsError> {
    match Received::from(error) {
        Received::StoreFailed(error) => Err(error),
        outcome => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_not_the_stores_trouble() {
        let outcome = |error: CommitError| Received::from(RoomsError::from(error));
        assert!(matches!(outcome(CommitError::TooLarge), Received::TooLarge(_)));
        assert!(matches!(outcome(CommitError::Conflict), Received::Later(_)));
        assert!(matches!(outcome(CommitError::Closed), Received::StoreFailed(_)));
        let read = StoreError::from(CommitError::TooLarge);
        assert!(matches!(Received::from(RoomsError::from(read)), Received::TooLarge(_)));
    }
}
