//! What can go wrong in a room, in the words of the domain.

use event::{AuthError, PduError, ResolveError, VerifyError};
use ruma::RoomVersionId;
use store::{CommitError, OpenError, StoreError};

use crate::ports::RemoteError;

/// Why an operation on a room was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum RoomsError {
    /// This server doesn't know the room.
    #[error("room not found")]
    RoomNotFound,
    /// The room has no such event, or the asker may not see it.
    #[error("event not found")]
    EventNotFound,
    /// The asker isn't joined to the room and would have to be.
    #[error("not in the room")]
    NotJoined,
    /// The asker may not do this; the reason is in words for people.
    #[error("{0}")]
    Forbidden(String),
    /// The content, type or state key that the client gave can't be an event.
    #[error("{0}")]
    BadEvent(String),
    /// A value beside an event's content is none that there can be: a malformed alias, a thread that the event isn't in.
    #[error("{0}")]
    BadValue(String),
    /// The relation that an event would have is not allowed.
    #[error("{0}")]
    BadRelation(String),
    /// The first state of a new room contradicts itself.
    #[error("{0}")]
    InvalidRoomState(String),
    /// The user must leave the room before.
    #[error("the user is in the room")]
    StillInRoom,
    /// The user isn't banned.
    #[error("the user is not banned")]
    NotBanned,
    /// The event or the request is larger than allowed.
    #[error("too large: {0}")]
    TooLarge(String),
    /// This server doesn't support the room version that was asked for.
    #[error("room version {0} is not supported")]
    UnsupportedRoomVersion(RoomVersionId),
    /// The other server doesn't support the room's version.
    #[error("the room's version {room_version} is not among those offered")]
    IncompatibleRoomVersion {
        /// The room's version.
        room_version: RoomVersionId,
    },
    /// The user has annotated the event like this before.
    #[error("this annotation was sent already")]
    DuplicateAnnotation,
    /// The alias already names a room.
    #[error("the alias is in use")]
    AliasTaken,
    /// No room has this alias.
    #[error("alias not found")]
    AliasNotFound,
    /// An alias doesn't point to the room that it should.
    #[error("{0}")]
    BadAlias(String),
    /// A limit of this server is reached.
    #[error("limit reached: {0}")]
    LimitExceeded(String),
    /// The user has as much of a kind as one may.
    #[error("the user has too many {0}")]
    UserLimit(&'static str),
    /// A pagination token that this server didn't give.
    #[error("unknown pagination token")]
    UnknownPos,
    /// The event can't be redacted by this user.
    #[error("may not redact: {0}")]
    CannotRedact(String),
    /// A restricted room: this server holds none of the rooms that would allow the join.
    #[error("unable to tell whether the join is allowed")]
    UnableToAuthoriseJoin,
    /// A restricted room: the join is allowed, but nobody on this server may authorise it.
    #[error("unable to authorise the join; ask another server")]
    UnableToGrantJoin,
    /// The authorisation rules refuse the event.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// An event is malformed.
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// The signatures of an event are not right.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// State could not be resolved.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Other servers have to be asked, and that was not to be done now. No caller outside this crate sees it.
    #[error("other servers have to be asked first")]
    NotAtHand,
    /// Another server could not be asked or didn't answer well.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Reading failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writing failed.
    #[error(transparent)]
    Commit(CommitError),
    /// The store's identity or secrets can't be prepared.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Too many writers at once; trying later can succeed.
    #[error("too many changes at the same time")]
    Busy,
    /// What the store holds contradicts itself.
    #[error("the database is inconsistent: {0}")]
    Corrupt(String),
}

impl From<CommitError> for RoomsError {
    fn from(error: CommitError) -> Self {
        if matches!(error, CommitError::Contended) { Self::Busy } else { Self::Commit(error) }
    }
}

impl RoomsError {
    /// A refusal with its reason.
    pub fn forbidden(reason: impl Into<String>) -> Self {
        Self::Forbidden(reason.into())
    }

    /// A contradiction in the store.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }
}
