//! What can go wrong in this crate, in its own words.

use store::{CommitError, StoreError};

/// Why an operation on users was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The localpart breaks the grammar of user identifiers, or the identifier is too long.
    #[error("the user name may contain only a-z, 0-9 and ._=-/+ and must not be too long")]
    InvalidUserName,
    /// The localpart is kept for the server's own use.
    #[error("the user name is reserved")]
    ReservedUserName,
    /// There is (or was) an account of that name.
    #[error("the user name is taken")]
    UserNameTaken,
    /// There is no such local account.
    #[error("there is no such user")]
    UnknownUser,
    /// The account was deactivated.
    #[error("the account was deactivated")]
    Deactivated,
    /// The account is locked by an administrator.
    #[error("the account is locked")]
    Locked,
    /// The actor may not do this to that account (not an administrator, themselves, or another
    /// administrator).
    #[error("this is not allowed on that account")]
    NotAllowed,

    /// Wrong password or unknown user; which of the two isn't told.
    #[error("wrong user name or password")]
    WrongPassword,
    /// The new password has fewer characters than configured.
    #[error("the password must have at least {min} characters")]
    PasswordTooShort {
        /// The configured least number of characters.
        min: usize,
    },
    /// The password has more bytes than accepted.
    #[error("the password must have at most {max} bytes")]
    PasswordTooLong {
        /// The greatest number of bytes.
        max: usize,
    },
    /// Too many password checks are waiting already.
    #[error("too many logins at the moment")]
    Busy,
    /// The hash function failed (bad parameters or a damaged stored hash).
    #[error("password hashing failed: {0}")]
    Hash(String),

    /// The token was never issued, was revoked or was used up: the session is gone (hard logout).
    #[error("the token is not known")]
    UnknownToken,
    /// The token expired, or there is another in its place, but its device still exists: the client may log in again (soft
    /// logout).
    #[error("the token has expired")]
    ExpiredToken,
    /// The registration token isn't valid (unknown, expired or used up).
    #[error("the registration token is not valid")]
    InvalidRegistrationToken,
    /// The registration token to create exists already.
    #[error("the registration token exists already")]
    RegistrationTokenTaken,
    /// The registration token has characters outside `A-Za-z0-9._~-` or more than 64 of them.
    #[error("a registration token has 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")]
    MalformedRegistrationToken,
    /// There is no such registration token.
    #[error("there is no such registration token")]
    UnknownRegistrationToken,

    /// The user has no such device.
    #[error("there is no such device")]
    UnknownDevice,
    /// The device identifier is empty or too long.
    #[error("the device id must have 1 to {max} bytes")]
    InvalidDeviceId {
        /// The greatest number of bytes.
        max: usize,
    },
    /// A device that is to be made has the id of one that is there.
    #[error("the user has a device with this id")]
    DeviceIdInUse,
    /// The user has as many devices as one may have.
    #[error("the user has too many devices")]
    TooManyDevices,

    /// A public key isn't what it must be.
    #[error("the key is not valid: {0}")]
    InvalidKey(&'static str),
    /// A public key lacks a field that it must have.
    #[error("the key has no field `{0}`")]
    MissingKeyField(&'static str),
    /// A signature of a key is missing or wrong.
    #[error("{0}")]
    InvalidSignature(&'static str),
    /// A device's identity keys would become others.
    #[error("the identity keys of a device can't be replaced; log in on a new device")]
    IdentityChanged,
    /// There is another one-time key of this id, which nobody has claimed.
    #[error("the one-time key {id} exists already and is another")]
    KeyExists {
        /// `<algorithm>:<name>`
        id: String,
    },
    /// A cross-signing key would have the name of a device, or a device that of a cross-signing key.
    #[error("the key id is in use")]
    KeyIdInUse,
    /// There is no master key to have signed the other cross-signing keys.
    #[error("no master signing key is available")]
    MissingMasterKey,
    /// The user must show who they are before their cross-signing keys are replaced.
    #[error("replacing cross-signing keys must be confirmed")]
    ConfirmationNeeded,

    /// The profile field's name breaks the grammar.
    #[error("the name of the profile field is not valid")]
    InvalidProfileKey,
    /// The profile field's name is longer than 255 bytes.
    #[error("the name of the profile field is too long")]
    ProfileKeyTooLarge,
    /// The value of a profile field isn't of the type that the field needs.
    #[error("the value of the profile field is not valid: {0}")]
    InvalidProfileValue(&'static str),
    /// The profile would be larger than 64 KiB.
    #[error("the profile would be too large")]
    ProfileTooLarge,

    /// This account data type is written by the server alone.
    #[error("this type of account data is managed by the server")]
    ServerManagedType,
    /// The content isn't a JSON object.
    #[error("the content must be a JSON object")]
    NotAnObject,
    /// A name, a text or a content is larger than accepted.
    #[error("{what} must have at most {max} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The greatest number of bytes.
        max: usize,
    },
    /// There is more of a kind in one request than there may be.
    #[error("there are too many {0}")]
    TooMany(&'static str),
    /// The user stores as much of a kind as one may.
    #[error("the user has too many {0}")]
    UserLimit(&'static str),
    /// The `order` of a tag isn't a number from 0 to 1.
    #[error("the order of a tag must be a number from 0 to 1")]
    InvalidTagOrder,

    /// There is no push rule of that kind and name.
    #[error("the push rule was not found")]
    UnknownPushRule,
    /// The name of a push rule starts with a dot or contains a slash or backslash.
    #[error("the name of the push rule is not valid")]
    InvalidPushRuleId,
    /// Server-default rules can't be replaced, moved against or deleted.
    #[error("server-default push rules can't be changed this way")]
    DefaultPushRule,
    /// The rule named by `before` or `after` doesn't exist among the user's rules of that kind.
    #[error("before/after rule not found: {0}")]
    UnknownRelativePushRule(String),
    /// The rule named by `before` ranks above the one named by `after`.
    #[error("the rule given as before ranks above the rule given as after")]
    ContradictoryPushRuleOrder,

    /// The user has no key backup, or none of that version.
    #[error("there is no such key backup")]
    UnknownKeyBackup,
    /// Keys can be written to the newest backup only.
    #[error("this is not the current key backup")]
    WrongKeyBackup {
        /// The version of the newest backup.
        current: u64,
    },
    /// The algorithm of a backup can't be changed.
    #[error("the algorithm is not that of the key backup")]
    KeyBackupAlgorithm,

    /// Others kept changing the same rows; the caller may try again.
    #[error("too many changes at the same time")]
    Contended,
    /// What is stored can't be understood.
    #[error("stored data of {what} is damaged: {source}")]
    Damaged {
        /// The kind of data.
        what: &'static str,
        /// How it is damaged.
        source: serde_json::Error,
    },
    /// Reading failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writing failed.
    #[error(transparent)]
    Commit(CommitError),
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        if matches!(error, CommitError::Contended) { Self::Contended } else { Self::Commit(error) }
    }
}

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What was put together of many things of a user is too large: they have too many of them.
pub(crate) fn too_many(what: &'static str) -> impl Fn(Error) -> Error {
    move |error| if matches!(error, Error::TooLarge { .. }) { Error::UserLimit(what) } else { error }
}
