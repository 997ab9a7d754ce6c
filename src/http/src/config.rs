//! What an admin decides about listening and limits.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use settings::{Fault, Seconds, Settings, Table, refuse};

use crate::{Networks, limit};

/// The least that a limit of bodies may be: a whole event has to come through.
const EVENT_BYTES_MAX: usize = 65_536;
/// The most that a limit of bodies of JSON may be.
const JSON_BYTES_MAX: usize = 64 << 20;

/// Settings of listening and limits.
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Config {
    /// The addresses to listen on: one, or a list.
    pub address: OneOrMany<IpAddr>,

    /// The ports to listen on, at each address: one, or a list.
    pub port: OneOrMany<u16>,

    /// Certificates for HTTPS by this server itself. Leave it out behind a reverse proxy.
    pub tls: Option<Tls>,

    /// How many connections one address may have at a time (of IPv6, one network of 64 bits). Connections from this machine and
    /// from `trusted_proxies` are not counted; of requests that those hand on, each counts as one from its client.
    pub max_connections_per_address: usize,

    /// Reverse proxies, as addresses or networks, whose `X-Forwarded-For` tells where a request comes from; any number may stand in
    /// a row. Whoever else sends the header is not believed.
    pub trusted_proxies: Networks,

    /// The largest body of a request that is no file, in bytes. The largest that clients send are keys for many devices and for
    /// backups.
    pub max_json_request_size: usize,

    /// Seconds after which a request that is not a long poll is given up.
    pub client_request_timeout: Seconds,

    /// Seconds that a shutdown waits for requests under way.
    pub client_shutdown_timeout: Seconds,

    /// Rate limits by kind of request. A request over the limit is answered `M_LIMIT_EXCEEDED` with the time to wait.
    pub rate_limit: limit::Config,

    /// Greatest number of connections at a time; further ones wait to be accepted.
    #[serde(skip)]
    pub connections_max: usize,
    /// Networks whose connections are not counted by address.
    #[serde(skip)]
    pub uncounted_networks: Networks,
    /// Greatest size of an uploaded file, in bytes.
    #[serde(skip)]
    pub upload_bytes_max: usize,
    /// The longest time that a request waits for news before it is answered all the same.
    #[serde(skip)]
    pub poll_max: Seconds,
    /// Compress answers for clients that accept it.
    #[serde(skip)]
    pub compression: bool,
    /// Where users read about the limits of their accounts.
    #[serde(skip)]
    pub info_uri: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: OneOrMany::Many(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
            port: OneOrMany::Many(vec![8008]),
            tls: None,
            max_connections_per_address: 2_048,
            trusted_proxies: Networks::default(),
            max_json_request_size: 4 << 20,
            client_request_timeout: Seconds::of(60),
            client_shutdown_timeout: Seconds::of(10),
            rate_limit: limit::Config::default(),
            connections_max: 16_384,
            uncounted_networks: Networks::loopback(),
            upload_bytes_max: 20 << 20,
            poll_max: Seconds::of(300),
            compression: true,
            info_uri: String::new(),
        }
    }
}

impl Config {
    /// Where to listen: at each address, each port.
    pub(crate) fn sockets(&self) -> Vec<SocketAddr> {
        let mut sockets = Vec::new();
        for address in self.address.as_slice() {
            sockets.extend(self.port.as_slice().iter().map(|port| SocketAddr::new(*address, *port)));
        }
        sockets
    }
}

impl Settings for Config {
    fn faults(&self) -> Vec<Fault> {
        refuse([
            ("address", self.address.as_slice().is_empty(), "needs at least one address"),
            ("port", self.port.as_slice().is_empty(), "needs at least one port"),
            ("max_connections_per_address", self.max_connections_per_address == 0, "must be at least 1"),
            (
                "max_json_request_size",
                !(EVENT_BYTES_MAX..=JSON_BYTES_MAX).contains(&self.max_json_request_size),
                "must be from 65536, the size of an event, to 67108864",
            ),
            ("client_request_timeout", self.client_request_timeout.is_zero(), "must be at least 1"),
        ])
    }

    fn tables() -> Vec<Table> {
        vec![Table::of::<Tls>("tls"), Table::of::<limit::Config>("rate_limit")]
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A single value.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values in order.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// HTTPS by the server itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Tls {
    /// PEM file with the certificate and those of its issuers.
    pub certs: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}
