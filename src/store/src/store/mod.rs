//! The store as its users see it: typed tables, followers, counters, over any [`Engine`].

mod counter;
mod follow;
mod held;
mod log_reader;
mod migrate;
mod open;
mod options;
mod view;

use std::{
    path::Path,
    sync::{Arc, Weak},
};

use tokio::sync::watch;

#[cfg(test)]
pub(crate) use self::follow::READ_FAILURES_MAX;
pub(crate) use self::open::{Purpose, open};
use self::{
    counter::Registry,
    follow::Followers,
    held::Holdings,
    open::{LOG_OLDEST, log_oldest, put_meta_number},
};
pub use self::{
    counter::{COUNTER_BLOCK, Counter},
    follow::{
        CURSOR_RECORDS_MAX, Cursor, FOLLOW_DELAY_FIRST, FOLLOW_DELAY_MAX, Follow, Follower, FollowerStatus, Following,
        News,
    },
    held::Held,
    log_reader::LogReader,
    migrate::{Migration, Step, StepFuture},
    open::RESTORE_JUMP,
    options::Options,
    view::{Page, Row, View},
};
use crate::{
    batch::Batch,
    budget::Budget,
    engine::{Engine, Pending},
    error::{CommitError, OpenError, StoreError},
    position::Position,
    projection::Projection,
    table::{Cursors, Identities, Log, Meta},
};

/// How often [`Store::retry`] tries.
pub const RETRY_ATTEMPTS_MAX: u32 = 16;

/// Ordered typed tables and one log, written by atomic batches. A handle, cheap to clone.
///
/// When the last handle is dropped, what was submitted is still written; use [`Store::close`] to wait
/// for that.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<dyn Engine>,
    followers: Followers,
    counters: Registry,
    budget: Budget,
    holdings: Arc<Holdings>,
    epoch: u64,
    boot_id: u64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Who reads the log has the engine as well, but needn't be waited for.
        drop(self.engine.close());
    }
}

impl Store {
    pub(crate) fn new(engine: Arc<dyn Engine>, budget: Budget, epoch: u64, boot_id: u64) -> Store {
        let holdings = Holdings::new(budget.block_cache_bytes, engine.set_cache());
        let (followers, counters) = (Followers::default(), Registry::default());
        Store { inner: Arc::new(Inner { engine, followers, counters, budget, holdings, epoch, boot_id }) }
    }

    /// The tables at the published position.
    ///
    /// # Errors
    /// The engine can't tell what is published now.
    pub async fn view(&self) -> Result<View, StoreError> {
        Ok(View::new(self.inner.engine.snapshot().wait().await?))
    }

    /// The position up to which everything is visible in new views.
    pub fn published(&self) -> Position {
        self.inner.engine.published()
    }

    /// Follows the published position. Ends when the store is closed.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.inner.engine.positions()
    }

    /// Waits until everything up to `position` is visible.
    ///
    /// # Errors
    /// [`StoreError::Closed`] if the store is closed before.
    pub async fn reached(&self, position: Position) -> Result<(), StoreError> {
        if self.published() >= position {
            return Ok(());
        }
        let reached = self.subscribe().wait_for(|published| *published >= position).await.map(drop);
        reached.map_err(|_closed| StoreError::Closed)
    }

    /// Whether batches are taken: not from a failed write on until the store has recovered, nor once it is closed.
    pub fn is_writable(&self) -> bool {
        self.inner.engine.is_writable()
    }

    /// Waits, after a failed write, until batches are taken again.
    ///
    /// # Errors
    /// [`CommitError::Closed`] if the store is closed before it has recovered.
    pub async fn recovered(&self) -> Result<(), CommitError> {
        self.inner.engine.recovered().await
    }

    /// Queues a batch, waiting for room in the queue. Batches that one task submits one after another
    /// are committed in that order; a later one may expect what an earlier one writes.
    pub async fn submit(&self, batch: Batch) -> Result<Pending, CommitError> {
        batch.validate()?;
        if batch.is_empty() {
            return Ok(Pending::done(self.published()));
        }
        self.inner.engine.submit(batch).wait().await
    }

    /// Writes a batch and waits until it is on the disk (see [`Batch::relaxed`] for the exception) and
    /// visible. Returns the position of its last log entry; a batch without log entries gets the last
    /// position before it. If the caller stops waiting the batch is written all the same.
    pub async fn commit(&self, batch: Batch) -> Result<Position, CommitError> {
        self.submit(batch).await?.await
    }

    /// Loads, decides and commits: what `decide` makes of a view is committed, and with it what is given back. If it conflicts all is
    /// done again with a new view, [`RETRY_ATTEMPTS_MAX`] times at most. An empty batch writes nothing.
    ///
    /// # Errors
    /// Whatever `decide` fails with, at once; [`CommitError::Contended`] if the last attempt, too, conflicts.
    pub async fn retry<T, E, D>(&self, mut decide: impl FnMut(View) -> D) -> Result<T, E>
    where
        D: Future<Output = Result<(Batch, T), E>>,
        E: From<StoreError> + From<CommitError>,
    {
        for _ in 0..RETRY_ATTEMPTS_MAX {
            let (batch, decided) = decide(self.view().await?).await?;
            match self.commit(batch).await {
                Ok(_) => return Ok(decided),
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Contended.into())
    }

    /// Keeps something in memory that never lags behind what is visible, until it is dropped. `make` makes it as of the view that it gets;
    /// nothing is published meanwhile, so it must be as short as [`Projection::apply`]. What comes after that view is applied.
    ///
    /// # Errors
    /// As [`Store::view`].
    pub async fn project<P: Projection>(&self, make: impl FnOnce(View) -> Arc<P> + Send) -> Result<Arc<P>, StoreError> {
        let mut made = None;
        let make = |snapshot| {
            let projection = make(View::new(snapshot));
            let weak: Weak<P> = Arc::downgrade(&projection);
            made = Some(projection);
            weak as Weak<dyn Projection>
        };
        self.inner.engine.project(Box::new(make)).wait().await?;
        made.ok_or(StoreError::Closed)
    }

    /// A follower of the log, to be driven by the caller, with its cursor in memory: it begins with [`News::Rebuild`].
    /// `name` is for [`Store::followers`] and the log of the process.
    pub fn follower(&self, name: &'static str) -> Follower {
        Follower::in_memory(self.read_log(Position::ZERO), &self.inner.followers, name)
    }

    /// Lets `follow` follow the log in a task of its own, until the store is closed or what this gives is dropped. To be called inside a
    /// tokio runtime.
    pub fn run_follower<F: Follow>(&self, follow: F) -> Following {
        Following::start(self.clone(), &self.inner.followers, follow)
    }

    /// The followers of the log, and how far they are.
    pub fn followers(&self) -> Vec<FollowerStatus> {
        self.inner.followers.list(self.published())
    }

    /// Reads the log after `from`, and then what comes.
    pub fn read_log(&self, from: Position) -> LogReader {
        LogReader::new(Arc::clone(&self.inner.engine), from)
    }

    /// How far the follower with this name is, as written by [`Batch::move_cursor`]. `None` if it never
    /// moved.
    pub async fn cursor(&self, name: &str) -> Result<Option<Position>, StoreError> {
        self.view().await?.get::<Cursors>(&name).await
    }

    /// The counter with this name.
    pub async fn counter(&self, name: &str) -> Result<Counter, StoreError> {
        Ok(Counter::new(self, &self.inner.counters, name))
    }

    /// The number of times that the store was restored, plus one. A token from another epoch means
    /// nothing.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// A number that is higher at every start.
    pub fn boot_id(&self) -> u64 {
        self.inner.boot_id
    }

    /// How the memory budget was divided.
    pub fn budget(&self) -> Budget {
        self.inner.budget
    }

    /// Counts memory that the caller holds and can't give up. What the store itself keeps in memory of its tables gets less by as
    /// much, but keeps a quarter of [`Budget::block_cache_bytes`].
    pub fn hold(&self) -> Held {
        Held::new(self.inner.holdings.clone())
    }

    /// How many bytes callers hold, see [`Store::hold`].
    pub fn held_bytes(&self) -> usize {
        self.inner.holdings.held_bytes()
    }

    /// Makes the store belong to `value` in the sense of `kind` (for example the server's name), or
    /// checks that it does.
    pub async fn claim_identity(&self, kind: &str, value: &str) -> Result<(), OpenError> {
        let mut batch = Batch::new();
        batch.expect::<Identities>(&kind, None);
        batch.put::<Identities>(&kind, &value.to_owned());
        match self.commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict) => match self.identity(kind).await? {
                Some(stored) if stored != value => Err(OpenError::IdentityChanged { stored }),
                _ => Ok(()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// What the store belongs to in the sense of `kind`.
    pub async fn identity(&self, kind: &str) -> Result<Option<String>, StoreError> {
        self.view().await?.get::<Identities>(&kind).await
    }

    /// Removes log entries before `before`. A follower that is further back has to rebuild.
    pub async fn trim_log(&self, before: Position) -> Result<(), StoreError> {
        let view = self.view().await?;
        let before = before.min(view.position().next());
        let oldest = log_oldest(&view).await?;
        if before <= oldest {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.relaxed();
        batch.expect::<Meta>(&LOG_OLDEST, view.get::<Meta>(&LOG_OLDEST).await?.as_ref());
        batch.delete_between::<Log>(&(oldest,), &(before,));
        put_meta_number(&mut batch, LOG_OLDEST, before.get());
        match self.commit(batch).await {
            // Somebody else trims; what is left over goes the next time.
            Ok(_) | Err(CommitError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a copy of everything, as of some moment during the call, into the directory `path`, which
    /// must not exist and should be on the same file system (files are linked, not copied). Opening the
    /// copy is a [restore](Store::restore).
    pub async fn backup(&self, path: &Path) -> Result<(), StoreError> {
        self.inner.engine.backup(path.to_owned()).await
    }

    /// Accepts nothing more, writes what was submitted and closes the engine. Its files stay open
    /// until the last view is dropped.
    pub async fn close(&self) {
        self.inner.engine.close().await;
    }
}
