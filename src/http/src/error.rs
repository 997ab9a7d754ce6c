//! The answer of a request that failed (client-server API, "Standard error response").

use std::{borrow::Cow, error::Error as StdError, fmt, time::Duration};

use axum::response::Response;
use bytes::Bytes;
use ruma::exports::http::{HeaderValue, header};
use serde_json::{Map, Value};

pub use ruma::exports::http::StatusCode;

use crate::reply::json_response;

const USER_LIMIT_EXCEEDED: &str = "M_USER_LIMIT_EXCEEDED";

/// What handlers give.
pub type ApiResult<T> = Result<T, ApiError>;

/// A failed request: status, error code, message and the fields that some codes have besides.
///
/// An error made by [`ApiError::internal`] carries its cause, which is logged with the request's id and never shown.
#[derive(Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    errcode: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    fields: Map<String, Value>,
    retry_after: Option<Duration>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl ApiError {
    /// A standard error.
    pub fn new(
        status: StatusCode,
        errcode: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Inner {
            status,
            errcode: Some(errcode.into()),
            message: message.into(),
            fields: Map::new(),
            retry_after: None,
            cause: None,
        }))
    }

    /// An answer with this body alone, without an error code: a further step of user-interactive authentication.
    pub fn body(status: StatusCode, fields: Map<String, Value>) -> Self {
        let mut error = Self::new(status, "", "");
        error.0.errcode = None;
        error.0.fields = fields;
        error
    }

    /// Adds a field to the body.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Adds many fields to the body.
    #[must_use]
    pub fn with_all(mut self, fields: Map<String, Value>) -> Self {
        self.0.fields.extend(fields);
        self
    }

    /// A fault of this server: 500 `M_UNKNOWN`. The cause goes to the log alone.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let mut error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "Internal server error");
        error.0.cause = Some(cause.into());
        error
    }

    /// 503 `M_UNKNOWN` while something that the server depends on fails. The cause is logged and never shown.
    pub fn unavailable(
        message: impl Into<Cow<'static, str>>,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message);
        error.0.cause = Some(cause.into());
        error
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_FORBIDDEN", message)
    }

    /// 404 `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message)
    }

    /// 404 `M_UNRECOGNIZED`.
    pub fn unrecognized() -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "Unrecognized request")
    }

    /// 400 `M_BAD_JSON`.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_BAD_JSON", message)
    }

    /// 400 `M_NOT_JSON`.
    pub fn not_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_NOT_JSON", message)
    }

    /// 400 `M_INVALID_PARAM`.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", message)
    }

    /// 400 `M_MISSING_PARAM`.
    pub fn missing_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_MISSING_PARAM", message)
    }

    /// 400 `M_UNKNOWN`: the request is wrong in a way that has no code.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", message)
    }

    /// 413 `M_TOO_LARGE`.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)
    }

    /// 401 `M_MISSING_TOKEN`.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", "Missing access token")
    }

    /// 401 `M_UNKNOWN_TOKEN`, with `soft_logout` where the client may keep its data and log in again.
    pub fn unknown_token(soft_logout: bool) -> Self {
        let error = Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", "Unknown access token");
        error.with("soft_logout", soft_logout)
    }

    /// 401 `M_USER_LOCKED` (client-server API, "Account locking").
    pub fn user_locked() -> Self {
        let error = Self::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", "This account has been locked");
        error.with("soft_logout", true)
    }

    /// 429 `M_LIMIT_EXCEEDED` with the `Retry-After` header and, for older clients, `retry_after_ms`.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let millis = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "Too many requests")
            .with("retry_after_ms", millis);
        error.0.retry_after = Some(retry_after);
        error
    }

    /// `M_USER_LIMIT_EXCEEDED`: a limit of this user's account. Where the user reads about it ([`Config::info_uri`](crate::Config)) is
    /// added when it is answered.
    pub fn user_limit_exceeded(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status, USER_LIMIT_EXCEEDED, message)
    }

    /// Adds the URI that the specification requires with `M_USER_LIMIT_EXCEEDED`.
    pub(crate) fn with_info(self, info_uri: &str) -> Self {
        if self.errcode() == USER_LIMIT_EXCEEDED { self.with("info_uri", info_uri) } else { self }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The error code; empty for a bare body.
    pub fn errcode(&self) -> &str {
        self.0.errcode.as_deref().unwrap_or("")
    }

    /// What went wrong inside, where this is a fault of the server.
    pub fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.0.cause.as_deref()
    }

    /// The body of the answer.
    pub(crate) fn json(&self) -> Bytes {
        let mut fields = self.0.fields.clone();
        if let Some(errcode) = &self.0.errcode {
            fields.insert("errcode".to_owned(), Value::from(&**errcode));
            fields.insert("error".to_owned(), Value::from(&*self.0.message));
        }
        Bytes::from(Value::Object(fields).to_string())
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        let mut response = json_response(self.0.status, self.json());
        if let Some(wait) = self.0.retry_after {
            // The header counts whole seconds; rounding down would invite a request that is refused again.
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
        }
        response.extensions_mut().insert(Refused(self.0.errcode.unwrap_or(Cow::Borrowed(""))));
        response
    }
}

/// The error code of an answer, for the log.
#[derive(Clone)]
pub(crate) struct Refused(pub(crate) Cow<'static, str>);

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.status.as_u16(), self.errcode(), self.0.message)
    }
}

impl StdError for ApiError {}
