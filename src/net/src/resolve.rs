//! Resolution of names into addresses that may be connected to.

use std::{io, net::SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::Guard;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// The system's resolver, behind a guard: what it gives is what is connected to.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    pub(crate) guard: Guard,
}

/// A name that has no address that may be connected to.
#[derive(Debug, thiserror::Error)]
#[error("the address is not allowed")]
pub(crate) struct Denied;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.guard.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.take(ADDRESSES_MAX).collect();
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
            }
            let allowed: Vec<_> = found.into_iter().filter(|address| guard.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(Denied.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
