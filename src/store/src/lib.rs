//! The store: ordered typed tables and one totally ordered log, written by atomic batches.
//!
//! Every durable change is a [`Batch`]: puts, deletes, entries of the log, and *expectations* of what
//! is stored. If an expectation doesn't hold, nothing is written and the caller loads and decides again;
//! there is no other concurrency control. One thread commits: it takes all waiting batches, checks
//! them, gives ascending positions, writes them with one fsync, applies them to the [`Projection`]s, publishes,
//! and answers. A [`View`] reads the tables as of one position. A [`Follower`] does something about what the log tells,
//! some time afterwards.
//!
//! Load from one view, decide in a pure function, commit one batch.
//!
//! Engines: RocksDB for servers, persistent maps in memory for tests and simulation.

mod batch;
mod budget;
mod codec;
mod committer;
mod counter;
mod engine;
mod error;
mod follow;
mod held;
mod log;
mod migrate;
mod open;
mod options;
mod overlay;
mod parts;
mod position;
mod projection;
mod range;
#[cfg(test)]
mod recovery_tests;
mod rows;
mod shared;
mod store;
mod table;
mod value;
mod view;

pub use bytes::Bytes;

#[doc(hidden)]
pub use crate::value::{read_named, write_named};
pub use crate::{
    batch::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, Batch},
    budget::{Budget, MEMORY_BUDGET_BYTES_MIN},
    codec::{Decode, Encode, Fixed, Prefix, Reader, Text, Writer, decode_all, encode_to_vec},
    committer::GROUP_BYTES_MAX,
    counter::{COUNTER_BLOCK, Counter},
    engine::memory::MemoryDisk,
    error::{CommitError, DecodeError, EngineError, FollowError, OpenError, StoreError},
    follow::{
        CURSOR_RECORDS_MAX, Cursor, FOLLOW_DELAY_FIRST, FOLLOW_DELAY_MAX, Follow, Follower, FollowerStatus, Following,
        News,
    },
    held::Held,
    log::{FOLLOW_RECORDS_MAX, LogEntry, LogReader, LogRecord},
    migrate::{Migration, Step},
    open::RESTORE_JUMP,
    options::Options,
    position::{Position, Stamp},
    projection::Projection,
    range::{Range, SCAN_LIMIT},
    store::{Pending, QUEUE_BYTES_MAX, Store},
    table::{Family, Table, TableInfo},
    value::{Json, NoPrevious, Record, Value, Versioned, encode_value_to_vec},
    view::{Page, Row, SCAN_BYTES_MAX, View},
};
