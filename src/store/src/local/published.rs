//! What is published: a snapshot of the disk with its position, and how it is read. What is in memory is read by who asks; what isn't, on
//! tokio's blocking threads, within limits.

use std::{num::NonZeroUsize, panic::resume_unwind, path::PathBuf, sync::Arc, thread};

use tokio::{runtime::Handle, sync::Semaphore, task::spawn_blocking};

use crate::{
    engine::{Bulk, Eventual, Later, Lookup, Rows, ScanSpan, Snapshot, Values},
    error::{EngineError, StoreError},
    local::disk::{DiskSnapshot, Reach, Tier},
    position::Position,
    table::Family,
};

/// Reads of single keys that may wait for the disk at one time.
const DISK_READS_MAX: usize = 32;
/// Scans that may wait for the disk at one time.
const DISK_SCANS_MAX: usize = 4;
/// Bulk work that is done at one time, for each core: some waits for the disk.
const BULK_PER_CORE: usize = 2;
/// Keys that are looked up at one time by who asks, if they are in memory.
const KEYS_INLINE_MAX: usize = 1024;
/// Rows that a scan reads for who asks, if they are in memory.
const SCAN_INLINE_ROWS: usize = 256;
/// Rows of one scan that may enter the cache; what comes after would only push out others.
const SCAN_CACHED_ROWS: usize = 1024;

/// Bounds on how much reads from the disk run at one time.
struct Limits {
    points: Arc<Semaphore>,
    scans: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
}

/// A position and the state of the disk at it, published together.
pub(crate) struct Published {
    pub(crate) position: Position,
    pub(crate) snapshot: Arc<dyn DiskSnapshot>,
    limits: Arc<Limits>,
    /// How far a read goes where it is asked for.
    inline: Tier,
}

impl Published {
    pub(crate) fn new(position: Position, snapshot: Arc<dyn DiskSnapshot>) -> Published {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let limits = Limits {
            points: Arc::new(Semaphore::new(DISK_READS_MAX)),
            scans: Arc::new(Semaphore::new(DISK_SCANS_MAX)),
            bulk: Arc::new(Semaphore::new(BULK_PER_CORE * cores)),
        };
        Published { position, snapshot, limits: Arc::new(limits), inline: Tier::Cached }
    }

    /// What is published after this.
    pub(crate) fn followed_by(&self, position: Position, snapshot: Arc<dyn DiskSnapshot>) -> Published {
        Published { position, snapshot, limits: Arc::clone(&self.limits), inline: Tier::Cached }
    }

    pub(crate) fn backup(&self, path: PathBuf) -> Later<()> {
        let snapshot = Arc::clone(&self.snapshot);
        on_blocking_thread(&self.limits.scans, move || Ok(snapshot.backup(&path)?))
    }

    /// The same for a thread that may wait for the disk.
    fn waiting(&self) -> Published {
        let (snapshot, limits) = (Arc::clone(&self.snapshot), Arc::clone(&self.limits));
        Published { position: self.position, snapshot, limits, inline: Tier::Disk }
    }
}

impl Snapshot for Published {
    fn position(&self) -> Position {
        self.position
    }

    fn get(
        &self,
        family: Family,
        key: Vec<u8>,
        found: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Lookup<Option<Vec<u8>>>, StoreError> {
        if self.snapshot.get(family, &key, self.inline, found)? == Reach::Complete {
            return Ok(Lookup::Done);
        }
        let snapshot = Arc::clone(&self.snapshot);
        Ok(Lookup::Later(on_blocking_thread(&self.limits.points, move || {
            let mut value = None;
            snapshot.get(family, &key, Tier::Disk, &mut |bytes| value = bytes.map(<[u8]>::to_vec))?;
            Ok(value)
        })))
    }

    fn get_many(
        &self,
        family: Family,
        keys: &[&[u8]],
        found: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Lookup<Values>, StoreError> {
        let mut answered = vec![false; keys.len()];
        if keys.len() <= KEYS_INLINE_MAX || self.inline != Tier::Cached {
            self.snapshot.get_many(family, keys, self.inline, &mut |at, value| {
                answered[at] = true;
                found(at, value);
            })?;
        }
        let missing = keys.iter().enumerate().filter(|(at, _)| !answered[*at]);
        let (places, missing): (Vec<usize>, Vec<Vec<u8>>) = missing.map(|(at, key)| (at, key.to_vec())).unzip();
        if missing.is_empty() {
            return Ok(Lookup::Done);
        }
        let snapshot = Arc::clone(&self.snapshot);
        Ok(Lookup::Later(on_blocking_thread(&self.limits.points, move || {
            let keys: Vec<&[u8]> = missing.iter().map(Vec::as_slice).collect();
            let mut values = Vec::with_capacity(keys.len());
            snapshot.get_many(family, &keys, Tier::Disk, &mut |at, value| {
                values.push((places[at], value.map(<[u8]>::to_vec)));
            })?;
            Ok(values)
        })))
    }

    fn scan(&self, mut span: ScanSpan, limit: usize) -> Eventual<'static, Result<Rows, StoreError>> {
        let mut rows = Rows::new(limit.min(SCAN_INLINE_ROWS));
        match fill(&mut rows, &*self.snapshot, &span, self.inline) {
            Ok(Reach::Complete) if !rows.is_full() || rows.is_page(limit) => return Eventual::Now(Ok(rows)),
            Ok(_) => {}
            Err(error) => return Eventual::Now(Err(error.into())),
        }
        if self.inline != Tier::Cached {
            let filled = fill_page(&mut rows, &mut span, limit, &*self.snapshot);
            return Eventual::Now(filled.map(|()| rows).map_err(StoreError::from));
        }
        let (snapshot, limits) = (Arc::clone(&self.snapshot), Arc::clone(&self.limits));
        Eventual::Later(Box::pin(scan_disk(rows, span, limit, snapshot, limits)))
    }

    fn bulk(self: Arc<Self>, work: Bulk) -> Later<()> {
        Box::pin(async move {
            let turn = Arc::clone(&self.limits.bulk).acquire_owned().await.map_err(|_| StoreError::Closed)?;
            let (snapshot, runtime) = (Arc::new(self.waiting()), Handle::current());
            // A thread of its own for all of it, where otherwise each read that finds nothing in memory would go to one.
            let done = spawn_blocking(move || {
                let _turn = turn;
                runtime.block_on(work(snapshot));
            });
            match done.await {
                Ok(()) => Ok(()),
                Err(failed) if failed.is_panic() => resume_unwind(failed.into_panic()),
                // The process ends.
                Err(_) => Err(StoreError::Closed),
            }
        })
    }
}

/// Goes on with a scan that may wait for the disk: a part that fills the cache, then one that doesn't.
fn fill_page(
    rows: &mut Rows,
    span: &mut ScanSpan,
    limit: usize,
    snapshot: &dyn DiskSnapshot,
) -> Result<(), EngineError> {
    for (tier, rows_max) in [(Tier::Disk, limit.min(SCAN_CACHED_ROWS)), (Tier::DiskUncached, limit)] {
        fill_to(rows, rows_max, snapshot, span, tier)?;
        if !rows.is_full() || rows.is_page(limit) {
            break;
        }
    }
    Ok(())
}

/// The same on blocking threads, where the second part waits for its turn among the big scans.
async fn scan_disk(
    mut rows: Rows,
    mut span: ScanSpan,
    limit: usize,
    snapshot: Arc<dyn DiskSnapshot>,
    limits: Arc<Limits>,
) -> Result<Rows, StoreError> {
    for (turns, tier, rows_max) in
        [(&limits.points, Tier::Disk, limit.min(SCAN_CACHED_ROWS)), (&limits.scans, Tier::DiskUncached, limit)]
    {
        let snapshot = Arc::clone(&snapshot);
        let part = on_blocking_thread(turns, move || {
            fill_to(&mut rows, rows_max, &*snapshot, &mut span, tier)?;
            Ok((rows, span))
        });
        (rows, span) = part.await?;
        if !rows.is_full() || rows.is_page(limit) {
            break;
        }
    }
    Ok(rows)
}

/// Adds what comes next of a span, until there are `rows_max` rows.
fn fill_to(
    rows: &mut Rows,
    rows_max: usize,
    snapshot: &dyn DiskSnapshot,
    span: &mut ScanSpan,
    tier: Tier,
) -> Result<(), EngineError> {
    rows.continue_to(rows_max, span);
    fill(rows, snapshot, span, tier).map(drop)
}

fn fill(rows: &mut Rows, snapshot: &dyn DiskSnapshot, span: &ScanSpan, tier: Tier) -> Result<Reach, EngineError> {
    if rows.is_full() || span.lower >= span.upper {
        return Ok(Reach::Complete);
    }
    snapshot.scan(span, tier, &mut |key, value| rows.push(key, value))
}

/// Runs a read where it may wait for the disk, within a limit.
fn on_blocking_thread<R: Send + 'static>(
    limit: &Arc<Semaphore>,
    read: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Later<R> {
    let limit = Arc::clone(limit);
    Box::pin(async move {
        let permit = limit.acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let task = spawn_blocking(move || {
            let result = read();
            drop(permit);
            result
        });
        task.await.map_err(|_| StoreError::Closed)?
    })
}
