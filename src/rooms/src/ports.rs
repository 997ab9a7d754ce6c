//! What the room engine needs from other servers, as ports that a higher layer implements.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, serde::Base64};
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

/// A room's state before an event, and the auth chain of that state.
#[derive(Clone, Debug, Default)]
pub struct StateEvents {
    /// The state events.
    pub state: Vec<Box<RawValue>>,
    /// The events that authorise them, and those that authorise those, and so on.
    pub auth_chain: Vec<Box<RawValue>>,
}

/// How far a question may go.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Only what this server has at hand.
    AtHand,
    /// Other servers may be asked.
    Network,
}

/// Other servers' rooms (server-server API, "Retrieving events", "Backfilling").
///
/// Answers are text from outside: nothing in them has been checked beyond their size. Each question ends within a time that the
/// implementation bounds.
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

    /// The state before an event, with the events themselves: one large answer instead of many small ones.
    async fn state(&self, from: &ServerName, room: &RoomId, event: &EventId) -> Result<StateEvents, RemoteError>;

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

/// Keys that are needed, by server and id: until when, in Unix ms, each has to be valid (0 if it only has to be the server's).
pub type NeededKeys = BTreeMap<OwnedServerName, BTreeMap<String, u64>>;

/// A key that a server publishes, or did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishedKey {
    /// Its public half.
    pub key: Base64,
    /// Until when events signed with it count, in Unix ms: `valid_until_ts`, which is at most seven days ahead, or `expired_ts`.
    pub valid_until_ms: u64,
}

/// What can be told of the keys of one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyAnswer {
    /// Those that were asked for and exist, by id. One that isn't here is none of the server's.
    Keys(BTreeMap<String, PublishedKey>),
    /// Nobody will ever tell.
    Never,
    /// Nobody tells now: neither the server nor one that knows its keys can be reached.
    NotNow,
}

/// The public keys of servers (server-server API, "Retrieving server keys").
#[async_trait]
pub trait ServerKeys: Send + Sync {
    /// The keys with these ids, of many servers at once. A server without an answer counts as [`KeyAnswer::NotNow`]. With
    /// [`Reach::AtHand`] nobody is asked: what isn't known is not known now.
    async fn public_keys(&self, needed: &NeededKeys, reach: Reach) -> BTreeMap<OwnedServerName, KeyAnswer>;
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

    async fn state(&self, from: &ServerName, _: &RoomId, _: &EventId) -> Result<StateEvents, RemoteError> {
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
    async fn public_keys(&self, _: &NeededKeys, _: Reach) -> BTreeMap<OwnedServerName, KeyAnswer> {
        BTreeMap::new()
    }
}

#[async_trait]
impl PolicySigner for NoFederation {
    async fn sign(&self, server: &ServerName, _: &RawValue) -> Result<String, RemoteError> {
        not_reachable(server)
    }
}
