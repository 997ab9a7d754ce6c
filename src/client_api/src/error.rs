//! From the domain's errors to status, error code and message: one total match for each crate, so that a new error doesn't compile
//! before it is decided here what clients are told.
#![warn(clippy::match_wildcard_for_single_variants, clippy::wildcard_enum_match_arm)]

use std::{io, time::Duration};

use event::PduError;
use flows::FlowsError;
use haima_http::{ApiError, StatusCode};
use rooms::{RemoteError, RoomsError};
use store::{CommitError, StoreError};
use sync::SyncError;

/// What a handler fails with.
#[derive(Debug)]
pub(crate) struct Failure(ApiError);

/// What a handler gives.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// How long to wait before trying again what failed because too much happened at once.
const BUSY_RETRY: Duration = Duration::from_millis(500);

/// How long to wait before another upload is announced when too many were announced and not made.
const PENDING_RETRY: Duration = Duration::from_secs(60);

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

fn bad_request(errcode: &'static str, message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, errcode, message)
}

fn unavailable() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", "The server is shutting down")
}

fn busy() -> ApiError {
    ApiError::limit_exceeded(BUSY_RETRY)
}

pub(crate) fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Closed => unavailable(),
        StoreError::Commit(error) => commit_error(error),
        StoreError::Decode { .. } | StoreError::Engine(_) => ApiError::internal(error),
    }
}

fn commit_error(error: CommitError) -> ApiError {
    match error {
        CommitError::Conflict | CommitError::Contended => busy(),
        CommitError::Closed => unavailable(),
        CommitError::TooLarge => ApiError::too_large("The change is too large"),
        CommitError::Invalid(_) | CommitError::Failed(_) => ApiError::internal(error),
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(store_error(error))
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        Self(commit_error(error))
    }
}

impl From<users::Error> for Failure {
    fn from(error: users::Error) -> Self {
        Self(users_error(error))
    }
}

pub(crate) fn users_error(error: users::Error) -> ApiError {
    use users::Error as E;
    let message = error.to_string();
    match error {
        E::InvalidUserName => bad_request("M_INVALID_USERNAME", message),
        E::ReservedUserName => bad_request("M_EXCLUSIVE", message),
        E::UserNameTaken => bad_request("M_USER_IN_USE", message),
        E::UnknownUser | E::UnknownRegistrationToken | E::UnknownDevice | E::UnknownPushRule | E::UnknownKeyBackup => {
            ApiError::not_found(message)
        }
        E::Deactivated => ApiError::new(StatusCode::FORBIDDEN, "M_USER_DEACTIVATED", message),
        E::Locked => ApiError::user_locked(),
        E::NotAllowed | E::WrongPassword => ApiError::forbidden(message),
        E::PasswordTooShort { .. } => bad_request("M_WEAK_PASSWORD", message),
        E::PasswordTooLong { .. } => bad_request("M_INVALID_PARAM", message),
        E::Busy | E::Contended => busy(),
        E::UnknownToken => ApiError::unknown_token(false),
        E::ExpiredToken => ApiError::unknown_token(true),
        E::InvalidRegistrationToken => ApiError::forbidden(message),
        E::RegistrationTokenTaken | E::MalformedRegistrationToken | E::InvalidDeviceId { .. } | E::DeviceIdInUse => {
            ApiError::invalid_param(message)
        }
        E::TooMany(_) => bad_request("M_UNKNOWN", message),
        E::TooManyDevices | E::UserLimit(_) => ApiError::user_limit_exceeded(StatusCode::BAD_REQUEST, message),
        E::InvalidKey(_) | E::IdentityChanged | E::KeyExists { .. } => ApiError::invalid_param(message),
        E::InvalidSignature(_) => bad_request("M_INVALID_SIGNATURE", message),
        E::MissingMasterKey => ApiError::missing_param(message),
        E::KeyIdInUse | E::ConfirmationNeeded => ApiError::forbidden(message),
        E::InvalidProfileKey | E::InvalidProfileValue(_) => ApiError::invalid_param(message),
        E::ProfileKeyTooLarge => bad_request("M_KEY_TOO_LARGE", message),
        E::ProfileTooLarge => bad_request("M_PROFILE_TOO_LARGE", message),
        E::ServerManagedType => ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "M_BAD_JSON", message),
        E::NotAnObject | E::MissingKeyField(_) => ApiError::bad_json(message),
        E::TooLarge { .. } => ApiError::too_large(message),
        E::InvalidTagOrder | E::InvalidPushRuleId | E::DefaultPushRule | E::ContradictoryPushRuleOrder => {
            ApiError::invalid_param(message)
        }
        E::WrongKeyBackup { current } => ApiError::new(StatusCode::FORBIDDEN, "M_WRONG_ROOM_KEYS_VERSION", message)
            .with("current_version", current.to_string()),
        E::KeyBackupAlgorithm => ApiError::invalid_param(message),
        E::UnknownRelativePushRule(_) => bad_request("M_UNKNOWN", message),
        E::Store(error) => store_error(error),
        E::Commit(error) => commit_error(error),
        E::Hash(_) | E::Damaged { .. } => ApiError::internal(error),
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self(ApiError::internal(error))
    }
}

impl From<RoomsError> for Failure {
    fn from(error: RoomsError) -> Self {
        Self(rooms_error(error))
    }
}

fn rooms_error(error: RoomsError) -> ApiError {
    use RoomsError as E;
    let message = error.to_string();
    match error {
        E::EventNotFound | E::AliasNotFound => ApiError::not_found(message),
        // Who isn't in a room doesn't learn whether there is one.
        E::RoomNotFound => ApiError::forbidden(E::NotJoined.to_string()),
        E::NotJoined | E::Forbidden(_) | E::CannotRedact(_) | E::Auth(_) => ApiError::forbidden(message),
        E::BadEvent(_) => ApiError::bad_json(message),
        E::BadValue(_) => ApiError::invalid_param(message),
        E::BadRelation(_) | E::StillInRoom => bad_request("M_UNKNOWN", message),
        E::InvalidRoomState(_) => bad_request("M_INVALID_ROOM_STATE", message),
        E::NotBanned => ApiError::new(StatusCode::FORBIDDEN, "M_BAD_STATE", message),
        E::TooLarge(_) => ApiError::too_large(message),
        E::UnsupportedRoomVersion(_) => bad_request("M_UNSUPPORTED_ROOM_VERSION", message),
        E::IncompatibleRoomVersion { room_version } => {
            bad_request("M_INCOMPATIBLE_ROOM_VERSION", message).with("room_version", room_version.as_str())
        }
        E::DuplicateAnnotation => bad_request("M_DUPLICATE_ANNOTATION", message),
        E::AliasTaken => ApiError::new(StatusCode::CONFLICT, "M_ROOM_IN_USE", message),
        E::BadAlias(_) => bad_request("M_BAD_ALIAS", message),
        E::UserLimit(_) => ApiError::user_limit_exceeded(StatusCode::BAD_REQUEST, message),
        E::LimitExceeded(_) => ApiError::new(StatusCode::FORBIDDEN, "M_FORBIDDEN", message),
        E::UnknownPos => ApiError::invalid_param(message),
        // Other servers have codes of their own for these; to a client the room is closed.
        E::UnableToAuthoriseJoin | E::UnableToGrantJoin => ApiError::forbidden(message),
        E::Pdu(error) => pdu_error(error),
        E::Remote(RemoteError::Refused(_)) => ApiError::forbidden(message),
        // The room may well exist; this server only can't get there.
        E::Remote(RemoteError::NotReachable(_)) => ApiError::not_found(message),
        E::Remote(RemoteError::BadAnswer(_)) => ApiError::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message),
        E::Store(error) => store_error(error),
        E::Commit(error) => commit_error(error),
        E::Busy => busy(),
        E::Verify(_) | E::Resolve(_) | E::NotAtHand | E::Open(_) | E::Corrupt(_) => ApiError::internal(error),
    }
}

fn pdu_error(error: PduError) -> ApiError {
    let message = error.to_string();
    match error {
        PduError::TooLarge | PduError::FieldTooLong { .. } => ApiError::too_large(message),
        PduError::Json(_) | PduError::Field { .. } | PduError::TooManyReferences { .. } => ApiError::bad_json(message),
        PduError::Stored { .. } => ApiError::internal(error),
    }
}

/// For endpoints that are asked by those who aren't in the room: 404 where there is none.
pub(crate) fn or_no_room(error: FlowsError) -> Failure {
    if let FlowsError::Rooms(RoomsError::RoomNotFound) = error {
        return ApiError::not_found("There is no such room").into();
    }
    error.into()
}

impl From<FlowsError> for Failure {
    fn from(error: FlowsError) -> Self {
        let message = error.to_string();
        Self(match error {
            FlowsError::InviteBlocked => ApiError::new(StatusCode::FORBIDDEN, "M_INVITE_BLOCKED", message),
            FlowsError::GuestForbidden => ApiError::new(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", message),
            FlowsError::Contended => busy(),
            FlowsError::Users(error) => users_error(error),
            FlowsError::Rooms(error) => rooms_error(error),
            FlowsError::Store(error) => store_error(error),
            FlowsError::Commit(error) => commit_error(error),
            FlowsError::Damaged(_) => ApiError::internal(error),
        })
    }
}

impl From<media::Error> for Failure {
    fn from(error: media::Error) -> Self {
        use media::Error as E;
        let message = error.to_string();
        Self(match error {
            E::NotFound | E::Quarantined => ApiError::not_found(message),
            E::NotYetUploaded => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", message),
            E::AlreadyUploaded => ApiError::new(StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA", message),
            E::NotYours | E::PreviewNotAllowed => ApiError::forbidden(message),
            E::QuotaExceeded { .. } => ApiError::user_limit_exceeded(StatusCode::FORBIDDEN, message),
            E::PreviewFailed => ApiError::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message),
            E::TooLarge { .. } | E::ImageTooLarge => ApiError::too_large(message),
            E::NotAnImage => ApiError::bad_request(message),
            E::TooManyPending => ApiError::limit_exceeded(PENDING_RETRY),
            E::Busy | E::Contended => busy(),
            E::Io(error) if is_full(&error) => {
                tracing::error!(%error, "there is no room for a file");
                ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "M_UNKNOWN", "The server has no room left for files")
            }
            E::Bucket(error) => {
                ApiError::unavailable("The storage of files can't be used at the moment", E::Bucket(error))
            }
            E::Store(error) => store_error(error),
            E::Commit(error) => commit_error(error),
            E::Io(_) | E::Net(_) | E::Misconfigured { .. } => ApiError::internal(error),
        })
    }
}

/// Whether writing a file failed for want of room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

impl From<SyncError> for Failure {
    fn from(error: SyncError) -> Self {
        let message = error.to_string();
        Self(match error {
            SyncError::BadToken | SyncError::BadFilter(_) | SyncError::UnknownFilter => {
                ApiError::invalid_param(message)
            }
            SyncError::Busy => ApiError::limit_exceeded(BUSY_RETRY),
            SyncError::Store(error) => store_error(error),
            SyncError::Rooms(error) => rooms_error(error),
            SyncError::Users(error) => users_error(error),
            SyncError::Json(_) => ApiError::internal(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_fault() {
        let status = |kind: io::ErrorKind| ApiError::from(Failure::from(media::Error::Io(kind.into()))).status();
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert_eq!(status(kind), StatusCode::INSUFFICIENT_STORAGE);
        }
        assert_eq!(status(io::ErrorKind::PermissionDenied), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
