//! What comes from other servers and what they are told.
//!
//! Events wait in a durable inbox (`inbox`) and are taken in one by one (`receive`); `handshake` and `invite` are how users enter rooms
//! through other servers, `serve` is what those servers may read.

pub(crate) mod handshake;
pub(crate) mod inbox;
pub(crate) mod invite;
pub(crate) mod receive;
pub(crate) mod serve;
