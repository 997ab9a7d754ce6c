//! A client that keeps timelines and state as `/sync` tells them, and complains where that can't be right.

use std::collections::{BTreeMap, BTreeSet};

use reading::{MessagesQuery, RoomEventFilter, TimelineToken, Viewer};
use rooms::Direction;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId};
use serde_json::Value;
use sync::{SyncRequest, Token};
use users::PresenceState;

use super::World;

/// What a client knows of one room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Events in order, by id.
    pub timeline: Vec<String>,
    /// State events by type and state key.
    pub state: BTreeMap<(String, String), String>,
    /// Who sent what came in timelines.
    pub senders: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub struct Client {
    pub user: OwnedUserId,
    pub device: OwnedDeviceId,
    pub since: Option<String>,
    pub filter: Value,
    pub use_state_after: bool,
    pub lazy: bool,
    pub joined: BTreeMap<OwnedRoomId, Known>,
    pub left: BTreeMap<OwnedRoomId, Known>,
    pub invited: BTreeSet<OwnedRoomId>,
    pub account_data: BTreeMap<String, Value>,
    /// By room and user, the event read up to.
    pub receipts: BTreeMap<(String, String), String>,
}

impl Client {
    pub fn new(user: &OwnedUserId, device: &str) -> Self {
        Self {
            user: user.clone(),
            device: device.into(),
            since: None,
            filter: serde_json::json!({}),
            use_state_after: false,
            lazy: false,
            joined: BTreeMap::new(),
            left: BTreeMap::new(),
            invited: BTreeSet::new(),
            account_data: BTreeMap::new(),
            receipts: BTreeMap::new(),
        }
    }

    pub fn with_filter(mut self, filter: Value) -> Self {
        self.filter = filter;
        self
    }

    /// The answer to the next request, as JSON; kept as the client's knowledge.
    pub async fn sync(&mut self, world: &World, timeout_ms: u64) -> Value {
        let before = self.since.clone();
        let body = self.ask(world, timeout_ms, false).await;
        self.take_in(world, &body, before.as_deref()).await;
        body
    }

    /// The answer to the next request, which the client forgets.
    pub async fn ask(&self, world: &World, timeout_ms: u64, full_state: bool) -> Value {
        self.ask_of(&world.sync, timeout_ms, full_state).await
    }

    /// As [`Client::ask`], of any instance.
    pub async fn ask_of(&self, sync: &sync::Sync, timeout_ms: u64, full_state: bool) -> Value {
        let filter = self.filter.to_string();
        let request = SyncRequest {
            user: &self.user,
            device: &self.device,
            since: self.since.as_deref(),
            filter: Some(&filter),
            full_state,
            set_presence: PresenceState::Offline,
            timeout_ms,
            use_state_after: self.use_state_after,
        };
        let response = sync.classic(request).await.unwrap();
        serde_json::from_slice(&response.to_json().unwrap()).unwrap()
    }

    async fn take_in(&mut self, world: &World, body: &Value, before: Option<&str>) {
        self.since = Some(body["next_batch"].as_str().unwrap().to_owned());
        for event in list(&body["account_data"]["events"]) {
            self.account_data.insert(text(event, "type"), event["content"].clone());
        }
        for (room, update) in object(&body["rooms"]["join"]) {
            let room = RoomId::parse(room).unwrap();
            self.invited.remove(&room);
            self.left.remove(&room);
            let mut known = self.joined.remove(&room).unwrap_or_default();
            self.update(world, &room, &mut known, update, before).await;
            self.take_receipts(&room, update);
            self.joined.insert(room, known);
        }
        for (room, update) in object(&body["rooms"]["leave"]) {
            let room = RoomId::parse(room).unwrap();
            self.invited.remove(&room);
            let mut known = self.joined.remove(&room).unwrap_or_default();
            self.update(world, &room, &mut known, update, before).await;
            self.left.insert(room, known);
        }
        for (room, _) in object(&body["rooms"]["invite"]) {
            let room = RoomId::parse(room).unwrap();
            self.joined.remove(&room);
            self.invited.insert(room);
        }
    }

    fn take_receipts(&mut self, room: &RoomId, update: &Value) {
        for event in list(&update["ephemeral"]["events"]) {
            if event["type"] != "m.receipt" {
                continue;
            }
            for (event_id, kinds) in object(&event["content"]) {
                for (_, users) in object(kinds) {
                    for (user, _) in object(users) {
                        self.receipts.insert((room.to_string(), user.clone()), event_id.clone());
                    }
                }
            }
        }
    }

    async fn update(&self, world: &World, room: &RoomId, known: &mut Known, update: &Value, before: Option<&str>) {
        assert_eq!(update.get("state_after").is_some(), self.use_state_after, "{update}");
        let timeline = &update["timeline"];
        let ids: Vec<String> = list(&timeline["events"]).iter().map(|e| text(e, "event_id")).collect();
        if timeline["limited"] == true {
            self.fill(world, room, known, timeline, before).await;
        }
        for id in ids {
            assert!(!known.timeline.contains(&id), "{id} came twice in {room}");
            known.timeline.push(id);
        }
        known.senders.extend(list(&timeline["events"]).iter().map(|event| text(event, "sender")));
        if self.use_state_after {
            apply(&mut known.state, list(&update["state_after"]["events"]));
        } else {
            apply(&mut known.state, list(&update["state"]["events"]));
            apply(&mut known.state, list(&timeline["events"]));
        }
    }

    /// Reads what a limited timeline left out, back to what is known.
    async fn fill(&self, world: &World, room: &RoomId, known: &mut Known, timeline: &Value, before: Option<&str>) {
        let mut from: Option<TimelineToken> = Some(text(timeline, "prev_batch").parse().unwrap());
        let mut missing: Vec<String> = Vec::new();
        // Where the client knows the room, what it knows ends where its token says.
        let to = before.filter(|_| !known.timeline.is_empty()).map(|token| {
            let token: Token = token.parse().unwrap();
            TimelineToken::at(token.position)
        });
        while let Some(at) = from {
            let query = MessagesQuery {
                from: Some(at),
                to,
                direction: Direction::Backward,
                limit: 7,
                filter: RoomEventFilter::default(),
            };
            let view = world.store.view().await.unwrap();
            let ignored = world.users.ignored_users(&view, &self.user).await.unwrap();
            let viewer = Viewer { ignored: &ignored, ..Viewer::new(&self.user) };
            let page = world.reading.room(&view, viewer, room).messages(&query).await.unwrap();
            for event in &page.chunk {
                let event: Value = serde_json::from_str(event.get()).unwrap();
                missing.push(text(&event, "event_id"));
            }
            from = page.end;
        }
        missing.reverse();
        for id in missing {
            assert!(!known.timeline.contains(&id), "{id} came twice in {room}");
            known.timeline.push(id);
        }
    }
}

fn apply(state: &mut BTreeMap<(String, String), String>, events: &[Value]) {
    for event in events {
        if let Some(state_key) = event["state_key"].as_str() {
            let key = (text(event, "type"), state_key.to_owned());
            state.insert(key, text(event, "event_id"));
        }
    }
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn object(value: &Value) -> Vec<(&String, &Value)> {
    value.as_object().map(|map| map.iter().collect()).unwrap_or_default()
}

pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

/// The bodies of the messages in a list of events.
pub fn bodies(events: &Value) -> Vec<&str> {
    list(events).iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

/// Type and state key of the state events in a list.
pub fn keys(events: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    for event in list(events) {
        keys.push(format!("{}/{}", text(event, "type"), text(event, "state_key")));
    }
    keys
}
