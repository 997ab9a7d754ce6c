//! Power levels, read once and asked often.
//!
//! Specification: client-server API, `m.room.power_levels`; "Authorization rules" for how room
//! versions read numbers and privilege creators.

use std::collections::{BTreeMap, HashSet};

use ruma::events::TimelineEventType;
use ruma::events::room::power_levels::UserPowerLevel;
use ruma::room_version_rules::RoomVersionRules;
use ruma::state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField};
use ruma::{Int, OwnedUserId, UserId};

use crate::{AuthError, Pdu};

/// A user's power. Room creators are above every number from room version 12 on.
pub type PowerLevel = UserPowerLevel;

/// The level of the creator while the room has no power levels event.
const CREATOR_WITHOUT_EVENT: i32 = 100;

/// The level that `notifications.room` has where nothing is said.
const NOTIFICATIONS_ROOM_DEFAULT: i32 = 50;

/// The power levels of a room at one moment.
///
/// Reading them costs in proportion to the users they name; the two events that they come from
/// never change, so what is read may be kept.
#[derive(Debug, Clone)]
pub struct PowerLevels {
    users: BTreeMap<OwnedUserId, Int>,
    users_default: Int,
    events: BTreeMap<TimelineEventType, Int>,
    events_default: Int,
    state_default: Int,
    notifications: BTreeMap<String, Int>,
    ban: Int,
    kick: Int,
    redact: Int,
    invite: Int,
    /// Above every number; empty where the room version has no such thing.
    privileged: HashSet<OwnedUserId>,
}

impl PowerLevels {
    /// The levels that follow from the create event and the power levels event, if there is one.
    ///
    /// Fails where the authorisation rules could not read one of the two.
    pub fn new(rules: &RoomVersionRules, create: &Pdu, power_levels: Option<&Pdu>) -> Result<Self, AuthError> {
        let rules = &rules.authorization;
        let creators = RoomCreateEvent::new(create).creators(rules).map_err(AuthError::Rejected)?;
        let event = power_levels.map(RoomPowerLevelsEvent::new);
        let field = |field: RoomPowerLevelsIntField| match &event {
            Some(event) => event.get_as_int_or_default(field, rules).map_err(AuthError::Rejected),
            None => Ok(field.default_value()),
        };
        let mut levels = Self {
            users: BTreeMap::new(),
            users_default: field(RoomPowerLevelsIntField::UsersDefault)?,
            events: BTreeMap::new(),
            events_default: field(RoomPowerLevelsIntField::EventsDefault)?,
            state_default: field(RoomPowerLevelsIntField::StateDefault)?,
            notifications: BTreeMap::new(),
            ban: field(RoomPowerLevelsIntField::Ban)?,
            kick: field(RoomPowerLevelsIntField::Kick)?,
            redact: field(RoomPowerLevelsIntField::Redact)?,
            invite: field(RoomPowerLevelsIntField::Invite)?,
            privileged: HashSet::new(),
        };
        match &event {
            Some(event) => {
                let users = event.users(rules).map_err(AuthError::Rejected)?;
                levels.users = users.cloned().unwrap_or_default();
                let events = event.events(rules).map_err(AuthError::Rejected)?;
                levels.events = events.unwrap_or_default();
                let notifications = event.notifications(rules).map_err(AuthError::Rejected)?;
                levels.notifications = notifications.unwrap_or_default();
            }
            None => {
                for creator in &creators {
                    levels.users.insert(creator.clone(), CREATOR_WITHOUT_EVENT.into());
                }
            }
        }
        if rules.explicitly_privilege_room_creators {
            levels.privileged = creators;
        }
        Ok(levels)
    }

    /// A user's power.
    pub fn user(&self, user: &UserId) -> PowerLevel {
        if self.privileged.contains(user) {
            return PowerLevel::Infinite;
        }
        self.users.get(user).copied().unwrap_or(self.users_default).into()
    }

    /// The power needed to send an event of this type, as a state event if it has a state key.
    pub fn for_event(&self, event_type: &TimelineEventType, state_key: Option<&str>) -> Int {
        let default = if state_key.is_some() { self.state_default } else { self.events_default };
        self.events.get(event_type).copied().unwrap_or(default)
    }

    /// Whether a user may send an event of this type.
    pub fn may_send(&self, user: &UserId, event_type: &TimelineEventType, state_key: Option<&str>) -> bool {
        self.user(user) >= self.for_event(event_type, state_key)
    }

    /// Whether a user may invite.
    pub fn may_invite(&self, user: &UserId) -> bool {
        self.user(user) >= self.invite
    }

    /// Whether a user may kick another: the level to kick and more power than the other.
    pub fn may_kick(&self, user: &UserId, target: &UserId) -> bool {
        self.user(user) >= self.kick && self.user(user) > self.user(target)
    }

    /// Whether a user may ban another: the level to ban and more power than the other.
    pub fn may_ban(&self, user: &UserId, target: &UserId) -> bool {
        self.user(user) >= self.ban && self.user(user) > self.user(target)
    }

    /// Whether a user may redact the events of others.
    pub fn may_redact_others(&self, user: &UserId) -> bool {
        self.user(user) >= self.redact
    }

    /// The power needed to send a notification of this kind; `room` is the only one specified.
    pub fn for_notification(&self, kind: &str) -> Int {
        let default = NOTIFICATIONS_ROOM_DEFAULT.into();
        self.notifications.get(kind).copied().unwrap_or(default)
    }

    /// The users that stand in the event, for those who look for somebody with enough power.
    pub fn named_users(&self) -> impl Iterator<Item = &UserId> {
        self.users.keys().chain(&self.privileged).map(|user| &**user)
    }
}
