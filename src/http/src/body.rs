//! Reading a request's body within its limits.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ruma::exports::http::{HeaderMap, StatusCode, header};

use crate::ApiError;

/// Longest time that a client may take to send the body of a request.
const BODY_SECONDS_MAX: u64 = 60;

/// The whole body.
///
/// # Errors
/// `M_TOO_LARGE` above `bytes_max`, 408 when the client sends too slowly, `M_UNKNOWN` when the connection breaks.
pub(crate) async fn read(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    let collect = Limited::new(body, bytes_max).collect();
    let Ok(read) = tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), collect).await else {
        return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", "The request's body came too slowly"));
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
        Err(_) => Err(ApiError::bad_request("The request's body could not be read")),
    }
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::too_large(format!("The request's body is larger than {bytes_max} bytes"))
}
