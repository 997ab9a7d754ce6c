//! Requests in the log, below a name of their own: `requests` at `warn` tells those that the server failed at, at `info` those that it
//! refused too, at `debug` all. Never tokens, queries or bodies.

use std::sync::{Arc, OnceLock};

use axum::{extract::Request, response::Response};
use ruma::{OwnedUserId, UserId, exports::http::Method};
use tokio::time::Instant;
use tracing::{Level, debug, enabled, info, warn};

use crate::{RequestId, error::Refused};

/// The name that the configuration's `log` sets a level for.
const TARGET: &str = "requests";
/// Greatest length of a path that is no route, in bytes.
const PATH_BYTES_MAX: usize = 100;

/// What a route finds out about a request, for the log.
#[derive(Default)]
pub(crate) struct Noted {
    route: OnceLock<&'static str>,
    /// The path, in place of the route's where there is none.
    path: OnceLock<Box<str>>,
    user: OnceLock<OwnedUserId>,
}

impl Noted {
    pub(crate) fn set_route(&self, route: &'static str) {
        self.route.get_or_init(|| route);
    }

    pub(crate) fn set_path(&self, path: &str) {
        self.path.get_or_init(|| path[..path.floor_char_boundary(PATH_BYTES_MAX)].into());
    }

    pub(crate) fn set_user(&self, user: &UserId) {
        self.user.get_or_init(|| user.to_owned());
    }
}

/// A request that the log may tell of.
pub(crate) struct Note {
    noted: Arc<Noted>,
    method: Method,
    begun: Instant,
}

/// Begins to take notes, if the log wants any.
pub(crate) fn begin(request: &mut Request) -> Option<Note> {
    if !enabled!(target: TARGET, Level::WARN) {
        return None;
    }
    let noted = Arc::new(Noted::default());
    request.extensions_mut().insert(noted.clone());
    Some(Note { noted, method: request.method().clone(), begun: Instant::now() })
}

impl Note {
    /// Tells of the request, once the head of its answer is there.
    pub(crate) fn tell(self, RequestId(id): RequestId, response: &Response) {
        let Self { noted, method, begun } = self;
        let route = noted.route.get().copied().or(noted.path.get().map(|path| &**path)).unwrap_or("");
        let user = noted.user.get().map_or("", |user| user.as_str());
        let status = response.status().as_u16();
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let errcode = response.extensions().get::<Refused>().map_or("", |refused| &*refused.0);
        match status {
            500.. => warn!(target: TARGET, id, %method, route, status, errcode, ms, user),
            400.. => info!(target: TARGET, id, %method, route, status, errcode, ms, user),
            _ => debug!(target: TARGET, id, %method, route, status, ms, user),
        }
    }
}
