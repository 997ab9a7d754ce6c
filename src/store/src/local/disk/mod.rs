//! What the local engine writes to: atomic writes in order, and isolated snapshots to read from.

#[cfg(test)]
pub(crate) mod faulty;
pub(crate) mod memory;
pub(crate) mod rocksdb;

use std::{ops::ControlFlow, path::Path, sync::Arc};

use crate::{
    batch::WriteOp,
    budget::Budget,
    engine::{ScanSpan, SetCache},
    error::EngineError,
    store::Options,
    table::Family,
};

/// What a disk may use of the machine.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Resources {
    pub(crate) budget: Budget,
    /// Threads that flush and compact.
    pub(crate) background_jobs: u16,
    /// Files of tables that stay open.
    pub(crate) open_files_max: u32,
}

impl Resources {
    pub(crate) fn of(options: &Options) -> Resources {
        Resources {
            budget: Budget::of(options.memory_budget_bytes),
            background_jobs: options.background_jobs,
            open_files_max: options.open_files_max,
        }
    }
}

/// Whether a write waits until it is on the disk.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Durability {
    Synced,
    Relaxed,
}

/// How far a read may go.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Tier {
    /// Only what is in memory.
    Cached,
    /// The disk, too.
    Disk,
    /// The disk, too, and what a scan reads from there isn't kept in memory.
    DiskUncached,
}

/// Whether a read saw all that it was asked for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    Complete,
    /// Something was not in memory, and the read was not allowed to go further.
    NotCached,
}

/// A key, its value and whether to go on.
pub(crate) type RowVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What is on a disk at one moment, unaffected by later writes.
pub(crate) trait DiskSnapshot: Send + Sync {
    /// Calls `found` once with the value of `key`, unless that is out of reach.
    fn get(
        &self,
        family: Family,
        key: &[u8],
        tier: Tier,
        found: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Reach, EngineError>;

    /// Calls `found` with the index and the value of each of the ascending `keys` in reach.
    fn get_many(
        &self,
        family: Family,
        keys: &[&[u8]],
        tier: Tier,
        found: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Reach, EngineError>;

    /// Visits the rows of `span` in its order until the visitor breaks or a row is out of reach.
    fn scan(&self, span: &ScanSpan, tier: Tier, visit: &mut RowVisitor<'_>) -> Result<Reach, EngineError>;

    /// Copies the disk (as it is now, not as of the snapshot) into a new directory.
    fn backup(&self, path: &Path) -> Result<(), EngineError>;
}

/// Sorted bytes, kept. Only the committer has it; readers have its snapshots.
pub(crate) trait Disk: Send {
    /// Applies all of `ops` in order, or none of them. After an error it is unknown which, and nothing
    /// may be written before [`Disk::resume`] or [`Disk::reopen`] succeeded.
    fn write(&mut self, ops: &[WriteOp<'_>], durability: Durability) -> Result<(), EngineError>;

    /// The state after the last write.
    fn snapshot(&mut self) -> Result<Arc<dyn DiskSnapshot>, EngineError>;

    /// Tries to write again after a failed write, with snapshots still in use.
    fn resume(&mut self) -> Result<(), EngineError>;

    /// Closes and opens the files. Fails while a snapshot other than through the caller is in use.
    fn reopen(&mut self) -> Result<(), EngineError>;

    /// Puts everything written on the disk, before this is dropped.
    fn flush(&mut self) -> Result<(), EngineError>;

    /// What sets, from any thread, how much is kept in memory. It does nothing where there is no cache.
    fn set_cache(&self) -> SetCache {
        Arc::new(|_| {})
    }
}

/// The snapshot of a disk that is closed or being reopened: every read fails.
pub(crate) struct NoSnapshot;

impl DiskSnapshot for NoSnapshot {
    fn get(&self, _: Family, _: &[u8], _: Tier, _: &mut dyn FnMut(Option<&[u8]>)) -> Result<Reach, EngineError> {
        Err(EngineError::Unavailable)
    }

    fn get_many(
        &self,
        _: Family,
        _: &[&[u8]],
        _: Tier,
        _: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        Err(EngineError::Unavailable)
    }

    fn scan(&self, _: &ScanSpan, _: Tier, _: &mut RowVisitor<'_>) -> Result<Reach, EngineError> {
        Err(EngineError::Unavailable)
    }

    fn backup(&self, _: &Path) -> Result<(), EngineError> {
        Err(EngineError::Unavailable)
    }
}
