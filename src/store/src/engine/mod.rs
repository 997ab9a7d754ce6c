//! What the store needs of an engine: atomic writes in order, and isolated snapshots to read from.

#[cfg(test)]
pub(crate) mod faulty;
pub(crate) mod memory;
pub(crate) mod rocksdb;

use std::{ops::ControlFlow, path::Path, sync::Arc};

use crate::{budget::Budget, error::EngineError, table::Family};

/// What an engine may use of the machine.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Resources {
    pub(crate) budget: Budget,
    /// Threads that flush and compact.
    pub(crate) background_jobs: u16,
    /// Files of tables that stay open.
    pub(crate) open_files_max: u32,
}

/// One change of a key or a range of keys.
#[derive(Copy, Clone, Debug)]
pub(crate) enum WriteOp<'a> {
    Put { family: Family, key: &'a [u8], value: &'a [u8] },
    Delete { family: Family, key: &'a [u8] },
    DeleteRange { family: Family, from: &'a [u8], to: &'a [u8] },
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
}

/// Whether a read saw all that it was asked for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    Complete,
    /// Something was not in memory, and the read was not allowed to go further.
    NotCached,
}

/// Keys to visit: `lower` inclusive, `upper` exclusive.
#[derive(Clone, Debug)]
pub(crate) struct ScanSpan {
    pub(crate) family: Family,
    pub(crate) lower: Vec<u8>,
    pub(crate) upper: Vec<u8>,
    pub(crate) reverse: bool,
    pub(crate) fill_cache: bool,
}

/// A key, its value and whether to go on.
pub(crate) type RowVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// The state of an engine at one moment, unaffected by later writes.
pub(crate) trait Snapshot: Send + Sync {
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

    /// Copies the engine (as it is now, not as of the snapshot) into a new directory.
    fn backup(&self, path: &Path) -> Result<(), EngineError>;
}

/// Sets how many bytes of what is stored an engine keeps in memory.
pub(crate) type SetCache = Box<dyn Fn(usize) + Send + Sync>;

/// A store of sorted bytes. Only the committer has it; readers have its snapshots.
pub(crate) trait Engine: Send {
    /// Applies all of `ops` in order, or none of them. After an error it is unknown which, and nothing
    /// may be written before [`Engine::resume`] or [`Engine::reopen`] succeeded.
    fn write(&mut self, ops: &[WriteOp<'_>], durability: Durability) -> Result<(), EngineError>;

    /// The state after the last write.
    fn snapshot(&mut self) -> Result<Arc<dyn Snapshot>, EngineError>;

    /// Tries to write again after a failed write, with snapshots still in use.
    fn resume(&mut self) -> Result<(), EngineError>;

    /// Closes and opens the engine. Fails while a snapshot other than through the caller is in use.
    fn reopen(&mut self) -> Result<(), EngineError>;

    /// Puts everything written on the disk, before the engine is dropped.
    fn flush(&mut self) -> Result<(), EngineError>;

    /// What sets, from any thread, how much the engine keeps in memory. It does nothing where there is no cache.
    fn set_cache(&self) -> SetCache {
        Box::new(|_| {})
    }
}

/// The snapshot of an engine that is closed or being reopened: every read fails.
pub(crate) struct NoSnapshot;

impl Snapshot for NoSnapshot {
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
