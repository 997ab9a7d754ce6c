//! A server without HTTP: store, rooms, users and sync, which can be restarted, and clients that keep what they are told.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod client;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use event::{Clock, Random};
use rooms::{CreateRoom, Ports, Preset, Rooms, SendOptions, Sender};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::{Value, json, value::RawValue};
use store::{MemoryDisk, Options, Store};
use sync::Sync;
use users::Users;

pub const SERVER: &str = "haima.test";

/// A clock that goes on by hand.
pub struct Hands(AtomicU64);

impl Hands {
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A generator that always gives the same (splitmix64).
pub struct Seeded(AtomicU64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub fn chance(&self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let next = self.next().to_le_bytes();
            chunk.copy_from_slice(&next[..chunk.len()]);
        }
    }
}

pub struct World {
    disk: MemoryDisk,
    pub clock: Arc<Hands>,
    pub random: Arc<Seeded>,
    pub store: Store,
    pub rooms: Rooms,
    pub users: Users,
    pub sync: Sync,
}

impl World {
    pub async fn new() -> Self {
        Self::seeded(1).await
    }

    pub async fn seeded(seed: u64) -> Self {
        let clock = Arc::new(Hands(AtomicU64::new(1_700_000_000_000)));
        let random = Arc::new(Seeded::new(seed));
        Self::open(MemoryDisk::new(), clock, random).await
    }

    async fn open(disk: MemoryDisk, clock: Arc<Hands>, random: Arc<Seeded>) -> Self {
        let tables = [rooms::TABLES, users::TABLES];
        let store = Store::open_memory(&disk, &Options::default(), &tables).unwrap();
        let config = rooms::Config::new(SERVER.try_into().unwrap());
        let ports = Ports::no_federation();
        let rooms = Rooms::open(config, store.clone(), clock.clone(), random.clone(), ports);
        let rooms = rooms.await.unwrap();
        let config = users::Config::default();
        let users = Users::new(config, store.clone(), clock.clone(), random.clone()).unwrap();
        let config = sync::Config::default();
        let sync = Sync::start(config, store.clone(), rooms.clone(), users.clone(), clock.clone());
        let sync = sync.await.unwrap();
        Self { disk, clock, random, store, rooms, users, sync }
    }

    /// Stops the server and starts it again with what was stored.
    pub async fn restart(self) -> Self {
        let Self { disk, clock, random, store, rooms, users, sync } = self;
        sync.shut_down();
        drop((rooms, users, sync));
        store.close().await;
        drop(store);
        Self::open(disk, clock, random).await
    }

    /// Another instance of sync beside the one that clients use, which knows of nothing that was before.
    pub async fn another_sync(&self) -> Sync {
        let config = sync::Config::default();
        let (store, rooms, users) = (self.store.clone(), self.rooms.clone(), self.users.clone());
        Sync::start(config, store, rooms, users, self.clock.clone()).await.unwrap()
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
        let sent = self.rooms.send_state(&sender, room, (event_type, ""), raw(&content), options);
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
