//! What goes on on one connection, and when that is too little.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::shares::Share;

/// Longest time that a connection may stay open without a request.
pub(crate) const IDLE_SECONDS_MAX: u64 = 120;
/// Longest time that a client may let wait what it asked for, in sum. What it takes pays some of that off.
pub(crate) const PATIENCE_SECONDS: u64 = 60;
/// The rate that an answer has to be taken at in the long run, in bytes a second: as uploads have to come.
pub(crate) const BYTES_PER_SECOND_MIN: u64 = 4 * 1024;
/// How often the answers on an HTTP/2 connection are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Answers that are listed before those that ended are forgotten.
const SENDING_SWEEP: usize = 256;

/// One connection.
#[derive(Default)]
pub(crate) struct Flow {
    /// Requests under way, their answers included.
    open: AtomicUsize,
    /// Requests so far.
    begun: AtomicU64,
    is_hung_up: AtomicBool,
    hang_up: Notify,
    /// Answers on an HTTP/2 connection, where one stands still and others go on; `None` on HTTP/1, where what the connection
    /// takes is what its one answer takes.
    sending: Option<Mutex<Vec<Weak<Sending>>>>,
}

/// The body of an answer on HTTP/2, as its client takes it.
#[derive(Default)]
pub(crate) struct Sending {
    /// Bytes that the connection has got, and those of them that it has written.
    handed: AtomicU64,
    written: AtomicU64,
    /// The next piece isn't there yet, which is no fault of the client.
    is_ours: AtomicBool,
    /// Bytes written when it was looked at last, and milliseconds that the client let wait. Only the one who looks changes them.
    seen: AtomicU64,
    debt_ms: AtomicU64,
}

impl Sending {
    pub(super) fn handed(&self, bytes: usize) {
        self.handed.fetch_add(bytes as u64, Ordering::Relaxed);
        self.is_ours.store(false, Ordering::Relaxed);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn is_late(&self) {
        self.is_ours.store(true, Ordering::Relaxed);
    }

    /// Whether the client has let it wait too long, as seen once every [`LOOK_INTERVAL`].
    fn is_over(&self) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        let paid_ms = written.saturating_sub(self.seen.swap(written, Ordering::Relaxed)) * 1_000 / BYTES_PER_SECOND_MIN;
        let is_ours = self.is_ours.load(Ordering::Relaxed) && written >= self.handed.load(Ordering::Relaxed);
        let waited_ms = if is_ours { 0 } else { LOOK_INTERVAL.as_millis() as u64 };
        let debt_ms = (self.debt_ms.load(Ordering::Relaxed) + waited_ms).saturating_sub(paid_ms);
        self.debt_ms.store(debt_ms, Ordering::Relaxed);
        debt_ms >= PATIENCE_SECONDS * 1_000
    }
}

impl Flow {
    /// A connection that one request follows another on.
    pub(crate) fn http1() -> Arc<Self> {
        Arc::default()
    }

    /// A connection with many requests at a time.
    pub(crate) fn http2() -> Arc<Self> {
        Arc::new(Self { sending: Some(Mutex::default()), ..Self::default() })
    }

    /// A request begins; it is over when its answer is. `place` is what else it holds so long.
    pub(crate) fn begin(self: &Arc<Self>, place: Option<Share>) -> UnderWay {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay { flow: self.clone(), _place: place }
    }

    /// Whether requests are under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// How many requests have begun, if each of them was answered and it is HTTP/1.
    pub(crate) fn between(&self) -> Option<u64> {
        (!self.has_streams() && !self.is_busy()).then(|| self.begun.load(Ordering::Relaxed))
    }

    /// Whether it still is so, and no other request has begun.
    pub(crate) fn is_between(&self, begun: u64) -> bool {
        self.between() == Some(begun)
    }

    /// The client sends nothing more.
    pub(crate) fn set_hung_up(&self) {
        self.is_hung_up.store(true, Ordering::Release);
        self.hang_up.notify_waiters();
    }

    /// Waits until the client sends nothing more.
    pub(crate) async fn hung_up(&self) {
        let mut hang_up = std::pin::pin!(self.hang_up.notified());
        hang_up.as_mut().enable();
        if !self.is_hung_up.load(Ordering::Acquire) {
            hang_up.await;
        }
    }

    /// Whether many answers are sent on it at a time.
    pub(crate) fn has_streams(&self) -> bool {
        self.sending.is_some()
    }

    /// How the client takes an answer's body, where that is to be looked at.
    pub(crate) fn send(&self) -> Option<Arc<Sending>> {
        let mut list = self.sending.as_ref()?.lock();
        if list.len() >= SENDING_SWEEP {
            list.retain(|sending| sending.strong_count() > 0);
        }
        let sending = Arc::new(Sending::default());
        list.push(Arc::downgrade(&sending));
        Some(sending)
    }

    /// Waits until an HTTP/2 connection is to be ended: its client asks for nothing, or lets an answer wait, however often it shows
    /// that it lives.
    pub(crate) async fn over(&self) {
        let mut idle = Duration::ZERO;
        let mut begun = 0;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now_begun = self.begun.load(Ordering::Relaxed);
            idle = if self.is_busy() || now_begun != begun { Duration::ZERO } else { idle + LOOK_INTERVAL };
            begun = now_begun;
            if idle >= Duration::from_secs(IDLE_SECONDS_MAX) {
                return;
            }
            let Some(sending) = &self.sending else { continue };
            let mut list = sending.lock();
            list.retain(|sending| sending.strong_count() > 0);
            if list.iter().filter_map(Weak::upgrade).any(|sending| sending.is_over()) {
                return;
            }
        }
    }
}

/// A request that has not been answered to its end.
pub(crate) struct UnderWay {
    flow: Arc<Flow>,
    _place: Option<Share>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.flow.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    async fn seconds_until_over(flow: &Flow) -> u64 {
        let begun = Instant::now();
        flow.over().await;
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_ends() {
        let flow = Flow::http2();
        assert_eq!(seconds_until_over(&flow).await, IDLE_SECONDS_MAX);
        let under_way = flow.begin(None);
        assert!(tokio::time::timeout(Duration::from_secs(10_000), flow.over()).await.is_err());
        drop(under_way);
        assert!(seconds_until_over(&flow).await >= IDLE_SECONDS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_too_slowly_ends_its_connection() {
        let take = |bytes: usize, flow: &Flow| {
            let sending = flow.send().expect("HTTP/2");
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    sending.handed(bytes);
                    sending.wrote(bytes);
                }
            })
        };
        let rate = BYTES_PER_SECOND_MIN as usize;
        let flow = Flow::http2();
        let _under_way = flow.begin(None);
        let fast = take(rate * 2, &flow);
        assert!(tokio::time::timeout(Duration::from_secs(10_000), flow.over()).await.is_err());
        // Another that goes on well makes up for nothing.
        let slow = take(rate / 2, &flow);
        let seconds = seconds_until_over(&flow).await;
        assert!((PATIENCE_SECONDS * 2 - 10..PATIENCE_SECONDS * 2 + 10).contains(&seconds), "{seconds}");
        slow.abort();
        fast.abort();
        // What the server itself is late with counts for nobody.
        let late = flow.send().expect("HTTP/2");
        late.is_late();
        assert!(tokio::time::timeout(Duration::from_secs(10_000), flow.over()).await.is_err());
        late.handed(1);
        late.is_late();
        assert!(seconds_until_over(&flow).await <= PATIENCE_SECONDS + 5, "the client has not taken all that there is");
    }

    #[test]
    fn a_client_that_hung_up_is_known_also_to_who_asks_later() {
        let flow = Flow::http1();
        let mut before = std::pin::pin!(flow.hung_up());
        assert!(before.as_mut().now_or_never().is_none());
        flow.set_hung_up();
        assert!(before.now_or_never().is_some());
        assert!(flow.hung_up().now_or_never().is_some());
    }
}
