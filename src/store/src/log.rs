//! The log: entries in one total order.

use bytes::Bytes;

use crate::{
    batch::Batch,
    codec::{Reader, Writer},
    error::{DecodeError, StoreError},
    position::Position,
    table::{Log, Table},
    value::read_stored,
};

/// The most records that are read from the log at one time.
pub const FOLLOW_RECORDS_MAX: usize = 1024;

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
