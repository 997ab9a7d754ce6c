//! Replacing a room by a new one of another version.
//!
//! Specification: client-server API, "Room upgrades". What is the users' (tags, push rules) is copied elsewhere.

mod levels;

use event::{Pdu, PolicyServer};
use ruma::{EventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use state_tree::{EventNum, Root};
use store::CommitError;

use crate::{
    Rooms, RoomsError,
    engine::{
        aliases::CANONICAL_ALIAS,
        append::{Draft, Own, nothing},
        create::{CREATOR_LEVEL, CreateRoom, INITIAL_STATE_MAX, InitialState, Preset, object},
        turn::Turn,
    },
    json::to_json,
    shown::Shown,
    state::StateView,
    types::{MEMBER, Membership},
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

const TOMBSTONE: &str = "m.room.tombstone";
const POWER_LEVELS: &str = "m.room.power_levels";

/// How often an upgrade is begun again because an alias of the room was changed meanwhile.
const UPGRADE_ATTEMPTS_MAX: usize = 3;

/// Bans that move along into the new room; of more, those with the first user ids.
const BANS_CARRIED_MAX: usize = 10_000;

/// Bans read at once, and in one batch at most.
const BANS_AT_ONCE_MAX: usize = 50;

/// What a tombstone says.
#[derive(Deserialize)]
struct Tombstone {
    replacement_room: OwnedRoomId,
}

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
    /// Makes the new room, points to it with a tombstone, moves the old room's names on this server, and closes the old one as
    /// far as the user's power goes. The new room comes first, bans included, and the rest in one batch, so nobody ever finds
    /// a room that has lost its names and is open.
    ///
    /// Fails with [`RoomsError::Forbidden`] if the user may not send the tombstone, or if the room was replaced before.
    pub async fn upgrade(&self, room: &RoomId, request: &UpgradeRoom) -> Result<OwnedRoomId, RoomsError> {
        if event::rules(&request.version).is_none() {
            return Err(RoomsError::UnsupportedRoomVersion(request.version.clone()));
        }
        for _ in 0..UPGRADE_ATTEMPTS_MAX {
            // Held all along: of two who upgrade a room at once, the second finds the tombstone of the first.
            let turn = self.quiet_turn(room).await?;
            self.check_upgrade(&turn, &request.user).await?;
            let upgraded = match turn.policy_server().await? {
                None => self.replace(turn, request).await,
                Some(policy) => self.replace_signed(turn, request, &policy).await,
            };
            match upgraded {
                Err(RoomsError::Commit(CommitError::Conflict)) => {}
                upgraded => return upgraded,
            }
        }
        Err(RoomsError::Busy)
    }

    async fn check_upgrade(&self, turn: &Turn, user: &UserId) -> Result<(), RoomsError> {
        let Turn { view, room, head, .. } = turn;
        let state = self.state(view, room, head.root);
        if state.membership(user).await? != Membership::Join {
            return Err(RoomsError::NotJoined);
        }
        let levels = state.power_levels().await?;
        if !levels.may_send(user, &TimelineEventType::RoomTombstone, Some("")) {
            return Err(RoomsError::forbidden("you may not upgrade this room"));
        }
        let tombstone = state.shown(TOMBSTONE, "").await?;
        match tombstone.and_then(|tombstone| tombstone.content_as::<Tombstone>().ok()) {
            // One that names no room has closed this one, no more.
            None => Ok(()),
            Some(Tombstone { replacement_room }) => {
                Err(RoomsError::forbidden(format!("this room was replaced by {replacement_room}")))
            }
        }
    }

    /// The upgrade of a room whose events nobody else has to sign.
    async fn replace(&self, mut turn: Turn, request: &UpgradeRoom) -> Result<OwnedRoomId, RoomsError> {
        let (view, room, root) = (turn.view.clone(), turn.room.clone(), turn.head.root);
        let mut create = self.replacement(self.state(&view, &room, root), request).await?;
        // Where the room's id doesn't follow from the create event, that event can name the tombstone.
        create.room_id = self.id_of_replacement(request)?;
        if let Some(new) = &create.room_id {
            let tombstone = turn.append(&tombstone(&request.user, new)?).await?;
            set_predecessor(&mut create, &room, Some(tombstone.pdu.event_id()))?;
        }
        let new = self.create(&create).await?;
        if let Err(error) = self.end((turn, root), &new, &request.user, create.room_id.is_some()).await {
            self.abandon(&new, &request.user).await;
            return Err(error);
        }
        Ok(new)
    }

    /// Carries the bans over, and ends the old room, whose state was `root`, in one batch. `told`: its turn has the tombstone
    /// already.
    async fn end(
        &self,
        (mut turn, root): (Turn, Root),
        new: &RoomId,
        user: &UserId,
        told: bool,
    ) -> Result<(), RoomsError> {
        let (view, room) = (turn.view.clone(), turn.room.clone());
        let state = self.state(&view, &room, root);
        self.carry_bans(state, new, user).await?;
        if !told {
            turn.append(&tombstone(user, new)?).await?;
        }
        let closing = [self.unnamed(state, user).await?, self.closed(state, user).await?];
        for draft in closing.iter().flatten() {
            match turn.append(draft).await {
                Ok(_) => {}
                Err(RoomsError::Forbidden(reason)) => tell_left_open(&room, draft, &reason),
                Err(error) => return Err(error),
            }
        }
        self.names_to_move(&view, &room).await?.put(&mut turn.batch, &room, new);
        self.write(turn, false).await?;
        Ok(())
    }

    /// Leaves a new room that is to replace nothing after all.
    async fn abandon(&self, new: &RoomId, user: &UserId) {
        if let Err(error) = self.leave(user, new, None).await {
            tracing::warn!(room.id = %new, %user, "a room that replaces nothing stays: {error}");
        }
    }

    /// The upgrade of a room with a policy server, which is asked outside of any turn: each event is a batch, and the door is
    /// closed before the names go.
    async fn replace_signed(
        &self,
        turn: Turn,
        request: &UpgradeRoom,
        policy: &PolicyServer,
    ) -> Result<OwnedRoomId, RoomsError> {
        let (view, room, root) = (turn.view.clone(), turn.room.clone(), turn.head.root);
        let user = &request.user;
        let _upgrading = self.inner.upgrading.start(&room).ok_or(RoomsError::Busy)?;
        let mut create = self.replacement(self.state(&view, &room, root), request).await?;
        create.room_id = self.id_of_replacement(request)?;
        let mut signed = None;
        drop(turn);
        if let Some(new) = &create.room_id {
            let draft = self.draft_only(&room, &tombstone(user, new)?).await?;
            let tombstone = self.ask_policy_server(&room, policy, draft).await?;
            set_predecessor(&mut create, &room, Some(tombstone.event_id()))?;
            signed = Some(tombstone);
        }
        let new = self.create(&create).await?;
        if let Err(error) = self.end_signed(self.state(&view, &room, root), &new, user, (policy, signed)).await {
            self.abandon(&new, user).await;
            return Err(error);
        }
        if let Some(draft) = self.unnamed(self.state(&view, &room, root), user).await? {
            self.append_if_allowed(&room, &draft).await?;
        }
        Ok(new)
    }

    /// Carries the bans over, closes the old room, whose state was `root`, and points to the new one with a tombstone that the policy
    /// server signs or has signed.
    async fn end_signed(
        &self,
        state: StateView<'_>,
        new: &RoomId,
        user: &UserId,
        (policy, signed): (&PolicyServer, Option<Pdu>),
    ) -> Result<(), RoomsError> {
        let room = state.room;
        let turn = self.quiet_turn(room).await?;
        self.check_upgrade(&turn, user).await?;
        self.carry_bans(state, new, user).await?;
        drop(turn);
        let signed = match signed {
            Some(signed) => signed,
            None => {
                let draft = self.draft_only(room, &tombstone(user, new)?).await?;
                self.ask_policy_server(room, policy, draft).await?
            }
        };
        if let Some(draft) = self.closed(state, user).await? {
            self.append_if_allowed(room, &draft).await?;
        }
        let names = self.names_to_move(&self.inner.store.view().await?, room).await?;
        let own = Own { pdu: signed, answers: None, annotation: None };
        self.place_own(room, own, &|batch| names.put(batch, room, new)).await?;
        Ok(())
    }

    /// A random id for the new room, where its version has such.
    fn id_of_replacement(&self, request: &UpgradeRoom) -> Result<Option<OwnedRoomId>, RoomsError> {
        let rules = event::rules(&request.version)
            .ok_or_else(|| RoomsError::UnsupportedRoomVersion(request.version.clone()))?;
        Ok(event::new_room_id(rules, &*self.inner.random, self.server_name())?)
    }

    async fn append_if_allowed(&self, room: &RoomId, draft: &Draft) -> Result<(), RoomsError> {
        match self.append(room, draft, None, &nothing).await {
            Ok(_) => Ok(()),
            Err(RoomsError::Forbidden(reason)) => {
                tell_left_open(room, draft, &reason);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Bans in the new room whom the old one bans, while nobody else knows of it.
    async fn carry_bans(&self, old: StateView<'_>, new: &RoomId, user: &UserId) -> Result<(), RoomsError> {
        let mut bans = old.members(Membership::Ban).await?;
        bans.truncate(BANS_CARRIED_MAX);
        for chunk in bans.chunks(BANS_AT_ONCE_MAX) {
            let nums: Vec<EventNum> = chunk.iter().map(|(_, num)| *num).collect();
            let mut turn = self.turn(new).await?;
            for ban in self.shown(old.view, &nums).await? {
                if turn.batch.is_filled() {
                    turn.submit(false).await?.await?;
                    turn = self.turn(new).await?;
                }
                let target = ban.state_key().unwrap_or_default();
                let draft = Draft::state(user, MEMBER, target, ban.content().to_owned());
                let carried = match turn.append(&draft).await {
                    // It just fitted into an event of the old room.
                    Err(RoomsError::Pdu(_)) => {
                        let content = to_json(&json!({ "membership": "ban" }))?;
                        turn.append(&Draft::state(user, MEMBER, target, content)).await
                    }
                    carried => carried,
                };
                match carried {
                    Ok(_) => {}
                    Err(RoomsError::Forbidden(reason)) => {
                        tracing::info!(room.id = %new, "bans can't move along: {reason}");
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            turn.submit(false).await?.await?;
        }
        Ok(())
    }

    async fn replacement(&self, old: StateView<'_>, request: &UpgradeRoom) -> Result<CreateRoom, RoomsError> {
        let rules = event::rules(&request.version)
            .ok_or_else(|| RoomsError::UnsupportedRoomVersion(request.version.clone()))?;
        let old_create = old.shown("m.room.create", "").await?;
        let old_create = old_create.ok_or_else(|| RoomsError::corrupt("a state without create event"))?;
        let mut content = content_of(&old_create);
        let is_space = content.get("type").and_then(Value::as_str) == Some("m.space");
        content.remove("additional_creators");
        content.insert("predecessor".to_owned(), json!({ "room_id": old.room }));
        let privileged = rules.authorization.explicitly_privilege_room_creators;
        if rules.authorization.additional_room_creators && !request.additional_creators.is_empty() {
            content.insert("additional_creators".to_owned(), json!(request.additional_creators));
        }
        let mut state = self.transferred_state(old, is_space).await?;
        let mut create = CreateRoom::new(request.user.clone());
        if let Some(levels) = old.shown(POWER_LEVELS, "").await? {
            let mut levels = content_of(&levels);
            levels::make_integers(&mut levels);
            let highest = levels::highest(&levels).max(CREATOR_LEVEL);
            if privileged {
                let creators = [&request.user].into_iter().chain(&request.additional_creators);
                levels::for_privileged(&mut levels, creators);
            } else {
                levels::for_numbered(
                    &mut levels,
                    &old_creators(&old_create, self.rules(old.view, old.room).await?),
                    highest,
                );
                // Whoever upgrades needs the power to set levels above their own; what comes last takes it from them.
                create.power_level_content_override =
                    Some(to_json(&json!({ "users": { (&*request.user): highest } }))?);
            }
            // Last, because it may take the power to set the rest.
            let content = to_json(&levels)?;
            state.push(InitialState { event_type: POWER_LEVELS.to_owned(), state_key: String::new(), content });
        }
        create.version = Some(request.version.clone());
        create.preset = Some(Preset::PrivateChat);
        create.creation_content = Some(to_json(&content)?);
        create.initial_state = state;
        create.member_content.clone_from(&request.member_content);
        create.replaces = Some(old.room.to_owned());
        Ok(create)
    }

    async fn transferred_state(&self, old: StateView<'_>, is_space: bool) -> Result<Vec<InitialState>, RoomsError> {
        let StateView { view, room, root, .. } = old;
        let mut state = Vec::new();
        for event_type in TRANSFERRED {
            if let Some(event) = old.shown(event_type, "").await? {
                state.push(initial(&event));
            }
        }
        // The aliases of this server move with it, and with them what the room is called by.
        if let Some(event) = old.shown(CANONICAL_ALIAS, "").await?
            && let Some(content) = self.moved_aliases(view, room, &event).await?
        {
            state.push(InitialState { content, ..initial(&event) });
        }
        if is_space {
            let children = self.inner.tree.range(&self.source(view, room), root, "m.space.child").await?;
            let free = INITIAL_STATE_MAX - 1 - state.len();
            for (_, entry) in children.into_iter().take(free) {
                let event = self.present(view, entry.event).await?;
                let meta = self.meta(view, entry.event).await?;
                state.push(initial(&self.shown_event(view, &event, &meta).await?));
            }
        }
        Ok(state)
    }

    /// A canonical alias of the old room without the names that move, if it has any.
    async fn unnamed(&self, old: StateView<'_>, user: &UserId) -> Result<Option<Draft>, RoomsError> {
        let Some(event) = old.shown(CANONICAL_ALIAS, "").await? else { return Ok(None) };
        let content = self.without_own_aliases(&event)?;
        Ok(content.map(|content| Draft::state(user, CANONICAL_ALIAS, "", content)))
    }

    /// Power levels that ask for more to speak and to invite in the old room.
    async fn closed(&self, old: StateView<'_>, user: &UserId) -> Result<Option<Draft>, RoomsError> {
        let Some(event) = old.shown(POWER_LEVELS, "").await? else { return Ok(None) };
        let mut levels = content_of(&event);
        let of_users = levels.get("users_default").and_then(Value::as_i64).unwrap_or(0);
        let closed = CLOSED_LEVEL.max(of_users.saturating_add(1));
        for field in ["events_default", "invite"] {
            let level = levels.get(field).and_then(Value::as_i64).unwrap_or(0);
            levels.insert(field.to_owned(), level.max(closed).into());
        }
        Ok(Some(Draft::state(user, POWER_LEVELS, "", to_json(&levels)?)))
    }
}

fn tombstone(user: &UserId, new: &RoomId) -> Result<Draft, RoomsError> {
    let content = json!({ "body": "This room has been replaced", "replacement_room": new });
    Ok(Draft::state(user, TOMBSTONE, "", to_json(&content)?))
}

/// Says in the create event which room it replaces, and with which event that one ended.
fn set_predecessor(create: &mut CreateRoom, room: &RoomId, ended_by: Option<&EventId>) -> Result<(), RoomsError> {
    let mut content = object(create.creation_content.as_deref(), "creation_content")?;
    content.insert("predecessor".to_owned(), json!({ "room_id": room, "event_id": ended_by }));
    create.creation_content = Some(to_json(&content)?);
    Ok(())
}

fn tell_left_open(room: &RoomId, draft: &Draft, reason: &str) {
    tracing::info!(room.id = %room, "a replaced room keeps its {}: {reason}", draft.event_type);
}

/// Who stands above all numbers in the old room, if its version has such users.
fn old_creators(create: &Shown, rules: &event::RoomVersionRules) -> Vec<String> {
    if !rules.authorization.explicitly_privilege_room_creators {
        return Vec::new();
    }
    let mut creators = vec![create.sender().to_string()];
    let content = content_of(create);
    let additional = content.get("additional_creators").and_then(Value::as_array);
    creators.extend(additional.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    creators
}

fn content_of(event: &Shown) -> Map<String, Value> {
    event.content_as().unwrap_or_default()
}

fn initial(event: &Shown) -> InitialState {
    InitialState {
        event_type: event.event_type().to_owned(),
        state_key: event.state_key().unwrap_or_default().to_owned(),
        content: event.content().to_owned(),
    }
}
