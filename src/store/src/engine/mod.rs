//! What is below a store: its engine, and what an engine promises.
//!
//! [`Store`](crate::Store) makes typed tables, followers, counters and migrations of one [`Engine`], whichever that is. The engine keeps rows
//! of bytes, decides on batches, gives positions, publishes, and survives failures. There is one on this machine's disk (`local`); one on several
//! machines would stand beside it.
//!
//! # To write a second engine
//!
//! Implement [`Engine`] and [`Snapshot`], and open a store on it as `local/open.rs` does: `store/open.rs` does the rest with nothing but these
//! two traits (the catalogue of tables, the epoch and the number of starts, migrations). The suite in `tests/suite` runs on every engine;
//! add yours to it. What it checks:
//!
//! - **Order.** Batches that are taken are in one total order. Those that one task submits one after another are decided on in that order, and a
//!   later one may expect what an earlier one writes, before that is published.
//! - **Expectations.** All that a batch expects ([`Batch::expectations`]) is compared, byte for byte, with what is stored right before the
//!   batch in that order. If anything differs nothing of the batch is written: [`CommitError::Conflict`].
//! - **Positions.** Each entry of the log gets one, ascending, never given twice, also where a crash lost relaxed batches. There may be
//!   gaps. [`Batch::give_positions`] puts them where the batch has stamps, in the key of the entry in the table of the log as well. So the log is
//!   rows like all others and is read as these are; [`Engine::recent_log`] saves most of that.
//! - **Whole batches.** The operations of a batch ([`Batch::ops`]) apply in their order, all or none. Keys are ordered by their bytes;
//!   a [`Family`] says how rows are used, and is a hint but for that equal keys of two families are two rows.
//! - **Publishing.** A position is published with all batches up to it and nothing after it, and only once what it shows is on the disk, as far as the batches
//!   demanded that. First the entries are applied to the projections ([`Projections`](crate::projection::Projections) holds them), then
//!   [`Engine::recent_log`] has them, then snapshots and [`Engine::published`] show them, then [`Engine::positions`] announces them, then who committed
//!   is answered: it finds its own write in the next snapshot. On several machines each process does so with what it has applied of the shared log.
//! - **Failures.** If it is unknown whether something was written, all that waits fails ([`CommitError::Failed`]) and nothing is taken until
//!   it is known. What turns out to be stored is applied and published as everything else.
//! - **Reads.** All reads of a snapshot see its position. What is at hand is given at once: no read that finds all in memory costs a task switch or
//!   a boxed future. An engine that has nothing at hand always says [`Lookup::Later`] and [`Eventual::Later`]. Where a read waits, and on which thread,
//!   is the engine's business.
//!
//! Backing up and the size of the cache are for engines that have files and a cache.

mod rows;

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use tokio::sync::{oneshot, watch};

pub use self::rows::SCAN_BYTES_MAX;
pub(crate) use self::rows::{Rows, ScanSpan};
use crate::{
    batch::Batch,
    error::{CommitError, StoreError},
    log::LogRecord,
    position::Position,
    projection::Projection,
    table::Family,
};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The outcome of a read that is not at hand.
pub(crate) type Later<T> = BoxFuture<'static, Result<T, StoreError>>;

/// Something that is there already, or comes.
pub(crate) enum Eventual<'a, T> {
    Now(T),
    Later(BoxFuture<'a, T>),
}

impl<T> Eventual<'_, T> {
    pub(crate) async fn wait(self) -> T {
        match self {
            Eventual::Now(value) => value,
            Eventual::Later(value) => value.await,
        }
    }
}

/// How a look-up of keys ended.
pub(crate) enum Lookup<T> {
    /// All was at hand and was given to the visitor.
    Done,
    /// The visitor was not given this.
    Later(Later<T>),
}

/// What became of each of some keys, by their index.
pub(crate) type Values = Vec<(usize, Option<Vec<u8>>)>;

/// Work that reads much, given the snapshot that it reads from.
pub(crate) type Bulk = Box<dyn FnOnce(Arc<dyn Snapshot>) -> BoxFuture<'static, ()> + Send>;

/// Makes a projection as of a snapshot.
pub(crate) type MakeProjection<'a> = Box<dyn FnOnce(Arc<dyn Snapshot>) -> Weak<dyn Projection> + Send + 'a>;

/// Sets how many bytes of what is stored an engine keeps in memory.
pub(crate) type SetCache = Arc<dyn Fn(usize) + Send + Sync>;

/// All rows as they are at one position, unaffected by what comes later.
pub(crate) trait Snapshot: Send + Sync {
    /// Everything up to this position, and nothing after it, is in the snapshot.
    fn position(&self) -> Position;

    /// Calls `found` once with the value of `key` if that is at hand.
    fn get(
        &self,
        family: Family,
        key: Vec<u8>,
        found: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<Lookup<Option<Vec<u8>>>, StoreError>;

    /// Calls `found` with the index and the value of each of the ascending `keys` that is at hand. The others come later.
    fn get_many(
        &self,
        family: Family,
        keys: &[&[u8]],
        found: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<Lookup<Values>, StoreError>;

    /// A page of rows, from the start of `span` in its order: until [`Rows::is_full`] of `Rows::new(limit)`, or to its end.
    fn scan(&self, span: ScanSpan, limit: usize) -> Eventual<'static, Result<Rows, StoreError>>;

    /// Does work that reads so much that it is worth preparing for, from this snapshot, within a bound on how much of such work is done
    /// at the same time. A panic of the work is one of who waits for it.
    fn bulk(self: Arc<Self>, work: Bulk) -> Later<()>;
}

/// What a [`Store`](crate::Store) stands on; see the module for what an engine promises.
pub(crate) trait Engine: Send + Sync {
    /// What is published.
    fn snapshot(&self) -> Eventual<'_, Result<Arc<dyn Snapshot>, StoreError>>;

    /// The position up to which everything is in new snapshots.
    fn published(&self) -> Position;

    /// Follows the published position. Ends when the engine is closed.
    fn positions(&self) -> watch::Receiver<Position>;

    /// Takes a valid batch that isn't empty, once there is room for it, to be decided on and written. It is even if nobody waits for the outcome.
    fn submit(&self, batch: Batch) -> Eventual<'_, Result<Pending, CommitError>>;

    /// Whether batches are taken: not while it is unknown what was written, nor once the engine is being closed.
    fn is_writable(&self) -> bool;

    /// Waits, after a failure, until batches are taken again.
    ///
    /// # Errors
    /// [`CommitError::Closed`] if the engine is closed before it has recovered.
    fn recovered(&self) -> BoxFuture<'_, Result<(), CommitError>>;

    /// The records of the log after `from` up to `through`, which is published, in order and at most
    /// [`FOLLOW_RECORDS_MAX`](crate::FOLLOW_RECORDS_MAX). `None` if some of them may not be at hand: they are read from the table.
    fn recent_log(&self, from: Position, through: Position) -> Option<Vec<LogRecord>>;

    /// Has `make` make a projection while nothing is published, and applies to it all that comes after the snapshot that it gets, until
    /// it is dropped.
    fn project<'a>(&'a self, make: MakeProjection<'a>) -> Eventual<'a, Result<(), StoreError>>;

    /// What sets, at any time, how much the engine keeps in memory.
    fn set_cache(&self) -> SetCache;

    /// Copies what is stored, as of some moment during the call, into a new directory.
    fn backup(&self, path: PathBuf) -> Later<()>;

    /// Accepts nothing more from now on, whether what this gives is waited for or not. It ends when all that was submitted is written and the engine
    /// is closed. Reads from snapshots may fail from then on.
    fn close(&self) -> BoxFuture<'static, ()>;
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

impl Pending {
    /// A batch that needn't be written.
    pub(crate) fn done(position: Position) -> Pending {
        Pending { state: PendingState::Done(position) }
    }

    /// A batch whose outcome the engine will tell.
    pub(crate) fn waiting(outcome: oneshot::Receiver<Result<Position, CommitError>>) -> Pending {
        Pending { state: PendingState::Waiting(outcome) }
    }
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
