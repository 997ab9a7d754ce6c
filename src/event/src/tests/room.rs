//! A room in memory whose events are built, authorised and kept as in a real one.

use std::collections::HashMap;

use ruma::events::StateEventType;
use ruma::room_version_rules::RoomVersionRules;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use crate::auth::{auth_types, check_state_dependent, check_state_independent};
use crate::resolve::StateMap;
use crate::{AuthError, Pdu, PduBuilder, PduError, SigningKey, rules};

pub(super) const ALICE: &str = "@alice:a.org";
pub(super) const BOB: &str = "@bob:b.org";
pub(super) const CAROL: &str = "@carol:c.org";

/// The number of a room version, for tests that say from which one on something holds.
pub(super) fn number(version: &RoomVersionId) -> u8 {
    version.as_str().parse().expect("stable versions are numbers")
}

/// The key with which every server signs.
pub(super) fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32], "1").expect("valid version")
}

pub(super) fn user(id: &str) -> OwnedUserId {
    UserId::parse(id).expect("valid user id")
}

#[derive(Clone)]
pub(super) struct Room {
    pub(super) version: RoomVersionId,
    pub(super) rules: &'static RoomVersionRules,
    pub(super) room_id: OwnedRoomId,
    pub(super) events: HashMap<OwnedEventId, Pdu>,
    pub(super) state: StateMap,
    pub(super) tips: Vec<OwnedEventId>,
    pub(super) depth: u64,
    pub(super) ts: u64,
}

impl Room {
    /// A public room that Alice has made, with power levels in which she has 100 (or, where
    /// creators are privileged, with none named).
    pub(super) fn new(version: &RoomVersionId) -> Self {
        let mut room = Self::created(version, json!({}));
        room.send(ALICE, "m.room.member", Some(ALICE), json!({"membership": "join"}));
        room.send(ALICE, "m.room.power_levels", Some(""), json!({"users": room.users(&[])}));
        room.send(ALICE, "m.room.join_rules", Some(""), json!({"join_rule": "public"}));
        room
    }

    /// A room with nothing but its create event.
    pub(super) fn created(version: &RoomVersionId, mut content: Value) -> Self {
        let rules = rules(version).expect("supported");
        content["room_version"] = version.as_str().into();
        if !rules.authorization.use_room_create_sender {
            content["creator"] = ALICE.into();
        }
        let mut builder = builder(ALICE, "m.room.create", Some(""), &content);
        if !rules.authorization.room_create_event_id_as_room_id {
            builder.room_id = Some(OwnedRoomId::try_from("!room:a.org").expect("valid"));
        }
        builder.depth = 1;
        builder.origin_server_ts = 1_000;
        let create = builder.build(rules, &key(), user(ALICE).server_name()).expect("valid");
        let mut room = Self {
            version: version.clone(),
            rules,
            room_id: create.room_id().to_owned(),
            events: HashMap::new(),
            state: StateMap::new(),
            tips: Vec::new(),
            depth: 1,
            ts: 1_000,
        };
        check_state_independent(rules, &create, |_| None).expect("allowed");
        room.add(create);
        room
    }

    /// The `users` of a power levels event: these, and Alice at 100 where she may be named.
    pub(super) fn users(&self, others: &[(&str, i64)]) -> Value {
        let mut users = serde_json::Map::new();
        if !self.rules.authorization.explicitly_privilege_room_creators {
            users.insert(ALICE.to_owned(), 100.into());
        }
        for (user, level) in others {
            users.insert((*user).to_owned(), (*level).into());
        }
        Value::Object(users)
    }

    /// An event on top of the room that isn't checked nor added.
    pub(super) fn event(&self, sender: &str, kind: &str, state_key: Option<&str>, content: Value) -> Pdu {
        self.builder(sender, kind, state_key, content)
            .build(self.rules, &key(), user(sender).server_name())
            .expect("valid")
    }

    pub(super) fn builder(&self, sender: &str, kind: &str, state_key: Option<&str>, content: Value) -> PduBuilder {
        let mut builder = builder(sender, kind, state_key, &content);
        builder.room_id = Some(self.room_id.clone());
        builder.prev_events = self.tips.clone();
        builder.depth = self.depth + 1;
        builder.origin_server_ts = self.ts + 1;
        let sender = user(sender);
        let keys = auth_types(&kind.into(), &sender, state_key, &builder.content, self.rules).unwrap_or_default();
        builder.auth_events = keys.iter().filter_map(|key| self.state.get(key).cloned()).collect();
        builder
    }

    pub(super) fn fetch(&self, id: &EventId) -> Option<Pdu> {
        self.events.get(id).cloned()
    }

    pub(super) fn state(&self, kind: &StateEventType, state_key: &str) -> Option<Pdu> {
        self.fetch(self.state.get(&(kind.clone(), state_key.to_owned()))?)
    }

    /// Both halves of the authorisation rules, by the current state.
    pub(super) fn check(&self, pdu: &Pdu) -> Result<(), AuthError> {
        check_state_independent(self.rules, pdu, |id| self.fetch(id))?;
        check_state_dependent(self.rules, pdu, |kind, state_key| self.state(kind, state_key))
    }

    /// Whether an event would be allowed.
    pub(super) fn allows(&self, sender: &str, kind: &str, state_key: Option<&str>, content: Value) -> bool {
        self.check(&self.event(sender, kind, state_key, content)).is_ok()
    }

    /// Whether a change of membership would be allowed.
    pub(super) fn allows_member(&self, sender: &str, target: &str, membership: &str) -> bool {
        self.allows(sender, "m.room.member", Some(target), json!({"membership": membership}))
    }

    /// Adds an event without a check.
    pub(super) fn add(&mut self, pdu: Pdu) {
        self.depth = self.depth.max(pdu.depth());
        self.ts = self.ts.max(pdu.origin_server_ts());
        self.tips = vec![pdu.owned_event_id()];
        if let Some((kind, state_key)) = pdu.state_pair() {
            self.state.insert((kind, state_key.to_owned()), pdu.owned_event_id());
        }
        self.events.insert(pdu.owned_event_id(), pdu);
    }

    /// Sends an event that must be allowed.
    #[track_caller]
    pub(super) fn send(&mut self, sender: &str, kind: &str, state_key: Option<&str>, content: Value) -> Pdu {
        let pdu = self.event(sender, kind, state_key, content);
        if let Err(error) = self.check(&pdu) {
            panic!("room version {}: {} {error}", self.version, pdu.json());
        }
        self.add(pdu.clone());
        pdu
    }

    #[track_caller]
    pub(super) fn member(&mut self, sender: &str, target: &str, membership: &str) -> Pdu {
        self.send(sender, "m.room.member", Some(target), json!({"membership": membership}))
    }
}

fn builder(sender: &str, kind: &str, state_key: Option<&str>, content: &Value) -> PduBuilder {
    let content = to_raw_value(content).expect("JSON");
    let mut builder = PduBuilder::new(user(sender), kind.to_owned(), content);
    builder.state_key = state_key.map(ToOwned::to_owned);
    builder
}

/// Builds an event of the room and gives what is wrong with it.
pub(super) fn build_error(room: &Room, change: impl FnOnce(&mut PduBuilder)) -> Option<PduError> {
    let mut builder = room.builder(ALICE, "m.room.message", None, json!({"body": "hi"}));
    change(&mut builder);
    builder.build(room.rules, &key(), user(ALICE).server_name()).err()
}
