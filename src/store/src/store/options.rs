//! How a store is opened.

use crate::store::migrate::Migration;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for the block cache, the tables that are being written, the tail of the log and the
    /// caches of those who use the store, together. See [`Budget`](crate::Budget).
    pub memory_budget_bytes: usize,
    /// The migrations of all crates, ascending.
    pub migrations: Vec<Migration>,
    /// Threads that flush and compact.
    pub background_jobs: u16,
    /// Files of tables that stay open. Others are opened when they are read, which takes a file descriptor for a moment.
    pub open_files_max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            memory_budget_bytes: 256 * 1024 * 1024,
            migrations: Vec::new(),
            background_jobs: 2,
            open_files_max: 256,
        }
    }
}
