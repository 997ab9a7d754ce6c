//! What can go wrong with an event.

use ruma::OwnedEventId;

/// Why text isn't an event of its room version, or an event can't be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// The text isn't canonical JSON: the reason names the rule.
    #[error("not canonical JSON: {0}")]
    Json(String),
    /// The event exceeds [`PDU_SIZE_BYTES_MAX`](crate::PDU_SIZE_BYTES_MAX).
    #[error("the event is larger than {} bytes", crate::PDU_SIZE_BYTES_MAX)]
    TooLarge,
    /// A field is longer than [`ID_SIZE_BYTES_MAX`](crate::ID_SIZE_BYTES_MAX).
    #[error("`{field}` is longer than {} bytes", crate::ID_SIZE_BYTES_MAX)]
    FieldTooLong {
        /// Which field.
        field: &'static str,
    },
    /// A field is missing, superfluous or of the wrong kind.
    #[error("`{field}` is missing or not valid in this room version")]
    Field {
        /// Which field.
        field: &'static str,
    },
    /// More references than an event may have.
    #[error("`{field}` has too many entries")]
    TooManyReferences {
        /// Which field.
        field: &'static str,
    },
    /// An event in the store doesn't read as an event.
    #[error("stored event {event_id}: {reason}")]
    Stored {
        /// Under which id it is stored.
        event_id: OwnedEventId,
        /// What the JSON reader says.
        reason: String,
    },
}

/// Why the signatures of an event can't be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A required signature is missing, or wrong, or its key isn't known.
    #[error("signature: {0}")]
    Signature(String),
    /// The event, redacted because its content hash is wrong, isn't valid any more.
    #[error(transparent)]
    Pdu(#[from] PduError),
}

/// Why the authorisation rules refuse an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// A rule rejects the event; the reason is in words for people.
    #[error("{0}")]
    Rejected(String),
}

/// Why state could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The algorithm needs an event that was not loaded.
    #[error("event {0} is needed to resolve state and was not given")]
    MissingEvent(OwnedEventId),
    /// The algorithm can't work on these events.
    #[error("state resolution: {0}")]
    Failed(String),
}
