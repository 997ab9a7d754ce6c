//! The newest records of the log, in memory.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    log::{FOLLOW_RECORDS_MAX, LogRecord},
    position::Position,
};

/// What a record in memory counts for besides its payload.
const RECORD_OVERHEAD_BYTES: usize = 64;

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
    pub(crate) fn read(&self, from: Position, through: Position) -> Option<Vec<LogRecord>> {
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
