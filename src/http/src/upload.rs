//! Requests whose body is a file: it is handed to the handler piece by piece and never held whole.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::StreamExt;
use ruma::exports::http::{HeaderMap, StatusCode, header};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{ApiError, gate::UPLOAD_SECONDS_MAX};

/// Longest time between two pieces of a body.
const PIECE_SECONDS_MAX: u64 = 30;
/// The rate that a body has to come at after that time, in bytes a second: whoever sends one byte now and then would keep others
/// from uploading.
const BYTES_PER_SECOND_MIN: u64 = 4 * 1024;
/// Bytes of a body that is too large anyway that are read on, so that its client gets to see the answer.
const DISCARD_BYTES_MAX: u64 = 64 << 20;
/// Longest time for that.
const DISCARD_SECONDS_MAX: u64 = 10;

/// A request and its body, which has not been read yet.
pub struct Upload<T> {
    /// The request; its own body field is empty.
    pub request: T,
    body: UploadBody,
}

impl<T> Upload<T> {
    pub(crate) fn new(request: T, body: UploadBody) -> Self {
        Self { request, body }
    }

    /// The request, and its body.
    pub fn into_parts(self) -> (T, UploadBody) {
        (self.request, self.body)
    }
}

/// The body of an [`Upload`].
pub struct UploadBody {
    stream: BodyDataStream,
    announced: Option<u64>,
    bytes_max: u64,
    taken: u64,
    /// By tokio's clock, as its timers: tests stop it.
    begun: Instant,
    /// The client waits for our word before it sends anything.
    asks_first: bool,
}

impl UploadBody {
    pub(crate) fn new(headers: &HeaderMap, body: Body, bytes_max: usize) -> Self {
        // hyper refuses a request whose length is no number; without one the body comes in chunks.
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let asks_first = headers.contains_key(header::EXPECT);
        Self {
            stream: body.into_data_stream(),
            announced,
            bytes_max: bytes_max as u64,
            taken: 0,
            begun: Instant::now(),
            asks_first,
        }
    }

    /// The length that the client announced, in bytes.
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// The next piece; `None` after the last. Whoever refuses the rest, for an error or for a reason of their own, calls
    /// [`UploadBody::discard`] before the answer.
    ///
    /// # Errors
    /// `M_TOO_LARGE` above the limit, at once where the client announced it; 408 if the client sends too slowly;
    /// `M_UNKNOWN` if the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.announced.is_some_and(|length| length > self.bytes_max) {
            return Err(self.too_large());
        }
        let Ok(piece) = timeout_at(self.deadline(), self.stream.next()).await else {
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", "The file came too slowly"));
        };
        let Some(piece) = piece else { return Ok(None) };
        let piece = piece.map_err(|_| ApiError::bad_request("The file could not be read to its end"))?;
        self.taken = self.taken.saturating_add(piece.len() as u64);
        if self.taken > self.bytes_max {
            return Err(self.too_large());
        }
        Ok(Some(piece))
    }

    /// When the next piece has to be there.
    fn deadline(&self) -> Instant {
        let patience = Duration::from_secs(PIECE_SECONDS_MAX);
        let earned = Duration::from_secs(self.taken / BYTES_PER_SECOND_MIN);
        let whole = (patience + earned).min(Duration::from_secs(UPLOAD_SECONDS_MAX));
        (Instant::now() + patience).min(self.begun + whole)
    }

    /// Reads on for a while: a connection that is closed on a client that still sends loses the answer.
    pub async fn discard(mut self) {
        if self.asks_first && self.taken == 0 {
            return;
        }
        let reading = async {
            let mut bytes = 0_u64;
            while let Some(Ok(piece)) = self.stream.next().await {
                bytes = bytes.saturating_add(piece.len() as u64);
                if bytes > DISCARD_BYTES_MAX {
                    return;
                }
            }
        };
        // Whoever sends longer than that does without the answer.
        drop(timeout(Duration::from_secs(DISCARD_SECONDS_MAX), reading).await);
    }

    fn too_large(&self) -> ApiError {
        ApiError::too_large(format!("Files may have at most {} bytes", self.bytes_max))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    /// A body of pieces of this length that come at this interval, up to a number that no test reaches.
    fn body(piece_bytes: usize, interval_ms: u64, bytes_max: usize) -> UploadBody {
        let pieces = stream::iter(0..1_000_000).then(move |_| async move {
            tokio::time::sleep(Duration::from_millis(interval_ms)).await;
            Ok::<_, Infallible>(Bytes::from(vec![0; piece_bytes]))
        });
        UploadBody::new(&HeaderMap::new(), Body::from_stream(pieces), bytes_max)
    }

    /// The bytes taken, the seconds that it took, and the status in the end.
    async fn drain(mut body: UploadBody) -> (u64, u64, Option<StatusCode>) {
        let begun = Instant::now();
        loop {
            match body.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return (body.taken, begun.elapsed().as_secs(), None),
                Err(error) => return (body.taken, begun.elapsed().as_secs(), Some(error.status())),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_too_slowly_is_given_up() {
        // The clock moves by itself while everything waits.
        let (taken, seconds, status) = drain(body(1, 29_000, 1_000_000)).await;
        assert_eq!((taken, seconds, status), (1, PIECE_SECONDS_MAX, Some(StatusCode::REQUEST_TIMEOUT)));
        let (taken, _, status) = drain(body(1_000, 31_000, 1_000_000)).await;
        assert_eq!((taken, status), (0, Some(StatusCode::REQUEST_TIMEOUT)));
        // Half the rate gets it twice the time that it had at first, and no more.
        let (_, seconds, status) = drain(body(2 * 1024, 1_000, 1_000_000)).await;
        assert_eq!((seconds, status), (2 * PIECE_SECONDS_MAX - 1, Some(StatusCode::REQUEST_TIMEOUT)));
        // However large it may be, an upload ends.
        let (_, seconds, status) = drain(body(5 * 1024, 1_000, 1 << 40)).await;
        assert_eq!((seconds, status), (UPLOAD_SECONDS_MAX, Some(StatusCode::REQUEST_TIMEOUT)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_refused_and_read_on_for_a_while() {
        let (_, seconds, status) = drain(body(5 * 1024, 1_000, 100 * 1024)).await;
        assert_eq!((seconds, status), (21, Some(StatusCode::PAYLOAD_TOO_LARGE)));
        let begun = Instant::now();
        body(1, 1_000, 100).discard().await;
        assert_eq!(begun.elapsed().as_secs(), DISCARD_SECONDS_MAX);
    }
}
