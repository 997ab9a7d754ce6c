//! What every request gets, whichever API it is for.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum::{Router, body::Body, extract::Request, response::Response};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use ruma::exports::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use tower::{Layer, Service};
use tower_http::{
    CompressionLevel,
    compression::{
        Compression, CompressionLayer,
        predicate::{And, Predicate, SizeAbove},
    },
};
use tracing::error;

use crate::{
    ApiError, Gate,
    file::Uncompressed,
    requests::{self, Noted},
};

/// Answers smaller than this are not compressed.
const COMPRESS_BYTES_MIN: u64 = 1_024;

/// Which answers are compressed.
type Compressible = And<SizeAbove, fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool>;

fn is_compressible(_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<Uncompressed>().is_none()
}

/// Names a request in the log, counted from the start of the process.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct RequestId(pub u64);

/// The outermost service: pre-flight requests, CORS headers, request ids, compression, panics.
#[derive(Clone)]
pub struct Front {
    plain: Router,
    compressing: Option<Compression<Router, Compressible>>,
    requests: Arc<AtomicU64>,
}

impl Front {
    /// Wraps the merged routers of all APIs. Unknown paths and methods are answered `M_UNRECOGNIZED`.
    pub fn new(gate: &Gate, router: Router) -> Self {
        let plain = router.fallback(unknown_path).method_not_allowed_fallback(unknown_method);
        let compressing = gate.config.compression.then(|| {
            let layer = CompressionLayer::new().quality(CompressionLevel::Fastest);
            let worth_it: fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool = is_compressible;
            layer.compress_when(SizeAbove::new(COMPRESS_BYTES_MIN).and(worth_it)).layer(plain.clone())
        });
        Self { plain, compressing, requests: Arc::default() }
    }

    fn route(&mut self, request: Request) -> BoxFuture<'static, Result<Response, Infallible>> {
        // Compression wraps the body, which small answers and most servers' proxies shouldn't pay for.
        let wants_compression = request.headers().contains_key(header::ACCEPT_ENCODING);
        match &mut self.compressing {
            Some(compressing) if wants_compression => {
                let answer = compressing.call(request);
                async move { answer.await.map(|response| response.map(Body::new)) }.boxed()
            }
            _ => self.plain.call(request).boxed(),
        }
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let id = RequestId(self.requests.fetch_add(1, Ordering::Relaxed) + 1);
        request.extensions_mut().insert(id);
        let note = requests::begin(&mut request);
        // Outside of what waits, so that it doesn't keep the request.
        let answer = if request.method() == Method::OPTIONS {
            note_path(&request);
            None
        } else {
            Some(self.route(request))
        };
        Box::pin(async move {
            let mut response = match answer {
                Some(answer) => caught(answer, id).await,
                None => {
                    let mut empty = Response::new(Body::empty());
                    *empty.status_mut() = StatusCode::NO_CONTENT;
                    empty
                }
            };
            add_cors(response.headers_mut());
            if let Some(note) = note {
                note.tell(id, &response);
            }
            Ok(response)
        })
    }
}

/// An answer, whatever becomes of who makes it.
async fn caught(answer: BoxFuture<'static, Result<Response, Infallible>>, id: RequestId) -> Response {
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(Ok(response)) => response,
        Err(_panic) => {
            // The panic hook has logged where; this tells which request.
            error!(id = id.0, "request panicked");
            ApiError::internal("panic").into_response()
        }
    }
}

/// The headers that the specification recommends (client-server API, "Web Browser Clients").
pub(crate) fn add_cors(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("X-Requested-With, Content-Type, Authorization"),
    );
}

/// What is sent in place of the head of an error that hyper answers by itself, for what it can't read as a request: such answers have
/// neither a body nor the headers of all others. `None` for any other head.
pub(crate) fn error_in_full(head: &[u8]) -> Option<Bytes> {
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let status = StatusCode::from_bytes(status).ok()?;
    let error = match status {
        StatusCode::BAD_REQUEST => ApiError::bad_request("This is not a request"),
        StatusCode::URI_TOO_LONG => ApiError::new(status, "M_TOO_LARGE", "The request's path is too long"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ApiError::new(status, "M_TOO_LARGE", "The request's headers are too large")
        }
        _ => return None,
    };
    let ours = header::ACCESS_CONTROL_ALLOW_ORIGIN.as_str().as_bytes();
    if !head.ends_with(b"\r\n\r\n") || head.windows(ours.len()).any(|part| part == ours) {
        return None;
    }
    let body = error.json();
    let mut headers = HeaderMap::new();
    add_cors(&mut headers);
    let mut text = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or(""),
        body.len(),
    );
    for (name, value) in &headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or("")));
    }
    Some(Bytes::from([text.as_bytes(), b"\r\n", &body].concat()))
}

async fn unknown_path(request: Request) -> Response {
    note_path(&request);
    ApiError::unrecognized().into_response()
}

async fn unknown_method(request: Request) -> Response {
    note_path(&request);
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "Unrecognized method").into_response()
}

/// The log tells the path of what has no route.
fn note_path(request: &Request) {
    if let Some(noted) = request.extensions().get::<Arc<Noted>>() {
        noted.set_path(request.uri().path());
    }
}
