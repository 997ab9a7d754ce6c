//! Requests of endpoints with user-interactive authentication (client-server API, "User-Interactive Authentication API").

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use ruma::{
    api::{IncomingRequest, path_builder::PathBuilder},
    exports::http::{Method, Request, request::Parts},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{ApiError, Incoming, json_object};

/// Names an operation with all its parameters but `auth`: what a user-interactive authentication session is bound to.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Fingerprint {
    /// Method and path.
    pub operation: [u8; 32],
    /// The body without `auth`.
    pub parameters: [u8; 32],
}

/// A request of an endpoint with user-interactive authentication.
///
/// Clients may leave out of later requests of a session what they said in the first, so the request is read when that is put in.
#[derive(Clone)]
pub struct Interactive<T> {
    /// The fields of the body but `auth`.
    pub parameters: BTreeMap<String, Box<RawValue>>,
    /// `auth` of the body: what the client shows.
    pub auth: Option<Box<RawValue>>,
    parts: Parts,
    path_args: Vec<String>,
    request: PhantomData<fn() -> T>,
}

/// Without what was entered: passwords are among it.
impl<T> fmt::Debug for Interactive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interactive").field("path_args", &self.path_args).finish_non_exhaustive()
    }
}

impl<T: IncomingRequest + Send + 'static> Interactive<T> {
    /// What is asked for, with the parameters as they are now.
    ///
    /// # Errors
    /// As [`Incoming::read`].
    pub fn request(&self) -> Result<T, ApiError> {
        let body = serde_json::to_vec(&self.parameters).map_err(ApiError::internal)?;
        let args: Vec<&str> = self.path_args.iter().map(String::as_str).collect();
        <T as Incoming>::read(Request::from_parts(self.parts.clone(), &body), &args)
    }

    /// What the session of this request is bound to.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut parameters = Sha256::new();
        for (name, value) in &self.parameters {
            add_part(&mut parameters, name);
            add_part(&mut parameters, value.get());
        }
        Fingerprint { operation: self.operation(), parameters: parameters.finalize().into() }
    }

    /// Method and path, digested. The first of the paths stands for all, so that a session begun under one version goes on
    /// under another.
    fn operation(&self) -> [u8; 32] {
        let mut operation = Sha256::new();
        operation.update(T::METHOD.as_str());
        for part in T::PATH_BUILDER.all_paths().next().into_iter().chain(self.path_args.iter().map(String::as_str)) {
            add_part(&mut operation, part);
        }
        operation.finalize().into()
    }
}

fn add_part(digest: &mut Sha256, part: &str) {
    digest.update((part.len() as u64).to_be_bytes());
    digest.update(part);
}

impl<T: IncomingRequest + Send + 'static> Incoming for Interactive<T> {
    const METHOD: Method = T::METHOD;

    fn paths() -> Vec<&'static str> {
        T::PATH_BUILDER.all_paths().collect()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let mut parameters = json_object(body)?;
        let auth = parameters.remove("auth");
        let path_args = path_args.iter().map(|&arg| arg.to_owned()).collect();
        Ok(Self { parameters, auth, parts, path_args, request: PhantomData })
    }
}
