//! Replacing a room by a new one of another version.
//!
//! Specification: client-server API, "Room upgrades". What is the users' (tags, push rules) is copied elsewhere.

mod levels;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId, events::TimelineEventType};
use serde_json::{Map, Value, json};
use store::View;

use crate::{
    Rooms, RoomsError,
    aliases::CANONICAL_ALIAS,
    append::{Draft, nothing},
    create::{CREATOR_LEVEL, CreateRoom, INITIAL_STATE_MAX, InitialState, Preset, raw},
    snapshot::Root,
    types::{Membership, StoredEvent},
};

/// State with an empty state key that goes along into the new room.
const TRANSFERRED: &[&str] = &[
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.policy",
];

/// The power to speak and to invite that the old room asks for afterwards, at least.
const CLOSED_LEVEL: i64 = 50;

/// How a room is to be replaced.
#[derive(Clone, Debug)]
pub struct UpgradeRoom {
    /// Who does it.
    pub user: OwnedUserId,
    /// The version of the new room.
    pub version: RoomVersionId,
    /// Further creators, where the version knows them.
    pub additional_creators: Vec<OwnedUserId>,
    /// Content of the user's member event in the new room: the profile.
    pub member_content: Option<Box<serde_json::value::RawValue>>,
}

impl Rooms {
    /// Makes the new room, points to it with a tombstone, and closes the old one as far as the user's power goes.
    ///
    /// Fails with [`RoomsError::Forbidden`] if the user may not send the tombstone.
    pub async fn upgrade(&self, room: &RoomId, request: &UpgradeRoom) -> Result<OwnedRoomId, RoomsError> {
        if event::rules(&request.version).is_none() {
            return Err(RoomsError::UnsupportedRoomVersion(request.version.clone()));
        }
        let view = self.inner.store.view();
        let head = self.head(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        let user = &*request.user;
        if self.membership_in(&view, room, Some(head.root), user).await? != Membership::Join {
            return Err(RoomsError::NotJoined);
        }
        let levels = self.power_levels(&view, room, head.root).await?;
        if !levels.may_send(user, &TimelineEventType::RoomTombstone, Some("")) {
            return Err(RoomsError::forbidden("you may not upgrade this room"));
        }
        let create = self.replacement(&view, room, head.root, request).await?;
        let new_room = self.create(&create).await?;
        let tombstone = json!({ "body": "This room has been replaced", "replacement_room": new_room });
        let draft = Draft::state(user, "m.room.tombstone", "", raw(&tombstone)?);
        self.append(room, &draft, None, &nothing).await?;
        self.forget_moved_aliases(room, user).await?;
        self.close_replaced(room, user).await?;
        Ok(new_room)
    }

    async fn replacement(
        &self,
        view: &View,
        room: &RoomId,
        root: Root,
        request: &UpgradeRoom,
    ) -> Result<CreateRoom, RoomsError> {
        let rules = event::rules(&request.version)
            .ok_or_else(|| RoomsError::UnsupportedRoomVersion(request.version.clone()))?;
        let old_create = self.state_event(view, room, root, "m.room.create", "").await?;
        let old_create = old_create.ok_or_else(|| RoomsError::corrupt("a state without create event"))?;
        let mut content = content_of(&old_create);
        let is_space = content.get("type").and_then(Value::as_str) == Some("m.space");
        content.remove("additional_creators");
        let mut predecessor = json!({ "room_id": room });
        let privileged = rules.authorization.explicitly_privilege_room_creators;
        if !privileged && let Some(head) = self.head(view, room).await? {
            // The last event known of the old room; later versions have no use for it.
            if let Some(extremity) = head.extremities.iter().max_by_key(|extremity| extremity.depth) {
                predecessor["event_id"] = extremity.event_id.as_str().into();
            }
        }
        content.insert("predecessor".to_owned(), predecessor);
        if rules.authorization.additional_room_creators && !request.additional_creators.is_empty() {
            content.insert("additional_creators".to_owned(), json!(request.additional_creators));
        }
        let mut state = self.transferred_state(view, room, root, is_space).await?;
        let mut create = CreateRoom::new(request.user.clone());
        if let Some(levels) = self.state_event(view, room, root, "m.room.power_levels", "").await? {
            let mut levels = content_of(&levels);
            levels::make_integers(&mut levels);
            let highest = levels::highest(&levels).max(CREATOR_LEVEL);
            if privileged {
                let creators = [&request.user].into_iter().chain(&request.additional_creators);
                levels::for_privileged(&mut levels, creators);
            } else {
                levels::for_numbered(&mut levels, &old_creators(&old_create, self.rules(view, room).await?), highest);
                // Whoever upgrades needs the power to set levels above their own; what comes last takes it from them.
                create.power_level_content_override = Some(raw(&json!({ "users": { (&*request.user): highest } }))?);
            }
            // Last, because it may take the power to set the rest.
            let content = raw(&levels)?;
            state.push(InitialState {
                event_type: "m.room.power_levels".to_owned(),
                state_key: String::new(),
                content,
            });
        }
        create.version = Some(request.version.clone());
        create.preset = Some(Preset::PrivateChat);
        create.creation_content = Some(raw(&content)?);
        create.initial_state = state;
        create.member_content.clone_from(&request.member_content);
        create.replaces = Some(room.to_owned());
        Ok(create)
    }

    async fn transferred_state(
        &self,
        view: &View,
        room: &RoomId,
        root: Root,
        is_space: bool,
    ) -> Result<Vec<InitialState>, RoomsError> {
        let mut state = Vec::new();
        for event_type in TRANSFERRED {
            if let Some(event) = self.state_event(view, room, root, event_type, "").await? {
                state.push(initial(&event));
            }
        }
        // The aliases of this server move with it, and with them what the room is called by.
        if let Some(event) = self.state_event(view, room, root, CANONICAL_ALIAS, "").await?
            && let Some(content) = self.moved_aliases(view, room, &event).await?
        {
            state.push(InitialState { content, ..initial(&event) });
        }
        if is_space {
            let children = self.inner.tree.range(&self.source(view, room), root, "m.space.child").await?;
            let free = INITIAL_STATE_MAX - 1 - state.len();
            for (_, entry) in children.into_iter().take(free) {
                state.push(initial(&*self.present(view, entry.event).await?));
            }
        }
        Ok(state)
    }

    /// Takes the names of the old room that have moved out of its canonical alias, if the user may.
    async fn forget_moved_aliases(&self, room: &RoomId, user: &UserId) -> Result<(), RoomsError> {
        let view = self.inner.store.view();
        let Some(event) = self.current_event(&view, room, CANONICAL_ALIAS, "").await? else { return Ok(()) };
        let Some(content) = self.without_moved_aliases(&view, room, &event).await? else { return Ok(()) };
        let draft = Draft::state(user, CANONICAL_ALIAS, "", content);
        match self.append(room, &draft, None, &nothing).await {
            Ok(_) => Ok(()),
            Err(RoomsError::Forbidden(reason)) => {
                tracing::info!(room.id = %room, "a replaced room keeps its canonical alias: {reason}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Raises what the old room asks for to speak and to invite, if the user may.
    async fn close_replaced(&self, room: &RoomId, user: &UserId) -> Result<(), RoomsError> {
        let view = self.inner.store.view();
        let Some(event) = self.current_event(&view, room, "m.room.power_levels", "").await? else { return Ok(()) };
        let mut levels = content_of(&event);
        let of_users = levels.get("users_default").and_then(Value::as_i64).unwrap_or(0);
        let closed = CLOSED_LEVEL.max(of_users.saturating_add(1));
        for field in ["events_default", "invite"] {
            let level = levels.get(field).and_then(Value::as_i64).unwrap_or(0);
            levels.insert(field.to_owned(), level.max(closed).into());
        }
        let draft = Draft::state(user, "m.room.power_levels", "", raw(&levels)?);
        match self.append(room, &draft, None, &nothing).await {
            Ok(_) => Ok(()),
            Err(RoomsError::Forbidden(reason)) => {
                tracing::info!(room.id = %room, "a replaced room stays open: {reason}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Who stands above all numbers in the old room, if its version has such users.
fn old_creators(create: &StoredEvent, rules: &event::RoomVersionRules) -> Vec<String> {
    if !rules.authorization.explicitly_privilege_room_creators {
        return Vec::new();
    }
    let mut creators = vec![create.pdu.sender().to_string()];
    let content = content_of(create);
    let additional = content.get("additional_creators").and_then(Value::as_array);
    creators.extend(additional.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    creators
}

fn content_of(event: &StoredEvent) -> Map<String, Value> {
    event.pdu.content_as().unwrap_or_default()
}

fn initial(event: &StoredEvent) -> InitialState {
    InitialState {
        event_type: event.pdu.event_type().to_owned(),
        state_key: event.pdu.state_key().unwrap_or_default().to_owned(),
        content: event.pdu.content().to_owned(),
    }
}
