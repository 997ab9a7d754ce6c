//! What every request passes: limits, authentication, the tasks that outlive their connection.

use std::{net::IpAddr, time::Duration};

use ruma::exports::http::request::Parts;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Authenticate, Config, Origin, address,
    limit::{Class, Limits},
};

/// Longest time that an upload may take as long as it makes progress.
pub(crate) const UPLOAD_SECONDS_MAX: u64 = 3_600;

/// Shared by all routes: configuration, who knows the access tokens, rate limits, shutdown.
pub struct Gate {
    pub(crate) config: Config,
    pub(crate) authenticate: Box<dyn Authenticate>,
    pub(crate) tasks: TaskTracker,
    limits: Limits,
    shutdown: CancellationToken,
}

impl Gate {
    /// A gate. `shutdown` is cancelled by whoever ends the server.
    pub fn new(config: Config, authenticate: Box<dyn Authenticate>, shutdown: CancellationToken) -> Self {
        let limits = Limits::new(&config.limits);
        Self { config, authenticate, tasks: TaskTracker::new(), limits, shutdown }
    }

    /// The rate limits, for handlers that count something besides their own class.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Cancelled when the server begins to shut down: long polls end then.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// How long a request of this class may take.
    pub(crate) fn time_max(&self, class: Class) -> Duration {
        let seconds = match class {
            Class::Sync => self.config.long_poll_seconds_max,
            Class::Upload => UPLOAD_SECONDS_MAX.max(self.config.request_seconds_max),
            _ => self.config.request_seconds_max,
        };
        Duration::from_secs(seconds)
    }

    pub(crate) fn address(&self, parts: &Parts) -> IpAddr {
        address::address(parts, self.config.ip_from_forwarded_header)
    }

    pub(crate) fn origin(&self, parts: &Parts) -> Origin {
        Origin::of(parts, self.config.ip_from_forwarded_header)
    }

    pub(crate) fn check_address(&self, class: Class, parts: &Parts) -> Result<(), crate::ApiError> {
        let class = match class {
            Class::Free => return Ok(()),
            // What is limited per user where there is one.
            Class::Read | Class::Write | Class::Search | Class::Sync | Class::Upload | Class::Preview => {
                Class::Anonymous
            }
            other => other,
        };
        self.limits.check_address(class, self.address(parts))
    }
}
