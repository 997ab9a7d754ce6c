//! The answer to `/sync`, made of event JSON that is never parsed again.
//!
//! Specification: client-server API, "Syncing".

use std::collections::{BTreeMap, BTreeSet};

use reading::ClientEvent;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};

use crate::DeviceListChanges;

/// What an answer has of a room besides events, as JSON in bytes.
const ROOM_JSON_BYTES: usize = 512;
/// What it has besides rooms and events.
const REST_JSON_BYTES: usize = 512;

/// The body of the answer.
#[derive(Debug, Default, Serialize)]
pub struct SyncResponse {
    /// The token for the next request.
    pub next_batch: String,
    /// Account data of no room.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub account_data: Events,
    /// Presence of the user and of others.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub presence: Events,
    /// Rooms.
    #[serde(skip_serializing_if = "RoomUpdates::is_empty")]
    pub rooms: RoomUpdates,
    /// Messages to the device.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub to_device: Events,
    /// Whose keys to ask for anew, and whose to forget.
    #[serde(skip_serializing_if = "DeviceListChanges::is_empty")]
    pub device_lists: DeviceListChanges,
    /// One-time keys that the device has left, by algorithm.
    pub device_one_time_keys_count: BTreeMap<String, u64>,
    /// Algorithms of the device's fallback keys that nobody was given yet.
    pub device_unused_fallback_key_types: BTreeSet<String>,
    /// Whether the device's numbers of keys are news.
    #[serde(skip)]
    pub(super) key_counts_changed: bool,
}

impl SyncResponse {
    /// Whether there is nothing in it that a client would want to know at once.
    pub fn is_empty(&self) -> bool {
        self.account_data.is_empty()
            && self.presence.is_empty()
            && self.rooms.is_empty()
            && self.to_device.is_empty()
            && self.device_lists.is_empty()
            && !self.key_counts_changed
    }

    /// Names the state after the timeline as MSC4222 did, for clients that ask by its names.
    pub fn name_state_after_as_msc4222(&mut self) {
        let RoomUpdates { join, leave, .. } = &mut self.rooms;
        let joined = join.iter_mut().map(|(_, room)| &mut room.state);
        for state in joined.chain(leave.iter_mut().map(|(_, room)| &mut room.state)) {
            if let StateUpdate::After(events) = state {
                *state = StateUpdate::AfterAsMsc4222(std::mem::take(events));
            }
        }
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// None in practice: all parts can be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        // One that grows step by step would be there twice and more while a large answer is written.
        let events = self.bytes();
        let rooms = self.rooms.join.len() + self.rooms.leave.len();
        let mut json = Vec::with_capacity(events + events / 64 + rooms * ROOM_JSON_BYTES + REST_JSON_BYTES);
        serde_json::to_writer(&mut json, self)?;
        Ok(json)
    }

    /// Bytes of its events.
    pub(super) fn bytes(&self) -> usize {
        let joined: usize = self.rooms.join.iter().map(|(_, room)| room.bytes()).sum();
        let left: usize = self.rooms.leave.iter().map(|(_, room)| room.bytes()).sum();
        joined + left + self.account_data.bytes() + self.presence.bytes() + self.to_device.bytes()
    }
}

/// A list of events.
#[derive(Debug, Default, Serialize)]
pub struct Events {
    /// The events.
    #[serde(serialize_with = "as_list")]
    pub events: Vec<ClientEvent>,
}

impl Events {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.get().len()).sum()
    }
}

/// What changed in rooms, by the user's membership.
#[derive(Debug, Default, Serialize)]
pub struct RoomUpdates {
    /// Rooms that the user is in.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub join: Vec<(OwnedRoomId, JoinedRoom)>,
    /// Rooms that the user is invited to.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub invite: Vec<(OwnedRoomId, InvitedRoom)>,
    /// Rooms that the user knocked at.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub knock: Vec<(OwnedRoomId, KnockedRoom)>,
    /// Rooms that the user left or was banned from.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub leave: Vec<(OwnedRoomId, LeftRoom)>,
}

impl RoomUpdates {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.join.is_empty() && self.invite.is_empty() && self.knock.is_empty() && self.leave.is_empty()
    }
}

fn as_map<T: Serialize, S: Serializer>(rooms: &[(OwnedRoomId, T)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(rooms.len()))?;
    for (room, update) in rooms {
        map.serialize_entry(room, update)?;
    }
    map.end()
}

fn as_list<S: Serializer>(events: &[ClientEvent], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(events.len()))?;
    for event in events {
        list.serialize_element(&**event)?;
    }
    list.end()
}

/// A room that the user is in.
#[derive(Debug, Default, Serialize)]
pub struct JoinedRoom {
    /// What a client needs to name the room, if it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Changes of state before or after the timeline.
    #[serde(flatten)]
    pub state: StateUpdate,
    /// New events.
    pub timeline: Timeline,
    /// Typing and receipts.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub ephemeral: Events,
    /// The user's data about the room.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub account_data: Events,
    /// Unread notifications, of the main timeline only if they are counted by thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread_notifications: Option<UnreadCount>,
    /// Unread notifications of threads, by their root.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread_thread_notifications: BTreeMap<OwnedEventId, UnreadCount>,
    /// Whether it shows somebody as typing.
    #[serde(skip)]
    pub(super) shows_typing: bool,
}

impl JoinedRoom {
    /// Whether a client would learn nothing from it.
    pub fn is_empty(&self) -> bool {
        self.summary.is_none()
            && self.state.is_empty()
            && self.timeline.is_empty()
            && self.ephemeral.is_empty()
            && self.account_data.is_empty()
            && self.unread_notifications.is_none()
            && self.unread_thread_notifications.is_empty()
    }

    /// Bytes of its events.
    pub(super) fn bytes(&self) -> usize {
        let told = self.timeline.events.iter().chain(self.state.events());
        told.map(|event| event.get().len()).sum::<usize>() + self.ephemeral.bytes() + self.account_data.bytes()
    }
}

/// A room that the user left.
#[derive(Debug, Default, Serialize)]
pub struct LeftRoom {
    /// Changes of state before or after the timeline.
    #[serde(flatten)]
    pub state: StateUpdate,
    /// Events up to the leave.
    pub timeline: Timeline,
    /// The user's data about the room.
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub account_data: Events,
}

impl LeftRoom {
    /// Bytes of its events.
    pub(super) fn bytes(&self) -> usize {
        let told = self.timeline.events.iter().chain(self.state.events());
        told.map(|event| event.get().len()).sum::<usize>() + self.account_data.bytes()
    }
}

/// A room that the user is invited to.
#[derive(Debug, Default, Serialize)]
pub struct InvitedRoom {
    /// Stripped state, with the invite.
    pub invite_state: Events,
}

/// A room that the user knocked at.
#[derive(Debug, Default, Serialize)]
pub struct KnockedRoom {
    /// Stripped state, with the knock.
    pub knock_state: Events,
}

/// State, in one of the two forms that clients can ask for.
#[derive(Debug, Serialize)]
pub enum StateUpdate {
    /// Up to the start of the timeline; the client applies the timeline to it.
    #[serde(rename = "state")]
    Before(Events),
    /// Up to the end of the timeline (`use_state_after`).
    #[serde(rename = "state_after")]
    After(Events),
    /// The same under the name that it had in MSC4222.
    #[serde(rename = "org.matrix.msc4222.state_after")]
    AfterAsMsc4222(Events),
}

impl Default for StateUpdate {
    fn default() -> Self {
        Self::Before(Events::default())
    }
}

impl StateUpdate {
    /// The events.
    pub fn events(&self) -> &[ClientEvent] {
        match self {
            Self::Before(state) | Self::After(state) | Self::AfterAsMsc4222(state) => &state.events,
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.events().is_empty()
    }
}

/// A stretch of a room's timeline.
#[derive(Debug, Default, Serialize)]
pub struct Timeline {
    /// The events, oldest first.
    #[serde(serialize_with = "as_list")]
    pub events: Vec<ClientEvent>,
    /// Whether there are events between those that the client knows and these.
    pub limited: bool,
    /// Where to look for what is before these events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
}

impl Timeline {
    /// Whether it tells nothing.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.limited
    }
}

/// What a client needs to name a room.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Summary {
    /// Members to name the room after.
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<OwnedUserId>>,
    /// Members in the room.
    #[serde(rename = "m.joined_member_count")]
    pub joined: u64,
    /// Members invited.
    #[serde(rename = "m.invited_member_count")]
    pub invited: u64,
}

/// Numbers of unread notifications.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct UnreadCount {
    /// Those that highlight.
    pub highlight_count: u64,
    /// All.
    pub notification_count: u64,
}
