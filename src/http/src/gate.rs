//! What every request passes: limits, authentication, the tasks that outlive their connection.

use std::net::IpAddr;

use ruma::exports::http::request::Parts;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Authenticate, Config, Origin, address,
    limit::{Class, Limits},
};

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

    pub(crate) fn address(&self, parts: &Parts) -> IpAddr {
        address::address(parts, &self.config.trusted_proxies)
    }

    pub(crate) fn origin(&self, parts: &Parts) -> Origin {
        Origin::of(parts, &self.config.trusted_proxies)
    }

    pub(crate) fn check_address(&self, class: Class, parts: &Parts) -> Result<(), crate::ApiError> {
        if class == Class::Free {
            return Ok(());
        }
        self.limits.check_address(class, self.address(parts))
    }
}
