//! How one memory budget is divided.

/// The smallest memory budget that is divided; less is treated as this much. Servers have many times more.
pub const MEMORY_BUDGET_BYTES_MIN: usize = 1024 * 1024;

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
