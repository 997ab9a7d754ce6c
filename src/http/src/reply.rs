//! From a handler's result to an HTTP answer.

use std::io;

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use ruma::{
    api::{OutgoingResponse, OutgoingResponseExt},
    exports::http::{HeaderValue, StatusCode, header},
};
use serde::Serialize;

use crate::ApiError;

/// The content type of every JSON answer.
const APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What a handler may answer with: any response type of `ruma`, [`Json`], [`JsonBytes`] or [`JsonStream`].
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
        Ok(json_response(StatusCode::OK, Bytes::from(bytes)))
    }
}

/// Answers 200 with JSON that is bytes already.
#[derive(Clone, Debug)]
pub struct JsonBytes(pub Bytes);

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

/// An answer with a JSON body.
pub(crate) fn json_response(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, APPLICATION_JSON);
    response
}
