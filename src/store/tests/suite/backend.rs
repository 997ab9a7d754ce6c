//! The engines under test.

use std::future::Future;

use store::{MemoryDisk, OpenError, Options, Store, TableInfo};

/// Something that stores can be opened on, again and again.
pub trait Backend {
    fn create() -> Self;
    fn try_open(&self, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError>;
    fn restore(&self, tables: &[&[TableInfo]]) -> Store;

    fn open(&self, tables: &[TableInfo]) -> Store {
        self.try_open(&small(), &[tables]).unwrap()
    }
}

/// A budget that keeps tests small.
pub fn small() -> Options {
    Options { memory_budget_bytes: 16 * 1024 * 1024, ..Options::default() }
}

pub struct Disk(MemoryDisk);

impl Backend for Disk {
    fn create() -> Disk {
        Disk(MemoryDisk::new())
    }

    fn try_open(&self, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        Store::open_memory(&self.0, options, tables)
    }

    fn restore(&self, tables: &[&[TableInfo]]) -> Store {
        Store::restore_memory(&self.0, &small(), tables).unwrap()
    }
}

pub struct Files(tempfile::TempDir);

impl Backend for Files {
    fn create() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn try_open(&self, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        Store::open_rocksdb(self.0.path(), options, tables)
    }

    fn restore(&self, tables: &[&[TableInfo]]) -> Store {
        Store::restore(self.0.path(), &small(), tables).unwrap()
    }
}

/// Runs a test's asynchronous part.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}
