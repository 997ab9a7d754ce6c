//! Batches: what is written together or not at all.

use crate::{
    codec::{Encode, Prefix, Writer, successor},
    error::CommitError,
    log::LogEntry,
    position::{Position, Stamp},
    table::{Cursors, Family, Log, Table, TableInfo},
    value::{EncodeValue, write_stored},
};

/// The most bytes that one batch may hold.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// The most log entries that one batch may hold.
pub const BATCH_ENTRIES_MAX: usize = 256;
/// What one operation counts for besides its key and value.
const OPERATION_OVERHEAD_BYTES: usize = 32;

/// One change of a key or a range of keys.
#[derive(Copy, Clone, Debug)]
pub(crate) enum WriteOp<'a> {
    Put { family: Family, key: &'a [u8], value: &'a [u8] },
    Delete { family: Family, key: &'a [u8] },
    DeleteRange { family: Family, from: &'a [u8], to: &'a [u8] },
}

/// Bytes of a batch's writer.
#[derive(Copy, Clone, Debug)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Copy, Clone, Debug)]
enum Op {
    Put { family: Family, key: Span, value: Span },
    Delete { family: Family, key: Span },
    DeleteRange { family: Family, from: Span, to: Span },
}

#[derive(Copy, Clone, Debug)]
struct Expected {
    family: Family,
    key: Span,
    value: Option<Span>,
}

/// An expectation: the stored bytes of a key, or their absence.
pub(crate) struct Expectation<'a> {
    pub(crate) family: Family,
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

/// Puts, deletes, expectations and log entries that are written together or not at all.
///
/// Operations apply in the order in which they were added. Expectations are checked against what was
/// there before the batch.
#[must_use = "a batch does nothing until it is committed"]
#[derive(Debug, Default)]
pub struct Batch {
    writer: Writer,
    ops: Vec<Op>,
    expected: Vec<Expected>,
    /// The stored form of each log entry: a table's value of kind and payload.
    entries: Vec<Span>,
    relaxed: bool,
    too_large: bool,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds an entry to the log and returns the stamp of its position.
    pub fn log<E: LogEntry>(&mut self, entry: &E) -> Stamp {
        let Ok(index) = u8::try_from(self.entries.len()) else {
            self.too_large = true;
            return Stamp(u8::MAX);
        };
        let stamp = Stamp(index);
        let key = self.key::<Log>(&Position::from(stamp));
        let value = self.write(|w| {
            write_stored(w, |w| {
                w.raw(&E::KIND.to_be_bytes());
                entry.encode_entry(w);
            });
        });
        self.entries.push(value);
        self.push(Op::Put { family: Family::Log, key, value });
        stamp
    }

    /// Sets the value of a key.
    pub fn put<T: Table>(&mut self, key: &impl Encode<T::Key>, value: &(impl EncodeValue<T::Value> + ?Sized)) {
        let key = self.key::<T>(key);
        let value = self.value::<T>(value);
        self.push(Op::Put { family: T::FAMILY, key, value });
    }

    /// Removes a key.
    pub fn delete<T: Table>(&mut self, key: &impl Encode<T::Key>) {
        let key = self.key::<T>(key);
        self.push(Op::Delete { family: T::FAMILY, key });
    }

    /// Removes every key that starts with these elements.
    pub fn delete_prefix<T: Table>(&mut self, prefix: &impl Prefix<T::Key>) {
        let from = self.prefix::<T>(prefix);
        let above = successor(self.bytes_of(from)).unwrap_or_else(|| vec![0xff; 2]);
        let to = self.write(|w| w.raw(&above));
        self.push(Op::DeleteRange { family: T::FAMILY, from, to });
    }

    /// Removes the keys from everything below `from` up to, but not including, everything below `to`.
    pub fn delete_between<T: Table>(&mut self, from: &impl Prefix<T::Key>, to: &impl Prefix<T::Key>) {
        let from = self.prefix::<T>(from);
        let to = self.prefix::<T>(to);
        if self.bytes_of(from) < self.bytes_of(to) {
            self.push(Op::DeleteRange { family: T::FAMILY, from, to });
        }
    }

    /// Removes every key of a table that is only known by its declaration.
    pub(crate) fn clear_table(&mut self, table: &TableInfo) {
        let from = self.write(|w| w.raw(&table.id.to_be_bytes()));
        let to = self.write(|w| w.raw(&table.id.saturating_add(1).to_be_bytes()));
        self.push(Op::DeleteRange { family: table.family, from, to });
    }

    /// Lets the commit fail with [`CommitError::Conflict`] unless the key holds this value (compared as
    /// stored bytes) or, for `None`, is absent.
    pub fn expect<T: Table>(&mut self, key: &impl Encode<T::Key>, value: Option<&T::Value>) {
        let key = self.key::<T>(key);
        let value = value.map(|value| self.value::<T>(value));
        self.expected.push(Expected { family: T::FAMILY, key, value });
        self.limit();
    }

    /// Moves the cursor of a follower, see [`Store::cursor`](crate::Store::cursor).
    pub fn move_cursor(&mut self, name: &str, position: Position) {
        self.put::<Cursors>(&name, &position);
    }

    /// Lets the caller be answered without waiting for the disk. The order of writes is kept; a crash of
    /// the machine may lose the newest relaxed batches.
    pub fn relaxed(&mut self) {
        self.relaxed = true;
    }

    /// Whether the batch neither writes nor expects anything.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.expected.is_empty() && !self.too_large
    }

    /// Whether half of what a batch may hold is used up. Who fills batches from what a scan finds looks after each step, commits
    /// when it is, and goes on with the next batch: a number of rows says nothing about their size. A single step must fit
    /// into the other half.
    pub fn is_filled(&self) -> bool {
        self.too_large || self.bytes() > BATCH_BYTES_MAX / 2 || self.entries.len() > BATCH_ENTRIES_MAX / 2
    }

    /// About how many bytes the batch holds, to split work that may be large.
    pub fn bytes(&self) -> usize {
        let operations = self.ops.len() + self.expected.len();
        self.writer.len() + operations * OPERATION_OVERHEAD_BYTES
    }

    fn key<T: Table>(&mut self, key: &impl Encode<T::Key>) -> Span {
        self.write(|w| {
            w.raw(&T::ID.to_be_bytes());
            key.encode(w);
        })
    }

    fn prefix<T: Table>(&mut self, prefix: &impl Prefix<T::Key>) -> Span {
        self.write(|w| {
            w.raw(&T::ID.to_be_bytes());
            prefix.encode_prefix(w);
        })
    }

    fn value<T: Table>(&mut self, value: &(impl EncodeValue<T::Value> + ?Sized)) -> Span {
        self.write(|w| write_stored(w, |w| value.encode_value(w)))
    }

    fn write(&mut self, write: impl FnOnce(&mut Writer)) -> Span {
        let start = self.writer.len() as u32;
        if !self.too_large {
            write(&mut self.writer);
        }
        let end = u32::try_from(self.writer.len()).unwrap_or_else(|_| {
            self.too_large = true;
            start
        });
        Span { start, end }
    }

    fn push(&mut self, op: Op) {
        self.ops.push(op);
        self.limit();
    }

    /// Stops growing once the batch is over its limit; it will be refused anyway.
    fn limit(&mut self) {
        if self.bytes() > BATCH_BYTES_MAX {
            self.too_large = true;
        }
        if self.too_large {
            self.writer = Writer::default();
            self.ops.clear();
            self.expected.clear();
            self.entries.clear();
        }
    }

    fn bytes_of(&self, span: Span) -> &[u8] {
        &self.writer.bytes[span.start as usize..span.end as usize]
    }

    /// Refuses what can't be written whatever the store holds.
    pub(crate) fn validate(&self) -> Result<(), CommitError> {
        if self.too_large {
            return Err(CommitError::TooLarge);
        }
        if let Some(reason) = &self.writer.failure {
            return Err(CommitError::Invalid(reason.clone()));
        }
        let entries = self.entries.len();
        if self.writer.stamps.iter().any(|stamp| usize::from(stamp.index) >= entries) {
            return Err(CommitError::Invalid("a stamp of another batch".to_owned()));
        }
        Ok(())
    }

    /// The number of log entries, which is the number of positions that the batch takes.
    pub(crate) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_relaxed(&self) -> bool {
        self.relaxed
    }

    pub(crate) fn has_ops(&self) -> bool {
        !self.ops.is_empty()
    }

    pub(crate) fn has_expectations(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Gives the log entries the positions after `last`.
    pub(crate) fn give_positions(&mut self, last: Position) {
        for stamp in &self.writer.stamps {
            let position = last.get() + 1 + u64::from(stamp.index);
            let bytes = &mut self.writer.bytes[stamp.offset..stamp.offset + 8];
            bytes.copy_from_slice(&position.to_be_bytes());
        }
    }

    pub(crate) fn expectations(&self) -> impl Iterator<Item = Expectation<'_>> {
        self.expected.iter().map(|expected| Expectation {
            family: expected.family,
            key: self.bytes_of(expected.key),
            value: expected.value.map(|span| self.bytes_of(span)),
        })
    }

    pub(crate) fn ops(&self) -> impl Iterator<Item = WriteOp<'_>> {
        self.ops.iter().map(|op| match *op {
            Op::Put { family, key, value } => {
                WriteOp::Put { family, key: self.bytes_of(key), value: self.bytes_of(value) }
            }
            Op::Delete { family, key } => WriteOp::Delete { family, key: self.bytes_of(key) },
            Op::DeleteRange { family, from, to } => {
                WriteOp::DeleteRange { family, from: self.bytes_of(from), to: self.bytes_of(to) }
            }
        })
    }

    /// The stored form of each log entry, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|span| self.bytes_of(*span))
    }
}
