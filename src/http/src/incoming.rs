//! From an HTTP request to a request type.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use ruma::{
    api::{
        IncomingRequest, IncomingRequestExt,
        error::{DeserializationError, FromHttpRequestError},
        path_builder::PathBuilder,
    },
    exports::http::{Method, Request, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::{ApiError, StatusCode, json::check_json};

/// A request type: which method and paths it has, and how to read it.
///
/// Implemented for every incoming request of `ruma`.
pub trait Incoming: Sized + Send + 'static {
    /// Its method.
    const METHOD: Method;

    /// Whether the body is the content that is stored or sent, and so must be there: see [`Content`].
    const BODY_IS_CONTENT: bool = false;

    /// Its paths in every version, with `{name}` for arguments.
    fn paths() -> Vec<&'static str>;

    /// Reads it from a request whose body is complete, and the path's arguments in order.
    ///
    /// The body is JSON that passed [`check_json`]; that of an upload is empty.
    ///
    /// # Errors
    /// `M_BAD_JSON`, `M_MISSING_PARAM` or `M_INVALID_PARAM`.
    fn read(request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError>;
}

/// Reads a request with its body, if it has one: the place that decides what a body may be, and when there needn't be one.
///
/// Without a body every field is left out, as in `{}`. Where a field is required, or where the body is the content itself, it
/// must be there.
///
/// # Errors
/// As [`Incoming::read`], and `M_NOT_JSON`.
pub(crate) fn read<T: Incoming>(parts: Parts, body: &[u8], path_args: &[&str]) -> Result<T, ApiError> {
    // A body that a GET request carries means nothing (RFC 9110, section 9.3.1).
    if T::METHOD == Method::GET {
        return T::read(Request::from_parts(parts, &[]), path_args);
    }
    if !body.is_empty() {
        check_json(body)?;
        return T::read(Request::from_parts(parts, body), path_args);
    }
    let missing = || ApiError::not_json("The request has no body");
    if T::BODY_IS_CONTENT {
        return Err(missing());
    }
    let read = T::read(Request::from_parts(parts, b"{}"), path_args);
    read.map_err(|error| if error.errcode() == "M_BAD_JSON" { missing() } else { error })
}

impl<T: IncomingRequest + Send + 'static> Incoming for T {
    const METHOD: Method = T::METHOD;

    fn paths() -> Vec<&'static str> {
        T::PATH_BUILDER.all_paths().collect()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError> {
        T::try_from_http_request(request, path_args).map_err(read_error)
    }
}

/// A request whose body is the content that is stored or sent as it is. An empty one, where a client forgot it or a proxy lost
/// it, must not be taken for empty content.
#[derive(Clone, Debug)]
pub struct Content<T>(pub T);

impl<T: Incoming> Incoming for Content<T> {
    const METHOD: Method = T::METHOD;
    const BODY_IS_CONTENT: bool = true;

    fn paths() -> Vec<&'static str> {
        T::paths()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError> {
        T::read(request, path_args).map(Self)
    }
}

fn read_error(error: FromHttpRequestError) -> ApiError {
    let error = match error {
        FromHttpRequestError::Deserialization(error) => error,
        FromHttpRequestError::MethodMismatch { .. } => {
            return ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "Unrecognized method");
        }
        other => return ApiError::bad_request(other.to_string()),
    };
    match error {
        DeserializationError::Utf8(_) => ApiError::not_json("The request's body is not UTF-8"),
        DeserializationError::Json(error) => ApiError::bad_json(error.to_string()),
        DeserializationError::Query(error) => param_error(&error.to_string()),
        DeserializationError::Ident(error) => ApiError::invalid_param(error.to_string()),
        other => ApiError::invalid_param(other.to_string()),
    }
}

/// The parser of queries and paths tells a missing parameter from a wrong one by its message alone.
fn param_error(message: &str) -> ApiError {
    if message.starts_with("missing field") {
        ApiError::missing_param(message.replacen("field", "parameter", 1))
    } else {
        ApiError::invalid_param(message.to_owned())
    }
}

/// The value of the path's argument at `place`.
///
/// # Errors
/// `M_INVALID_PARAM` if it isn't one.
pub fn path_arg<T: FromStr<Err: Display>>(path_args: &[&str], place: usize) -> Result<T, ApiError> {
    let text = path_args.get(place).copied().unwrap_or("");
    text.parse().map_err(|error: T::Err| ApiError::invalid_param(error.to_string()))
}

/// The parameters of a request's query, one after another.
pub fn query_pairs<'a>(request: &'a Request<&[u8]>) -> form_urlencoded::Parse<'a> {
    form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes())
}

fn read_query<Q: DeserializeOwned>(request: &Request<&[u8]>) -> Result<Q, ApiError> {
    let query = request.uri().query().unwrap_or("");
    serde_html_form::from_str(query).map_err(|error| param_error(&error.to_string()))
}

/// Reads a request whose body lacks a field that the specification has a default for and the request type hasn't.
///
/// # Errors
/// As [`Incoming::read`].
pub fn read_with_default<T: Incoming>(
    request: Request<&[u8]>,
    path_args: &[&str],
    (name, value): (&str, Value),
) -> Result<T, ApiError> {
    // What is no JSON object is refused by the type itself.
    let Ok(mut fields) = json_object(request.body()) else { return T::read(request, path_args) };
    if fields.contains_key(name) {
        return T::read(request, path_args);
    }
    fields.insert(name.to_owned(), to_raw_value(&value).map_err(ApiError::internal)?);
    let body = serde_json::to_vec(&fields).map_err(ApiError::internal)?;
    T::read(request.map(|_| &body[..]), path_args)
}

/// A body as an object whose values stay as they were sent.
///
/// # Errors
/// `M_BAD_JSON`.
pub fn json_object(body: &[u8]) -> Result<BTreeMap<String, Box<RawValue>>, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_json(error.to_string()))
}

/// A request together with its body as it was sent, for what is stored as it is.
#[derive(Clone, Debug)]
pub struct WithBody<T> {
    /// The request.
    pub request: T,
    /// The body.
    pub body: Box<RawValue>,
}

impl<T: IncomingRequest + Send + 'static> Incoming for WithBody<T> {
    const METHOD: Method = T::METHOD;

    fn paths() -> Vec<&'static str> {
        T::PATH_BUILDER.all_paths().collect()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError> {
        let body = serde_json::from_slice(request.body()).map_err(|error| ApiError::bad_json(error.to_string()))?;
        Ok(Self { request: T::read(request, path_args)?, body })
    }
}

/// A request together with further parameters of its query, for what the request type doesn't hold or holds in part.
#[derive(Clone, Debug)]
pub struct WithQuery<T, Q> {
    /// The request.
    pub request: T,
    /// The parameters.
    pub query: Q,
}

impl<T, Q> Incoming for WithQuery<T, Q>
where
    T: IncomingRequest + Send + 'static,
    Q: DeserializeOwned + Send + 'static,
{
    const METHOD: Method = T::METHOD;

    fn paths() -> Vec<&'static str> {
        T::PATH_BUILDER.all_paths().collect()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError> {
        let query = read_query(&request)?;
        Ok(Self { request: T::read(request, path_args)?, query })
    }
}
