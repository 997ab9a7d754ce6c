//! Who gets how much of the server: everything that keeps a client, a user or an address from taking what others need.
//!
//! - `classes`: what a request counts as, with the limit of each class
//! - `limit`: how often (token buckets), and what a request cost beyond its one unit, charged afterwards
//! - `shares`: how much at a time: connections for each network, bytes of request bodies, bytes of answers
//! - `answers`: large answers that wait for their clients, and who may have one made
//! - `metered`: what answers cost that are made as they are taken
//! - `polls`: requests that wait for news
//! - `flow`, `wire` and `streams`: a connection, which ends when its client takes too slowly what it asked for, or does nothing
//! - `address`: whom a request comes from, also behind proxies

pub(crate) mod address;
pub(crate) mod answers;
mod classes;
pub(crate) mod flow;
pub mod limit;
mod metered;
pub(crate) mod polls;
mod shards;
pub(crate) mod shares;
pub(crate) mod streams;
pub(crate) mod wire;

use std::{net::IpAddr, sync::Arc};

use ruma::exports::http::{HeaderMap, request::Parts};

use self::{
    address::{Networks, Peer},
    answers::Answers,
    limit::{Class, Limits},
    polls::Polls,
    shares::{Share, Shares},
};
use crate::{AnyAccount, ApiError, Config};

/// Bytes of request bodies that are held at a time, of all clients.
const BODIES_BYTES_MAX: u64 = 64 << 20;
/// Bytes of request bodies that are held at a time, of one user or, without an account, of one network: two of the largest.
const BODIES_BYTES_PER_CLIENT_MAX: u64 = 8 << 20;

/// All limits of one server.
pub(crate) struct Admission {
    pub(crate) limits: Arc<Limits>,
    pub(crate) answers: Arc<Answers>,
    pub(crate) polls: Arc<Polls>,
    pub(crate) bodies: Arc<Shares>,
    connections: Arc<Shares>,
    uncounted: Networks,
    proxies: Networks,
}

/// Whose a request is, for what is counted by user or, without one, by network.
#[derive(Copy, Clone)]
pub(crate) struct Client {
    pub(crate) key: u64,
    is_user: bool,
}

impl Client {
    /// What a request of this class counts as.
    fn class(self, class: Class) -> Class {
        if self.is_user { class } else { class.of_address() }
    }
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Self {
        let per_client = BODIES_BYTES_PER_CLIENT_MAX.max(config.max_json_request_size as u64);
        Self {
            limits: Arc::new(Limits::new(&config.rate_limit)),
            answers: Arc::new(Answers::new()),
            polls: Arc::default(),
            bodies: Shares::new(per_client, BODIES_BYTES_MAX.max(per_client)),
            connections: Shares::new(config.max_connections_per_address as u64, u64::MAX),
            uncounted: config.uncounted_networks.clone(),
            proxies: config.trusted_proxies.clone(),
        }
    }

    /// The client's address.
    pub(crate) fn address(&self, parts: &Parts) -> IpAddr {
        address::of_client(parts.extensions.get(), &parts.headers, &self.proxies)
    }

    /// A place for a connection; an error if the network of its other end has as many as it may. Nothing is counted of proxies, through
    /// which everybody comes.
    pub(crate) fn connect(&self, peer: IpAddr) -> Result<Option<Share>, ApiError> {
        let peer = peer.to_canonical();
        if self.uncounted.contains(peer) || self.proxies.contains(peer) {
            return Ok(None);
        }
        self.place(peer).map(Some)
    }

    /// A place for a request that a proxy hands on, instead of its client's connection.
    pub(crate) fn forward(&self, peer: Peer, headers: &HeaderMap) -> Result<Option<Share>, ApiError> {
        if !self.proxies.contains(peer.0.ip().to_canonical()) {
            return Ok(None);
        }
        let client = address::of_client(Some(&peer), headers, &self.proxies);
        if self.uncounted.contains(client) || self.proxies.contains(client) {
            return Ok(None);
        }
        self.place(client).map(Some)
    }

    fn place(&self, address: IpAddr) -> Result<Share, ApiError> {
        self.connections.take(self.limits.network_key(address), 1).ok_or_else(answers::busy)
    }

    /// Counts a request without an account.
    pub(crate) fn check_address(&self, class: Class, parts: &Parts) -> Result<(), ApiError> {
        match class.of_address() {
            Class::Free => Ok(()),
            class => self.limits.check_address(class, self.address(parts)),
        }
    }

    /// Whose a request is.
    pub(crate) fn client(&self, account: Option<&AnyAccount>, parts: &Parts) -> Client {
        match account {
            Some(account) => Client { key: self.limits.user_key(&account.user), is_user: true },
            None => Client { key: self.limits.network_key(self.address(parts)), is_user: false },
        }
    }

    /// Counts what a request has turned out to cost beyond its one unit.
    pub(crate) fn charge(&self, class: Class, client: Client, units: u64) {
        self.limits.charge(client.class(class), client.key, units);
    }
}
