//! A bound on computations that take long, so that they leave time and memory for everything else.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Computations that run at the same time unless the server says otherwise.
const AT_ONCE_DEFAULT: usize = 2;

/// Who may compute: as many at a time as it was made for. Clones share the bound.
#[derive(Clone, Debug)]
pub struct Cpu {
    free: Arc<Semaphore>,
}

/// The right to compute, until it is dropped. `None` inside can't happen: the bound is never taken away.
#[derive(Debug)]
#[must_use]
pub struct CpuShare(Option<OwnedSemaphorePermit>);

impl Cpu {
    /// Lets `at_once` computations run at the same time.
    pub fn new(at_once: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(at_once.max(1))) }
    }

    /// Waits until a computation may start. What it needs in memory is best loaded after that.
    pub async fn share(&self) -> CpuShare {
        CpuShare(self.free.clone().acquire_owned().await.ok())
    }

    /// Runs a computation on a thread of its own while `share` is held.
    ///
    /// Fails, with the reason, only if the computation panics or the program is shutting down.
    pub async fn run<T: Send + 'static>(
        share: &CpuShare,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        debug_assert!(share.0.is_some(), "the bound is never taken away");
        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new(AT_ONCE_DEFAULT)
    }
}
