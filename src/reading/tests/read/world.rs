//! A server with a few users, whose clock stands still until it is moved.

use std::sync::Arc;

use event::Clock;
use reading::{ClientEvent, MessagesPage, MessagesQuery, Reading, RoomEventFilter, TimelineToken, Viewer};
use rooms::{Config, CreateRoom, Direction, NewState, Ports, Preset, Rooms, SendOptions, Sender};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId, server_name, user_id};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use store::{Store, View};
use testkit::{ManualClock, SeededRandom};

pub fn alice() -> &'static UserId {
    user_id!("@alice:here")
}

pub fn bob() -> &'static UserId {
    user_id!("@bob:here")
}

pub fn carol() -> &'static UserId {
    user_id!("@carol:here")
}

/// Memory for what is read.
const CACHE_BYTES: u64 = 30 << 20;

pub struct World {
    pub rooms: Rooms,
    pub reading: Reading,
    pub store: Store,
    pub clock: Arc<ManualClock>,
}

pub fn raw(value: Value) -> Box<RawValue> {
    to_raw_value(&value).expect("JSON")
}

pub fn value(event: &RawValue) -> Value {
    serde_json::from_str(event.get()).expect("JSON")
}

/// What people said in these events, in order.
pub fn bodies(events: &[ClientEvent]) -> Vec<String> {
    let mut bodies = Vec::new();
    for event in events {
        if let Some(body) = value(event)["content"]["body"].as_str() {
            bodies.push(body.to_owned());
        }
    }
    bodies
}

impl World {
    pub async fn new() -> Self {
        let store = Store::in_memory(&[rooms::TABLES, reading::TABLES]).await.expect("a store");
        Self::open(store, Arc::new(ManualClock::new()), 1).await
    }

    /// The same store, opened by a new process.
    pub async fn restarted(&self) -> Self {
        Self::open(self.store.clone(), self.clock.clone(), 2).await
    }

    async fn open(store: Store, clock: Arc<ManualClock>, seed: u64) -> Self {
        let config = Config::new(server_name!("here").to_owned());
        let random = Arc::new(SeededRandom::new(seed));
        let rooms = Rooms::open(config, store.clone(), clock.clone(), random, Ports::no_federation());
        let rooms = rooms.await.expect("rooms");
        let reading = Reading::new(rooms.clone(), store.clone(), clock.clone(), CACHE_BYTES);
        Self { rooms, reading, store, clock }
    }

    pub async fn view(&self) -> View {
        self.store.view().await.unwrap()
    }

    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub fn pass(&self, ms: u64) {
        self.clock.advance(ms);
    }

    /// A public room with everybody named in it.
    pub async fn room(&self, users: &[&UserId]) -> OwnedRoomId {
        let mut create = CreateRoom::new(users[0].to_owned());
        create.preset = Some(Preset::PublicChat);
        let room = self.create(&create).await;
        for user in &users[1..] {
            self.join(user, &room).await;
        }
        room
    }

    /// Makes a room, at a time of its own: the id follows from it.
    pub async fn create(&self, create: &CreateRoom) -> OwnedRoomId {
        self.pass(1);
        self.rooms.create(create).await.expect("a room")
    }

    pub async fn join(&self, user: &UserId, room: &RoomId) {
        self.rooms.join(user, room, None).await.expect("joined");
    }

    pub async fn leave(&self, user: &UserId, room: &RoomId) {
        self.rooms.leave(user, room, None).await.expect("left");
    }

    pub async fn send(&self, user: &UserId, room: &RoomId, event_type: &str, content: Value) -> OwnedEventId {
        self.pass(1);
        let sender = Sender::user(user);
        let sent = self.rooms.send(&sender, room, event_type, raw(content), SendOptions::default()).await;
        sent.expect("sent").event_id
    }

    pub async fn say(&self, user: &UserId, room: &RoomId, body: &str) -> OwnedEventId {
        self.send(user, room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
    }

    /// Says something that relates to an event.
    pub async fn relate(
        &self,
        user: &UserId,
        room: &RoomId,
        body: &str,
        rel_type: &str,
        to: &ruma::EventId,
    ) -> OwnedEventId {
        let content = json!({
            "msgtype": "m.text", "body": body,
            "m.relates_to": { "rel_type": rel_type, "event_id": to }
        });
        self.send(user, room, "m.room.message", content).await
    }

    pub async fn edit(&self, user: &UserId, room: &RoomId, body: &str, of: &ruma::EventId) -> OwnedEventId {
        let content = json!({
            "msgtype": "m.text", "body": format!("* {body}"),
            "m.new_content": { "msgtype": "m.text", "body": body },
            "m.relates_to": { "rel_type": "m.replace", "event_id": of }
        });
        self.send(user, room, "m.room.message", content).await
    }

    pub async fn set(&self, user: &UserId, room: &RoomId, key: (&str, &str), content: Value) -> OwnedEventId {
        self.pass(1);
        let sender = Sender::user(user);
        let sent = self
            .rooms
            .send_state(&sender, room, NewState::new(key, raw(content)).expect("state"), SendOptions::default())
            .await;
        sent.expect("set").event_id
    }

    pub async fn set_history(&self, user: &UserId, room: &RoomId, history: &str) {
        let content = json!({ "history_visibility": history });
        self.set(user, room, ("m.room.history_visibility", ""), content).await;
    }

    pub async fn redact(&self, user: &UserId, room: &RoomId, target: &ruma::EventId) -> OwnedEventId {
        self.pass(1);
        let sender = Sender::user(user);
        let sent = self.rooms.redact(&sender, room, target, Some("because"), &|_| {}).await;
        sent.expect("redacted").event_id
    }

    pub async fn event(&self, user: &UserId, room: &RoomId, event: &ruma::EventId) -> Option<Value> {
        match self.reading.room(&self.view().await, Viewer::new(user), room).one_event(event).await {
            Ok(event) => Some(value(&event)),
            Err(rooms::RoomsError::EventNotFound) => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn page(&self, user: &UserId, room: &RoomId, query: &MessagesQuery) -> MessagesPage {
        let page = self.reading.room(&self.view().await, Viewer::new(user), room).messages(query).await;
        page.expect("a page")
    }

    /// All that a user can read of what was said in a room, oldest first, page by page.
    pub async fn heard(&self, user: &UserId, room: &RoomId) -> Vec<String> {
        let mut heard = Vec::new();
        let mut from: Option<TimelineToken> = None;
        loop {
            let query = MessagesQuery {
                from,
                direction: Direction::Backward,
                limit: 3,
                filter: RoomEventFilter::default(),
                to: None,
            };
            let page = self.page(user, room, &query).await;
            heard.extend(bodies(&page.chunk));
            from = page.end;
            if from.is_none() {
                heard.reverse();
                return heard;
            }
        }
    }
}
