//! What a look-up in a large file costs that nothing is cached of, and that bulk work does its reads itself.
#![cfg(target_os = "linux")]

use std::path::Path;

use store::{Batch, Options, Store, TableInfo, View};

store::table! {
    /// Many small rows.
    Rows = 380, Points: u64 => u64
}

const ROWS: u64 = 300_000;
/// A filter of all rows alone takes some 400 KB.
const READ_BYTES_MAX: u64 = 64 * 1024;

async fn open(path: &Path, memory_budget_bytes: usize) -> Store {
    let options = Options { memory_budget_bytes, ..Options::default() };
    Store::open_rocksdb(path, &options, &[&[TableInfo::of::<Rows>()]]).await.unwrap()
}

/// What this thread has read from files so far.
fn read_bytes() -> u64 {
    let figures = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = figures.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn a_cold_look_up_in_a_large_file_reads_little() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(directory.path(), 512 * 1024 * 1024).await;
        let mut next = 0;
        while next < ROWS {
            let mut batch = Batch::new();
            batch.relaxed();
            while next < ROWS && !batch.is_filled() {
                batch.put::<Rows>(&(next * 10), &next);
                next += 1;
            }
            store.commit(batch).await.unwrap();
        }
        store.close().await;
        drop(store);
        // All rows are in the log of writes: they are written to one file now.
        open(directory.path(), 512 * 1024 * 1024).await.close().await;

        let store = open(directory.path(), 1024 * 1024).await;
        let view = store.view().await.unwrap();
        let look_up = |view: View| async move {
            for row in [ROWS / 2, ROWS / 3] {
                let before = read_bytes();
                assert_eq!(view.get::<Rows>(&(row * 10)).await.unwrap(), Some(row));
                assert_eq!(view.get::<Rows>(&(row * 10 + 1)).await.unwrap(), None);
                let read = read_bytes() - before;
                assert!(read > 0 && read < READ_BYTES_MAX, "{read} bytes read");
            }
        };
        view.bulk(look_up).await.unwrap();
        drop(view);
        store.close().await;
    });
}
