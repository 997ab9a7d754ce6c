//! Events and what follows from them: format, hashes, signatures, redaction, authorisation, state
//! resolution, visibility, server access lists, push rules.
//!
//! Everything here is a plain function over values: no I/O, no waiting, no global. Time and
//! randomness come in as [`Clock`] and [`Random`].
//!
//! The way of an event of another server: [`ReceivedPdu::parse`] (format, id) →
//! [`ReceivedPdu::required_keys`] (the caller gets the keys) → [`ReceivedPdu::verify`] (signatures,
//! content hash) → [`auth::check_state_independent`] → [`auth::check_state_dependent`] for the state
//! of its auth events, the state before it and the current state.
//!
//! The way of an event of this server: [`PduBuilder::build`] → [`auth::check_state_dependent`].

mod acl;
pub mod auth;
mod builder;
pub mod canonical;
mod clock;
mod error;
mod glob;
pub mod names;
mod pdu;
mod policy;
pub mod push;
mod random;
mod received;
mod redact;
pub mod resolve;
mod rules;
mod secret;
mod sign;
mod signing_key;
mod stored;
#[cfg(test)]
mod tests;
pub mod visibility;

pub use ruma::room_version_rules::RoomVersionRules;
pub use ruma::signatures::PublicKeyMap;

pub use self::acl::ServerAcl;
pub use self::builder::PduBuilder;
pub use self::clock::{Clock, SystemClock};
pub use self::error::{AuthError, PduError, ResolveError, VerifyError};
pub use self::pdu::{
    AUTH_EVENTS_MAX, DEPTH_MAX, ID_SIZE_BYTES_MAX, PDU_SIZE_BYTES_MAX, PREV_EVENTS_MAX, Pdu, create_event_id,
};
pub use self::policy::PolicyServer;
pub use self::random::{Random, SystemRandom};
pub use self::received::{ReceivedPdu, Verified, reference_hash};
pub use self::redact::{may_redact, redact, redact_json};
pub use self::resolve::StateMap;
pub use self::rules::{DEFAULT_ROOM_VERSION, SUPPORTED_ROOM_VERSIONS, new_room_id, room_id_is_create_hash, rules};
pub use self::secret::Secret;
pub use self::sign::{add_signature, countersign};
pub use self::signing_key::{SIGNING_KEY_BYTES, SigningKey};
