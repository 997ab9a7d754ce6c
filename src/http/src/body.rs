//! Reading a request's body within its limits, and checking JSON before it is parsed.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ruma::exports::http::{HeaderMap, StatusCode, header};

use crate::ApiError;

/// Longest time that a client may take to send the body of a request.
const BODY_SECONDS_MAX: u64 = 60;

/// Greatest nesting of objects and arrays in a request. Below the depth at which the JSON parser gives up, which it
/// doesn't do for parts that are kept as raw text.
pub const JSON_DEPTH_MAX: usize = 100;

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

/// Checks what can be told about JSON before parsing: it is UTF-8 and not nested more than [`JSON_DEPTH_MAX`] deep.
///
/// # Errors
/// `M_NOT_JSON`.
pub fn check_json(bytes: &[u8]) -> Result<(), ApiError> {
    if std::str::from_utf8(bytes).is_err() {
        return Err(ApiError::not_json("The request's body is not UTF-8"));
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for &byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err(ApiError::not_json(format!("JSON nested deeper than {JSON_DEPTH_MAX}")));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}
