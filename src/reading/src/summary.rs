//! What a room looks like from outside, and the summary of its members that `/sync` carries.
//!
//! Specification: client-server API, "Published room directory", "Room Summaries", `RoomSummary` of `/sync`.

use std::sync::Arc;

use event::{Pdu, visibility::history_visibility};
use quick_cache::{Weighter, sync::Cache};
use rooms::{MEMBER, Membership, RoomsError, Shown, TimelineIndex, membership_of};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId, events::room::history_visibility::HistoryVisibility};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use state_tree::{EventNum, Root};
use store::View;

use crate::{Reading, format::membership_name, reader::RoomReader};

/// Heroes in a summary: the specification asks for five where there are as many.
pub const HEROES_MAX: usize = 5;

/// Members among which heroes are looked for. In a larger room without a name they are among the first by id.
const HERO_CANDIDATES_MAX: usize = 100;

/// Rooms that a restricted room can name as those that let in.
const ALLOWED_ROOMS_MAX: usize = 100;

/// A room as people outside of it see it (`PublishedRoomsChunk`, `RoomSummary` of the specification).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RoomDescription {
    /// The room.
    pub room_id: OwnedRoomId,
    /// How many are joined.
    pub num_joined_members: u64,
    /// Whether anybody may read it.
    pub world_readable: bool,
    /// Whether guests may join.
    pub guest_can_join: bool,
    /// The canonical alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The topic as plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The picture, an `mxc:` URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// How one gets in.
    pub join_rule: String,
    /// The rooms whose members a restricted room lets in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    /// The kind of room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// The algorithm of its encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The room version.
    pub room_version: String,
}

impl RoomDescription {
    /// Whether anybody could join, ask to join, or read it.
    fn is_open(&self) -> bool {
        self.world_readable || ["public", "knock", "knock_restricted"].contains(&&*self.join_rule)
    }
}

/// `summary` of a room in `/sync`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberSummary {
    /// Users to name the room by; `None` if it has a name or an alias.
    pub heroes: Option<Vec<OwnedUserId>>,
    /// How many are joined.
    pub joined: u64,
    /// How many are invited.
    pub invited: u64,
}

/// Members that can stand for a room, in order: one more than needed, because the asker isn't among them.
#[derive(Debug, Default)]
struct Heroes {
    present: Vec<OwnedUserId>,
    gone: Vec<OwnedUserId>,
}

/// What a state takes in a cache besides ids and texts.
const STATE_OVERHEAD_BYTES: u64 = 300;
/// What an id takes besides its text.
const ID_OVERHEAD_BYTES: u64 = 32;

/// What was found out about states, which never change.
pub(crate) struct HeroCache {
    heroes: Cache<Root, Arc<Heroes>, StateWeight>,
    descriptions: Cache<(OwnedRoomId, Root), Arc<Described>, StateWeight>,
}

/// Weighs what was found out about a state by its memory, in bytes.
#[derive(Clone)]
struct StateWeight;

impl Weighter<Root, Arc<Heroes>> for StateWeight {
    fn weight(&self, _: &Root, heroes: &Arc<Heroes>) -> u64 {
        let ids = heroes.present.iter().chain(&heroes.gone);
        STATE_OVERHEAD_BYTES + ids.map(|id| id.as_str().len() as u64 + ID_OVERHEAD_BYTES).sum::<u64>()
    }
}

impl Weighter<(OwnedRoomId, Root), Arc<Described>> for StateWeight {
    fn weight(&self, (room, _): &(OwnedRoomId, Root), described: &Arc<Described>) -> u64 {
        let about = &*described.description;
        let texts = [&about.canonical_alias, &about.name, &about.topic, &about.avatar_url, &about.room_type];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        let allowed: u64 = about.allowed_room_ids.iter().map(|id| id.as_str().len() as u64 + ID_OVERHEAD_BYTES).sum();
        2 * STATE_OVERHEAD_BYTES + (2 * room.as_str().len() + texts) as u64 + allowed
    }
}

/// A description with the events that it is made of, and which of them were redacted then: that alone can change about a state.
struct Described {
    events: Vec<EventNum>,
    redacted: Vec<bool>,
    description: Arc<RoomDescription>,
}

impl HeroCache {
    pub(crate) fn new(cache_bytes: u64) -> Self {
        let bytes = cache_bytes / 2;
        let items = usize::try_from(bytes / (2 * STATE_OVERHEAD_BYTES)).unwrap_or(usize::MAX).max(16);
        Self {
            heroes: Cache::with_weighter(items, bytes, StateWeight),
            descriptions: Cache::with_weighter(items, bytes, StateWeight),
        }
    }
}

impl Reading {
    /// What a room looks like from outside, whoever asks; [`RoomsError::RoomNotFound`] if this server doesn't
    /// hold it.
    pub async fn describe(&self, view: &View, room: &RoomId) -> Result<Arc<RoomDescription>, RoomsError> {
        let head = self.rooms.head(view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        let key = (room.to_owned(), head.root);
        if let Some(known) = self.inner.heroes.descriptions.get(&key)
            && self.redacted(view, &known.events).await? == known.redacted
        {
            return Ok(known.description.clone());
        }
        let info = self.rooms.info(view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        let events = self.outside_state(view, room, head.root).await?;
        let state = self.rooms.shown(view, &events).await?;
        let join_rules = content(&state, "m.room.join_rules");
        let history = state.iter().find(|event| event.event_type() == "m.room.history_visibility");
        let description = Arc::new(RoomDescription {
            room_id: room.to_owned(),
            num_joined_members: head.joined_count,
            world_readable: history_visibility(history.map(|event| &**event)) == HistoryVisibility::WorldReadable,
            guest_can_join: text(&state, "m.room.guest_access", "guest_access").as_deref() == Some("can_join"),
            canonical_alias: text(&state, "m.room.canonical_alias", "alias"),
            name: text(&state, "m.room.name", "name"),
            topic: topic(&content(&state, "m.room.topic")),
            avatar_url: text(&state, "m.room.avatar", "url"),
            join_rule: join_rules.get("join_rule").and_then(Value::as_str).unwrap_or("invite").to_owned(),
            allowed_room_ids: allowed_rooms(&join_rules),
            room_type: text(&state, "m.room.create", "type"),
            encryption: text(&state, "m.room.encryption", "algorithm"),
            room_version: info.version.to_string(),
        });
        let redacted = self.redacted(view, &events).await?;
        let described = Described { events, redacted, description: description.clone() };
        self.inner.heroes.descriptions.insert(key, Arc::new(described));
        Ok(description)
    }

    /// Which of these events are redacted.
    async fn redacted(&self, view: &View, nums: &[EventNum]) -> Result<Vec<bool>, RoomsError> {
        let metas = self.rooms.metas(view, nums).await?;
        Ok(metas.iter().map(|meta| meta.redacted_by.is_some()).collect())
    }

    /// The events of a state that a description is made of.
    async fn outside_state(&self, view: &View, room: &RoomId, root: Root) -> Result<Vec<EventNum>, RoomsError> {
        const KEYS: [(&str, &str); 9] = [
            ("m.room.avatar", ""),
            ("m.room.canonical_alias", ""),
            ("m.room.create", ""),
            ("m.room.encryption", ""),
            ("m.room.guest_access", ""),
            ("m.room.history_visibility", ""),
            ("m.room.join_rules", ""),
            ("m.room.name", ""),
            ("m.room.topic", ""),
        ];
        self.rooms.state(view, room, root).nums_at(&KEYS).await
    }

    /// Whether a user, or with `None` anybody at all, may be told what a room looks like: members and invited
    /// users, and everybody who could join, knock or read it.
    ///
    /// Specification: `GET /rooms/{roomId}/hierarchy` and `GET /room_summary/{roomIdOrAlias}`.
    pub async fn may_preview(
        &self,
        view: &View,
        user: Option<&UserId>,
        description: &RoomDescription,
    ) -> Result<bool, RoomsError> {
        if description.is_open() {
            return Ok(true);
        }
        let Some(user) = user else { return Ok(false) };
        let row = self.rooms.membership(view, user, &description.room_id).await?;
        if row.is_some_and(|row| matches!(row.membership, Membership::Join | Membership::Invite)) {
            return Ok(true);
        }
        if description.join_rule != "restricted" {
            return Ok(false);
        }
        for room in &description.allowed_room_ids {
            if self.rooms.is_joined(view, user, room).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether another server may be told what a room looks like: it is in the room, or its users could come in or
    /// read it.
    pub(crate) async fn may_preview_for_server(
        &self,
        view: &View,
        server: &ServerName,
        description: &RoomDescription,
    ) -> Result<bool, RoomsError> {
        if description.is_open() || self.rooms.is_server_joined(view, &description.room_id, server).await? {
            return Ok(true);
        }
        if description.join_rule != "restricted" {
            return Ok(false);
        }
        for room in &description.allowed_room_ids {
            if self.rooms.is_server_joined(view, room, server).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The description of a room for a user who may have it, and what they are in it.
    ///
    /// Fails with [`RoomsError::RoomNotFound`] alike if there is no such room and if they may not.
    pub async fn room_summary(
        &self,
        view: &View,
        user: Option<&UserId>,
        room: &RoomId,
    ) -> Result<(Arc<RoomDescription>, Option<&'static str>), RoomsError> {
        let description = self.describe(view, room).await?;
        if !self.may_preview(view, user, &description).await? {
            return Err(RoomsError::RoomNotFound);
        }
        let Some(user) = user else { return Ok((description, None)) };
        let row = self.rooms.membership(view, user, room).await?;
        let membership = row.map_or(Membership::Leave, |row| row.membership);
        Ok((description, Some(membership_name(membership))))
    }
}

impl RoomReader<'_> {
    /// The summary of a room's members in the state `root`, for one of them.
    pub async fn member_summary(&self, root: Root) -> Result<MemberSummary, RoomsError> {
        let head = self.rooms().head(self.view, self.room).await?.ok_or(RoomsError::RoomNotFound)?;
        let heroes = match self.is_named(root).await? {
            true => None,
            false => {
                let heroes = self.heroes(root).await?;
                let chosen = choose(&heroes.present, self.viewer.user);
                Some(if chosen.is_empty() { choose(&heroes.gone, self.viewer.user) } else { chosen })
            }
        };
        Ok(MemberSummary { heroes, joined: head.joined_count, invited: head.invited_count })
    }

    /// Whether the room needs no heroes.
    async fn is_named(&self, root: Root) -> Result<bool, RoomsError> {
        const KEYS: [(&str, &str); 2] = [("m.room.name", ""), ("m.room.canonical_alias", "")];
        let state = self.rooms().shown(self.view, &self.state(root).nums_at(&KEYS).await?).await?;
        let name = text(&state, "m.room.name", "name");
        Ok(name.is_some() || text(&state, "m.room.canonical_alias", "alias").is_some())
    }

    async fn heroes(&self, root: Root) -> Result<Arc<Heroes>, RoomsError> {
        let cache = &self.reading.inner.heroes.heroes;
        if let Some(heroes) = cache.get(&root) {
            return Ok(heroes);
        }
        let (nums, _) = self.state(root).page(MEMBER, "", HERO_CANDIDATES_MAX).await?;
        let mut members = self.rooms().load(self.view, &nums).await?;
        // In the order in which they became what they are; those from before our time come first.
        members.sort_by_key(|(_, meta)| meta.index.unwrap_or(TimelineIndex::MIN));
        let mut heroes = Heroes::default();
        for (event, _) in members {
            let Some(Ok(user)) = event.pdu.state_key().map(UserId::parse) else { continue };
            let list = match membership_of(Some(&event)) {
                Membership::Join | Membership::Invite => &mut heroes.present,
                Membership::Leave | Membership::Ban => &mut heroes.gone,
                Membership::Knock => continue,
            };
            if list.len() <= HEROES_MAX {
                list.push(user);
            }
        }
        let heroes = Arc::new(heroes);
        cache.insert(root, heroes.clone());
        Ok(heroes)
    }
}

/// The first heroes other than the asker.
fn choose(heroes: &[OwnedUserId], asker: &UserId) -> Vec<OwnedUserId> {
    let mut chosen: Vec<OwnedUserId> = heroes.iter().filter(|user| *user != asker).cloned().collect();
    chosen.truncate(HEROES_MAX);
    chosen
}

/// The content of the state event of a type, an empty object without one.
fn content(state: &[Shown], event_type: &str) -> Value {
    let event = state.iter().find(|event| event.event_type() == event_type);
    event.and_then(|event| read(event)).unwrap_or_default()
}

/// Content of any shape; what can't be read as `T` is as good as absent.
fn read<T: DeserializeOwned>(event: &Pdu) -> Option<T> {
    event.content_as().ok()
}

/// A text in the content of a state event, if it isn't empty.
fn text(state: &[Shown], event_type: &str, field: &str) -> Option<String> {
    let content = content(state, event_type);
    let text = content.get(field).and_then(Value::as_str)?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// The plain text of `m.room.topic`: its rich form if that has one, the old field otherwise.
fn topic(content: &Value) -> Option<String> {
    let rich = content.get("m.topic").and_then(|topic| topic.get("m.text")).and_then(Value::as_array);
    for form in rich.into_iter().flatten() {
        let kind = form.get("mimetype").and_then(Value::as_str).unwrap_or("text/plain");
        if kind == "text/plain" {
            return form.get("body").and_then(Value::as_str).map(str::to_owned);
        }
    }
    let text = content.get("topic").and_then(Value::as_str)?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// The rooms that the join rules of a restricted room name.
fn allowed_rooms(join_rules: &Value) -> Vec<OwnedRoomId> {
    let rule = join_rules.get("join_rule").and_then(Value::as_str);
    if !matches!(rule, Some("restricted" | "knock_restricted")) {
        return Vec::new();
    }
    let mut rooms = Vec::new();
    let allow = join_rules.get("allow").and_then(Value::as_array);
    for condition in allow.into_iter().flatten().take(ALLOWED_ROOMS_MAX) {
        if condition.get("type").and_then(Value::as_str) != Some("m.room_membership") {
            continue;
        }
        let room = condition.get("room_id").and_then(Value::as_str);
        if let Some(Ok(room)) = room.map(RoomId::parse) {
            rooms.push(room);
        }
    }
    rooms
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_topic_is_plain_text() {
        assert_eq!(topic(&json!({ "topic": "a" })), Some("a".to_owned()));
        assert_eq!(topic(&json!({ "topic": "" })), None);
        let rich = json!({
            "topic": "old",
            "m.topic": { "m.text": [{ "mimetype": "text/html", "body": "<b>" }, { "body": "new" }] }
        });
        assert_eq!(topic(&rich), Some("new".to_owned()));
    }

    #[test]
    fn only_restricted_rooms_name_rooms() {
        let allow = json!([
            { "type": "m.room_membership", "room_id": "!a:h" },
            { "type": "org.example", "room_id": "!b:h" },
            { "type": "m.room_membership", "room_id": "nonsense" },
        ]);
        let named = allowed_rooms(&json!({ "join_rule": "restricted", "allow": allow }));
        assert_eq!(named, ["!a:h"]);
        assert!(allowed_rooms(&json!({ "join_rule": "public", "allow": allow })).is_empty());
    }
}
