//! Another server that shares rooms with the one under test, without a network between them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, Weak},
};

use async_trait::async_trait;
use rooms::{
    Asker, Config, KeyAnswer, MissingEvents, NeededKeys, PolicySigner, Ports, PublishedKey, Reach, RemoteError,
    RemoteRooms, Rooms, RoomsError, SendOptions, Sender, ServerKeys, StateEvents, StateIds,
};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId, serde::Base64,
};
use serde_json::{Value, value::RawValue};
use store::Store;
use testkit::{ManualClock, SeededRandom};

use super::raw;

/// The servers that see each other, by name.
#[derive(Default)]
pub struct Servers(Mutex<HashMap<OwnedServerName, Rooms>>);

impl Servers {
    /// The ports with which a server sees the others.
    pub fn ports(self: &Arc<Self>, own: &ServerName) -> Ports {
        let port = || Port { own: own.to_owned(), servers: Arc::downgrade(self) };
        Ports { remote: Arc::new(port()), keys: Arc::new(port()), policy: Arc::new(port()) }
    }

    /// Lets the others see a server.
    pub fn add(&self, rooms: &Rooms) {
        self.0.lock().unwrap().insert(rooms.server_name().to_owned(), rooms.clone());
    }

    /// Lets nobody see a server.
    pub fn remove(&self, rooms: &Rooms) {
        self.0.lock().unwrap().remove(rooms.server_name());
    }
}

struct Port {
    own: OwnedServerName,
    servers: Weak<Servers>,
}

impl Port {
    fn reach(&self, server: &ServerName) -> Result<Rooms, RemoteError> {
        let servers = self.servers.upgrade();
        let rooms = servers.and_then(|servers| servers.0.lock().unwrap().get(server).cloned());
        rooms.ok_or_else(|| RemoteError::NotReachable(server.to_owned()))
    }
}

fn refused(error: RoomsError) -> RemoteError {
    RemoteError::Refused(error.to_string())
}

#[async_trait]
impl RemoteRooms for Port {
    async fn event(&self, from: &ServerName, _: &RoomId, event: &EventId) -> Result<Box<RawValue>, RemoteError> {
        self.reach(from)?.serve_event(&Asker::new(&self.own), event).await.map_err(refused)
    }

    async fn missing_events(
        &self,
        from: &ServerName,
        room: &RoomId,
        request: MissingEvents,
    ) -> Result<Vec<Box<RawValue>>, RemoteError> {
        self.reach(from)?.serve_missing_events(&Asker::new(&self.own), room, &request).await.map_err(refused)
    }

    async fn state_ids(&self, from: &ServerName, room: &RoomId, event: &EventId) -> Result<StateIds, RemoteError> {
        self.reach(from)?.serve_state_ids(&Asker::new(&self.own), room, event).await.map_err(refused)
    }

    async fn state(&self, from: &ServerName, room: &RoomId, event: &EventId) -> Result<StateEvents, RemoteError> {
        self.reach(from)?.serve_state(&Asker::new(&self.own), room, event).await.map_err(refused)
    }

    async fn invite(
        &self,
        to: &ServerName,
        version: &RoomVersionId,
        invite: &RawValue,
        stripped: &[Box<RawValue>],
    ) -> Result<Box<RawValue>, RemoteError> {
        let event: Value = serde_json::from_str(invite.get()).unwrap();
        let room = RoomId::parse(event["room_id"].as_str().unwrap()).unwrap();
        let to = self.reach(to)?;
        let invite = to.check_invite(&self.own, &room, version, invite, stripped).await.map_err(refused)?;
        to.take_invite(&invite).await.map_err(refused)
    }

    async fn event_auth(
        &self,
        from: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Vec<Box<RawValue>>, RemoteError> {
        self.reach(from)?.serve_event_auth(&Asker::new(&self.own), room, event).await.map_err(refused)
    }

    async fn backfill(
        &self,
        from: &ServerName,
        room: &RoomId,
        events: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Box<RawValue>>, RemoteError> {
        self.reach(from)?.serve_backfill(&Asker::new(&self.own), room, events, limit).await.map_err(refused)
    }
}

#[async_trait]
impl ServerKeys for Port {
    async fn public_keys(&self, needed: &NeededKeys, _: Reach) -> BTreeMap<OwnedServerName, KeyAnswer> {
        let mut answers = BTreeMap::new();
        for server in needed.keys() {
            let Ok(rooms) = self.reach(server) else { continue };
            let key = rooms.signing_key();
            let published = PublishedKey { key: Base64::new(key.public_key().to_vec()), valid_until_ms: u64::MAX };
            let keys = BTreeMap::from([(key.id().to_owned(), published)]);
            answers.insert(server.clone(), KeyAnswer::Keys(keys));
        }
        answers
    }
}

#[async_trait]
impl PolicySigner for Port {
    async fn sign(&self, server: &ServerName, _: &RawValue) -> Result<String, RemoteError> {
        Err(RemoteError::NotReachable(server.to_owned()))
    }
}

/// The other server.
pub struct Far {
    pub rooms: Rooms,
    pub store: Store,
}

impl Far {
    pub async fn new(servers: &Arc<Servers>, clock: &Arc<ManualClock>, seed: u64) -> Self {
        let name: OwnedServerName = "far.test".try_into().unwrap();
        let store = Store::in_memory(&[rooms::TABLES]).await.unwrap();
        let ports = servers.ports(&name);
        let random = Arc::new(SeededRandom::new(!seed));
        let rooms = Rooms::open(Config::new(name), store.clone(), clock.clone(), random, ports);
        let rooms = rooms.await.unwrap();
        servers.add(&rooms);
        Self { rooms, store }
    }

    pub fn user(&self, name: &str) -> OwnedUserId {
        UserId::parse(format!("@{name}:{}", self.rooms.server_name())).unwrap()
    }

    /// Brings a user of this server into a room by way of another server.
    pub async fn join(&self, here: &Rooms, room: &RoomId, user: &UserId) {
        let template = here.make_join(room, user, &event::SUPPORTED_ROOM_VERSIONS).await.unwrap();
        let join = self.rooms.complete_join(room, user, &template, None).unwrap();
        let answer = here.send_join(&Asker::new(self.rooms.server_name()), room, join.json()).await.unwrap();
        self.rooms.enter(here.server_name(), room, &template.version, &answer).await.unwrap();
    }

    /// Sends something; `None` if that isn't allowed.
    pub async fn act(
        &self,
        user: &UserId,
        room: &RoomId,
        key: (&str, Option<&str>),
        content: &Value,
    ) -> Option<OwnedEventId> {
        act(&self.rooms, user, room, key, content).await
    }
}

/// Sends something; `None` if that isn't allowed.
pub async fn act(
    rooms: &Rooms,
    user: &UserId,
    room: &RoomId,
    (event_type, state_key): (&str, Option<&str>),
    content: &Value,
) -> Option<OwnedEventId> {
    let (sender, content, options) = (Sender::user(user), raw(content), SendOptions::default());
    let sent = match state_key {
        Some(key) => {
            rooms.send_state(&sender, room, rooms::NewState::new((event_type, key), content).unwrap(), options).await
        }
        None => rooms.send(&sender, room, event_type, content, options).await,
    };
    sent.ok().map(|sent| sent.event_id)
}

/// Hands events of one server to the other.
pub async fn deliver(from: &Rooms, store: &Store, to: &Rooms, room: &RoomId, events: &[OwnedEventId]) {
    let view = store.view().await.unwrap();
    let mut pdus = Vec::new();
    for id in events {
        let event = from.event_by_id(&view, id).await.unwrap().unwrap();
        pdus.push(event.pdu.as_received().json().to_owned());
    }
    to.receive(from.server_name(), room, &pdus).await.unwrap();
    to.work_inbox(room).await.unwrap();
}
