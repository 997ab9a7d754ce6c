//! Views: reads that all see one position.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::Semaphore;

use crate::{
    codec::{Encode, Reader, Writer},
    engine::{Reach, ScanSpan, Snapshot, Tier},
    error::{DecodeError, EngineError, StoreError},
    position::Position,
    range::Range,
    rows::Rows,
    table::Table,
    value::read_stored,
};

/// Reads of single keys that may wait for the disk at one time.
const DISK_READS_MAX: usize = 32;
/// Scans that may wait for the disk at one time.
const DISK_SCANS_MAX: usize = 4;
/// Keys that are looked up at one time on the caller's thread, if they are in memory.
const KEYS_INLINE_MAX: usize = 1024;
/// Rows that a scan reads on the caller's thread, if they are in memory.
const SCAN_INLINE_ROWS: usize = 256;
/// Rows of one scan that may enter the block cache; what comes after would only push out others.
const SCAN_CACHED_ROWS: usize = 1024;
/// The bytes, keys and values, with which a page ends, whatever its limit.
pub const SCAN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A key and its value.
pub type Row<T> = (<T as Table>::Key, <T as Table>::Value);

/// Rows of a table, in the order of the scan, and where it goes on.
#[must_use]
pub struct Page<T: Table> {
    /// As many rows as the range's limit, or fewer at the end of the range and where [`SCAN_BYTES_MAX`] is reached. At least one,
    /// unless there is none.
    pub rows: Vec<Row<T>>,
    /// What comes after these rows, with the same limit. `None` once nothing can come.
    pub next: Option<Range<T>>,
}

/// Bounds on how much reads from the disk run at one time.
pub(crate) struct ReadLimits {
    points: Arc<Semaphore>,
    scans: Arc<Semaphore>,
}

impl ReadLimits {
    pub(crate) fn new() -> ReadLimits {
        ReadLimits { points: Arc::new(Semaphore::new(DISK_READS_MAX)), scans: Arc::new(Semaphore::new(DISK_SCANS_MAX)) }
    }
}

/// A position and the state of the engine at it, published together.
pub(crate) struct Published {
    pub(crate) position: Position,
    pub(crate) snapshot: Arc<dyn Snapshot>,
    pub(crate) limits: Arc<ReadLimits>,
}

/// The tables as they were at one position. Cheap to clone.
///
/// A view keeps old data from being reclaimed, so take a new one for each operation and don't keep it
/// while waiting for something to happen. Reads try the memory first and use tokio's blocking threads
/// for the disk.
#[derive(Clone)]
pub struct View {
    published: Arc<Published>,
    /// How far a read goes on the thread that asks.
    inline: Tier,
}

impl View {
    pub(crate) fn new(published: Arc<Published>) -> View {
        View { published, inline: Tier::Cached }
    }

    /// The same view for a thread that may wait for the disk: reads stay on it, where otherwise each that finds
    /// nothing in memory goes to a thread of its own. For work that reads much, on blocking threads only.
    pub fn on_this_thread(&self) -> View {
        View { published: Arc::clone(&self.published), inline: Tier::Disk }
    }

    /// Everything up to this position, and nothing after it, is visible.
    pub fn position(&self) -> Position {
        self.published.position
    }

    /// The value of a key.
    pub async fn get<T: Table>(&self, key: &impl Encode<T::Key>) -> Result<Option<T::Value>, StoreError> {
        let key = stored_key::<T>(key);
        if let Lookup::Known(value) = self.get_within::<T>(&key, self.inline)? {
            return Ok(value);
        }
        let value = self.get_from_disk::<T>(key).await?;
        let value = value.map(|bytes| read_stored(&bytes)).transpose();
        value.map_err(decode_error::<T>)
    }

    /// The value of a key, waiting for the disk on this thread: for start-up and for threads of one's
    /// own, never inside asynchronous code.
    pub fn get_blocking<T: Table>(&self, key: &impl Encode<T::Key>) -> Result<Option<T::Value>, StoreError> {
        match self.get_within::<T>(&stored_key::<T>(key), Tier::Disk)? {
            Lookup::Known(value) => Ok(value),
            Lookup::NotCached => Err(EngineError::Unavailable.into()),
        }
    }

    /// Whether a key has a value.
    pub async fn contains<T: Table>(&self, key: &impl Encode<T::Key>) -> Result<bool, StoreError> {
        let key = stored_key::<T>(key);
        let mut present = false;
        let snapshot = &self.published.snapshot;
        let reach = snapshot.get(T::FAMILY, &key, self.inline, &mut |value| present = value.is_some())?;
        match reach {
            Reach::Complete => Ok(present),
            Reach::NotCached => Ok(self.get_from_disk::<T>(key).await?.is_some()),
        }
    }

    /// The values of many keys, in their order.
    pub async fn get_many<T: Table>(&self, keys: &[impl Encode<T::Key>]) -> Result<Vec<Option<T::Value>>, StoreError> {
        let stored: Vec<Vec<u8>> = keys.iter().map(stored_key::<T>).collect();
        let mut order: Vec<usize> = (0..stored.len()).collect();
        order.sort_unstable_by(|a, b| stored[*a].cmp(&stored[*b]));
        let mut values: Vec<Option<T::Value>> = Vec::with_capacity(stored.len());
        values.resize_with(stored.len(), || None);

        let missing = match order.len() > KEYS_INLINE_MAX && self.inline == Tier::Cached {
            true => order,
            false => self.get_cached::<T>(&stored, &order, &mut values)?,
        };
        self.get_missing::<T>(&stored, missing, &mut values).await?;
        Ok(values)
    }

    /// A page of rows in order. Not to look at [`Page::next`] is right where fewer rows than asked for do no harm, or where
    /// the rows that there can be are known to fit.
    pub async fn scan<T: Table>(&self, range: Range<T>) -> Result<Page<T>, StoreError> {
        let mut rows = Rows::new(range.limit.min(SCAN_INLINE_ROWS));
        let span = span_of(&range, true);
        let reach = rows.fill(&self.published.snapshot, &span, self.inline)?;
        if reach == Reach::NotCached || (rows.is_full() && !is_page(&rows, range.limit)) {
            rows = self.scan_disk(rows, span, range.limit).await?;
        }
        page_of(&rows, range)
    }

    /// Every row of a range that is known to be short: what writers put there has a limit of its own.
    pub async fn scan_all<T: Table>(&self, range: Range<T>) -> Result<Vec<Row<T>>, StoreError> {
        let Page { mut rows, mut next } = self.scan(range).await?;
        while let Some(rest) = next {
            let page = self.scan(rest).await?;
            rows.extend(page.rows);
            next = page.next;
        }
        Ok(rows)
    }

    /// The first row of a range.
    pub async fn first<T: Table>(&self, range: Range<T>) -> Result<Option<Row<T>>, StoreError> {
        Ok(self.scan(range.limit(1)).await?.rows.pop())
    }

    /// A page of rows in order, waiting for the disk on this thread; see [`View::get_blocking`].
    pub fn scan_blocking<T: Table>(&self, range: Range<T>) -> Result<Page<T>, StoreError> {
        let mut rows = Rows::new(range.limit);
        rows.fill(&self.published.snapshot, &span_of(&range, true), Tier::Disk)?;
        page_of(&rows, range)
    }

    /// The value of a key, without going further than `tier`.
    fn get_within<T: Table>(&self, key: &[u8], tier: Tier) -> Result<Lookup<T::Value>, StoreError> {
        let mut value = None;
        let reach = self.published.snapshot.get(T::FAMILY, key, tier, &mut |bytes| {
            value = bytes.map(read_stored);
        })?;
        match reach {
            Reach::NotCached => Ok(Lookup::NotCached),
            Reach::Complete => value.transpose().map(Lookup::Known).map_err(decode_error::<T>),
        }
    }

    async fn get_from_disk<T: Table>(&self, key: Vec<u8>) -> Result<Option<Vec<u8>>, StoreError> {
        let snapshot = Arc::clone(&self.published.snapshot);
        on_blocking_thread(&self.published.limits.points, move || {
            let mut value = None;
            snapshot.get(T::FAMILY, &key, Tier::Disk, &mut |bytes| {
                value = bytes.map(<[u8]>::to_vec);
            })?;
            Ok(value)
        })
        .await
    }

    /// Reads what is in memory; `order` sorts the keys. Returns the indices of what isn't, sorted likewise.
    fn get_cached<T: Table>(
        &self,
        stored: &[Vec<u8>],
        order: &[usize],
        values: &mut [Option<T::Value>],
    ) -> Result<Vec<usize>, StoreError> {
        let sorted: Vec<&[u8]> = order.iter().map(|index| stored[*index].as_slice()).collect();
        let mut answered = vec![false; sorted.len()];
        let mut failure = None;
        self.published.snapshot.get_many(T::FAMILY, &sorted, self.inline, &mut |at, bytes| {
            answered[at] = true;
            match bytes.map(read_stored).transpose() {
                Ok(value) => values[order[at]] = value,
                Err(error) => failure = Some(error),
            }
        })?;
        match failure {
            Some(error) => Err(decode_error::<T>(error)),
            None => Ok(order.iter().zip(answered).filter(|(_, done)| !done).map(|(index, _)| *index).collect()),
        }
    }

    /// Reads from the disk what is missing (indices in the order of the keys).
    async fn get_missing<T: Table>(
        &self,
        stored: &[Vec<u8>],
        missing: Vec<usize>,
        values: &mut [Option<T::Value>],
    ) -> Result<(), StoreError> {
        if missing.is_empty() {
            return Ok(());
        }
        let keys: Vec<Vec<u8>> = missing.iter().map(|index| stored[*index].clone()).collect();
        let snapshot = Arc::clone(&self.published.snapshot);
        let found = on_blocking_thread(&self.published.limits.points, move || {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let mut found = vec![None; keys.len()];
            snapshot.get_many(T::FAMILY, &keys, Tier::Disk, &mut |at, bytes| {
                found[at] = bytes.map(<[u8]>::to_vec);
            })?;
            Ok(found)
        })
        .await?;
        for (index, bytes) in missing.into_iter().zip(found) {
            let value = bytes.map(|bytes| read_stored(&bytes)).transpose();
            values[index] = value.map_err(decode_error::<T>)?;
        }
        Ok(())
    }

    /// Goes on with a scan on blocking threads: a part that fills the cache, then one that doesn't and that
    /// waits for its turn among the big scans.
    async fn scan_disk(&self, rows: Rows, span: ScanSpan, limit: usize) -> Result<Rows, StoreError> {
        let limits = &self.published.limits;
        let rows = self.scan_part(rows, span.clone(), limit.min(SCAN_CACHED_ROWS), &limits.points).await?;
        if !rows.is_full() || is_page(&rows, limit) {
            return Ok(rows);
        }
        let span = ScanSpan { fill_cache: false, ..span };
        self.scan_part(rows, span, limit, &limits.scans).await
    }

    async fn scan_part(
        &self,
        mut rows: Rows,
        mut span: ScanSpan,
        rows_max: usize,
        turn: &Arc<Semaphore>,
    ) -> Result<Rows, StoreError> {
        let snapshot = Arc::clone(&self.published.snapshot);
        on_blocking_thread(turn, move || {
            rows.continue_to(rows_max, &mut span);
            rows.fill(&snapshot, &span, Tier::Disk)?;
            Ok(rows)
        })
        .await
    }

    /// See [`Store::backup`](crate::Store::backup).
    pub(crate) async fn backup(&self, path: PathBuf) -> Result<(), StoreError> {
        let snapshot = Arc::clone(&self.published.snapshot);
        on_blocking_thread(&self.published.limits.scans, move || Ok(snapshot.backup(&path)?)).await
    }
}

/// What a read without waiting for the disk found out.
enum Lookup<V> {
    Known(Option<V>),
    NotCached,
}

/// Runs a read where it may wait for the disk, within a limit.
async fn on_blocking_thread<R: Send + 'static>(
    limit: &Arc<Semaphore>,
    read: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Result<R, StoreError> {
    let permit = Arc::clone(limit).acquire_owned().await.map_err(|_| StoreError::Closed)?;
    let task = tokio::task::spawn_blocking(move || {
        let result = read();
        drop(permit);
        result
    });
    task.await.map_err(|_| StoreError::Closed)?
}

fn stored_key<T: Table>(key: &impl Encode<T::Key>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.bytes.reserve(64);
    writer.raw(&T::ID.to_be_bytes());
    key.encode(&mut writer);
    debug_assert!(writer.stamps.is_empty(), "a stamp was looked up in table {}", T::NAME);
    writer.bytes
}

fn span_of<T: Table>(range: &Range<T>, fill_cache: bool) -> ScanSpan {
    ScanSpan {
        family: T::FAMILY,
        lower: range.lower.clone(),
        upper: range.upper.clone(),
        reverse: range.reverse,
        fill_cache,
    }
}

/// Whether `rows` are all that a page with this limit may have.
fn is_page(rows: &Rows, limit: usize) -> bool {
    rows.len() >= limit || rows.is_heavy()
}

fn page_of<T: Table>(rows: &Rows, mut range: Range<T>) -> Result<Page<T>, StoreError> {
    let mut decoded = Vec::with_capacity(rows.len());
    for (key, value) in rows.iter() {
        decoded.push(decode_row::<T>(key, value).map_err(decode_error::<T>)?);
    }
    if decoded.is_empty() || !is_page(rows, range.limit) {
        return Ok(Page { rows: decoded, next: None });
    }
    rows.narrow(range.reverse, &mut range.lower, &mut range.upper);
    Ok(Page { rows: decoded, next: Some(range) })
}

fn decode_row<T: Table>(key: &[u8], value: &[u8]) -> Result<Row<T>, DecodeError> {
    let mut reader = Reader::new(key);
    reader.array::<2>()?;
    let key = crate::codec::Decode::decode(&mut reader)?;
    reader.finish()?;
    Ok((key, read_stored(value)?))
}

fn decode_error<T: Table>(error: DecodeError) -> StoreError {
    StoreError::Decode { table: T::NAME, error }
}
