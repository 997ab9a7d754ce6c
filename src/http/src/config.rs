//! What an admin may set about listening and limits.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Networks, limit};

/// The `http` section of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Vec<Listen>,
    /// Greatest number of connections at a time; further ones wait to be accepted.
    pub connections_max: usize,
    /// Greatest number of connections at a time from one address (of IPv6: from a network of 64 bits); further ones are closed. Of
    /// requests that a trusted proxy hands on, each counts as one from its client.
    pub connections_per_address_max: usize,
    /// Networks whose connections are not counted by address.
    pub uncounted_networks: Networks,
    /// Greatest size of an uploaded file, in bytes (`max_request_size`).
    pub request_bytes_max: usize,
    /// Greatest size of a request's body that is JSON, in bytes (`max_json_request_size`).
    pub json_bytes_max: usize,
    /// Longest time that a request other than a long poll may take, in seconds.
    pub request_seconds_max: u64,
    /// Longest time that a long poll may take, in seconds: somewhat more than `/sync` waits.
    pub long_poll_seconds_max: u64,
    /// Time that requests in progress are given to finish at shutdown, in seconds.
    pub shutdown_seconds_max: u64,
    /// Compress answers for clients that accept it.
    pub compression: bool,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
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
            connections_per_address_max: 2_048,
            uncounted_networks: Networks::loopback(),
            request_bytes_max: 1 << 20,
            json_bytes_max: 4 << 20,
            request_seconds_max: 60,
            long_poll_seconds_max: 330,
            shutdown_seconds_max: 20,
            compression: true,
            trusted_proxies: Networks::default(),
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}
