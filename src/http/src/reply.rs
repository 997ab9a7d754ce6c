//! From a handler's result to an HTTP answer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use ruma::{
    api::{OutgoingResponse, OutgoingResponseExt},
    exports::http::{HeaderValue, StatusCode, header},
};
use serde::Serialize;

use crate::ApiError;

/// The content type of every JSON answer.
const APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Spare room in bytes that is not worth a copy.
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// What a handler may answer with: any response type of `ruma`, [`Json`], [`JsonBytes`] or [`JsonStream`], or one [`Keeping`] something.
pub trait Reply: Send + 'static {
    /// The answer.
    ///
    /// # Errors
    /// A value that can't be written as JSON is a fault of the server.
    fn into_reply(self) -> Result<Response, ApiError>;
}

impl<T: OutgoingResponse + Send + 'static> Reply for T {
    fn into_reply(self) -> Result<Response, ApiError> {
        let response = self.try_into_http_response::<BytesMut>().map_err(ApiError::internal)?;
        Ok(response.map(|bytes| Body::from(bytes.freeze())))
    }
}

/// Answers 200 with a value as JSON.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize + Send + 'static> Reply for Json<T> {
    fn into_reply(self) -> Result<Response, ApiError> {
        let bytes = serde_json::to_vec(&self.0).map_err(ApiError::internal)?;
        JsonBytes::from(bytes).into_reply()
    }
}

/// Answers 200 with JSON that is bytes already.
#[derive(Clone, Debug)]
pub struct JsonBytes(pub Bytes);

impl From<Vec<u8>> for JsonBytes {
    fn from(mut bytes: Vec<u8>) -> Self {
        // What grew step by step has room to spare, which an answer that waits for its client shouldn't keep.
        if bytes.capacity() - bytes.len() > SPARE_BYTES_MAX {
            bytes.shrink_to_fit();
        }
        Self(Bytes::from(bytes))
    }
}

impl Reply for JsonBytes {
    fn into_reply(self) -> Result<Response, ApiError> {
        Ok(json_response(StatusCode::OK, self.0))
    }
}

/// Answers 200 with JSON that is written piece by piece while it is sent. An error breaks the answer off.
pub struct JsonStream(pub BoxStream<'static, io::Result<Bytes>>);

impl Reply for JsonStream {
    fn into_reply(self) -> Result<Response, ApiError> {
        let mut response = Response::new(Body::from_stream(self.0));
        response.headers_mut().insert(header::CONTENT_TYPE, APPLICATION_JSON);
        Ok(response)
    }
}

/// Answers with `reply`, and keeps something until the answer is on its way to the client.
pub struct Keeping<T, K> {
    /// The answer.
    pub reply: T,
    /// What is dropped when the connection has taken it.
    pub kept: K,
}

impl<T: Reply, K: Unpin + Send + 'static> Reply for Keeping<T, K> {
    fn into_reply(self) -> Result<Response, ApiError> {
        let kept = self.kept;
        Ok(self.reply.into_reply()?.map(|body| Body::new(KeepingBody::new(body, kept))))
    }
}

/// The body of an answer, with what is to last as long as it.
pub(crate) struct KeepingBody<K> {
    body: Body,
    _kept: K,
}

impl<K> KeepingBody<K> {
    pub(crate) fn new(body: Body, kept: K) -> Self {
        Self { body, _kept: kept }
    }
}

impl<K: Unpin> HttpBody for KeepingBody<K> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer with a JSON body.
pub(crate) fn json_response(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, APPLICATION_JSON);
    response
}
