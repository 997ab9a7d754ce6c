//! One server or several in one process, with a clock that stands still.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, Weak},
};

use async_trait::async_trait;
use event::Clock;
use rooms::{
    Asker, Config, Cpu, CreateRoom, KeyAnswer, MissingEvents, NeededKeys, NewState, PolicySigner, Ports, Preset,
    PublishedKey, Reach, RemoteError, RemoteRooms, Rooms, RoomsError, SendOptions, Sender, ServerKeys, StateEvents,
    StateIds, TABLES,
};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    serde::Base64,
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use store::{Store, View};
use testkit::{ManualClock, SeededRandom};
use tokio::sync::Semaphore;

pub fn raw(value: Value) -> Box<RawValue> {
    to_raw_value(&value).expect("JSON")
}

pub fn user(name: &str) -> OwnedUserId {
    UserId::parse(name).expect("a user id")
}

/// What one server sees of the others: their rooms, directly.
#[derive(Default)]
pub struct Others {
    servers: Mutex<HashMap<OwnedServerName, (Rooms, String, Base64)>>,
    /// Servers that nobody reaches.
    pub down: Mutex<BTreeSet<OwnedServerName>>,
    /// The key of the policy server, while it recommends anything.
    pub policy: Mutex<Option<event::SigningKey>>,
    /// What is told of the keys of some servers, instead of what they are.
    pub keys: Mutex<BTreeMap<OwnedServerName, KeyAnswer>>,
    /// Servers that never answer a question, and never refuse one.
    pub silent: Mutex<BTreeSet<OwnedServerName>>,
    /// Questions to silent servers that were begun, and that were given up.
    pub begun: Counted,
    pub given_up: Counted,
    /// Servers of whose answers some of what they hold is false, and what decides that.
    pub liars: Mutex<BTreeMap<OwnedServerName, SeededRandom>>,
    /// How often what was asked.
    pub asked: Mutex<BTreeMap<&'static str, usize>>,
    /// Events that nobody gives, nor tells about.
    pub hidden: Mutex<BTreeSet<OwnedEventId>>,
    /// What is told of the state before some events, instead of what it is.
    pub told: Mutex<BTreeMap<OwnedEventId, StateIds>>,
    /// Pairs of servers that don't reach each other.
    pub cut: Mutex<BTreeSet<(OwnedServerName, OwnedServerName)>>,
}

/// Something that is counted and can be waited for.
pub struct Counted(Semaphore);

impl Default for Counted {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Counted {
    fn add(&self) {
        self.0.add_permits(1);
    }

    /// Waits until it has been counted so often since the last time.
    pub async fn wait_for(&self, count: u32) {
        self.0.acquire_many(count).await.expect("never closed").forget();
    }
}

/// What a liar makes of an event.
fn lie(random: &SeededRandom, event: Box<RawValue>) -> Vec<Box<RawValue>> {
    let mut json: Value = serde_json::from_str(event.get()).expect("JSON");
    match random.below(16) {
        0 => return Vec::new(),
        1 => return vec![event.clone(), event],
        2 => return vec![raw(json!(17))],
        3 => json["content"] = json!({ "body": "a lie", "membership": "ban" }),
        4 => json["signatures"] = json!({}),
        5 => json["room_id"] = json!("!other:here"),
        6 => json["depth"] = json!((1_u64 << 53) - 1),
        7 => json["prev_events"] = json!(["$unknown", "$more-unknown"]),
        8 => json["auth_events"] = json!(["$unknown"]),
        9 => json["unsigned"] = json!({ "age": "x".repeat(10_000) }),
        10 => json["sender"] = json!("@nobody:nowhere"),
        _ => return vec![event],
    }
    vec![raw(json)]
}

/// Counts a question that ends without an answer.
struct GivenUp(Arc<Others>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.given_up.add();
    }
}

/// The ports of one server.
struct Port {
    own: OwnedServerName,
    others: Weak<Others>,
}

impl Port {
    /// A server that is asked something.
    async fn ask(&self, server: &ServerName, what: &'static str) -> Result<Rooms, RemoteError> {
        let rooms = self.reach(server)?;
        let others = self.others.upgrade().expect("the world goes on");
        *others.asked.lock().expect("not poisoned").entry(what).or_default() += 1;
        let silent = others.silent.lock().expect("not poisoned").contains(server);
        if silent {
            let _given_up = GivenUp(others.clone());
            others.begun.add();
            std::future::pending::<()>().await;
        }
        Ok(rooms)
    }

    /// Events as a server tells them.
    fn told(&self, by: &ServerName, events: Vec<Box<RawValue>>) -> Vec<Box<RawValue>> {
        let others = self.others.upgrade().expect("the world goes on");
        let liars = others.liars.lock().expect("not poisoned");
        let Some(random) = liars.get(by) else { return events };
        events.into_iter().flat_map(|event| lie(random, event)).collect()
    }

    fn told_ids(&self, by: &ServerName, ids: Vec<OwnedEventId>) -> Vec<OwnedEventId> {
        let others = self.others.upgrade().expect("the world goes on");
        let liars = others.liars.lock().expect("not poisoned");
        let Some(random) = liars.get(by) else { return ids };
        let lie = |id: OwnedEventId| match random.below(12) {
            0 => vec![],
            1 => vec![id.clone(), id],
            2 => vec![EventId::parse(format!("$unknown{}", random.below(1_000))).expect("an id")],
            _ => vec![id],
        };
        ids.into_iter().flat_map(lie).collect()
    }

    fn reach(&self, server: &ServerName) -> Result<Rooms, RemoteError> {
        let unreachable = || RemoteError::NotReachable(server.to_owned());
        let others = self.others.upgrade().ok_or_else(unreachable)?;
        let down = others.down.lock().expect("not poisoned");
        if down.contains(server) || down.contains(&self.own) {
            return Err(unreachable());
        }
        let cut = others.cut.lock().expect("not poisoned");
        if cut.iter().any(|(from, to)| *from == self.own && to == server) {
            return Err(unreachable());
        }
        let servers = others.servers.lock().expect("not poisoned");
        servers.get(server).map(|(rooms, _, _)| rooms.clone()).ok_or_else(unreachable)
    }
}

impl Port {
    fn unless_hidden(&self, event: &EventId) -> Result<(), RemoteError> {
        let others = self.others.upgrade().expect("the world goes on");
        let hidden = others.hidden.lock().expect("not poisoned");
        // In more words than anybody should have to keep.
        if hidden.contains(event) { Err(RemoteError::Refused("hidden ".repeat(200_000))) } else { Ok(()) }
    }
}

fn refused(error: RoomsError) -> RemoteError {
    RemoteError::Refused(error.to_string())
}

#[async_trait]
impl RemoteRooms for Port {
    async fn event(&self, from: &ServerName, _: &RoomId, event: &EventId) -> Result<Box<RawValue>, RemoteError> {
        self.unless_hidden(event)?;
        let event = self.ask(from, "event").await?.serve_event(&Asker::new(&self.own), event).await.map_err(refused)?;
        self.told(from, vec![event]).pop().ok_or_else(|| RemoteError::Refused("nothing to tell".to_owned()))
    }

    async fn missing_events(
        &self,
        from: &ServerName,
        room: &RoomId,
        request: MissingEvents,
    ) -> Result<Vec<Box<RawValue>>, RemoteError> {
        let others = self.others.upgrade().expect("the world goes on");
        if !others.hidden.lock().expect("not poisoned").is_empty() {
            return Ok(Vec::new());
        }
        let events = self
            .ask(from, "missing_events")
            .await?
            .serve_missing_events(&Asker::new(&self.own), room, &request)
            .await
            .map_err(refused)?;
        Ok(self.told(from, events))
    }

    async fn state_ids(&self, from: &ServerName, room: &RoomId, event: &EventId) -> Result<StateIds, RemoteError> {
        self.unless_hidden(event)?;
        let others = self.others.upgrade().expect("the world goes on");
        if let Some(told) = others.told.lock().expect("not poisoned").get(event) {
            return Ok(told.clone());
        }
        let ids = self
            .ask(from, "state_ids")
            .await?
            .serve_state_ids(&Asker::new(&self.own), room, event)
            .await
            .map_err(refused)?;
        Ok(StateIds { state: self.told_ids(from, ids.state), auth_chain: self.told_ids(from, ids.auth_chain) })
    }

    async fn state(&self, from: &ServerName, room: &RoomId, event: &EventId) -> Result<StateEvents, RemoteError> {
        let told =
            self.ask(from, "state").await?.serve_state(&Asker::new(&self.own), room, event).await.map_err(refused)?;
        Ok(StateEvents { state: self.told(from, told.state), auth_chain: self.told(from, told.auth_chain) })
    }

    async fn invite(
        &self,
        to: &ServerName,
        version: &RoomVersionId,
        event: &RawValue,
        stripped: &[Box<RawValue>],
    ) -> Result<Box<RawValue>, RemoteError> {
        let json: Value = serde_json::from_str(event.get()).expect("JSON");
        let room = RoomId::parse(json["room_id"].as_str().expect("a room")).expect("a room id");
        let to = self.reach(to)?;
        let invite = to.check_invite(&self.own, &room, version, event, stripped).await.map_err(refused)?;
        to.take_invite(&invite).await.map_err(refused)
    }

    async fn event_auth(
        &self,
        from: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Vec<Box<RawValue>>, RemoteError> {
        let events = self
            .ask(from, "event_auth")
            .await?
            .serve_event_auth(&Asker::new(&self.own), room, event)
            .await
            .map_err(refused)?;
        Ok(self.told(from, events))
    }

    async fn backfill(
        &self,
        from: &ServerName,
        room: &RoomId,
        events: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Box<RawValue>>, RemoteError> {
        let events = self
            .ask(from, "backfill")
            .await?
            .serve_backfill(&Asker::new(&self.own), room, events, limit)
            .await
            .map_err(refused)?;
        Ok(self.told(from, events))
    }
}

#[async_trait]
impl ServerKeys for Port {
    async fn public_keys(&self, needed: &NeededKeys, _: Reach) -> BTreeMap<OwnedServerName, KeyAnswer> {
        let mut answers = BTreeMap::new();
        let Some(others) = self.others.upgrade() else { return answers };
        let servers = others.servers.lock().expect("not poisoned");
        let scripted = others.keys.lock().expect("not poisoned");
        for server in needed.keys() {
            if let Some(answer) = scripted.get(server) {
                answers.insert(server.clone(), answer.clone());
            } else if let Some((_, id, key)) = servers.get(server) {
                let published = PublishedKey { key: key.clone(), valid_until_ms: u64::MAX };
                answers.insert(server.clone(), KeyAnswer::Keys(BTreeMap::from([(id.clone(), published)])));
            }
        }
        answers
    }
}

#[async_trait]
impl PolicySigner for Port {
    async fn sign(&self, server: &ServerName, event: &RawValue) -> Result<String, RemoteError> {
        let others = self.others.upgrade().expect("the world goes on");
        let policy = others.policy.lock().expect("not poisoned").clone();
        let Some(key) = policy else { return Err(RemoteError::Refused("not recommended".to_owned())) };
        let rules = event::rules(&RoomVersionId::V12).expect("rules");
        let pdu = event::Pdu::parse(event.get().as_bytes(), rules).expect("an event");
        let signed = event::countersign(&pdu, rules, &key, server).expect("signed");
        let json: Value = serde_json::from_str(signed.json().get()).expect("JSON");
        Ok(json["signatures"][server.as_str()][key.id()].as_str().expect("a signature").to_owned())
    }
}

pub struct World {
    pub name: OwnedServerName,
    pub rooms: Rooms,
    pub store: Store,
    pub clock: Arc<ManualClock>,
    pub others: Arc<Others>,
    /// Who may compute for long here.
    pub cpu: Cpu,
}

impl World {
    /// A server alone in the world.
    pub async fn new() -> Self {
        Self::named("here", Arc::default(), Arc::default()).await
    }

    /// A server among others.
    pub async fn named(name: &str, others: Arc<Others>, clock: Arc<ManualClock>) -> Self {
        let store = Store::in_memory(&[TABLES]).await.expect("a store");
        Self::on(name, others, clock, store).await
    }

    /// A server on a store that may have been used before.
    pub async fn on(name: &str, others: Arc<Others>, clock: Arc<ManualClock>, store: Store) -> Self {
        Self::configured(Config::new(name.try_into().expect("a server name")), others, clock, store).await
    }

    pub async fn configured(config: Config, others: Arc<Others>, clock: Arc<ManualClock>, store: Store) -> Self {
        let name = config.server_name.clone();
        let seed = name.as_str().bytes().fold(11, |seed, byte| seed * 31 + u64::from(byte)) ^ store.boot_id();
        let port = || Port { own: name.clone(), others: Arc::downgrade(&others) };
        let ports = Ports { remote: Arc::new(port()), keys: Arc::new(port()), policy: Arc::new(port()) };
        let random = Arc::new(SeededRandom::new(seed));
        let cpu = config.cpu.clone();
        let rooms = Rooms::open(config, store.clone(), clock.clone(), random, ports).await;
        let rooms = rooms.expect("rooms open");
        let key = rooms.signing_key();
        let public = (rooms.clone(), key.id().to_owned(), Base64::new(key.public_key().to_vec()));
        others.servers.lock().expect("not poisoned").insert(name.clone(), public);
        Self { name, rooms, store, clock, others, cpu }
    }

    pub async fn view(&self) -> View {
        self.store.view().await.unwrap()
    }

    pub fn user(&self, localpart: &str) -> OwnedUserId {
        user(&format!("@{localpart}:{}", self.name))
    }

    pub async fn room(&self, creator: &UserId, preset: Preset, version: &RoomVersionId) -> OwnedRoomId {
        let mut request = CreateRoom::new(creator.to_owned());
        request.preset = Some(preset);
        request.version = Some(version.clone());
        self.rooms.create(&request).await.expect("a room")
    }

    pub async fn public_room(&self, creator: &UserId) -> OwnedRoomId {
        self.room(creator, Preset::PublicChat, &RoomVersionId::V12).await
    }

    pub async fn say(&self, sender: &UserId, room: &RoomId, text: &str) -> Result<OwnedEventId, RoomsError> {
        self.clock.advance(1);
        let content = raw(json!({ "msgtype": "m.text", "body": text }));
        let sender = Sender::user(sender);
        let sent = self.rooms.send(&sender, room, "m.room.message", content, SendOptions::default()).await?;
        Ok(sent.event_id)
    }

    pub async fn set(
        &self,
        sender: &UserId,
        room: &RoomId,
        key: (&str, &str),
        content: Value,
    ) -> Result<OwnedEventId, RoomsError> {
        self.clock.advance(1);
        let sent = self
            .rooms
            .send_state(&Sender::user(sender), room, NewState::new(key, raw(content))?, SendOptions::default())
            .await?;
        Ok(sent.event_id)
    }

    /// The content of a state event now.
    pub async fn state(&self, room: &RoomId, event_type: &str, state_key: &str) -> Option<Value> {
        let event = match self.rooms.current_event(&self.view().await, room, event_type, state_key).await {
            Ok(event) => event,
            Err(RoomsError::RoomNotFound) => None,
            Err(error) => panic!("{error}"),
        };
        event.map(|event| event.pdu.as_received().content_as().expect("JSON"))
    }

    pub async fn membership(&self, room: &RoomId, user: &UserId) -> rooms::Membership {
        self.rooms
            .current_state(&self.view().await, room)
            .await
            .expect("a room")
            .membership(user)
            .await
            .expect("a read")
    }

    /// Joins a user of this server to a room of another.
    pub async fn join_from(&self, resident: &World, room: &RoomId, user: &UserId) {
        let template = resident.rooms.make_join(room, user, &event::SUPPORTED_ROOM_VERSIONS).await.expect("a template");
        let join = self.rooms.complete_join(room, user, &template, None).expect("a join");
        let answer = resident.rooms.send_join(&Asker::new(&self.name), room, join.json()).await.expect("joined");
        self.rooms.enter(&resident.name, room, &template.version, &answer).await.expect("entered");
    }

    /// All events of this server in a room that others should get, in order.
    pub async fn event(&self, event_id: &EventId) -> Box<RawValue> {
        let event = self.rooms.event_by_id(&self.view().await, event_id).await.expect("a read").expect("an event");
        event.pdu.as_received().json().to_owned()
    }

    /// Sends events to another server and lets it work.
    pub async fn deliver(&self, to: &World, room: &RoomId, events: &[&EventId]) {
        let mut pdus = Vec::new();
        for event in events {
            pdus.push(self.event(event).await);
        }
        for answer in to.rooms.receive(&self.name, room, &pdus).await.expect("received") {
            answer.result.expect("taken");
        }
        to.rooms.work_inbox(room).await.expect("worked");
    }

    /// An event signed by this server that follows one event and is authorised by the state after another. `None` if either is
    /// unknown here.
    pub async fn forge(
        &self,
        room: &RoomId,
        sender: &UserId,
        key: (&str, Option<String>),
        content: Value,
        at: (&EventId, &EventId),
    ) -> Option<event::Pdu> {
        self.forge_at_depth(room, sender, key, content, at, None).await
    }

    /// As [`World::forge`], with a depth of its own choice.
    pub async fn forge_at_depth(
        &self,
        room: &RoomId,
        sender: &UserId,
        key: (&str, Option<String>),
        content: Value,
        at: (&EventId, &EventId),
        depth: Option<u64>,
    ) -> Option<event::Pdu> {
        let view = self.view().await;
        let rules = self.rooms.rules(&view, room).await.ok()?;
        let (event_type, state_key) = key;
        let prev = self.rooms.event_by_id(&view, at.0).await.expect("a read")?;
        let (_, authority) = self.rooms.state_around(&view, at.1).await.ok()?;
        let content = raw(content);
        let types = event::auth::auth_types(&event_type.into(), sender, state_key.as_deref(), &content, rules).ok()?;
        let mut builder = event::PduBuilder::new(sender.to_owned(), event_type.to_owned(), content);
        builder.room_id = Some(room.to_owned());
        builder.state_key = state_key;
        builder.prev_events = vec![prev.pdu.owned_event_id()];
        builder.depth = depth.unwrap_or(prev.pdu.depth() + 1);
        builder.origin_server_ts = self.now_ms();
        let hash = |pdu: &event::Pdu| event::reference_hash(pdu, rules).expect("a hash");
        builder.reference_hashes.insert(prev.pdu.owned_event_id(), hash(prev.pdu.as_received()));
        for (kind, state_key) in types {
            let event = self.rooms.state(&view, room, authority).event(&kind.to_string(), &state_key).await;
            if let Some(event) = event.expect("a read") {
                builder.auth_events.push(event.pdu.owned_event_id());
                builder.reference_hashes.insert(event.pdu.owned_event_id(), hash(event.pdu.as_received()));
            }
        }
        Some(builder.build(rules, &self.rooms.signing_key(), &self.name).expect("an event"))
    }

    pub async fn status(&self, event_id: &EventId) -> rooms::EventStatus {
        let view = self.view().await;
        let Some(num) = self.rooms.num(&view, event_id).await.expect("a read") else {
            return rooms::EventStatus::Missing;
        };
        self.rooms.meta(&view, num).await.expect("a read").status
    }

    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }
}
