//! A disk in memory, which can lose what was not synced.

use std::{
    ops::{Bound, ControlFlow},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use imbl::OrdMap;

use crate::{
    batch::WriteOp,
    engine::ScanSpan,
    error::EngineError,
    local::disk::{Disk, DiskSnapshot, Durability, Reach, RowVisitor, Tier},
    table::Family,
};

/// One persistent map for each family; a clone shares everything.
#[derive(Clone, Default)]
struct Maps([OrdMap<Bytes, Bytes>; Family::ALL.len()]);

impl Maps {
    fn of(&mut self, family: Family) -> &mut OrdMap<Bytes, Bytes> {
        &mut self.0[family.index()]
    }

    fn apply(&mut self, op: WriteOp<'_>) {
        match op {
            WriteOp::Put { family, key, value } => {
                let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                self.of(family).insert(key, value);
            }
            WriteOp::Delete { family, key } => {
                self.of(family).remove(key);
            }
            WriteOp::DeleteRange { family, from, to } => {
                if from >= to {
                    return;
                }
                let map = self.of(family);
                let bounds = (Bound::Included(from), Bound::Excluded(to));
                let keys: Vec<Bytes> = map.range::<_, [u8]>(bounds).map(|(key, _)| key.clone()).collect();
                for key in keys {
                    map.remove(&key);
                }
            }
        }
    }
}

#[derive(Default)]
struct Contents {
    written: Maps,
    synced: Maps,
}

/// A simulated disk for stores in memory: a store can be closed and opened again on it, and a crash of
/// the machine can be played.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    contents: Arc<Mutex<Contents>>,
    distant: bool,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// An empty disk that a store reaches as if it were on other machines: nothing of it is at hand.
    pub fn distant() -> MemoryDisk {
        MemoryDisk { distant: true, ..MemoryDisk::default() }
    }

    pub(crate) fn is_distant(&self) -> bool {
        self.distant
    }

    /// Loses everything that was not synced. Stores that are open on the disk go on as if nothing had
    /// happened; drop them.
    pub fn lose_unsynced(&self) {
        let mut disk = self.lock();
        disk.written = disk.synced.clone();
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The use of a [`MemoryDisk`] by one store.
pub(crate) struct Memory {
    disk: MemoryDisk,
}

impl Memory {
    pub(crate) fn new(disk: &MemoryDisk) -> Memory {
        Memory { disk: disk.clone() }
    }
}

impl Disk for Memory {
    fn write(&mut self, ops: &[WriteOp<'_>], durability: Durability) -> Result<(), EngineError> {
        let mut disk = self.disk.lock();
        for op in ops {
            disk.written.apply(*op);
        }
        if durability == Durability::Synced {
            disk.synced = disk.written.clone();
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Arc<dyn DiskSnapshot>, EngineError> {
        Ok(Arc::new(self.disk.lock().written.clone()))
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        self.write(&[], Durability::Synced)
    }
}

impl DiskSnapshot for Maps {
    fn get(
        &self,
        family: Family,
        key: &[u8],
        _: Tier,
        found: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        found(self.0[family.index()].get(key).map(|value| value.as_ref()));
        Ok(Reach::Complete)
    }

    fn get_many(
        &self,
        family: Family,
        keys: &[&[u8]],
        _: Tier,
        found: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        for (index, key) in keys.iter().enumerate() {
            found(index, self.0[family.index()].get(*key).map(|value| value.as_ref()));
        }
        Ok(Reach::Complete)
    }

    fn scan(&self, span: &ScanSpan, _: Tier, visit: &mut RowVisitor<'_>) -> Result<Reach, EngineError> {
        if span.lower >= span.upper {
            return Ok(Reach::Complete);
        }
        let bounds = (Bound::Included(&span.lower[..]), Bound::Excluded(&span.upper[..]));
        let mut rows = self.0[span.family.index()].range::<_, [u8]>(bounds);
        loop {
            let row = if span.reverse { rows.next_back() } else { rows.next() };
            let Some((key, value)) = row else { break };
            if visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(Reach::Complete)
    }

    fn backup(&self, _: &Path) -> Result<(), EngineError> {
        Err(EngineError::Failed("a store in memory has no files".to_owned()))
    }
}
