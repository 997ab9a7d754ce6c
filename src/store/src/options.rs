//! How a store is opened.

use crate::migrate::Migration;

/// The smallest memory budget that is divided; less is treated as this much. Servers have many times more.
pub const MEMORY_BUDGET_BYTES_MIN: usize = 1024 * 1024;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for the block cache, the tables that are being written, the tail of the log and the
    /// caches of those who use the store, together. See [`Budget`].
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

/// How one memory budget is divided.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Blocks of stored tables, with their indexes and filters.
    pub block_cache_bytes: usize,
    /// Tables in memory that are being written.
    pub memtable_bytes: usize,
    /// The newest log records, for followers.
    pub log_tail_bytes: usize,
    /// Left for the caches of those who use the store.
    pub callers_bytes: usize,
}

impl Budget {
    /// Divides `total_bytes`.
    pub const fn of(total_bytes: usize) -> Budget {
        let total = if total_bytes < MEMORY_BUDGET_BYTES_MIN { MEMORY_BUDGET_BYTES_MIN } else { total_bytes };
        let block_cache_bytes = total / 100 * 30;
        let memtable_bytes = total / 100 * 15;
        let log_tail_bytes = total / 100 * 3;
        Budget {
            block_cache_bytes,
            memtable_bytes,
            log_tail_bytes,
            callers_bytes: total - block_cache_bytes - memtable_bytes - log_tail_bytes,
        }
    }
}
