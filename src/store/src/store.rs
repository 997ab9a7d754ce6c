//! The store as its users see it.

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    batch::Batch,
    budget::Budget,
    committer::{Request, Submission},
    counter::{Counter, Registry},
    engine::memory::{Memory, MemoryDisk},
    error::{CommitError, OpenError, StoreError},
    follow::{Follow, Follower, FollowerStatus, Following},
    held::{Held, Holdings},
    log::LogReader,
    open::{self, LOG_OLDEST, Purpose, log_oldest, put_meta_number},
    options::Options,
    position::Position,
    projection::Projection,
    shared::Shared,
    table::{Cursors, Identities, Log, Meta, TableInfo},
    view::View,
};

/// The most bytes that wait for the committer; who comes then waits for room.
pub const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How often [`Store::retry`] tries.
pub const RETRY_ATTEMPTS_MAX: u32 = 16;
/// What a waiting batch counts for besides its bytes.
const SUBMISSION_OVERHEAD_BYTES: usize = 512;

/// Ordered typed tables and one log, written by atomic batches. A handle, cheap to clone.
///
/// When the last handle is dropped, what was submitted is still written; use [`Store::close`] to wait
/// for that.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    requests: mpsc::UnboundedSender<Request>,
    /// Bounds the bytes in `requests`. Closed with the store.
    room: Arc<Semaphore>,
    counters: Registry,
    budget: Budget,
    holdings: Arc<Holdings>,
    epoch: u64,
    boot_id: u64,
}

impl Store {
    /// Opens the RocksDB store in the directory `path`, which is made if it isn't there.
    pub fn open_rocksdb(path: &Path, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        let engine = crate::engine::rocksdb::Rocks::open(path, options.resources())?;
        open::open(Box::new(engine), options, tables, Purpose::Use)
    }

    /// A store in memory, for tests and simulation.
    pub fn in_memory(tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        Store::open_memory(&MemoryDisk::new(), &Options::default(), tables)
    }

    /// A store on a simulated disk, which can be opened again after it was closed.
    pub fn open_memory(disk: &MemoryDisk, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        open::open(Box::new(Memory::new(disk)), options, tables, Purpose::Use)
    }

    /// Opens a store whose files were put back from a backup, so that it never says twice what it said
    /// before with another meaning: a new epoch begins, positions and counters jump ahead by
    /// [`RESTORE_JUMP`](crate::RESTORE_JUMP), and tables declared `forget_on_restore` are emptied.
    pub fn restore(path: &Path, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        let engine = crate::engine::rocksdb::Rocks::open(path, options.resources())?;
        open::open(Box::new(engine), options, tables, Purpose::Restore)
    }

    /// [`Store::restore`] for a simulated disk.
    pub fn restore_memory(disk: &MemoryDisk, options: &Options, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        open::open(Box::new(Memory::new(disk)), options, tables, Purpose::Restore)
    }

    pub(crate) fn new(
        shared: Arc<Shared>,
        requests: mpsc::UnboundedSender<Request>,
        (budget, holdings): (Budget, Arc<Holdings>),
        epoch: u64,
        boot_id: u64,
    ) -> Store {
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
        let counters = Registry::default();
        Store { inner: Arc::new(Inner { shared, requests, room, counters, budget, holdings, epoch, boot_id }) }
    }

    /// The tables at the published position.
    ///
    /// # Errors
    /// The engine can't tell what is published now.
    pub async fn view(&self) -> Result<View, StoreError> {
        Ok(self.inner.shared.view())
    }

    /// The position up to which everything is visible in new views.
    pub fn published(&self) -> Position {
        self.inner.shared.published.load().position
    }

    /// Follows the published position. Ends when the store is closed.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.inner.shared.positions.clone()
    }

    /// Waits until everything up to `position` is visible.
    ///
    /// # Errors
    /// [`StoreError::Closed`] if the store is closed before.
    pub async fn reached(&self, position: Position) -> Result<(), StoreError> {
        self.inner.shared.reached(position).await.map_err(|_closed| StoreError::Closed)
    }

    /// Whether batches are taken: not from a failed write on until the store has recovered, nor once it is closed.
    pub fn is_writable(&self) -> bool {
        !self.inner.shared.is_failing() && !self.inner.room.is_closed()
    }

    /// Waits, after a failed write, until batches are taken again.
    ///
    /// # Errors
    /// [`CommitError::Closed`] if the store is closed before it has recovered.
    pub async fn recovered(&self) -> Result<(), CommitError> {
        self.inner.shared.recovered().await.map_err(|_closed| CommitError::Closed)
    }

    /// Queues a batch, waiting for room in the queue. Batches that one task submits one after another
    /// are committed in that order; a later one may expect what an earlier one writes.
    pub async fn submit(&self, batch: Batch) -> Result<Pending, CommitError> {
        batch.validate()?;
        if batch.is_empty() {
            return Ok(Pending { state: PendingState::Done(self.published()) });
        }
        if self.inner.shared.is_failing() {
            return Err(CommitError::Failed("the store has not recovered yet".into()));
        }
        let bytes = batch.bytes() + SUBMISSION_OVERHEAD_BYTES;
        let bytes = u32::try_from(bytes).map_err(|_| CommitError::TooLarge)?;
        let room = Arc::clone(&self.inner.room).acquire_many_owned(bytes).await;
        let room = room.map_err(|_| CommitError::Closed)?;
        let (answer, outcome) = oneshot::channel();
        let submission = Submission { batch, answer, room: Some(room) };
        let sent = self.inner.requests.send(Request::Commit(submission));
        sent.map_err(|_| CommitError::Closed)?;
        Ok(Pending { state: PendingState::Waiting(outcome) })
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
    pub async fn project<P: Projection>(&self, make: impl FnOnce(View) -> Arc<P>) -> Result<Arc<P>, StoreError> {
        Ok(self.inner.shared.projections.add(|| make(self.inner.shared.view())))
    }

    /// A follower of the log, to be driven by the caller, with its cursor in memory: it begins with [`News::Rebuild`](crate::News::Rebuild).
    /// `name` is for [`Store::followers`] and the log of the process.
    pub fn follower(&self, name: &'static str) -> Follower {
        Follower::in_memory(Arc::clone(&self.inner.shared), name)
    }

    /// Lets `follow` follow the log in a task of its own, until the store is closed or what this gives is dropped. To be called inside a
    /// tokio runtime.
    pub fn run_follower<F: Follow>(&self, follow: F) -> Following {
        Following::start(self.clone(), Arc::clone(&self.inner.shared), follow)
    }

    /// The followers of the log, and how far they are.
    pub fn followers(&self) -> Vec<FollowerStatus> {
        self.inner.shared.followers.list(self.published())
    }

    /// Reads the log after `from`, and then what comes.
    pub fn read_log(&self, from: Position) -> LogReader {
        LogReader::new(Arc::clone(&self.inner.shared), from)
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
        self.view().await?.backup(path.to_owned()).await
    }

    /// Accepts nothing more, writes what was submitted and closes the engine. Its files stay open
    /// until the last view is dropped.
    pub async fn close(&self) {
        self.inner.room.close();
        let (done, closed) = oneshot::channel();
        if self.inner.requests.send(Request::Close(done)).is_ok() {
            // An error means that the committer has stopped, too.
            closed.await.ok();
        }
    }
}

/// A batch that was queued. Resolves when it is committed; dropping it doesn't take the batch back.
#[must_use = "the outcome of the batch is only known here"]
pub struct Pending {
    state: PendingState,
}

enum PendingState {
    Done(Position),
    Waiting(oneshot::Receiver<Result<Position, CommitError>>),
}

impl Future for Pending {
    type Output = Result<Position, CommitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            PendingState::Done(position) => Poll::Ready(Ok(*position)),
            PendingState::Waiting(outcome) => {
                let answer = ready!(Pin::new(outcome).poll(cx));
                Poll::Ready(answer.unwrap_or(Err(CommitError::Closed)))
            }
        }
    }
}
