//! What an admin may set about listening and limits.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::limit;

/// The `http` section of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Vec<Listen>,
    /// Greatest number of connections at a time; further ones wait to be accepted.
    pub connections_max: usize,
    /// Greatest size of a request's body, uploaded files included, in bytes (`max_request_size`).
    pub request_bytes_max: usize,
    /// Longest time that a request other than a long poll may take, in seconds.
    pub request_seconds_max: u64,
    /// Longest time that a long poll may take, in seconds: somewhat more than `/sync` waits.
    pub long_poll_seconds_max: u64,
    /// Time that requests in progress are given to finish at shutdown, in seconds.
    pub shutdown_seconds_max: u64,
    /// Compress answers for clients that accept it.
    pub compression: bool,
    /// Take a client's address from the last entry of `X-Forwarded-For`: only with a reverse proxy that sets it.
    pub ip_from_forwarded_header: bool,
    /// Where users read about the limits of their accounts.
    pub info_uri: String,
    /// Rate limits.
    pub limits: limit::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Listen { address: SocketAddr::from(([127, 0, 0, 1], 8008)), tls: None }],
            connections_max: 16_384,
            request_bytes_max: 1 << 20,
            request_seconds_max: 60,
            long_poll_seconds_max: 330,
            shutdown_seconds_max: 20,
            compression: true,
            ip_from_forwarded_header: false,
            info_uri: String::new(),
            limits: limit::Config::default(),
        }
    }
}

/// One address to listen on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Certificate and key; without them the listener speaks plain HTTP, for a reverse proxy on the same machine.
    #[serde(default)]
    pub tls: Option<Tls>,
}

/// Where the certificate of a listener is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}
