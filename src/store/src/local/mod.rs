//! The engine on this machine: one thread that commits, over a [`Disk`].
//!
//! The committer takes all waiting batches, checks them, gives ascending positions, writes them with one sync, applies them to the projections,
//! publishes, and answers. Readers have what it published.

mod committer;
mod disk;
mod distant;
mod open;
mod overlay;
mod published;
#[cfg(test)]
mod recovery_tests;
mod shared;
mod tail;

use std::{path::PathBuf, sync::Arc, thread};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch};

pub use self::{committer::GROUP_BYTES_MAX, disk::memory::MemoryDisk};
use self::{
    committer::{Committer, Request, Submission},
    disk::Disk,
    shared::Shared,
};
use crate::{
    batch::Batch,
    engine::{BoxFuture, Engine, Eventual, Later, MakeProjection, Pending, SetCache, Snapshot},
    error::{CommitError, OpenError, StoreError},
    log::LogRecord,
    position::Position,
};

/// The most bytes that wait for the committer; who comes then waits for room.
pub const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a waiting batch counts for besides its bytes.
const SUBMISSION_OVERHEAD_BYTES: usize = 512;

/// The engine on one disk.
pub(crate) struct Local {
    shared: Arc<Shared>,
    requests: mpsc::UnboundedSender<Request>,
    /// Bounds the bytes in `requests`. Closed with the engine.
    room: Arc<Semaphore>,
    set_cache: SetCache,
}

impl Local {
    /// Starts the committer on a disk. The positions that it gives are more than `skipped` after all that were given before.
    pub(crate) fn start(mut disk: Box<dyn Disk>, tail_bytes_max: usize, skipped: u64) -> Result<Local, OpenError> {
        let set_cache = disk.set_cache();
        let snapshot = disk.snapshot()?;
        let last = Position::from_u64(committer::stored_ceiling(&*snapshot)?.get() + skipped);
        let (shared, senders) = Shared::new(last, snapshot, tail_bytes_max);
        let committer = Committer::new(disk, Arc::clone(&shared), senders, last);
        let (requests, received) = mpsc::unbounded_channel();
        let thread = thread::Builder::new().name("store-commit".to_owned());
        thread.spawn(move || committer.run(received)).map_err(|error| OpenError::Thread(error.to_string()))?;
        Ok(Local { shared, requests, room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)), set_cache })
    }

    fn send(&self, batch: Batch, room: OwnedSemaphorePermit) -> Result<Pending, CommitError> {
        let (answer, outcome) = oneshot::channel();
        let sent = self.requests.send(Request::Commit(Submission { batch, answer, room }));
        sent.map_err(|_| CommitError::Closed)?;
        Ok(Pending::waiting(outcome))
    }
}

impl Engine for Local {
    fn snapshot(&self) -> Eventual<'_, Result<Arc<dyn Snapshot>, StoreError>> {
        Eventual::Now(Ok(self.shared.published.load_full()))
    }

    fn published(&self) -> Position {
        self.shared.published.load().position
    }

    fn positions(&self) -> watch::Receiver<Position> {
        self.shared.positions.clone()
    }

    fn submit(&self, batch: Batch) -> Eventual<'_, Result<Pending, CommitError>> {
        if self.shared.is_failing() {
            return Eventual::Now(Err(CommitError::Failed("the store has not recovered yet".into())));
        }
        let Ok(bytes) = u32::try_from(batch.bytes() + SUBMISSION_OVERHEAD_BYTES) else {
            return Eventual::Now(Err(CommitError::TooLarge));
        };
        match Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            Ok(room) => Eventual::Now(self.send(batch, room)),
            Err(TryAcquireError::Closed) => Eventual::Now(Err(CommitError::Closed)),
            Err(TryAcquireError::NoPermits) => Eventual::Later(Box::pin(async move {
                let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
                self.send(batch, room.map_err(|_| CommitError::Closed)?)
            })),
        }
    }

    fn is_writable(&self) -> bool {
        !self.shared.is_failing() && !self.room.is_closed()
    }

    fn recovered(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async { self.shared.recovered().await.map_err(|_closed| CommitError::Closed) })
    }

    fn recent_log(&self, from: Position, through: Position) -> Option<Vec<LogRecord>> {
        self.shared.tail.read(from, through)
    }

    fn project<'a>(&'a self, make: MakeProjection<'a>) -> Eventual<'a, Result<(), StoreError>> {
        self.shared.projections.add(|| make(self.shared.published.load_full()));
        Eventual::Now(Ok(()))
    }

    fn set_cache(&self) -> SetCache {
        Arc::clone(&self.set_cache)
    }

    fn backup(&self, path: PathBuf) -> Later<()> {
        self.shared.published.load().backup(path)
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.room.close();
        let (done, closed) = oneshot::channel();
        let asked = self.requests.send(Request::Close(done)).is_ok();
        Box::pin(async move {
            if asked {
                // An error means that the committer has stopped, too.
                closed.await.ok();
            }
        })
    }
}
