//! A server without HTTP: store, rooms, users and sync, which can be restarted, and clients that keep what they are told.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod client;
pub mod far;
pub mod keys;

use std::sync::Arc;

use reading::Reading;
use rooms::{CreateRoom, NewState, Preset, Rooms, SendOptions, Sender};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, UserId};
use serde_json::{Value, json, value::RawValue};
use store::{MEMORY_BUDGET_BYTES_MIN, MemoryDisk, OpenError, Options, Store, TableInfo};
use sync::Sync;
use tempfile::TempDir;
use testkit::{ManualClock, SeededRandom, seeds};
use users::Users;

use far::Servers;

pub const SERVER: &str = "haima.test";

/// What each cache holds, in bytes, where the server is to read from the disk.
const TINY_CACHE_BYTES: u64 = 16 * 1024;

/// What is kept of what is read, in bytes, elsewhere.
const READING_CACHE_BYTES: u64 = 30 << 20;

/// How often a database on disk is opened again while those who read from it end.
const OPENED_AGAIN_MAX: usize = 10_000;

/// Where the database is.
pub enum Disk {
    Simulated(MemoryDisk),
    /// In files, with next to no memory to cache them.
    Files(TempDir),
}

/// Plays a history for each of so many seeds (or those that the environment names), each on a disk of its own.
pub fn play<F: Future<Output = ()>>(usual: u64, disk: fn() -> Disk, history: impl Fn(Disk, u64) -> F) {
    for seed in seeds(usual) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(history(disk(), seed));
    }
}

impl Disk {
    pub fn simulated() -> Self {
        Self::Simulated(MemoryDisk::new())
    }

    pub fn files() -> Self {
        Self::Files(tempfile::tempdir().unwrap())
    }

    async fn try_open(&self, tables: &[&[TableInfo]]) -> Result<Store, OpenError> {
        let options = Options { memory_budget_bytes: MEMORY_BUDGET_BYTES_MIN, ..Options::default() };
        match self {
            Self::Simulated(disk) => Store::open_memory(disk, &Options::default(), tables).await,
            Self::Files(directory) => Store::open_rocksdb(directory.path(), &options, tables).await,
        }
    }

    async fn open(&self) -> Store {
        let tables = [rooms::TABLES, reading::TABLES, users::TABLES];
        for _ in 0..OPENED_AGAIN_MAX {
            if let Ok(store) = self.try_open(&tables).await {
                return store;
            }
            tokio::task::yield_now().await;
        }
        self.try_open(&tables).await.unwrap()
    }
}

pub struct World {
    disk: Disk,
    pub servers: Arc<Servers>,
    pub clock: Arc<ManualClock>,
    pub random: Arc<SeededRandom>,
    pub store: Store,
    pub rooms: Rooms,
    pub reading: Reading,
    pub users: Users,
    pub sync: Sync,
    config: sync::Config,
}

impl World {
    pub async fn new() -> Self {
        Self::seeded(1).await
    }

    pub async fn seeded(seed: u64) -> Self {
        Self::configured(sync::Config::default(), seed).await
    }

    pub async fn configured(config: sync::Config, seed: u64) -> Self {
        Self::configured_on(Disk::simulated(), config, seed).await
    }

    pub async fn seeded_on(disk: Disk, seed: u64) -> Self {
        Self::configured_on(disk, sync::Config::default(), seed).await
    }

    pub async fn configured_on(disk: Disk, config: sync::Config, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::new());
        let random = Arc::new(SeededRandom::new(seed));
        Self::open(disk, Arc::default(), clock, random, config).await
    }

    async fn open(
        disk: Disk,
        servers: Arc<Servers>,
        clock: Arc<ManualClock>,
        random: Arc<SeededRandom>,
        mut config: sync::Config,
    ) -> Self {
        let store = disk.open().await;
        let name: OwnedServerName = SERVER.try_into().unwrap();
        let ports = servers.ports(&name);
        let (mut rooms_config, mut users_config) = (rooms::Config::new(name), users::Config::default());
        let mut reading_cache_bytes = READING_CACHE_BYTES;
        if matches!(disk, Disk::Files(_)) {
            rooms_config.event_cache_bytes = TINY_CACHE_BYTES;
            rooms_config.node_cache_bytes = TINY_CACHE_BYTES;
            rooms_config.resolution_cache_bytes = TINY_CACHE_BYTES;
            reading_cache_bytes = TINY_CACHE_BYTES;
            users_config.cache_bytes = TINY_CACHE_BYTES;
            config.cache_bytes = TINY_CACHE_BYTES;
        }
        let rooms = Rooms::open(rooms_config, store.clone(), clock.clone(), random.clone(), ports);
        let rooms = rooms.await.unwrap();
        servers.add(&rooms);
        let reading = Reading::new(rooms.clone(), store.clone(), clock.clone(), reading_cache_bytes);
        let users = Users::open(users_config, store.clone(), clock.clone(), random.clone()).await.unwrap();
        let sync = Sync::start(config.clone(), store.clone(), reading.clone(), users.clone(), clock.clone());
        let sync = sync.await.unwrap();
        Self { disk, servers, clock, random, store, rooms, reading, users, sync, config }
    }

    /// Stops the server and starts it again with what was stored.
    pub async fn restart(self) -> Self {
        let Self { disk, servers, clock, random, store, rooms, reading, users, sync, config } = self;
        sync.shut_down();
        servers.remove(&rooms);
        drop((rooms, reading, users, sync));
        store.close().await;
        drop(store);
        Self::open(disk, servers, clock, random, config).await
    }

    /// Another instance of sync beside the one that clients use, which knows of nothing that was before.
    pub async fn another_sync(&self) -> Sync {
        let (store, reading, users) = (self.store.clone(), self.reading.clone(), self.users.clone());
        Sync::start(self.config.clone(), store, reading, users, self.clock.clone()).await.unwrap()
    }

    /// A public room whose history its members see from the start.
    pub async fn room(&self, creator: &UserId) -> OwnedRoomId {
        // The id of a room of the newest version comes from what its create event says.
        self.clock.advance(1);
        let mut request = CreateRoom::new(creator.to_owned());
        request.preset = Some(Preset::PublicChat);
        self.rooms.create(&request).await.unwrap()
    }

    pub async fn send(&self, user: &UserId, room: &RoomId, text: &str) -> OwnedEventId {
        let content = raw(&json!({ "msgtype": "m.text", "body": text }));
        let sender = Sender::user(user);
        let options = SendOptions::default();
        let sent = self.rooms.send(&sender, room, "m.room.message", content, options).await;
        sent.unwrap().event_id
    }

    pub async fn try_set(
        &self,
        user: &UserId,
        room: &RoomId,
        event_type: &str,
        content: Value,
    ) -> Result<OwnedEventId, rooms::RoomsError> {
        let sender = Sender::user(user);
        let options = SendOptions::default();
        let sent =
            self.rooms.send_state(&sender, room, NewState::new((event_type, ""), raw(&content)).unwrap(), options);
        Ok(sent.await?.event_id)
    }

    pub async fn set(&self, user: &UserId, room: &RoomId, event_type: &str, content: Value) {
        self.try_set(user, room, event_type, content).await.unwrap();
    }

    pub async fn join(&self, user: &UserId, room: &RoomId) {
        self.rooms.join(user, room, None).await.unwrap();
    }

    pub async fn leave(&self, user: &UserId, room: &RoomId) {
        self.rooms.leave(user, room, None).await.unwrap();
    }
}

pub fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

pub fn user(name: &str) -> ruma::OwnedUserId {
    UserId::parse(format!("@{name}:{SERVER}")).unwrap()
}
