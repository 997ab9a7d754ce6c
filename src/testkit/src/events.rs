//! Signed events made by hand, as another server would make them.

use event::{Pdu, PduBuilder, RoomVersionRules, SigningKey, reference_hash};
use ruma::{OwnedRoomId, OwnedServerName, RoomVersionId, ServerName, UserId};
use serde_json::value::to_raw_value;

use crate::SeededRandom;

/// Makes events of one server in one room.
#[derive(Clone)]
pub struct EventFactory {
    /// The server that signs.
    pub server: OwnedServerName,
    /// Its key.
    pub key: SigningKey,
    /// The rules of the room's version.
    pub rules: &'static RoomVersionRules,
    /// The room; `None` until there is a create event that gives it its id.
    pub room: Option<OwnedRoomId>,
}

impl EventFactory {
    /// A factory whose key follows from `seed`.
    ///
    /// # Panics
    ///
    /// If the version isn't supported.
    pub fn new(server: &ServerName, version: &RoomVersionId, room: Option<OwnedRoomId>, seed: u64) -> Self {
        Self {
            server: server.to_owned(),
            key: SigningKey::generate(&SeededRandom::new(seed)),
            rules: event::rules(version).expect("a supported room version"),
            room,
        }
    }

    /// An event after `prev`, authorised by `auth`.
    ///
    /// # Panics
    ///
    /// If it can't be an event of the room's version.
    pub fn event(
        &self,
        sender: &UserId,
        key: (&str, Option<&str>),
        content: &serde_json::Value,
        at: (&[&Pdu], &[&Pdu], u64),
    ) -> Pdu {
        let (event_type, state_key) = key;
        let (prev, auth, now_ms) = at;
        let content = to_raw_value(content).expect("JSON");
        let mut builder = PduBuilder::new(sender.to_owned(), event_type.to_owned(), content);
        builder.room_id.clone_from(&self.room);
        builder.state_key = state_key.map(str::to_owned);
        builder.prev_events = prev.iter().map(|pdu| pdu.owned_event_id()).collect();
        builder.auth_events = auth.iter().map(|pdu| pdu.owned_event_id()).collect();
        builder.depth = prev.iter().map(|pdu| pdu.depth()).max().unwrap_or(0) + 1;
        builder.origin_server_ts = now_ms;
        for pdu in prev.iter().chain(auth) {
            let hash = reference_hash(pdu, self.rules).expect("an event has a hash");
            builder.reference_hashes.insert(pdu.owned_event_id(), hash);
        }
        builder.build(self.rules, &self.key, &self.server).expect("a valid event")
    }
}
