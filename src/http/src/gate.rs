//! What every request passes: limits, authentication, the tasks that outlive their connection.

use std::time::Duration;

use ruma::{UserId, exports::http::request::Parts};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ApiError, Authenticate, Config, Origin, Turn,
    admission::Admission,
    limit::{Class, Limits},
};

/// Longest time that an upload may take as long as it makes progress.
pub(crate) const UPLOAD_SECONDS_MAX: u64 = 3_600;

/// Shared by all routes: configuration, who knows the access tokens, limits, shutdown.
pub struct Gate {
    pub(crate) config: Config,
    pub(crate) authenticate: Box<dyn Authenticate>,
    pub(crate) admission: Admission,
    pub(crate) tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Gate {
    /// A gate. `shutdown` is cancelled by whoever ends the server.
    pub fn new(config: Config, authenticate: Box<dyn Authenticate>, shutdown: CancellationToken) -> Self {
        let admission = Admission::new(&config);
        Self { config, authenticate, admission, tasks: TaskTracker::new(), shutdown }
    }

    /// The rate limits, for handlers that count something besides their own class.
    pub fn limits(&self) -> &Limits {
        &self.admission.limits
    }

    /// Waits until a user may have a large answer made, for handlers that find out late that theirs may be one: of a request that
    /// always may, the class says so ([`Class::Bulk`]). The turn is over when it is dropped.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` if too many of the user's requests wait.
    pub async fn bulk_turn(&self, user: &UserId) -> Result<Turn, ApiError> {
        self.admission.answers.turn(self.admission.limits.user_key(user)).await
    }

    /// Cancelled when the server begins to shut down: long polls end then.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// How long a request of this class may take.
    pub(crate) fn time_max(&self, class: Class) -> Duration {
        let usual = self.config.client_request_timeout.duration();
        match class {
            Class::Sync => usual.saturating_add(self.config.poll_max.duration()),
            Class::Upload => usual.max(Duration::from_secs(UPLOAD_SECONDS_MAX)),
            _ => usual,
        }
    }

    pub(crate) fn origin(&self, parts: &Parts) -> Origin {
        Origin::new(self.admission.address(parts), &parts.headers)
    }
}
