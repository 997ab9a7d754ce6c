//! What can go wrong in the store.

use std::sync::Arc;

use crate::position::Position;

/// Stored bytes that are not what the table says they are.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the stored bytes end too early")]
    Truncated,
    /// There are bytes after the last part.
    #[error("{0} bytes too many are stored")]
    Trailing(usize),
    /// A part has bytes that it can't have.
    #[error("stored bytes are not a valid {0}")]
    Invalid(&'static str),
    /// A record was written by a newer version of the program.
    #[error("a record has version {stored}, the newest known is {known}")]
    Newer {
        /// The version in the store.
        stored: u8,
        /// The newest version that this program reads.
        known: u8,
    },
    /// JSON or MessagePack does not fit the type.
    #[error("a stored value can't be read: {0}")]
    Serde(String),
}

/// A failure of the engine below the store, in the engine's words.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The device has no space left.
    #[error("no space left: {0}")]
    NoSpace(String),
    /// Any other failure of input or output, or corrupt files.
    #[error("{0}")]
    Failed(String),
    /// The engine is closed or being reopened.
    #[error("the engine is not available")]
    Unavailable,
}

/// A read that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Stored bytes of a table can't be decoded.
    #[error("table {table}: {error}")]
    Decode {
        /// The table's name.
        table: &'static str,
        /// What is wrong with the bytes.
        error: DecodeError,
    },
    /// The engine failed.
    #[error("the store's engine failed: {0}")]
    Engine(#[from] EngineError),
    /// A write that the operation needed failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The thread that read for us stopped; the program is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// A batch that was not (or not certainly) written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// An expectation did not hold; nothing was written. Load again, decide again.
    #[error("an expectation of the batch did not hold")]
    Conflict,
    /// Others changed what an operation read, as often as [`Store::retry`](crate::Store::retry) tried it; nothing was written.
    #[error("others changed the same again and again")]
    Contended,
    /// The batch is over [`BATCH_BYTES_MAX`](crate::BATCH_BYTES_MAX) or
    /// [`BATCH_ENTRIES_MAX`](crate::BATCH_ENTRIES_MAX); nothing was written.
    #[error("the batch is too large")]
    TooLarge,
    /// The batch holds a value that can't be encoded or another batch's stamp; nothing was written.
    #[error("the batch is malformed: {0}")]
    Invalid(String),
    /// Writing failed. Whether the batch is stored is unknown.
    #[error("writing to the store failed: {0}")]
    Failed(Arc<str>),
    /// The store is closed; nothing was written.
    #[error("the store is closed")]
    Closed,
}

/// A store that can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The engine can't open its files.
    #[error("the store can't be opened: {0}")]
    Engine(#[from] EngineError),
    /// A write while opening failed.
    #[error("the store can't be prepared: {0}")]
    Commit(#[from] CommitError),
    /// A read while opening failed.
    #[error("the store can't be read: {0}")]
    Read(#[from] StoreError),
    /// Two declared tables share a number or a name.
    #[error("tables {first} and {second} share number {id} or a name")]
    DuplicateTable {
        /// The one declared first.
        first: &'static str,
        /// The one declared later.
        second: &'static str,
        /// The number of the later one.
        id: u16,
    },
    /// A table's number was used for something else when the store was written.
    #[error("table number {id} is {declared} now but was {stored}")]
    TableChanged {
        /// The number.
        id: u16,
        /// Name and family now.
        declared: String,
        /// Name and family in the store.
        stored: String,
    },
    /// The store was written by a newer program.
    #[error("the store has schema {stored}, this program knows {known}")]
    SchemaTooNew {
        /// The schema version in the store.
        stored: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// Two migrations have one number, or they are not in ascending order.
    #[error("migration {0} is out of order")]
    MigrationOrder(u32),
    /// A migration failed; it goes on where it stopped at the next start.
    #[error("migration {number} failed: {reason}")]
    Migration {
        /// The migration's number.
        number: u32,
        /// What it said.
        reason: String,
    },
    /// The store belongs to something else, for example to a server of another name.
    #[error("the store was made for {stored:?}")]
    IdentityChanged {
        /// The value claimed when the store was made.
        stored: String,
    },
    /// A thread can't be started.
    #[error("the committer can't be started: {0}")]
    Thread(String),
}

/// A log that can't be read on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FollowError {
    /// The log no longer holds what comes next: rebuild from the tables and follow from there.
    #[error("the log starts at {oldest} now; what follows it must be made anew")]
    TooOld {
        /// The oldest position that the log may still hold.
        oldest: Position,
    },
    /// Reading the log failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
