//! Tables far larger than the cache: every way to read gives what was written, wherever the blocks are that it needs, and while
//! files are flushed and compacted.

use std::{ops::Range as Span, sync::Arc};

use store::{Batch, Options, Range, Store, Table, TableInfo, View};
use tokio::sync::watch;

store::table! {
    /// Blocks of 4 KiB, filters.
    Looked = 370, Points: u32 => Vec<u8>;
    /// Blocks of 16 KiB, filters.
    Scanned = 371, Ranges: u32 => Vec<u8>;
    /// No filters: each look-up reads blocks.
    Unfiltered = 372, Log: u32 => Vec<u8>;
    /// Some values in files of their own.
    Bodies = 373, Large: u32 => Vec<u8>;
    /// Nothing but keys.
    Marks = 374, Points: u32 => ()
}

const TABLES: &[TableInfo] = &[
    TableInfo::of::<Looked>(),
    TableInfo::of::<Scanned>(),
    TableInfo::of::<Unfiltered>(),
    TableInfo::of::<Bodies>(),
    TableInfo::of::<Marks>(),
];

/// Of which less than a third is the cache's.
const MEMORY_BUDGET_BYTES: usize = 2 * 1024 * 1024;
/// Rows of each table: some 40 MB in all.
const ROWS: u32 = 16_000;
/// Batches that are written while others read.
const BATCHES: u32 = 120;
/// Look-ups of each table afterwards.
const LOOK_UPS: u32 = 32_000;
/// Keys that are looked up together.
const KEYS: usize = 200;

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u32) -> u32 {
        // A step of xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(end)) as u32
    }

    fn span(&mut self, end: u32, length_max: u32) -> Span<u32> {
        let start = self.below(end);
        start..start + 1 + self.below(length_max)
    }
}

/// For each row the number of the write that it is of; `None` if it isn't there. All tables have the same rows. The key of row n
/// is 2n, so there is a key that no table has beside each.
#[derive(Clone)]
struct Model(Vec<Option<u32>>);

impl Model {
    fn value(&self, key: u32) -> Option<Vec<u8>> {
        let written = self.0.get(key as usize / 2).copied().flatten()?;
        key.is_multiple_of(2).then(|| content(key, written))
    }

    fn put(&mut self, batch: &mut Batch, row: u32, written: u32) {
        let (key, value) = (2 * row, content(2 * row, written));
        batch.put::<Looked>(&key, &value);
        batch.put::<Scanned>(&key, &value);
        batch.put::<Unfiltered>(&key, &value);
        batch.put::<Bodies>(&key, &value);
        batch.put::<Marks>(&key, &());
        self.0[row as usize] = Some(written);
    }

    fn delete(&mut self, batch: &mut Batch, rows: Span<u32>) {
        let (from, to) = (2 * rows.start, 2 * rows.end);
        if rows.len() == 1 {
            batch.delete::<Looked>(&from);
            batch.delete::<Scanned>(&from);
            batch.delete::<Unfiltered>(&from);
            batch.delete::<Bodies>(&from);
            batch.delete::<Marks>(&from);
        } else {
            batch.delete_between::<Looked>(&(from,), &(to,));
            batch.delete_between::<Scanned>(&(from,), &(to,));
            batch.delete_between::<Unfiltered>(&(from,), &(to,));
            batch.delete_between::<Bodies>(&(from,), &(to,));
            batch.delete_between::<Marks>(&(from,), &(to,));
        }
        let end = (rows.end as usize).min(self.0.len());
        self.0[rows.start as usize..end].fill(None);
    }
}

/// Bytes that can't be compressed; one value in sixteen goes to a file of its own.
fn content(key: u32, written: u32) -> Vec<u8> {
    let mut numbers = Numbers((u64::from(key) << 32 | u64::from(written)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let length = if numbers.below(16) == 0 { 3_000 } else { 200 + numbers.below(700) };
    (0..length).map(|_| numbers.below(256) as u8).collect()
}

/// Compares one of each kind of read of a table with the model.
async fn check<T: Table<Key = u32, Value = Vec<u8>>>(view: &View, model: &Model, numbers: &mut Numbers) {
    let end = 2 * ROWS + 10;
    let keys: Vec<u32> = (0..KEYS).map(|_| numbers.below(end)).collect();
    let values = view.get_many::<T>(&keys).await.unwrap();
    for (key, value) in keys.iter().zip(&values) {
        assert_eq!(*value, model.value(*key), "{} {key} among many", T::NAME);
    }
    for key in &keys[..8] {
        assert_eq!(view.get::<T>(key).await.unwrap(), model.value(*key), "{} {key}", T::NAME);
        assert_eq!(view.contains::<T>(key).await.unwrap(), model.value(*key).is_some(), "{} {key} contained", T::NAME);
    }
    let span = numbers.span(end, 400);
    let mut wanted: Vec<(u32, Vec<u8>)> = span.clone().filter_map(|key| Some((key, model.value(key)?))).collect();
    let mut range = Range::<T>::between(&(span.start,), &(span.end,));
    if numbers.below(2) == 0 {
        range = range.reverse();
        wanted.reverse();
    }
    assert_eq!(view.scan_all(range.clone().limit(150)).await.unwrap(), wanted, "{} {span:?}", T::NAME);
    assert_eq!(view.scan(range).await.unwrap().rows, wanted, "{} {span:?} in one page", T::NAME);
}

async fn check_marks(view: &View, model: &Model, numbers: &mut Numbers) {
    let keys: Vec<u32> = (0..KEYS).map(|_| numbers.below(2 * ROWS + 10)).collect();
    let values = view.get_many::<Marks>(&keys).await.unwrap();
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value.is_some(), model.value(*key).is_some(), "{key} among many");
    }
    let key = keys[0];
    assert_eq!(view.contains::<Marks>(&key).await.unwrap(), model.value(key).is_some(), "{key} contained");
    assert_eq!(view.get::<Marks>(&key).await.unwrap().is_some(), model.value(key).is_some(), "{key}");
}

/// Compares all kinds of reads, also where much is read.
async fn check_all(view: &View, model: &Arc<Model>, numbers: &mut Numbers) {
    check_tables(view, model, numbers).await;
    let (model, mut own) = (model.clone(), Numbers(u64::from(numbers.below(u32::MAX)) + 1));
    view.bulk(|view| async move { check_tables(&view, &model, &mut own).await }).await.unwrap();
}

async fn check_tables(view: &View, model: &Model, numbers: &mut Numbers) {
    check::<Looked>(view, model, numbers).await;
    check::<Scanned>(view, model, numbers).await;
    check::<Unfiltered>(view, model, numbers).await;
    check::<Bodies>(view, model, numbers).await;
    check_marks(view, model, numbers).await;
}

type State = (View, Arc<Model>);

/// Writes at random, and tells of each state.
async fn write(store: Store, mut model: Model, states: watch::Sender<State>) {
    let mut numbers = Numbers(77);
    for written in 1..=BATCHES {
        let mut batch = Batch::new();
        batch.relaxed();
        while !batch.is_filled() {
            let rows = numbers.span(ROWS, 20);
            match numbers.below(8) {
                0 => model.delete(&mut batch, rows),
                1 => model.delete(&mut batch, rows.start..rows.start + 1),
                _ => model.put(&mut batch, rows.start, written),
            }
        }
        store.commit(batch).await.unwrap();
        states.send_replace((store.view().await.unwrap(), Arc::new(model.clone())));
    }
}

/// Reads until the writer has ended.
async fn read(mut states: watch::Receiver<State>, seed: u64) {
    let mut numbers = Numbers(seed);
    while states.changed().await.is_ok() {
        let (view, model) = states.borrow_and_update().clone();
        check_all(&view, &model, &mut numbers).await;
    }
}

async fn fill(store: &Store) -> Model {
    let mut model = Model(vec![None; ROWS as usize]);
    let mut next = 0;
    while next < ROWS {
        let mut batch = Batch::new();
        batch.relaxed();
        while next < ROWS && !batch.is_filled() {
            model.put(&mut batch, next, 0);
            next += 1;
        }
        store.commit(batch).await.unwrap();
    }
    model
}

#[test]
fn reads_of_tables_larger_than_the_cache_agree_with_a_model() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { memory_budget_bytes: MEMORY_BUDGET_BYTES, ..Options::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open_rocksdb(directory.path(), &options, &[TABLES]).await.unwrap();
        let model = fill(&store).await;
        let (sender, states) = watch::channel((store.view().await.unwrap(), Arc::new(model.clone())));
        let readers: Vec<_> = [5, 6].map(|seed| tokio::spawn(read(states.clone(), seed))).into();
        tokio::spawn(write(store.clone(), model, sender)).await.unwrap();
        for reader in readers {
            reader.await.unwrap();
        }
        let (view, model) = states.borrow().clone();
        let mut numbers = Numbers(7);
        for _ in 0..LOOK_UPS as usize / KEYS {
            check_all(&view, &model, &mut numbers).await;
        }
        drop((view, states));
        store.close().await;
    });
}
