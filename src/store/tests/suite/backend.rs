//! The engines under test.

use std::future::Future;

use store::{MemoryDisk, OpenError, Options, Range, Row, Store, Table, TableInfo, View};

/// Something that stores can be opened on, again and again.
pub trait Backend {
    fn create() -> Self;
    async fn try_open(&self, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError>;
    async fn restore(&self, tables: &[&[TableInfo]]) -> Store;

    async fn open(&self, tables: &[TableInfo]) -> Store {
        self.try_open(&small(), &[tables]).await.unwrap()
    }
}

/// A budget that keeps tests small.
pub fn small() -> Options {
    Options { memory_budget_bytes: 16 * 1024 * 1024, ..Options::default() }
}

/// In memory; `DISTANT` as if on other machines.
pub struct Disk<const DISTANT: bool>(MemoryDisk);

impl<const DISTANT: bool> Backend for Disk<DISTANT> {
    fn create() -> Self {
        Disk(if DISTANT { MemoryDisk::distant() } else { MemoryDisk::new() })
    }

    async fn try_open(&self, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        Store::open_memory(&self.0, options, tables).await
    }

    async fn restore(&self, tables: &[&[TableInfo]]) -> Store {
        Store::restore_memory(&self.0, &small(), tables).await.unwrap()
    }
}

pub struct Files(tempfile::TempDir);

impl Backend for Files {
    fn create() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    async fn try_open(&self, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        Store::open_rocksdb(self.0.path(), options, tables).await
    }

    async fn restore(&self, tables: &[&[TableInfo]]) -> Store {
        Store::restore(self.0.path(), &small(), tables).await.unwrap()
    }
}

/// A page of rows, read by work that reads much.
pub async fn in_bulk<T: Table>(view: &View, range: Range<T>) -> Vec<Row<T>>
where
    T::Key: Send,
    T::Value: Send,
{
    let read = |view: View| async move { view.scan(range).await.map(|page| page.rows) };
    view.bulk(read).await.unwrap().unwrap()
}

/// Runs a test's asynchronous part.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}
