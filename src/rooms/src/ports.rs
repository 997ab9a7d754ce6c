//! What the room engine needs from other servers, as ports that a higher layer implements.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use event::PublicKeyMap;
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName};
use serde_json::value::RawValue;

/// Why another server gave no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// It can't be reached (now); asking later can succeed.
    #[error("server {0} is not reachable")]
    NotReachable(OwnedServerName),
    /// It answered that it doesn't have it or refuses.
    #[error("the other server refuses: {0}")]
    Refused(String),
    /// Its answer is malformed or over a limit.
    #[error("the other server's answer can't be used: {0}")]
    BadAnswer(String),
}

/// A question for the events between two sets of events (server-server API, `get_missing_events`).
#[derive(Clone, Debug)]
pub struct MissingEvents {
    /// The newest events that we have.
    pub earliest: Vec<OwnedEventId>,
    /// The events whose ancestors are asked for.
    pub latest: Vec<OwnedEventId>,
    /// How many events at most.
    pub limit: usize,
    /// Events below this depth aren't wanted.
    pub min_depth: u64,
}

/// The ids of a room's state before an event, and of the auth chain of that state.
#[derive(Clone, Debug, Default)]
pub struct StateIds {
    /// The state events.
    pub state: Vec<OwnedEventId>,
    /// The events that authorise them, and those that authorise those, and so on.
    pub auth_chain: Vec<OwnedEventId>,
}

/// Other servers' rooms (server-server API, "Retrieving events", "Backfilling").
///
/// Answers are text from outside: nothing in them has been checked beyond their size.
#[async_trait]
pub trait RemoteRooms: Send + Sync {
    /// One event.
    async fn event(&self, from: &ServerName, room: &RoomId, event: &EventId) -> Result<Box<RawValue>, RemoteError>;

    /// The events between two sets.
    async fn missing_events(
        &self,
        from: &ServerName,
        room: &RoomId,
        request: MissingEvents,
    ) -> Result<Vec<Box<RawValue>>, RemoteError>;

    /// The state before an event, by ids.
    async fn state_ids(&self, from: &ServerName, room: &RoomId, event: &EventId) -> Result<StateIds, RemoteError>;

    /// Hands an invite to the server of the invited user, with stripped state of the room. The answer is the event with that
    /// server's signature beside ours.
    async fn invite(
        &self,
        to: &ServerName,
        version: &RoomVersionId,
        event: &RawValue,
        stripped_state: &[Box<RawValue>],
    ) -> Result<Box<RawValue>, RemoteError>;

    /// The full auth chain of an event.
    async fn event_auth(
        &self,
        from: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Vec<Box<RawValue>>, RemoteError>;

    /// Up to `limit` events before, and including, `events`.
    async fn backfill(
        &self,
        from: &ServerName,
        room: &RoomId,
        events: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Box<RawValue>>, RemoteError>;
}

/// The public keys of servers (server-server API, "Retrieving server keys").
#[async_trait]
pub trait ServerKeys: Send + Sync {
    /// The keys with these ids. `valid_at_ms` (Unix ms) is given where a key must have been valid at that time.
    /// Keys that can't be had are left out: verification then fails.
    async fn public_keys(
        &self,
        needed: &BTreeMap<OwnedServerName, BTreeSet<String>>,
        valid_at_ms: Option<u64>,
    ) -> PublicKeyMap;
}

/// Policy servers (server-server API, "Policy Servers").
#[async_trait]
pub trait PolicySigner: Send + Sync {
    /// Asks `server` to sign an event of a room that uses it. The answer is the signature in unpadded base64
    /// by the key `ed25519:policy_server`, or why there is none.
    async fn sign(&self, server: &ServerName, event: &RawValue) -> Result<String, RemoteError>;
}

/// All ports together.
#[derive(Clone)]
pub struct Ports {
    /// Other servers' rooms.
    pub remote: Arc<dyn RemoteRooms>,
    /// Other servers' keys.
    pub keys: Arc<dyn ServerKeys>,
    /// Policy servers.
    pub policy: Arc<dyn PolicySigner>,
}

impl Ports {
    /// Ports of a server that doesn't take part in federation.
    pub fn no_federation() -> Self {
        Self { remote: Arc::new(NoFederation), keys: Arc::new(NoFederation), policy: Arc::new(NoFederation) }
    }
}

/// A world without other servers: every question is answered with "not reachable".
#[derive(Copy, Clone, Debug, Default)]
pub struct NoFederation;

fn not_reachable<T>(server: &ServerName) -> Result<T, RemoteError> {
    Err(RemoteError::NotReachable(server.to_owned()))
}

#[async_trait]
impl RemoteRooms for NoFederation {
    async fn event(&self, from: &ServerName, _: &RoomId, _: &EventId) -> Result<Box<RawValue>, RemoteError> {
        not_reachable(from)
    }

    async fn missing_events(
        &self,
        from: &ServerName,
        _: &RoomId,
        _: MissingEvents,
    ) -> Result<Vec<Box<RawValue>>, RemoteError> {
        not_reachable(from)
    }

    async fn state_ids(&self, from: &ServerName, _: &RoomId, _: &EventId) -> Result<StateIds, RemoteError> {
        not_reachable(from)
    }

    async fn invite(
        &self,
        to: &ServerName,
        _: &RoomVersionId,
        _: &RawValue,
        _: &[Box<RawValue>],
    ) -> Result<Box<RawValue>, RemoteError> {
        not_reachable(to)
    }

    async fn event_auth(&self, from: &ServerName, _: &RoomId, _: &EventId) -> Result<Vec<Box<RawValue>>, RemoteError> {
        not_reachable(from)
    }

    async fn backfill(
        &self,
        from: &ServerName,
        _: &RoomId,
        _: &[OwnedEventId],
        _: usize,
    ) -> Result<Vec<Box<RawValue>>, RemoteError> {
        not_reachable(from)
    }
}

#[async_trait]
impl ServerKeys for NoFederation {
    async fn public_keys(&self, _: &BTreeMap<OwnedServerName, BTreeSet<String>>, _: Option<u64>) -> PublicKeyMap {
        PublicKeyMap::new()
    }
}

#[async_trait]
impl PolicySigner for NoFederation {
    async fn sign(&self, server: &ServerName, _: &RawValue) -> Result<String, RemoteError> {
        not_reachable(server)
    }
}
