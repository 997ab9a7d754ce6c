//! What this server's users do to rooms, and how a room's graph, head and state follow.
//!
//! A writer takes the room's turn (`turn`) on its pending head (`head`), has an event built and authorised (`append`), placed in the
//! graph (`advance`), redacted where redactions ask for it (`redact`) and put into the readers' indices (`index`). Features stand on
//! that: messages and state (`send`), memberships, creation, upgrades, aliases.

pub(crate) mod advance;
pub(crate) mod aliases;
pub(crate) mod annotations;
pub(crate) mod append;
pub(crate) mod create;
pub(crate) mod extremities;
pub(crate) mod head;
pub(crate) mod index;
pub(crate) mod membership;
pub(crate) mod redact;
pub(crate) mod resolve;
pub(crate) mod send;
pub(crate) mod turn;
pub(crate) mod txn_ids;
pub(crate) mod upgrade;
