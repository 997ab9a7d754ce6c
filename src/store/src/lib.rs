//! The store: ordered typed tables and one totally ordered log, written by atomic batches.
//!
//! Every durable change is a [`Batch`]: puts, deletes, entries of the log, and *expectations* of what
//! is stored. If an expectation doesn't hold, nothing is written and the caller loads and decides again;
//! there is no other concurrency control. A [`View`] reads the tables as of one position. A [`Projection`] has what the log tells before
//! that is visible; a [`Follower`] does something about it some time afterwards.
//!
//! Load from one view, decide in a pure function, commit one batch. Reads, opening and taking a view are awaited and can fail; nothing
//! names a thread or waits for a disk by itself.
//!
//! Three folders stand on each other; the files beside them (rows, batches, positions, the log's entries) are below all:
//!
//! - `engine`: the two traits below a store, and all that an engine promises. Who writes a second engine reads that, and implements them.
//! - `store`: [`Store`] and [`View`], typed, over any engine; followers, counters, opening, migrations.
//! - `local`: the engine of this machine. One thread commits, many batches with one sync, to a disk that is RocksDB's or, for tests and simulation,
//!   persistent maps in memory. It alone has threads and files, and gives [`Store`] its constructors.

mod batch;
mod budget;
mod codec;
mod engine;
mod error;
mod local;
mod log;
mod parts;
mod position;
mod projection;
mod range;
mod store;
mod table;
mod value;

pub use bytes::Bytes;

/// A struct with named fields as the key of a table, or as a part of one. It is stored as the tuple of its fields, so that the order
/// of the keys is that of the fields from the first on. Ranges take tuples of leading fields.
///
/// A field whose type is a parameter can be borrowed for writing and for look-ups; the parameter's default is what is read back.
///
/// ```
/// use store::{Batch, Key, Range};
///
/// #[derive(Key)]
/// pub struct ReceiptKey<S = String> {
///     /// The room.
///     pub room: S,
///     /// Whose receipt it is.
///     pub user: S,
///     /// Its thread.
///     pub thread: Option<S>,
/// }
/// store::table! {
///     /// When each user read what.
///     pub Receipts = 300, Ranges: ReceiptKey => u64
/// }
///
/// let mut batch = Batch::new();
/// batch.put::<Receipts>(&ReceiptKey { room: "!r", user: "@u", thread: None }, &5);
/// let of_room = Range::<Receipts>::prefix(&("!r",)).after(&("!r", "@u"));
/// ```
///
/// A prefix is of the key's own fields, and a key isn't written as a tuple:
///
/// ```compile_fail,E0277
/// #[derive(store::Key)]
/// pub struct Place { pub room: String, pub index: u64 }
/// store::table! { /// Events by their place.
/// pub Events = 300, Ranges: Place => u64 }
/// store::Range::<Events>::prefix(&(7_u64,));
/// ```
///
/// ```compile_fail,E0277
/// #[derive(store::Key)]
/// pub struct Place { pub room: String, pub index: u64 }
/// store::table! { /// Events by their place.
/// pub Events = 300, Ranges: Place => u64 }
/// store::Batch::new().put::<Events>(&("!r", 7_u64), &1);
/// ```
pub use store_derive::Key;
/// A struct with named fields as the value of a table, see [`Value`](trait@Value). It is stored as the tuple of its fields, so a
/// batch can expect the very bytes and put stamps into it. Its shape changes with a [`Migration`]; a [`Record`] may gain fields
/// without one.
///
/// A field whose type is a parameter can be borrowed for writing; the parameter's default is what is read back.
///
/// ```
/// use store::{Batch, Value};
///
/// #[derive(PartialEq, Value)]
/// pub struct Device<S = String> {
///     /// What its owner calls it.
///     pub name: S,
///     /// When it was seen last, in Unix milliseconds.
///     pub seen_ms: u64,
/// }
/// store::table! {
///     /// Devices by id.
///     pub Devices = 300, Points: String => Device
/// }
///
/// let mut batch = Batch::new();
/// batch.expect::<Devices>(&"A", Some(&Device { name: "phone".to_owned(), seen_ms: 1 }));
/// batch.put::<Devices>(&"A", &Device { name: "phone", seen_ms: 2 });
/// ```
///
/// Tuples are no values:
///
/// ```compile_fail,E0277
/// store::table! { /// Devices by id.
/// pub Devices = 300, Points: String => (String, u64) }
/// ```
pub use store_derive::Value;

#[doc(hidden)]
pub use crate::value::{read_named, write_named};
pub use crate::{
    batch::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, Batch},
    budget::{Budget, MEMORY_BUDGET_BYTES_MIN},
    codec::{Decode, Encode, Fixed, Prefix, Reader, Text, Writer, decode_all, encode_to_vec},
    engine::{Pending, SCAN_BYTES_MAX},
    error::{CommitError, DecodeError, EngineError, FollowError, OpenError, StoreError},
    local::{GROUP_BYTES_MAX, MemoryDisk, QUEUE_BYTES_MAX},
    log::{FOLLOW_RECORDS_MAX, LogEntry, LogRecord},
    position::{Position, Stamp},
    projection::Projection,
    range::{Range, SCAN_LIMIT},
    store::{
        COUNTER_BLOCK, CURSOR_RECORDS_MAX, Counter, Cursor, FOLLOW_DELAY_FIRST, FOLLOW_DELAY_MAX, Follow, Follower,
        FollowerStatus, Following, Held, LogReader, Migration, News, Options, Page, RESTORE_JUMP, RETRY_ATTEMPTS_MAX,
        Row, Step, StepFuture, Store, View,
    },
    table::{Family, Table, TableInfo},
    value::{EncodeValue, Json, NoPrevious, Record, Value, Versioned, encode_value_to_vec},
};
