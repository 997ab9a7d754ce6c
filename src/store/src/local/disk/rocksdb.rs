//! RocksDB: one column family for each [`Family`], one memory budget for all of them.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, DataBlockIndexType, ErrorKind, LogLevel, ReadOptions, ReadTier, WriteBatch, WriteBufferManager,
    WriteOptions, checkpoint::Checkpoint,
};
use self_cell::self_cell;

use crate::{
    batch::WriteOp,
    budget::Budget,
    engine::{ScanSpan, SetCache},
    error::EngineError,
    local::disk::{Disk, DiskSnapshot, Durability, Reach, Resources, RowVisitor, Tier},
    table::Family,
};

/// Bits of filter for each key: about one look-up in a hundred reads a block for nothing.
const FILTER_BITS_PER_KEY: f64 = 10.0;
/// Levels from this one on have the smaller and slower filter; most keys are there.
const RIBBON_FROM_LEVEL: i32 = 1;
/// The part of a memtable that is a filter on its keys.
const MEMTABLE_FILTER_RATIO: f64 = 0.02;
/// Smaller values of [`Family::Large`] stay with their keys.
const BLOB_BYTES_MIN: u64 = 2048;
/// Blocks of families in which single keys are looked up.
const POINT_BLOCK_BYTES: usize = 4 * 1024;
/// Blocks of families that are scanned.
const RANGE_BLOCK_BYTES: usize = 16 * 1024;
/// Blocks of a file's index and filter.
const METADATA_BLOCK_BYTES: usize = 4 * 1024;
/// Information logs of the engine, each.
const INFO_LOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Information logs of the engine that are kept.
const INFO_LOGS_MAX: usize = 4;
/// The write-ahead log is replayed at start, so it is kept short, whatever the budget.
const WAL_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Free room, besides that for tables in memory, with which it makes sense to open a full disk again.
const ROOM_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// The key, in the default column family, that is written to find out whether writing works.
const PROBE_KEY: &[u8] = b"probe";

/// RocksDB in a directory.
pub(crate) struct Rocks {
    path: PathBuf,
    resources: Resources,
    cache: Cache,
    /// `None` while opening again has failed.
    db: Option<Arc<DB>>,
}

impl Rocks {
    /// Opens the database in `path`, making the directory if it isn't there.
    pub(crate) fn open(path: &Path, resources: Resources) -> Result<Rocks, EngineError> {
        std::fs::create_dir_all(path).map_err(|error| EngineError::Failed(error.to_string()))?;
        // Charges of entries are estimated as they come.
        let cache = Cache::new_hyper_clock_cache(resources.budget.block_cache_bytes, 0);
        let db = open_db(path, resources, &cache)?;
        Ok(Rocks { path: path.to_owned(), resources, cache, db: Some(Arc::new(db)) })
    }

    /// Whether the disk has room for what opening the database writes.
    fn has_room(&self) -> bool {
        let memtable_bytes = self.resources.budget.memtable_bytes as u64;
        match rustix::fs::statvfs(&self.path) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize) >= memtable_bytes + ROOM_BYTES_MIN,
            Err(_) => false,
        }
    }

    fn db(&self) -> Result<&Arc<DB>, EngineError> {
        self.db.as_ref().ok_or(EngineError::Unavailable)
    }
}

impl Disk for Rocks {
    fn write(&mut self, ops: &[WriteOp<'_>], durability: Durability) -> Result<(), EngineError> {
        let db = self.db()?;
        let families = families(db)?;
        let mut batch = WriteBatch::with_capacity_bytes(stored_bytes(ops));
        for op in ops {
            match *op {
                WriteOp::Put { family, key, value } => {
                    debug_assert!(!value.is_empty(), "see `may_exist`");
                    batch.put_cf(families[family.index()], key, value);
                }
                WriteOp::Delete { family, key } => {
                    batch.delete_cf(families[family.index()], key);
                }
                WriteOp::DeleteRange { family, from, to } => {
                    batch.delete_range_cf(families[family.index()], from, to);
                }
            }
        }
        db.write_opt(batch, &write_options(durability)).map_err(engine_error)
    }

    fn snapshot(&mut self) -> Result<Arc<dyn DiskSnapshot>, EngineError> {
        let db = Arc::clone(self.db()?);
        let snapshot = RocksSnapshot::try_new(db, |db| State::of(db))?;
        Ok(Arc::new(snapshot))
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        // RocksDB recovers from some failures by itself; until then it refuses writes.
        let probe = self.db()?.put_opt(PROBE_KEY, [1], &write_options(Durability::Synced));
        match probe.map_err(engine_error) {
            // It never takes up writing again after the write-ahead log could not be written.
            Err(EngineError::NoSpace(message)) if self.has_room() => Err(EngineError::Failed(message)),
            other => other,
        }
    }

    fn reopen(&mut self) -> Result<(), EngineError> {
        if let Some(db) = self.db.take() {
            match Arc::try_unwrap(db) {
                Ok(db) => drop(db),
                Err(db) => {
                    self.db = Some(db);
                    return Err(EngineError::Failed("views are still in use".to_owned()));
                }
            }
        }
        self.db = Some(Arc::new(open_db(&self.path, self.resources, &self.cache)?));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        self.db()?.flush_wal(true).map_err(engine_error)
    }

    fn set_cache(&self) -> SetCache {
        let cache = self.cache.clone();
        Arc::new(move |bytes| cache.clone().set_capacity(bytes))
    }
}

/// About the size of a write batch of `ops`.
fn stored_bytes(ops: &[WriteOp<'_>]) -> usize {
    /// Kind, column family and lengths.
    const HEADER_BYTES: usize = 12;
    let bytes = |op: &WriteOp<'_>| match op {
        WriteOp::Put { key, value, .. } => key.len() + value.len(),
        WriteOp::Delete { key, .. } => key.len(),
        WriteOp::DeleteRange { from, to, .. } => from.len() + to.len(),
    };
    ops.iter().map(|op| bytes(op) + HEADER_BYTES).sum()
}

fn write_options(durability: Durability) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(durability == Durability::Synced);
    options
}

/// A snapshot with what reads through it need.
struct State<'db> {
    db: &'db DB,
    families: [&'db ColumnFamily; Family::ALL.len()],
    snapshot: rocksdb::Snapshot<'db>,
    /// Options of reads of single keys, made once.
    cached: ReadOptions,
    disk: ReadOptions,
}

impl<'db> State<'db> {
    fn of(db: &'db Arc<DB>) -> Result<State<'db>, EngineError> {
        let snapshot = db.snapshot();
        let mut cached = ReadOptions::default();
        cached.set_snapshot(&snapshot);
        cached.set_read_tier(ReadTier::BlockCache);
        let mut disk = ReadOptions::default();
        disk.set_snapshot(&snapshot);
        Ok(State { db, families: families(db)?, snapshot, cached, disk })
    }

    fn get(
        &self,
        family: Family,
        key: &[u8],
        tier: Tier,
        found: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        let options = match tier {
            Tier::Cached => &self.cached,
            Tier::Disk | Tier::DiskUncached => &self.disk,
        };
        match self.db.get_pinned_cf_opt(self.families[family.index()], key, options) {
            Ok(Some(value)) if tier == Tier::Cached && may_exist(&value) => return Ok(Reach::NotCached),
            Ok(value) => found(value.as_deref()),
            Err(error) => return out_of_reach(error),
        }
        Ok(Reach::Complete)
    }

    /// What is in memory of many keys. One by one: where the block after the one in which a key could have been isn't in memory,
    /// RocksDB's look-up of many keys at once says that the key was found.
    fn get_each(
        &self,
        family: Family,
        keys: &[&[u8]],
        found: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        let mut reach = Reach::Complete;
        for (index, key) in keys.iter().enumerate() {
            if self.get(family, key, Tier::Cached, &mut |value| found(index, value))? == Reach::NotCached {
                reach = Reach::NotCached;
            }
        }
        Ok(reach)
    }

    /// Many keys, ascending, from the disk where need be, with as few reads as possible.
    fn get_together(
        &self,
        family: Family,
        keys: &[&[u8]],
        found: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        let family = self.families[family.index()];
        let sorted = true;
        let values = self.db.batched_multi_get_cf_opt(family, keys.iter().copied(), sorted, &self.disk);
        for (index, value) in values.into_iter().enumerate() {
            found(index, value.map_err(engine_error)?.as_deref());
        }
        Ok(Reach::Complete)
    }
}

/// Whether a value says no more than that RocksDB could not look for the key in memory alone. No stored value is empty.
fn may_exist(value: &[u8]) -> bool {
    value.is_empty()
}

self_cell!(
    /// A snapshot that keeps its database open.
    struct RocksSnapshot {
        owner: Arc<DB>,
        #[covariant]
        dependent: State,
    }
);

impl DiskSnapshot for RocksSnapshot {
    fn get(
        &self,
        family: Family,
        key: &[u8],
        tier: Tier,
        found: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        let state = self.borrow_dependent();
        state.get(family, key, tier, found)
    }

    fn get_many(
        &self,
        family: Family,
        keys: &[&[u8]],
        tier: Tier,
        found: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Reach, EngineError> {
        let state = self.borrow_dependent();
        match tier {
            Tier::Cached => state.get_each(family, keys, found),
            Tier::Disk | Tier::DiskUncached => state.get_together(family, keys, found),
        }
    }

    fn scan(&self, span: &ScanSpan, tier: Tier, visit: &mut RowVisitor<'_>) -> Result<Reach, EngineError> {
        let state = self.borrow_dependent();
        let mut options = ReadOptions::default();
        options.set_snapshot(&state.snapshot);
        options.set_iterate_lower_bound(span.lower.as_slice());
        options.set_iterate_upper_bound(span.upper.as_slice());
        options.fill_cache(tier != Tier::DiskUncached);
        if tier == Tier::Cached {
            options.set_read_tier(ReadTier::BlockCache);
        }
        let mut rows = state.db.raw_iterator_cf_opt(state.families[span.family.index()], options);
        if span.reverse {
            rows.seek_to_last();
        } else {
            rows.seek_to_first();
        }
        while let Some((key, value)) = rows.item() {
            if visit(key, value) == ControlFlow::Break(()) {
                return Ok(Reach::Complete);
            }
            if span.reverse {
                rows.prev();
            } else {
                rows.next();
            }
        }
        match rows.status() {
            Ok(()) => Ok(Reach::Complete),
            Err(error) => out_of_reach(error),
        }
    }

    fn backup(&self, path: &Path) -> Result<(), EngineError> {
        let checkpoint = Checkpoint::new(self.borrow_owner()).map_err(engine_error)?;
        checkpoint.create_checkpoint(path).map_err(engine_error)
    }
}

/// A read that would have had to go to the disk is not an error.
fn out_of_reach(error: rocksdb::Error) -> Result<Reach, EngineError> {
    match error.kind() {
        ErrorKind::Incomplete => Ok(Reach::NotCached),
        _ => Err(engine_error(error)),
    }
}

fn engine_error(error: rocksdb::Error) -> EngineError {
    let message = error.into_string();
    // RocksDB tells its error codes in words only.
    if message.contains("No space left") {
        return EngineError::NoSpace(message);
    }
    EngineError::Failed(message)
}

fn families(db: &DB) -> Result<[&ColumnFamily; Family::ALL.len()], EngineError> {
    let handle = |family: Family| {
        let missing = || EngineError::Failed(format!("no column family {}", family.name()));
        db.cf_handle(family.name()).ok_or_else(missing)
    };
    let [points, ranges, log, large] = Family::ALL;
    Ok([handle(points)?, handle(ranges)?, handle(log)?, handle(large)?])
}

fn open_db(path: &Path, resources: Resources, cache: &Cache) -> Result<DB, EngineError> {
    let Resources { budget, background_jobs, open_files_max } = resources;
    let memtables = WriteBufferManager::new_write_buffer_manager(budget.memtable_bytes, false);

    let mut db = rocksdb::Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_write_buffer_manager(&memtables);
    db.set_max_background_jobs(i32::from(background_jobs));
    db.set_max_open_files(i32::try_from(open_files_max).unwrap_or(i32::MAX));
    db.set_max_total_wal_size(WAL_BYTES_MIN.max(budget.memtable_bytes as u64));
    // What was synced is there; after what was lost of the rest, nothing is taken.
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // There is one writer.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    db.set_avoid_unnecessary_blocking_io(true);
    db.set_skip_stats_update_on_db_open(true);
    db.set_bytes_per_sync(1024 * 1024);
    db.set_log_level(LogLevel::Warn);
    db.set_keep_log_file_num(INFO_LOGS_MAX);
    db.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);

    let families =
        Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family, cache, &budget)));
    DB::open_cf_descriptors(&db, path, families).map_err(engine_error)
}

fn family_options(family: Family, cache: &Cache, budget: &Budget) -> rocksdb::Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // A file's index and filter come in blocks of their own with a small index of these that stays in memory: a look-up in a large
    // cold file reads some kilobytes and not a megabyte.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_metadata_block_size(METADATA_BLOCK_BYTES);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_optimize_filters_for_memory(true);
    blocks.set_block_size(RANGE_BLOCK_BYTES);

    let mut options = rocksdb::Options::default();
    options.set_write_buffer_size(budget.memtable_bytes / 2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    match family {
        Family::Points => {
            blocks.set_block_size(POINT_BLOCK_BYTES);
            blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            filter_keys(&mut blocks, &mut options);
        }
        Family::Ranges => filter_keys(&mut blocks, &mut options),
        Family::Log => {}
        Family::Large => {
            filter_keys(&mut blocks, &mut options);
            options.set_enable_blob_files(true);
            options.set_min_blob_size(BLOB_BYTES_MIN);
            options.set_blob_compression_type(DBCompressionType::Zstd);
            options.set_enable_blob_gc(true);
            options.set_blob_cache(cache);
        }
    }
    options.set_block_based_table_factory(&blocks);
    options
}

/// Filters on whole keys, on the disk and in memory.
fn filter_keys(blocks: &mut BlockBasedOptions, options: &mut rocksdb::Options) {
    blocks.set_partition_filters(true);
    blocks.set_hybrid_ribbon_filter(FILTER_BITS_PER_KEY, RIBBON_FROM_LEVEL);
    blocks.set_whole_key_filtering(true);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_RATIO);
}
