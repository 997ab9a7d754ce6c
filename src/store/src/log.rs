//! The log: entries in one total order, the recent ones in memory, and how it is read.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    batch::Batch,
    codec::{Reader, Writer},
    error::{DecodeError, FollowError, StoreError},
    position::Position,
    range::Range,
    shared::Shared,
    table::{Log, Table},
    value::read_stored,
};

/// The most records that are read from the log at one time.
pub const FOLLOW_RECORDS_MAX: usize = 1024;
/// What a record in memory counts for besides its payload.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// Something that happened, as the log tells it.
pub trait LogEntry: Sized {
    /// The kind of the entry, unique in the program and never used again.
    const KIND: u16;
    /// Appends the stored form. Stamps are replaced where it is tuple-coded.
    fn encode_entry(&self, w: &mut Writer);
    /// Reads the stored form.
    fn decode_entry(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Makes types with serde's traits log entries, stored as MessagePack with named fields (fields with
/// `#[serde(default)]` may be added).
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Renamed { name: String }
/// store::log_entry!(Renamed = 900);
/// ```
#[macro_export]
macro_rules! log_entry {
    ($($name:ty = $kind:expr),+ $(,)?) => {$(
        impl $crate::LogEntry for $name {
            const KIND: u16 = $kind;

            fn encode_entry(&self, w: &mut $crate::Writer) {
                $crate::write_named(self, w);
            }

            fn decode_entry(
                bytes: &[u8],
            ) -> ::std::result::Result<Self, $crate::DecodeError> {
                $crate::read_named(bytes)
            }
        }
    )+};
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRecord {
    /// Where the entry is in the log.
    pub position: Position,
    /// What it is, see [`LogEntry::KIND`].
    pub kind: u16,
    /// Its stored form.
    pub payload: Bytes,
}

impl LogRecord {
    /// The entry, if it is an `E`.
    pub fn decode<E: LogEntry>(&self) -> Result<Option<E>, StoreError> {
        if self.kind != E::KIND {
            return Ok(None);
        }
        let entry = E::decode_entry(&self.payload);
        entry.map(Some).map_err(|error| StoreError::Decode { table: Log::NAME, error })
    }

    /// The records of the stored entries of one batch, at the positions after `last`.
    pub(crate) fn of_batch(last: Position, batch: &Batch) -> impl Iterator<Item = LogRecord> {
        let positions = std::iter::successors(Some(last.next()), |position| Some(position.next()));
        positions.zip(batch.entries()).filter_map(|(position, stored)| {
            // The batch wrote the value and the kind itself, so reading them can't fail.
            LogRecord::from_value(position, read_stored(stored).ok()?).ok()
        })
    }

    /// From the value in [`Log`]: kind, payload.
    pub(crate) fn from_value(position: Position, mut value: Bytes) -> Result<LogRecord, StoreError> {
        let kind = Reader::new(&value).array::<2>();
        let kind = kind.map_err(|error| StoreError::Decode { table: Log::NAME, error })?;
        Ok(LogRecord { position, kind: u16::from_be_bytes(kind), payload: value.split_off(kind.len()) })
    }
}

/// The newest records, in memory, bounded in bytes.
pub(crate) struct Tail {
    inner: Mutex<Records>,
}

struct Records {
    records: VecDeque<LogRecord>,
    bytes: usize,
    bytes_max: usize,
    /// Every record after this position is here.
    floor: Position,
}

impl Tail {
    pub(crate) fn new(floor: Position, bytes_max: usize) -> Tail {
        let records = Records { records: VecDeque::new(), bytes: 0, bytes_max, floor };
        Tail { inner: Mutex::new(records) }
    }

    /// Adds the records that come next.
    pub(crate) fn extend(&self, records: impl Iterator<Item = LogRecord>) {
        let mut inner = self.lock();
        for record in records {
            inner.bytes += record.payload.len() + RECORD_OVERHEAD_BYTES;
            inner.records.push_back(record);
        }
        while inner.bytes > inner.bytes_max {
            let Some(oldest) = inner.records.pop_front() else { break };
            inner.bytes -= oldest.payload.len() + RECORD_OVERHEAD_BYTES;
            inner.floor = oldest.position;
        }
    }

    /// Forgets everything; what comes will be after `floor`.
    pub(crate) fn reset(&self, floor: Position) {
        let mut inner = self.lock();
        inner.records.clear();
        inner.bytes = 0;
        inner.floor = floor;
    }

    /// The records after `from` up to `through`, at most [`FOLLOW_RECORDS_MAX`]; `None` if some of them
    /// may not be in memory.
    fn read(&self, from: Position, through: Position) -> Option<Vec<LogRecord>> {
        let inner = self.lock();
        if from < inner.floor {
            return None;
        }
        let start = inner.records.partition_point(|record| record.position <= from);
        let newer = inner.records.range(start..).take(FOLLOW_RECORDS_MAX);
        Some(newer.take_while(|record| record.position <= through).cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the log from a position on and then as it grows. What does something about what it reads is a [`Follower`](crate::Follower),
/// which goes on after failures too.
pub struct LogReader {
    shared: Arc<Shared>,
    published: watch::Receiver<Position>,
    at: Position,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>, from: Position) -> LogReader {
        let published = shared.positions.clone();
        LogReader { shared, published, at: from }
    }

    /// Everything up to this position was returned.
    pub fn position(&self) -> Position {
        self.at
    }

    /// The next records, in order, at least one; waits until there are any. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<LogRecord>, FollowError> {
        loop {
            let records = self.try_next().await?;
            if !records.is_empty() {
                return Ok(records);
            }
            self.changed().await?;
        }
    }

    /// The next records that are there now, in order; none if everything was returned.
    pub async fn try_next(&mut self) -> Result<Vec<LogRecord>, FollowError> {
        let Some((records, through)) = self.peek().await? else { return Ok(Vec::new()) };
        self.at = through;
        Ok(records)
    }

    /// The next records that are there now and the position that is reached with them, without going there. No records where only
    /// positions were skipped; `None` if there is nothing new at all.
    pub(crate) async fn peek(&mut self) -> Result<Option<(Vec<LogRecord>, Position)>, FollowError> {
        // Before looking, so that nothing is missed between the look and a wait.
        self.published.mark_unchanged();
        let published = self.shared.published.load().position;
        if self.at >= published {
            return Ok(None);
        }
        let records = match self.shared.tail.read(self.at, published) {
            Some(records) => records,
            None => self.read_stored(published).await?,
        };
        let through = records.last().map_or(published, |last| last.position);
        Ok(Some((records, through)))
    }

    /// Goes on after `position`.
    pub(crate) fn move_to(&mut self, position: Position) {
        self.at = position;
    }

    /// Waits until more is published than [`LogReader::peek`] has seen.
    pub(crate) async fn changed(&mut self) -> Result<(), FollowError> {
        self.published.changed().await.map_err(|_| FollowError::Closed)
    }

    /// Waits until the store is closed.
    pub(crate) async fn closed(&self) {
        let mut published = self.published.clone();
        while published.changed().await.is_ok() {}
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.published.has_changed().is_err()
    }

    async fn read_stored(&self, through: Position) -> Result<Vec<LogRecord>, FollowError> {
        let view = self.shared.view();
        let oldest = crate::open::log_oldest(&view).await?;
        if self.at.next() < oldest {
            return Err(FollowError::TooOld { oldest });
        }
        let range = Range::<Log>::all().after(&(self.at,)).through(&(through,));
        let rows = view.scan(range.limit(FOLLOW_RECORDS_MAX)).await?.rows;
        rows.into_iter().map(|(position, value)| Ok(LogRecord::from_value(position, value)?)).collect()
    }
}
