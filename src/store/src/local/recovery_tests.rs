//! What happens when writing fails.

use std::{
    future::Future,
    sync::{Arc, Mutex},
};

use tokio::sync::mpsc;

use crate::{
    Batch, CommitError, Cursor, EngineError, Follow, LogEntry, LogRecord, MemoryDisk, News, Options, Position,
    Projection, Store, StoreError, View, Writer,
    error::DecodeError,
    local::{
        disk::{
            Durability,
            faulty::{Fault, Faults, Faulty},
        },
        open::start,
    },
    store::{Purpose, READ_FAILURES_MAX},
    table::TableInfo,
};

crate::table! {
    /// Something to write.
    Rows = 400, Points: u64 => u64
}

const TABLES: &[TableInfo] = &[TableInfo::of::<Rows>()];

struct Wrote(u64);

impl LogEntry for Wrote {
    const KIND: u16 = 400;

    fn encode_entry(&self, w: &mut Writer) {
        w.raw(&self.0.to_be_bytes());
    }

    fn decode_entry(bytes: &[u8]) -> Result<Wrote, DecodeError> {
        crate::decode_all(bytes).map(Wrote)
    }
}

async fn open(disk: &MemoryDisk, faults: &Faults) -> Store {
    let options = Options::default();
    let engine = start(Box::new(Faulty::new(disk, faults)), &options, Purpose::Use).unwrap();
    crate::store::open(Arc::new(engine), &options, &[TABLES], Purpose::Use).await.unwrap()
}

fn row(number: u64) -> Batch {
    let mut batch = Batch::new();
    let _ = batch.log(&Wrote(number));
    batch.put::<Rows>(&number, &number);
    batch
}

/// Commits as soon as the store accepts it.
async fn commit_when_recovered(store: &Store, number: u64) -> Position {
    loop {
        match store.commit(row(number)).await {
            Ok(position) => return position,
            Err(CommitError::Failed(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn logged(store: &Store) -> Vec<(Position, u64)> {
    let mut follower = store.read_log(Position::ZERO);
    let mut entries = Vec::new();
    loop {
        let records = follower.try_next().await.unwrap();
        if records.is_empty() {
            return entries;
        }
        for record in records {
            entries.push((record.position, record.decode::<Wrote>().unwrap().unwrap().0));
        }
    }
}

/// The numbers that were applied.
#[derive(Default)]
struct Applied(Mutex<Vec<(Position, u64)>>);

impl Projection for Applied {
    fn apply(&self, records: &[LogRecord]) {
        let number = |record: &LogRecord| (record.position, record.decode::<Wrote>().unwrap().unwrap().0);
        self.0.lock().unwrap().extend(records.iter().map(number));
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

#[test]
fn lost_write_is_reported_and_its_positions_are_skipped() {
    run(async {
        let faults = Faults::default();
        let store = open(&MemoryDisk::new(), &faults).await;
        let first = store.commit(row(1)).await.unwrap();
        faults.script().next_write = Some(Fault::Lost);
        assert!(matches!(store.commit(row(2)).await, Err(CommitError::Failed(_))));
        let third = commit_when_recovered(&store, 3).await;
        assert!(third.get() > first.get() + 1, "the lost position is not given again");
        assert_eq!(logged(&store).await, [(first, 1), (third, 3)]);
        assert_eq!(store.view().await.unwrap().get::<Rows>(&2).await.unwrap(), None);
        assert_eq!(faults.script().resumed, 1);
    });
}

#[test]
fn write_that_failed_but_was_stored_is_seen_by_everyone() {
    run(async {
        let faults = Faults::default();
        let store = open(&MemoryDisk::new(), &faults).await;
        let first = store.commit(row(1)).await.unwrap();
        let mut follower = store.read_log(first);
        faults.script().next_write = Some(Fault::Stored);
        assert!(matches!(store.commit(row(2)).await, Err(CommitError::Failed(_))));
        let third = commit_when_recovered(&store, 3).await;
        let entries = logged(&store).await;
        assert_eq!(entries.iter().map(|entry| entry.1).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(store.view().await.unwrap().get::<Rows>(&2).await.unwrap(), Some(2));
        let mut followed = Vec::new();
        while followed.last() != Some(&third) {
            followed.extend(follower.next().await.unwrap().iter().map(|record| record.position));
        }
        assert_eq!(followed.len(), 2);
    });
}

#[test]
fn everything_behind_a_failed_write_fails() {
    run(async {
        let faults = Faults::default();
        let store = open(&MemoryDisk::new(), &faults).await;
        faults.script().next_write = Some(Fault::Lost);
        faults.script().resume_failures = vec![EngineError::Failed("not yet".to_owned())];
        let mut pending = Vec::new();
        for number in 0..100 {
            let mut batch = row(number);
            batch.expect::<Rows>(&number.saturating_sub(1), (number > 0).then_some(&(number.saturating_sub(1))));
            match store.submit(batch).await {
                Ok(answer) => pending.push(answer),
                Err(CommitError::Failed(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for answer in pending {
            assert!(answer.await.is_err());
        }
        commit_when_recovered(&store, 1000).await;
        assert_eq!(store.view().await.unwrap().get::<Rows>(&0).await.unwrap(), None);
    });
}

#[test]
fn engine_is_reopened_when_it_does_not_recover() {
    run(async {
        let faults = Faults::default();
        let store = open(&MemoryDisk::new(), &faults).await;
        store.commit(row(1)).await.unwrap();
        faults.script().resume_failures = vec![EngineError::Failed("stuck".to_owned()); 5];
        faults.script().reopen_failures = vec![EngineError::Failed("views are still in use".to_owned())];
        faults.script().next_write = Some(Fault::Lost);
        assert!(store.commit(row(2)).await.is_err());
        let mut unavailable = false;
        while faults.script().reopened == 0 {
            let read = store.view().await.unwrap().get::<Rows>(&1).await;
            unavailable |= matches!(read, Err(StoreError::Engine(EngineError::Unavailable)));
            tokio::task::yield_now().await;
        }
        assert!(unavailable, "nothing is read while the engine is opened again");
        commit_when_recovered(&store, 3).await;
        assert_eq!(store.view().await.unwrap().get::<Rows>(&1).await.unwrap(), Some(1));
        assert_eq!(faults.script().resumed, 0);
    });
}

/// A write fails that was stored or lost, and the engine goes on as it is or is opened again. Whatever is visible meanwhile was applied.
async fn fail_and_recover(fault: Fault, resume_failures: usize) {
    let faults = Faults::default();
    let store = open(&MemoryDisk::new(), &faults).await;
    let applied = store.project(|_| Arc::<Applied>::default()).await.unwrap();
    let first = store.commit(row(1)).await.unwrap();
    faults.script().resume_failures = vec![EngineError::Failed("stuck".to_owned()); resume_failures];
    faults.script().next_write = Some(fault);
    assert!(store.commit(row(2)).await.is_err());
    loop {
        let view = store.view().await.unwrap();
        let known = applied.0.lock().unwrap().clone();
        let readable = view.get::<Rows>(&1).await.is_ok();
        if let Ok(Some(second)) = view.get::<Rows>(&2).await {
            assert_eq!(known.get(1).map(|(_, number)| *number), Some(second), "what is visible is applied");
        }
        assert!(readable || view.position() == first, "nothing is said of what can't be read");
        if view.position() > first {
            break;
        }
        tokio::task::yield_now().await;
    }
    // Who begins now gets what comes.
    let late = store.project(|_| Arc::<Applied>::default()).await.unwrap();
    let third = commit_when_recovered(&store, 3).await;
    let logged = logged(&store).await;
    assert_eq!(*applied.0.lock().unwrap(), logged);
    assert_eq!(*late.0.lock().unwrap(), [(third, 3)]);
}

#[test]
fn what_a_failed_write_left_is_applied_before_it_is_seen() {
    run(async {
        for fault in [Fault::Stored, Fault::Lost] {
            fail_and_recover(fault, 0).await;
            fail_and_recover(fault, 5).await;
        }
    });
}

#[test]
fn a_log_that_cannot_be_read_is_given_up_after_a_while() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let faults = Faults::default();
        let store = open(&MemoryDisk::new(), &faults).await;
        let mut follower = store.follower("reading");
        assert!(matches!(follower.next().await, Some(News::Rebuild(_))));
        follower.done();
        // The newest records aren't in memory after a recovery.
        faults.script().next_write = Some(Fault::Stored);
        assert!(store.commit(row(1)).await.is_err());
        let mut positions = store.subscribe();
        positions.wait_for(|position| *position > follower.position()).await.unwrap();
        let last = store.published();
        // What passes is waited for, however long that takes.
        faults.script().read_failures = vec![EngineError::Unavailable; 100];
        assert!(matches!(follower.next().await, Some(News::Records { through, .. }) if through == last));
        assert!(faults.script().read_failures.is_empty());
        faults.script().read_failures = vec![EngineError::Failed("corrupt".to_owned()); 100];
        let Some(News::Rebuild(view)) = follower.next().await else { panic!("it is read") };
        assert_eq!(view.position(), last);
        assert!(faults.script().read_failures.len() > 80);
        faults.script().read_failures.clear();
        follower.done();
        let next = commit_when_recovered(&store, 2).await;
        assert!(matches!(follower.next().await, Some(News::Records { through, .. }) if through == next));
    });
}

/// Tells how far its cursor says that it is, whenever it rebuilds.
struct Rebuilding {
    store: Store,
    cursors: mpsc::UnboundedSender<Option<Position>>,
}

impl Follow for Rebuilding {
    const NAME: &'static str = "rebuilding";
    const CURSOR: Cursor = Cursor::Stored;
    type Error = CommitError;

    async fn apply(&mut self, _: &[LogRecord]) -> Result<Option<Batch>, CommitError> {
        Ok(Some(Batch::new()))
    }

    async fn rebuild(&mut self, _: &View) -> Result<(), CommitError> {
        self.cursors.send(self.store.cursor(Self::NAME).await.unwrap()).unwrap();
        Ok(())
    }
}

/// Lets the next reads fail, before anybody sees what is applied.
struct Unreadable(Faults);

impl Projection for Unreadable {
    fn apply(&self, _: &[LogRecord]) {
        self.0.script().read_failures = vec![EngineError::Failed("corrupt".to_owned()); READ_FAILURES_MAX as usize];
    }
}

#[test]
fn who_rebuilds_has_no_cursor_until_that_is_done() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let faults = Faults::default();
        let store = open(&MemoryDisk::new(), &faults).await;
        let (cursors, mut told) = mpsc::unbounded_channel();
        let following = store.run_follower(Rebuilding { store: store.clone(), cursors });
        assert_eq!(told.recv().await, Some(None));
        let first = store.commit(row(1)).await.unwrap();
        following.reached(first).await.unwrap();
        assert_eq!(store.cursor(Rebuilding::NAME).await.unwrap(), Some(first));
        // The newest records aren't in memory after a recovery.
        let _unreadable = store.project(|_| Arc::new(Unreadable(faults.clone()))).await.unwrap();
        faults.script().next_write = Some(Fault::Stored);
        assert!(store.commit(row(2)).await.is_err());
        assert_eq!(told.recv().await, Some(None));
        store.recovered().await.unwrap();
        following.reached(store.published()).await.unwrap();
        assert_eq!(store.cursor(Rebuilding::NAME).await.unwrap(), Some(store.published()));
    });
}

#[test]
fn positions_that_are_skipped_are_news() {
    run(async {
        let faults = Faults::default();
        let store = open(&MemoryDisk::new(), &faults).await;
        let mut follower = store.follower("waiting");
        assert!(matches!(follower.next().await, Some(News::Rebuild(_))));
        follower.done();
        faults.script().next_write = Some(Fault::Lost);
        assert!(store.commit(row(1)).await.is_err());
        let Some(News::Records { records, through }) = follower.next().await else { panic!("nothing new") };
        assert_eq!((records, through), (Vec::new(), store.published()));
    });
}

#[test]
fn reads_go_on_while_the_disk_is_full() {
    run(async {
        let faults = Faults::default();
        let store = open(&MemoryDisk::new(), &faults).await;
        store.commit(row(1)).await.unwrap();
        faults.script().resume_failures = vec![EngineError::NoSpace("full".to_owned()); 7];
        faults.script().next_write = Some(Fault::Lost);
        assert!(store.commit(row(2)).await.is_err());
        while faults.script().resumed == 0 {
            assert_eq!(store.view().await.unwrap().get::<Rows>(&1).await.unwrap(), Some(1));
            tokio::task::yield_now().await;
        }
        commit_when_recovered(&store, 3).await;
        assert_eq!(faults.script().reopened, 0);
    });
}

#[test]
fn failing_store_can_be_closed() {
    run(async {
        let faults = Faults::default();
        let store = open(&MemoryDisk::new(), &faults).await;
        faults.script().resume_failures = vec![EngineError::NoSpace("full".to_owned()); 1000];
        faults.script().next_write = Some(Fault::Lost);
        assert!(store.commit(row(1)).await.is_err());
        store.close().await;
        assert!(matches!(store.recovered().await, Err(CommitError::Closed)), "whoever waits is told");
    });
}

#[test]
fn only_groups_of_relaxed_batches_are_not_synced() {
    run(async {
        let faults = Faults::default();
        let disk = MemoryDisk::new();
        let store = open(&disk, &faults).await;
        let durable = store.commit(row(1)).await.unwrap();
        faults.script().writes.clear();
        let mut batch = row(2);
        batch.relaxed();
        let relaxed = store.commit(batch).await.unwrap();
        assert_eq!(faults.script().writes, [Durability::Relaxed]);
        assert_eq!(store.view().await.unwrap().get::<Rows>(&2).await.unwrap(), Some(2));

        // The machine stops before anything else is written.
        disk.lose_unsynced();
        let store = open(&disk, &Faults::default()).await;
        assert_eq!(store.view().await.unwrap().get::<Rows>(&1).await.unwrap(), Some(1));
        assert_eq!(store.view().await.unwrap().get::<Rows>(&2).await.unwrap(), None);
        let next = store.commit(row(3)).await.unwrap();
        assert!(next > relaxed && relaxed > durable, "a position that was seen is not given again");
    });
}
