//! Requests whose body is a file: it is handed to the handler piece by piece and never held whole.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::StreamExt;
use ruma::exports::http::{HeaderMap, StatusCode, header};

use crate::ApiError;

/// Longest time between two pieces of a body.
const PIECE_SECONDS_MAX: u64 = 30;
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
    /// The client waits for our word before it sends anything.
    asks_first: bool,
}

impl UploadBody {
    pub(crate) fn new(headers: &HeaderMap, body: Body, bytes_max: usize) -> Self {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let asks_first = headers.contains_key(header::EXPECT);
        Self { stream: body.into_data_stream(), announced, bytes_max: bytes_max as u64, taken: 0, asks_first }
    }

    /// The length that the client announced, in bytes.
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// `M_TOO_LARGE` above the limit, at once where the client announced it; 408 if the client sends too slowly;
    /// `M_UNKNOWN` if the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.announced.is_some_and(|length| length > self.bytes_max) {
            return Err(self.too_large().await);
        }
        let piece = tokio::time::timeout(Duration::from_secs(PIECE_SECONDS_MAX), self.stream.next()).await;
        let Ok(piece) = piece else {
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", "The file came too slowly"));
        };
        let Some(piece) = piece else { return Ok(None) };
        let piece = piece.map_err(|_| ApiError::bad_request("The file could not be read to its end"))?;
        self.taken = self.taken.saturating_add(piece.len() as u64);
        if self.taken > self.bytes_max {
            return Err(self.too_large().await);
        }
        Ok(Some(piece))
    }

    /// Reads on for a while: a connection that is closed on a client that still sends loses the answer.
    pub async fn discard(&mut self) {
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
        drop(tokio::time::timeout(Duration::from_secs(DISCARD_SECONDS_MAX), reading).await);
    }

    async fn too_large(&mut self) -> ApiError {
        self.discard().await;
        ApiError::too_large(format!("Files may have at most {} bytes", self.bytes_max))
    }
}
