//! Answers that turn out to be large: they are not made before who serves the request allows it.
//!
//! How large an answer becomes is known when most of it is there. So leave is asked for where it may become large, and where what is there
//! already is.

use futures_util::future::BoxFuture;

use crate::SyncError;

/// Bytes of events from which on an answer is large.
pub(crate) const LARGE_BYTES: usize = 1 << 20;
/// Events of one room that may be that many bytes.
pub(crate) const LARGE_EVENTS: usize = 50;

/// Leave to make a large answer: the port of who serves requests, and bounds how many of them there are at a time.
pub trait LargeAnswer: Send + Sync {
    /// Waits until the answer may be made. It is asked as often as there is a reason to, also when it has been given already.
    ///
    /// # Errors
    ///
    /// [`SyncError::Busy`] if too many wait.
    fn begin(&self) -> BoxFuture<'_, Result<(), SyncError>>;

    /// There is nothing to tell after all, and the request waits for news: whatever was given is given back.
    fn end(&self);
}

/// Leave that was given, or that nobody gives.
pub(crate) struct Given;

impl LargeAnswer for Given {
    fn begin(&self) -> BoxFuture<'_, Result<(), SyncError>> {
        Box::pin(async { Ok(()) })
    }

    fn end(&self) {}
}
