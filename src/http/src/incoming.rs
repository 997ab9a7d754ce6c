//! From an HTTP request to a request type.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use ruma::{
    api::{
        IncomingRequest, IncomingRequestExt,
        error::{DeserializationError, FromHttpRequestError},
        path_builder::PathBuilder,
    },
    exports::http::{Method, Request},
};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::{ApiError, StatusCode, body::check_json};

/// A request type: which method and paths it has, and how to read it.
///
/// Implemented for every incoming request of `ruma`.
pub trait Incoming: Sized + Send + 'static {
    /// Its method.
    const METHOD: Method;

    /// Its paths in every version, with `{name}` for arguments.
    fn paths() -> Vec<&'static str>;

    /// Reads it from a request whose body is complete, and the path's arguments in order.
    ///
    /// # Errors
    /// `M_NOT_JSON`, `M_BAD_JSON`, `M_MISSING_PARAM` or `M_INVALID_PARAM`.
    fn read(request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError>;
}

impl<T: IncomingRequest + Send + 'static> Incoming for T {
    const METHOD: Method = T::METHOD;

    fn paths() -> Vec<&'static str> {
        T::PATH_BUILDER.all_paths().collect()
    }

    fn read(mut request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError> {
        // A body that a GET request carries means nothing (RFC 9110, section 9.3.1).
        if Self::METHOD == Method::GET {
            *request.body_mut() = &[];
        }
        let bytes = *request.body();
        if is_json(bytes) {
            check_json(bytes)?;
        }
        T::try_from_http_request(request, path_args).map_err(|error| read_error(error, bytes))
    }
}

/// Whether a body is meant as JSON at all; media uploads, which aren't, have types of their own.
fn is_json(bytes: &[u8]) -> bool {
    !bytes.is_empty()
}

fn read_error(error: FromHttpRequestError, bytes: &[u8]) -> ApiError {
    let error = match error {
        FromHttpRequestError::Deserialization(error) => error,
        FromHttpRequestError::MethodMismatch { .. } => {
            return ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "Unrecognized method");
        }
        other => return ApiError::bad_request(other.to_string()),
    };
    match error {
        DeserializationError::Utf8(_) => ApiError::not_json("The request's body is not UTF-8"),
        DeserializationError::Json(error) => json_error(&error, bytes),
        DeserializationError::Query(error) => param_error(&error.to_string()),
        DeserializationError::Ident(error) => ApiError::invalid_param(error.to_string()),
        other => ApiError::invalid_param(other.to_string()),
    }
}

fn json_error(error: &serde_json::Error, bytes: &[u8]) -> ApiError {
    // A missing body is read as an empty object where a request needs no fields; what needs more than that finds nothing.
    if bytes.is_empty() && !error.is_data() {
        return ApiError::not_json("The request has no body");
    }
    // A type error may have been met before a syntax error further on.
    let whole = if bytes.is_empty() { Ok(IgnoredAny) } else { serde_json::from_slice::<IgnoredAny>(bytes) };
    match whole {
        Err(syntax) => ApiError::not_json(format!("The request's body is not JSON: {syntax}")),
        Ok(_) => ApiError::bad_json(error.to_string()),
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

/// Reads a request whose body lacks a field that the specification has a default for and the request type hasn't.
///
/// # Errors
/// As [`Incoming::read`].
pub fn read_with_default<T: Incoming>(
    request: Request<&[u8]>,
    path_args: &[&str],
    (name, value): (&str, Value),
) -> Result<T, ApiError> {
    let (parts, body) = request.into_parts();
    let body = if body.is_empty() { b"{}" } else { body };
    check_json(body)?;
    let mut bytes = body.to_vec();
    // What is no JSON object is refused by the type itself.
    if let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) {
        fields.entry(name).or_insert(value);
        bytes = Value::Object(fields).to_string().into_bytes();
    }
    T::read(Request::from_parts(parts, &bytes[..]), path_args)
}

/// A body as an object whose values stay as they were sent.
///
/// # Errors
/// `M_NOT_JSON` or `M_BAD_JSON`.
pub fn json_object(body: &[u8]) -> Result<BTreeMap<String, Box<RawValue>>, ApiError> {
    check_json(body)?;
    serde_json::from_slice(body).map_err(|error| json_error(&error, body))
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
        let bytes = *request.body();
        check_json(bytes)?;
        let body = serde_json::from_slice(bytes).map_err(|error| json_error(&error, bytes))?;
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
        let query = request.uri().query().unwrap_or("");
        let query = serde_html_form::from_str(query).map_err(|error| param_error(&error.to_string()))?;
        Ok(Self { request: T::read(request, path_args)?, query })
    }
}

/// Names an operation with all its parameters but `auth`: what a user-interactive authentication session is bound to.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Fingerprint {
    /// Method and path.
    pub operation: [u8; 32],
    /// The body without `auth`.
    pub parameters: [u8; 32],
}

/// A request of an endpoint with user-interactive authentication.
#[derive(Clone, Debug)]
pub struct Interactive<T> {
    /// The request.
    pub request: T,
    /// What it asks for.
    pub fingerprint: Fingerprint,
}

impl<T: IncomingRequest + Send + 'static> Incoming for Interactive<T> {
    const METHOD: Method = T::METHOD;

    fn paths() -> Vec<&'static str> {
        T::PATH_BUILDER.all_paths().collect()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError> {
        check_json(request.body())?;
        let fingerprint = fingerprint(&T::METHOD, &T::paths(), path_args, request.body())?;
        let request = T::read(request, path_args)?;
        Ok(Self { request, fingerprint })
    }
}

fn fingerprint(method: &Method, paths: &[&str], args: &[&str], body: &[u8]) -> Result<Fingerprint, ApiError> {
    let mut operation = Sha256::new();
    operation.update(method.as_str());
    // The first of the paths stands for all, so that a session begun under one version goes on under another.
    let parts = paths.first().copied().into_iter().chain(args.iter().copied());
    for part in parts {
        operation.update((part.len() as u64).to_be_bytes());
        operation.update(part);
    }
    let mut parameters = Sha256::new();
    let fields: BTreeMap<String, &RawValue> = if body.is_empty() {
        BTreeMap::new()
    } else {
        serde_json::from_slice(body).map_err(|error| json_error(&error, body))?
    };
    for (name, value) in &fields {
        if name == "auth" {
            continue;
        }
        for part in [name.as_str(), value.get()] {
            parameters.update((part.len() as u64).to_be_bytes());
            parameters.update(part);
        }
    }
    Ok(Fingerprint { operation: operation.finalize().into(), parameters: parameters.finalize().into() })
}
