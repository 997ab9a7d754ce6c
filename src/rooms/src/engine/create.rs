//! Making rooms.
//!
//! Specification: client-server API, "Creation" (`createRoom`): which events, in which order, by which preset.

use std::{collections::HashSet, sync::Arc};

use event::{PduBuilder, auth, new_room_id};
use ruma::{EventId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId};
use serde_json::{Map, Value, json, value::RawValue};
use state_tree::Root;
use store::{Batch, CommitError, Record};

use crate::{
    EncryptionByDefault, Rooms, RoomsError,
    engine::{
        advance::{Follows, Placed},
        append::{ATTEMPTS_MAX, Draft},
        membership::member_content,
        send::check_power_levels,
        turn::Turn,
    },
    json::to_json,
    room::RoomInfo,
    tables::RoomInfos,
    types::{MEMBER, StoredEvent},
};

/// State events that a client may give a new room.
pub const INITIAL_STATE_MAX: usize = 100;

/// Users that can be invited while making a room.
pub const INVITES_MAX: usize = 100;

/// The power of a room's creator where it is a number.
pub(crate) const CREATOR_LEVEL: i64 = 100;

/// The power for sending tombstones where creators stand above all numbers (room version 12 on): explicitly above `state_default`.
pub(crate) const TOMBSTONE_LEVEL: i64 = 150;

/// Which defaults a new room has.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Preset {
    /// By invite; members see what happened before they joined.
    PrivateChat,
    /// As [`Preset::PrivateChat`], and the invited have the creator's power.
    TrustedPrivateChat,
    /// Anybody may join.
    PublicChat,
}

/// A state event for a new room.
#[derive(Clone, Debug)]
pub struct InitialState {
    /// The type.
    pub event_type: String,
    /// The state key.
    pub state_key: String,
    /// The content: an object.
    pub content: Box<RawValue>,
}

/// Somebody to invite to a new room.
#[derive(Clone, Debug)]
pub struct Invitee {
    /// The user.
    pub user: OwnedUserId,
    /// Whether it is for a direct chat.
    pub is_direct: bool,
    /// Content of their member event: the profile of a local user.
    pub content: Option<Box<RawValue>>,
}

impl Invitee {
    /// A user of whom no profile is known.
    pub fn new(user: OwnedUserId, is_direct: bool) -> Self {
        Self { user, is_direct, content: None }
    }
}

/// A room to be made.
#[derive(Clone, Debug)]
pub struct CreateRoom {
    /// The user who makes it.
    pub creator: OwnedUserId,
    /// The room version; `None` for the configured default.
    pub version: Option<RoomVersionId>,
    /// The preset; `None`: by `visibility`.
    pub preset: Option<Preset>,
    /// Whether it is published in the directory.
    pub visibility: bool,
    /// Its name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Users to invite; of a user who is named twice the first counts.
    pub invites: Vec<Invitee>,
    /// Further state, in order.
    pub initial_state: Vec<InitialState>,
    /// Further content of the create event.
    pub creation_content: Option<Box<RawValue>>,
    /// What to put over the default power levels.
    pub power_level_content_override: Option<Box<RawValue>>,
    /// An alias for it, of this server.
    pub alias: Option<OwnedRoomAliasId>,
    /// Content of the creator's member event: the profile.
    pub member_content: Option<Box<RawValue>>,
    /// A room that this one replaces.
    pub replaces: Option<OwnedRoomId>,
    /// Its id, where that doesn't follow from the create event; drawn at random otherwise.
    pub(crate) room_id: Option<OwnedRoomId>,
}

impl CreateRoom {
    /// A private room without name.
    pub fn new(creator: OwnedUserId) -> Self {
        Self {
            creator,
            version: None,
            preset: None,
            visibility: false,
            name: None,
            topic: None,
            invites: Vec::new(),
            initial_state: Vec::new(),
            creation_content: None,
            power_level_content_override: None,
            alias: None,
            member_content: None,
            replaces: None,
            room_id: None,
        }
    }

    fn preset(&self) -> Preset {
        match (self.preset, self.visibility) {
            (Some(preset), _) => preset,
            (None, true) => Preset::PublicChat,
            (None, false) => Preset::PrivateChat,
        }
    }

    /// Whether the room is encrypted unless its first state says how. Spaces hold no messages, and a room that replaces another is
    /// as that one was.
    fn is_encrypted(&self, by_default: EncryptionByDefault) -> Result<bool, RoomsError> {
        let covered = match by_default {
            EncryptionByDefault::Off => false,
            EncryptionByDefault::Invite => self.preset() != Preset::PublicChat,
            EncryptionByDefault::All => true,
        };
        let content = object(self.creation_content.as_deref(), "creation_content")?;
        Ok(covered && self.replaces.is_none() && content.get("type") != Some(&"m.space".into()))
    }
}

/// Given content as an object.
pub(crate) fn object(given: Option<&RawValue>, what: &str) -> Result<Map<String, Value>, RoomsError> {
    let Some(given) = given else { return Ok(Map::new()) };
    serde_json::from_str(given.get()).map_err(|_| RoomsError::BadEvent(format!("`{what}` must be an object")))
}

impl Rooms {
    /// Makes a room with all its first events in one batch. Users of other servers are invited afterwards, one by one; a server that
    /// can't be reached doesn't undo the room.
    ///
    /// Fails with [`RoomsError::InvalidRoomState`] if the authorisation rules refuse one of the events, and with
    /// [`RoomsError::BadEvent`] if the request holds something that is no event.
    pub async fn create(&self, request: &CreateRoom) -> Result<OwnedRoomId, RoomsError> {
        let version = request.version.clone().unwrap_or_else(|| self.default_room_version().clone());
        let rules = event::rules(&version).ok_or_else(|| RoomsError::UnsupportedRoomVersion(version.clone()))?;
        if request.initial_state.len() > INITIAL_STATE_MAX || request.invites.len() > INVITES_MAX {
            return Err(RoomsError::TooLarge("the room's first state and invites".to_owned()));
        }
        let privileged = rules.authorization.explicitly_privilege_room_creators;
        let create_content = create_content(request, &version, rules, self.inner.config.allow_federation)?;
        let encryption = self.inner.config.encryption_enabled_by_default_for_room_type;
        let drafts = first_events(request, privileged, encryption)?;
        for attempt in 0..ATTEMPTS_MAX {
            let mut builder =
                PduBuilder::new(request.creator.clone(), "m.room.create".to_owned(), to_json(&create_content)?);
            builder.room_id = match &request.room_id {
                Some(room) => Some(room.clone()),
                None => new_room_id(rules, &*self.inner.random, self.server_name())?,
            };
            builder.state_key = Some(String::new());
            builder.depth = 1;
            builder.origin_server_ts = self.creation_ms(attempt);
            let pdu = builder.build(rules, &self.signing_key(), self.server_name())?;
            auth::check_state_independent(rules, &pdu, |_: &EventId| None)
                .map_err(|error| RoomsError::InvalidRoomState(error.to_string()))?;
            let num = self.inner.events.next_num().await?;
            let create = Arc::new(StoredEvent::new(num, pdu, Vec::new(), Vec::new(), 0));
            let room = create.pdu.room_id().to_owned();
            match self.fill_new_room(request, create, &drafts).await {
                Ok(()) => {
                    self.invite_others(request, &room).await;
                    return Ok(room);
                }
                Err(RoomsError::Commit(CommitError::Conflict)) => {
                    self.check_alias_free(request).await?;
                }
                // The creator may do anything, so what is refused is the state that they asked for.
                Err(RoomsError::Forbidden(reason)) => return Err(RoomsError::InvalidRoomState(reason)),
                Err(error) => return Err(error),
            }
        }
        Err(RoomsError::Busy)
    }

    /// When a room says that it was made. Where the room's id follows from the create event, two rooms that a user makes alike within a
    /// millisecond would be one: further attempts say some time of the second before.
    fn creation_ms(&self, attempt: usize) -> u64 {
        let now_ms = self.inner.clock.now_ms();
        if attempt == 0 {
            return now_ms;
        }
        let mut random = [0; 2];
        self.inner.random.fill(&mut random);
        now_ms.saturating_sub(1 + u64::from(u16::from_le_bytes(random)) % 1_000)
    }

    /// The first turn of a room, with what a room is for ever.
    pub(crate) async fn new_room(&self, create: &StoredEvent) -> Result<Turn, RoomsError> {
        let info = RoomInfo::of(create)?;
        let mut turn = self.turn_of_new(create.pdu.room_id(), info.clone()).await?;
        turn.batch.put::<RoomInfos>(&create.pdu.room_id(), &Record(info));
        Ok(turn)
    }

    async fn fill_new_room(
        &self,
        request: &CreateRoom,
        create: Arc<StoredEvent>,
        drafts: &[Draft],
    ) -> Result<(), RoomsError> {
        let mut turn = self.new_room(&create).await?;
        turn.name(create.pdu.event_id(), create.num);
        let before = Root::EMPTY;
        let after = turn.state_after(before, &create).await?;
        let placed = Placed {
            event: create,
            before,
            after,
            had: None,
            redacted_by: None,
            gap: Vec::new(),
            follows: Follows::Named,
        };
        turn.place_first(placed).await?;
        for draft in drafts {
            turn.append(draft).await?;
        }
        let room = turn.room.clone();
        for invitee in invitees(request).filter(|invitee| self.is_local(&invitee.user)) {
            turn.append(&invite(&request.creator, invitee)?).await?;
        }
        if let Some(alias) = &request.alias {
            self.prepare_alias(&turn.view.clone(), &mut turn.batch, alias, &room, &request.creator).await?;
        }
        if request.visibility {
            self.prepare_publish(&mut turn.batch, &room, Some(&request.creator), None);
        }
        turn.submit(false).await?.await?;
        Ok(())
    }

    async fn invite_others(&self, request: &CreateRoom, room: &OwnedRoomId) {
        for invitee in invitees(request).filter(|invitee| !self.is_local(&invitee.user)) {
            let Ok(draft) = invite(&request.creator, invitee) else { continue };
            let user = &invitee.user;
            if let Err(error) = self.invite_remote(&request.creator, room, user, draft.content).await {
                tracing::warn!(room.id = %room, user.id = %user, "invite to a new room failed: {error}");
            }
        }
    }

    async fn check_alias_free(&self, request: &CreateRoom) -> Result<(), RoomsError> {
        let Some(alias) = &request.alias else { return Ok(()) };
        let mut unused = Batch::new();
        let view = self.inner.store.view().await?;
        self.prepare_alias(&view, &mut unused, alias, ruma::room_id!("!check:invalid"), &request.creator).await
    }
}

impl RoomInfo {
    /// What a create event makes a room for ever.
    pub(crate) fn of(create: &StoredEvent) -> Result<Self, RoomsError> {
        let content: Map<String, Value> = create
            .pdu
            .as_received()
            .content_as()
            .map_err(|_| RoomsError::BadEvent("the create event has no content".to_owned()))?;
        let version = content.get("room_version").and_then(Value::as_str).unwrap_or("1");
        let version = RoomVersionId::try_from(version)
            .map_err(|_| RoomsError::BadEvent("the create event has no valid room version".to_owned()))?;
        Ok(Self {
            version,
            creator: create.pdu.sender().to_owned(),
            create: create.num,
            federate: content.get("m.federate").and_then(Value::as_bool).unwrap_or(true),
        })
    }
}

fn create_content(
    request: &CreateRoom,
    version: &RoomVersionId,
    rules: &event::RoomVersionRules,
    federate_by_default: bool,
) -> Result<Map<String, Value>, RoomsError> {
    let mut content = object(request.creation_content.as_deref(), "creation_content")?;
    // A room that replaces another is as open as that one was.
    if !federate_by_default && request.replaces.is_none() {
        content.entry("m.federate").or_insert(false.into());
    }
    content.insert("room_version".to_owned(), version.as_str().into());
    content.remove("creator");
    if !rules.authorization.use_room_create_sender {
        content.insert("creator".to_owned(), request.creator.as_str().into());
    }
    if !rules.authorization.additional_room_creators {
        content.remove("additional_creators");
    } else if request.preset() == Preset::TrustedPrivateChat && !request.invites.is_empty() {
        let given = content.get("additional_creators").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut seen = HashSet::new();
        let invited = request.invites.iter().map(|invitee| Value::from(invitee.user.as_str()));
        let all: Vec<Value> = given
            .into_iter()
            .chain(invited)
            .filter(|user| user.as_str().is_none_or(|user| user != request.creator && seen.insert(user.to_owned())))
            .collect();
        content.insert("additional_creators".to_owned(), all.into());
    }
    Ok(content)
}

/// The events after the create event and before the invites, in the specified order.
fn first_events(
    request: &CreateRoom,
    privileged: bool,
    encryption: EncryptionByDefault,
) -> Result<Vec<Draft>, RoomsError> {
    let creator = &request.creator;
    let mut drafts = Vec::new();
    let mut add = |event_type: &str, state_key: &str, content: Box<RawValue>| {
        drafts.push(Draft::state(creator, event_type, state_key, content));
    };
    add(MEMBER, creator.as_str(), to_json(&member_content(request.member_content.as_deref(), "join")?)?);
    add("m.room.power_levels", "", to_json(&power_levels(request, privileged)?)?);
    if let Some(alias) = &request.alias {
        add("m.room.canonical_alias", "", to_json(&json!({ "alias": alias }))?);
    }
    let given = |event_type: &str| {
        request.initial_state.iter().any(|state| state.event_type == event_type && state.state_key.is_empty())
    };
    let (join_rule, guest_access) = match request.preset() {
        Preset::PrivateChat | Preset::TrustedPrivateChat => ("invite", "can_join"),
        Preset::PublicChat => ("public", "forbidden"),
    };
    let mut by_preset = vec![
        ("m.room.join_rules", json!({ "join_rule": join_rule })),
        ("m.room.history_visibility", json!({ "history_visibility": "shared" })),
        ("m.room.guest_access", json!({ "guest_access": guest_access })),
    ];
    if request.is_encrypted(encryption)? {
        by_preset.push(("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })));
    }
    for (event_type, content) in by_preset {
        if !given(event_type) {
            add(event_type, "", to_json(&content)?);
        }
    }
    for state in &request.initial_state {
        check_initial(state)?;
        let overridden = match &*state.event_type {
            "m.room.name" => request.name.is_some(),
            "m.room.topic" => request.topic.is_some(),
            "m.room.create" => true,
            _ => false,
        };
        if !(overridden && state.state_key.is_empty()) {
            add(&state.event_type, &state.state_key, state.content.clone());
        }
    }
    if let Some(name) = &request.name {
        add("m.room.name", "", to_json(&json!({ "name": name }))?);
    }
    if let Some(topic) = &request.topic {
        let text = json!({ "m.text": [{ "body": topic, "mimetype": "text/plain" }] });
        add("m.room.topic", "", to_json(&json!({ "topic": topic, "m.topic": text }))?);
    }
    Ok(drafts)
}

fn power_levels(request: &CreateRoom, privileged: bool) -> Result<Map<String, Value>, RoomsError> {
    let mut users = Map::new();
    if !privileged {
        users.insert(request.creator.to_string(), CREATOR_LEVEL.into());
        if request.preset() == Preset::TrustedPrivateChat {
            for invitee in &request.invites {
                users.insert(invitee.user.to_string(), CREATOR_LEVEL.into());
            }
        }
    }
    let tombstone = if privileged { TOMBSTONE_LEVEL } else { CREATOR_LEVEL };
    let Value::Object(mut content) = json!({
        "ban": 50,
        "events": {
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.encryption": 100,
            "m.room.history_visibility": 100,
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": tombstone,
        },
        "events_default": 0,
        "invite": 0,
        "kick": 50,
        "notifications": { "room": 50 },
        "redact": 50,
        "state_default": 50,
        "users": users,
        "users_default": 0,
    }) else {
        return Err(RoomsError::corrupt("default power levels"));
    };
    let given = object(request.power_level_content_override.as_deref(), "power_level_content_override")?;
    content.extend(given);
    check_power_levels(&to_json(&content)?)?;
    Ok(content)
}

/// Those to invite, each once.
fn invitees(request: &CreateRoom) -> impl Iterator<Item = &Invitee> {
    let mut seen = HashSet::new();
    request.invites.iter().filter(move |invitee| seen.insert(&*invitee.user))
}

fn invite(sender: &UserId, invitee: &Invitee) -> Result<Draft, RoomsError> {
    let mut content = member_content(invitee.content.as_deref(), "invite")?;
    if invitee.is_direct {
        content.insert("is_direct".to_owned(), true.into());
    }
    Ok(Draft::state(sender, MEMBER, invitee.user.as_str(), to_json(&content)?))
}

/// Checks state that a client gives a new room: what an endpoint of its own checks must not come in this way.
fn check_initial(state: &InitialState) -> Result<(), RoomsError> {
    match &*state.event_type {
        "m.room.power_levels" => check_power_levels(&state.content),
        MEMBER => {
            let content = object(Some(&state.content), "content")?;
            if content.get("membership").and_then(Value::as_str) == Some("invite") {
                return Err(RoomsError::InvalidRoomState("invites belong in `invite`".to_owned()));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
