//! Public keys of end-to-end encryption: devices' identity keys, their one-time and fallback keys, and users'
//! cross-signing keys.
//!
//! Specification: client-server API, "End-to-End Encryption".

mod pool;

pub use pool::KeyCounts;
