//! Stores on this machine.

use std::{path::Path, sync::Arc};

use tokio::task::spawn_blocking;

use crate::{
    budget::Budget,
    engine::Engine,
    error::{OpenError, StoreError},
    local::{
        Local,
        disk::{
            Disk, Resources,
            memory::{Memory, MemoryDisk},
            rocksdb::Rocks,
        },
        distant::Distant,
    },
    store::{Options, Purpose, RESTORE_JUMP, Store, open},
    table::TableInfo,
};

impl Store {
    /// Opens the RocksDB store in the directory `path`, which is made if it isn't there. To be called inside a tokio runtime.
    pub async fn open_rocksdb(path: &Path, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        open_files(path, options, tables, Purpose::Use).await
    }

    /// A store in memory, for tests and simulation.
    pub async fn in_memory(tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        Store::open_memory(&MemoryDisk::new(), &Options::default(), tables).await
    }

    /// A store on a simulated disk, which can be opened again after it was closed.
    pub async fn open_memory(
        disk: &MemoryDisk,
        options: &Options,
        tables: &[&[TableInfo]],
    ) -> Result<Store, OpenError> {
        open_simulated(disk, options, tables, Purpose::Use).await
    }

    /// Opens a store whose files were put back from a backup, so that it never says twice what it said
    /// before with another meaning: a new epoch begins, positions and counters jump ahead by
    /// [`RESTORE_JUMP`], and tables declared `forget_on_restore` are emptied. To be called inside a tokio runtime.
    pub async fn restore(path: &Path, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        open_files(path, options, tables, Purpose::Restore).await
    }

    /// [`Store::restore`] for a simulated disk.
    pub async fn restore_memory(
        disk: &MemoryDisk,
        options: &Options,
        tables: &[&[TableInfo]],
    ) -> Result<Store, OpenError> {
        open_simulated(disk, options, tables, Purpose::Restore).await
    }
}

async fn open_files(
    path: &Path,
    options: &Options,
    tables: &[&[TableInfo]],
    purpose: Purpose,
) -> Result<Store, OpenError> {
    let (path, owned) = (path.to_owned(), options.clone());
    let started = spawn_blocking(move || {
        let disk = Rocks::open(&path, Resources::of(&owned))?;
        start(Box::new(disk), &owned, purpose)
    });
    let engine = started.await.map_err(|_| StoreError::Closed)??;
    open(Arc::new(engine), options, tables, purpose).await
}

async fn open_simulated(
    disk: &MemoryDisk,
    options: &Options,
    tables: &[&[TableInfo]],
    purpose: Purpose,
) -> Result<Store, OpenError> {
    let local = start(Box::new(Memory::new(disk)), options, purpose)?;
    let engine: Arc<dyn Engine> = if disk.is_distant() { Arc::new(Distant(local)) } else { Arc::new(local) };
    open(engine, options, tables, purpose).await
}

/// The engine on a disk.
pub(crate) fn start(disk: Box<dyn Disk>, options: &Options, purpose: Purpose) -> Result<Local, OpenError> {
    let skipped = match purpose {
        Purpose::Use => 0,
        Purpose::Restore => RESTORE_JUMP,
    };
    Local::start(disk, Budget::of(options.memory_budget_bytes).log_tail_bytes, skipped)
}
