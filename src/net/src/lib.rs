//! The one HTTP client: every connection that this server opens to an address that somebody else names goes through it.
//!
//! A request has time limits, a size limit, and a bound on redirects. Each host is resolved by [`Guard`]ed resolution: an
//! address in the deny list (private networks, this machine, and the like) is never connected to, and what was checked
//! is what is connected to, so that a name that changes its address between two look-ups gains nothing. Proxies of the
//! environment are not used: they would connect on our behalf to what we refuse.

mod client;
mod guard;
mod resolve;
mod tls;

pub use client::{Answer, Client, Config, Error, Headers, Limits};
pub use guard::{DENIED_DEFAULT, Guard};
pub use reqwest::{Url, header::HeaderMap};
pub use tls::client_config;
