//! A disk for tests whose writes fail when told to.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    batch::WriteOp,
    engine::ScanSpan,
    error::EngineError,
    local::disk::{
        Disk, DiskSnapshot, Durability, Reach, RowVisitor, Tier,
        memory::{Memory, MemoryDisk},
    },
    table::Family,
};

/// What happens to the next write.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It fails and nothing of it is stored.
    Lost,
    /// It fails but is stored all the same.
    Stored,
}

/// What the disk is to do, and what it was asked for.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) next_write: Option<Fault>,
    /// Failures to answer to attempts to resume.
    pub(crate) resume_failures: Vec<EngineError>,
    pub(crate) reopen_failures: Vec<EngineError>,
    /// Failures to answer to reads.
    pub(crate) read_failures: Vec<EngineError>,
    pub(crate) resumed: u32,
    pub(crate) reopened: u32,
    /// The durability of each write that succeeded.
    pub(crate) writes: Vec<Durability>,
    broken: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Script>>);

impl Faults {
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk in memory, with [`Faults`].
pub(crate) struct Faulty {
    memory: Memory,
    faults: Faults,
}

impl Faulty {
    pub(crate) fn new(disk: &MemoryDisk, faults: &Faults) -> Faulty {
        Faulty { memory: Memory::new(disk), faults: faults.clone() }
    }
}

impl Disk for Faulty {
    fn write(&mut self, ops: &[WriteOp<'_>], durability: Durability) -> Result<(), EngineError> {
        let mut script = self.faults.script();
        assert!(!script.broken, "written without having recovered");
        let fault = script.next_write.take();
        if fault != Some(Fault::Lost) {
            self.memory.write(ops, durability)?;
        }
        if fault.is_some() {
            script.broken = true;
            return Err(EngineError::Failed("fault".to_owned()));
        }
        script.writes.push(durability);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Arc<dyn DiskSnapshot>, EngineError> {
        let (snapshot, faults) = (self.memory.snapshot()?, self.faults.clone());
        Ok(Arc::new(FaultySnapshot { snapshot, faults }))
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        let mut script = self.faults.script();
        if let Some(error) = script.resume_failures.pop() {
            return Err(error);
        }
        script.broken = false;
        script.resumed += 1;
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), EngineError> {
        let mut script = self.faults.script();
        if let Some(error) = script.reopen_failures.pop() {
            return Err(error);
        }
        script.broken = false;
        script.reopened += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        self.memory.flush()
    }
}

struct FaultySnapshot {
    snapshot: Arc<dyn DiskSnapshot>,
    faults: Faults,
}

impl FaultySnapshot {
    fn read(&self) -> Result<&dyn DiskSnapshot, EngineError> {
        self.faults.script().read_failures.pop().map_or(Ok(&*self.snapshot), Err)
    }
}

impl DiskSnapshot for FaultySnapshot {
    fn get(
        &self,
        family: Family,
        key: &[u8],
        tier: Tier,
        found: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        self.read()?.get(family, key, tier, found)
    }

    fn get_many(
        &self,
        family: Family,
        keys: &[&[u8]],
        tier: Tier,
        found: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        self.read()?.get_many(family, keys, tier, found)
    }

    fn scan(&self, span: &ScanSpan, tier: Tier, visit: &mut RowVisitor<'_>) -> Result<Reach, EngineError> {
        self.read()?.scan(span, tier, visit)
    }

    fn backup(&self, path: &Path) -> Result<(), EngineError> {
        self.read()?.backup(path)
    }
}
