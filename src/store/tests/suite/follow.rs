//! Followers of the log, as their driver drives them.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::{prelude::*, test_runner::TestRunner};
use store::{
    Batch, CURSOR_RECORDS_MAX, CommitError, Cursor, FOLLOW_DELAY_FIRST, FOLLOW_DELAY_MAX, Follow, Following, LogRecord,
    News, Position, Range, Store, StoreError, TableInfo, View,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use crate::{backend::Backend, log::note, model::Note};

store::table! {
    /// How many rows there are, as a follower counts them.
    pub Counted = 340, Points: u64 => u64;
    /// One for each entry of the log.
    pub Rows = 341, Ranges: (Position,) => u64
}

const TABLES: &[TableInfo] = &[TableInfo::of::<Counted>(), TableInfo::of::<Rows>()];

/// Runs with a time that passes when everybody waits.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

#[derive(Debug)]
struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Failure {
        Failure(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure(error.to_string())
    }
}

/// What goes wrong the next time.
#[derive(Copy, Clone, Debug)]
enum Trouble {
    Fails,
    /// Somebody else changed the row meanwhile.
    Conflict,
    /// It is broken off when half of it is done, while it rebuilds.
    HalfRebuilt,
}

/// Counts the rows by what the log says.
struct Counting {
    store: Store,
    troubles: Arc<Mutex<VecDeque<Trouble>>>,
    _ended: mpsc::Sender<Infallible>,
}

/// Nothing is sent.
enum Infallible {}

impl Follow for Counting {
    const NAME: &'static str = "counting";
    const CURSOR: Cursor = Cursor::Stored;
    type Error = Failure;

    async fn apply(&mut self, records: &[LogRecord]) -> Result<Option<Batch>, Failure> {
        let trouble = self.troubles.lock().unwrap().pop_front();
        let counted = self.store.view().await.unwrap().get::<Counted>(&0).await?;
        let mut batch = Batch::new();
        match trouble {
            Some(Trouble::Fails) => return Err(Failure("as the test wants".to_owned())),
            Some(Trouble::Conflict) => batch.expect::<Counted>(&0, Some(&u64::MAX)),
            _ => batch.expect::<Counted>(&0, counted.as_ref()),
        }
        let new = records.iter().filter(|record| record.decode::<Note>().unwrap().is_some()).count() as u64;
        batch.put::<Counted>(&0, &(counted.unwrap_or(0) + new));
        Ok(Some(batch))
    }

    async fn rebuild(&mut self, view: &View) -> Result<(), Failure> {
        let trouble = self.troubles.lock().unwrap().pop_front();
        if let Some(Trouble::Fails) = trouble {
            return Err(Failure("as the test wants".to_owned()));
        }
        let rows = view.scan_all(Range::<Rows>::all()).await?.len() as u64;
        let mut batch = Batch::new();
        batch.put::<Counted>(&0, &rows);
        self.store.commit(batch).await?;
        match trouble {
            Some(Trouble::HalfRebuilt) => Err(Failure("as the test wants".to_owned())),
            _ => Ok(()),
        }
    }
}

/// A store with a follower that counts.
struct World<'a, B> {
    backend: &'a B,
    store: Store,
    troubles: Arc<Mutex<VecDeque<Trouble>>>,
    /// The follower, and what ends with it.
    following: Option<(Following, mpsc::Receiver<Infallible>)>,
    rows: u64,
}

impl<'a, B: Backend> World<'a, B> {
    async fn new(backend: &'a B) -> Self {
        let (store, troubles) = (backend.open(TABLES).await, Arc::default());
        World { backend, store, troubles, following: None, rows: 0 }
    }

    fn start(&mut self) {
        let (sender, ended) = mpsc::channel(1);
        let (store, troubles) = (self.store.clone(), self.troubles.clone());
        let following = self.store.run_follower(Counting { store, troubles, _ended: sender });
        self.following = Some((following, ended));
    }

    async fn stop(&mut self) {
        let Some((following, mut ended)) = self.following.take() else { return };
        drop(following);
        assert!(ended.recv().await.is_none());
    }

    async fn write(&mut self, rows: u64) {
        for _ in 0..rows {
            let mut batch = Batch::new();
            let stamp = batch.log(&Note(Vec::new()));
            batch.put::<Rows>(&(stamp,), &self.rows);
            self.store.commit(batch).await.unwrap();
            self.rows += 1;
        }
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Write(rows) => self.write(*rows).await,
            Step::Trouble(trouble) => self.troubles.lock().unwrap().push_back(*trouble),
            Step::Trim => self.store.trim_log(Position::MAX).await.unwrap(),
            Step::Stop => self.stop().await,
            Step::Start if self.following.is_none() => self.start(),
            Step::Start => self.reached().await,
            Step::Reopen => {
                self.stop().await;
                self.store.close().await;
                self.store = self.backend.open(TABLES).await;
            }
        }
    }

    /// Everything is counted, once.
    async fn reached(&mut self) {
        let Some((following, _)) = &self.following else { return };
        following.reached(self.store.published()).await.unwrap();
        assert_eq!(self.store.view().await.unwrap().get::<Counted>(&0).await.unwrap(), Some(self.rows));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64),
    Trouble(Trouble),
    /// The log is forgotten.
    Trim,
    Stop,
    /// Or, if it has started, waits until the follower is done.
    Start,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let trouble = prop_oneof![Just(Trouble::Fails), Just(Trouble::Conflict), Just(Trouble::HalfRebuilt)];
    prop_oneof![
        4 => (1..4_u64).prop_map(Step::Write),
        3 => trouble.prop_map(Step::Trouble),
        1 => Just(Step::Trim),
        2 => Just(Step::Stop),
        4 => Just(Step::Start),
        1 => Just(Step::Reopen),
    ]
}

pub fn what_is_counted_is_counted_once_whatever_fails<B: Backend>(_: &B) {
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&proptest::collection::vec(step(), 1..32), |steps| {
            run(async {
                let backend = B::create();
                let mut world = World::new(&backend).await;
                // What was there before the follower is counted, too.
                world.write(1).await;
                for step in &steps {
                    world.take(step).await;
                }
                world.take(&Step::Start).await;
                world.reached().await;
                world.stop().await;
                world.store.close().await;
            });
            Ok(())
        })
        .unwrap();
}

pub fn after_each_failure_it_waits_longer(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        let mut follower = store.follower("waiting");
        assert!(matches!(follower.next().await, Some(News::Rebuild(_))));
        follower.done();
        for _ in 0..2 {
            let position = note(&store, "one").await;
            let mut expected = Duration::ZERO;
            for failures in 0..15 {
                let before = Instant::now();
                let Some(News::Records { records, through }) = follower.next().await else { panic!("no records") };
                assert_eq!((records[0].position, through), (position, position));
                // The clock goes in steps of a millisecond.
                let waited = before.elapsed();
                assert!(waited >= expected && waited <= expected + Duration::from_millis(1), "{failures}: {waited:?}");
                follower.failed(&"not now");
                expected = FOLLOW_DELAY_FIRST.saturating_mul(1 << failures).min(FOLLOW_DELAY_MAX);
            }
            assert_eq!(expected, FOLLOW_DELAY_MAX);
            assert!(matches!(follower.next().await, Some(News::Records { .. })));
            follower.done();
            assert_eq!(follower.position(), position);
        }
        store.close().await;
        assert!(follower.next().await.is_none());
    });
}

pub fn what_is_not_done_is_given_again(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        let mut follower = store.follower("forgetful");
        let first = note(&store, "before it begins").await;
        // Who is broken off rebuilds as of now, and gets what it had not done.
        for _ in 0..2 {
            let Some(News::Rebuild(view)) = follower.next().await else { panic!("begins with the tables") };
            assert!(view.position() >= first);
        }
        follower.done();
        assert!(follower.try_next().await.unwrap().is_none());
        let second = note(&store, "two").await;
        assert!(matches!(follower.next().await, Some(News::Records { .. })));
        let third = note(&store, "three").await;
        let Some(News::Records { records, through }) = follower.next().await else { panic!("no records") };
        assert_eq!(records.iter().map(|record| record.position).collect::<Vec<_>>(), [second, third]);
        assert_eq!((through, follower.position()), (third, first));
        store.close().await;
    });
}

pub fn what_cannot_be_used_is_made_anew(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        let mut follower = store.follower("particular");
        assert!(matches!(follower.next().await, Some(News::Rebuild(_))));
        follower.done();
        note(&store, "bad").await;
        assert!(matches!(follower.next().await, Some(News::Records { .. })));
        follower.start_over(&"not to be used");
        let last = note(&store, "good").await;
        let Some(News::Rebuild(view)) = follower.next().await else { panic!("is not made anew") };
        assert_eq!(view.position(), last);
        follower.done();
        assert_eq!(follower.position(), last);
        store.close().await;
    });
}

/// Nothing follows from anything.
struct Idle;

impl Follow for Idle {
    const NAME: &'static str = "idle";
    const CURSOR: Cursor = Cursor::Stored;
    type Error = Failure;

    async fn apply(&mut self, _: &[LogRecord]) -> Result<Option<Batch>, Failure> {
        Ok(None)
    }

    async fn rebuild(&mut self, _: &View) -> Result<(), Failure> {
        Ok(())
    }
}

pub fn a_cursor_is_moved_now_and_then_where_nothing_follows(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        let begun = note(&store, "one").await;
        let following = store.run_follower(Idle);
        following.reached(begun).await.unwrap();
        assert_eq!(store.cursor(Idle::NAME).await.unwrap(), Some(begun));
        let next = note(&store, "two").await;
        following.reached(next).await.unwrap();
        assert_eq!(store.cursor(Idle::NAME).await.unwrap(), Some(begun));
        for _ in 0..CURSOR_RECORDS_MAX / 256 {
            let mut batch = Batch::new();
            for _ in 0..256 {
                let _ = batch.log(&Note(Vec::new()));
            }
            store.commit(batch).await.unwrap();
        }
        following.reached(store.published()).await.unwrap();
        assert!(store.cursor(Idle::NAME).await.unwrap() > Some(begun));
        store.close().await;
    });
}

pub fn a_follower_ends_with_its_owner_and_with_the_store(backend: &impl Backend) {
    run(async {
        let mut world = World::new(backend).await;
        world.start();
        world.write(1).await;
        world.reached().await;
        // While it waits for something to do, and while it waits after a failure.
        world.stop().await;
        world.troubles.lock().unwrap().extend([Trouble::Fails; 100]);
        world.start();
        world.write(1).await;
        world.stop().await;
        world.start();
        let (following, mut ended) = world.following.take().unwrap();
        world.store.close().await;
        assert!(ended.recv().await.is_none());
        assert!(following.reached(Position::MAX).await.is_err());
    });
}

/// Does one thing for each permit.
struct Slow(Arc<Semaphore>);

impl Follow for Slow {
    const NAME: &'static str = "slow";
    const CURSOR: Cursor = Cursor::Memory;
    type Error = Failure;

    async fn apply(&mut self, records: &[LogRecord]) -> Result<Option<Batch>, Failure> {
        self.0.acquire_many(records.len() as u32).await.unwrap().forget();
        Ok(None)
    }

    async fn rebuild(&mut self, _: &View) -> Result<(), Failure> {
        Ok(())
    }
}

pub fn followers_are_listed_with_their_lag(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        let begun = note(&store, "one").await;
        let permits = Arc::new(Semaphore::new(0));
        let following = store.run_follower(Slow(permits.clone()));
        following.reached(begun).await.unwrap();
        let waiting = store.follower("waiting");
        let lags = || store.followers().iter().map(|follower| (follower.name, follower.lag)).collect::<Vec<_>>();
        assert_eq!(lags(), [("slow", 0), ("waiting", begun.get())]);
        drop(waiting);
        for _ in 0..3 {
            note(&store, "more").await;
        }
        assert_eq!(lags(), [("slow", 3)]);
        permits.add_permits(3);
        following.reached(store.published()).await.unwrap();
        assert_eq!(lags(), [("slow", 0)]);
        assert_eq!(store.followers()[0].position, store.published());
        store.close().await;
    });
}
