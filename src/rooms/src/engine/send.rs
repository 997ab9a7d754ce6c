//! Sending messages and state, as clients do.
//!
//! Specification: client-server API, "Sending events to a room".

use ruma::{RoomId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Rooms, RoomsError,
    engine::{
        append::{Draft, Extra, Sender, Sent, nothing},
        membership::object,
    },
    json::to_json,
    rows::TxnKey,
    types::{MEMBER, Membership, REDACTION},
};

/// The longest event type and state key, in bytes (server-server API, "Size limits").
const TYPE_BYTES_MAX: usize = 255;

/// What a sender may say about an event beside its content.
#[derive(Copy, Clone, Debug, Default)]
pub struct SendOptions {
    /// When the event was sent, in Unix ms: for application services only.
    pub timestamp_ms: Option<u64>,
}

/// A state event that a user wants to set.
#[derive(Clone, Debug)]
pub struct NewState<'a> {
    event_type: &'a str,
    state_key: &'a str,
    content: Box<RawValue>,
    /// What a member event's content says, read once for all who decide by it.
    membership: Option<Membership>,
}

impl<'a> NewState<'a> {
    /// The event at a key, type and state key.
    ///
    /// Fails with [`RoomsError::TooLarge`] if one of them is too long, and with [`RoomsError::BadEvent`] without a type, or if it is a
    /// member event that names no membership.
    pub fn new((event_type, state_key): (&'a str, &'a str), content: Box<RawValue>) -> Result<Self, RoomsError> {
        check_type(event_type, state_key)?;
        let membership = if event_type == MEMBER { Some(membership_in(&content)?) } else { None };
        Ok(Self { event_type, state_key, content, membership })
    }

    /// Whose membership it sets, and to what; `None` if it is no member event of a user.
    pub fn membership(&self) -> Option<(&'a UserId, Membership)> {
        Some((<&UserId>::try_from(self.state_key).ok()?, self.membership?))
    }
}

impl Rooms {
    /// Sends a message event. A repeated transaction id gives the first answer again.
    pub async fn send(
        &self,
        sender: &Sender<'_>,
        room: &RoomId,
        event_type: &str,
        content: Box<RawValue>,
        options: SendOptions,
    ) -> Result<Sent, RoomsError> {
        self.send_with(sender, room, event_type, content, options, &nothing).await
    }

    /// As [`Rooms::send`], with something else in the same batch.
    pub async fn send_with(
        &self,
        sender: &Sender<'_>,
        room: &RoomId,
        event_type: &str,
        content: Box<RawValue>,
        options: SendOptions,
        extra: Extra<'_>,
    ) -> Result<Sent, RoomsError> {
        check_type(event_type, "")?;
        if event_type == REDACTION {
            return self.send_redaction(sender, room, content, extra).await;
        }
        let txn = TxnKey::of(sender, "send", room, event_type)?;
        let mut draft = Draft::message(sender.user, event_type, content);
        draft.timestamp_ms = options.timestamp_ms;
        self.check_thread_root(room, draft.relation.as_ref()).await?;
        self.append(room, &draft, txn.as_ref(), extra).await
    }

    /// Sets a state event. What accounts have to do with it is not known here: APIs use `flows::Flows::send_state`.
    pub async fn send_state(
        &self,
        sender: &Sender<'_>,
        room: &RoomId,
        state: NewState<'_>,
        options: SendOptions,
    ) -> Result<Sent, RoomsError> {
        let invited = match state.membership() {
            Some((target, Membership::Invite)) => Some(target),
            _ => None,
        };
        let NewState { event_type, state_key, content, .. } = state;
        let key = (event_type, state_key);
        let content = self.check_state_content(sender, room, key, content).await?;
        if let Some(sent) = self.same_state(sender.user, room, key, &content, options).await? {
            return Ok(sent);
        }
        if let Some(target) = invited.filter(|target| !self.is_local(target)) {
            // Their server has to sign it too, whichever endpoint it comes by.
            return self.invite_remote(sender.user, room, target, content).await;
        }
        let mut draft = Draft::state(sender.user, event_type, state_key, content);
        draft.timestamp_ms = options.timestamp_ms;
        self.append(room, &draft, None, &nothing).await
    }

    /// The answer to setting a state that the user has set so already.
    async fn same_state(
        &self,
        user: &UserId,
        room: &RoomId,
        (event_type, state_key): (&str, &str),
        content: &RawValue,
        options: SendOptions,
    ) -> Result<Option<Sent>, RoomsError> {
        let view = self.inner.store.view().await?;
        // Who isn't in the room learns nothing of its state.
        if options.timestamp_ms.is_some() || !self.is_joined(&view, user, room).await? {
            return Ok(None);
        }
        let Some(event) = self.current_state(&view, room).await?.shown(event_type, state_key).await? else {
            return Ok(None);
        };
        let read = |content: &RawValue| serde_json::from_str::<serde_json::Value>(content.get()).ok();
        let same = event.sender() == user && read(content).is_some_and(|new| read(event.content()) == Some(new));
        Ok(same.then(|| Sent { event_id: event.owned_event_id(), position: view.position() }))
    }

    /// What the specification asks of particular state events when a client sets them.
    async fn check_state_content(
        &self,
        sender: &Sender<'_>,
        room: &RoomId,
        (event_type, state_key): (&str, &str),
        content: Box<RawValue>,
    ) -> Result<Box<RawValue>, RoomsError> {
        match event_type {
            // A join by this way follows the same rules as any other.
            MEMBER if state_key == sender.user.as_str() => {
                let content = self.content_of_own_membership(room, sender.user, object(&content)?).await?;
                to_json(&content)
            }
            "m.room.power_levels" => {
                check_power_levels(&content)?;
                Ok(content)
            }
            "m.room.canonical_alias" if state_key.is_empty() => {
                self.check_canonical_alias(room, &content).await?;
                Ok(content)
            }
            _ => Ok(content),
        }
    }
}

/// The membership that the content of a member event names.
fn membership_in(content: &RawValue) -> Result<Membership, RoomsError> {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    let content = serde_json::from_str::<Content>(content.get());
    match content.as_ref().map(|content| &*content.membership) {
        Ok("ban") => Ok(Membership::Ban),
        Ok("invite") => Ok(Membership::Invite),
        Ok("join") => Ok(Membership::Join),
        Ok("knock") => Ok(Membership::Knock),
        Ok("leave") => Ok(Membership::Leave),
        _ => Err(RoomsError::BadEvent("a member event needs a `membership`".to_owned())),
    }
}

fn check_type(event_type: &str, state_key: &str) -> Result<(), RoomsError> {
    if event_type.is_empty() {
        return Err(RoomsError::BadEvent("an event needs a type".to_owned()));
    }
    if event_type.len() > TYPE_BYTES_MAX || state_key.len() > TYPE_BYTES_MAX {
        return Err(RoomsError::TooLarge("the event type or state key".to_owned()));
    }
    Ok(())
}

/// Levels must be integers: old room versions read strings too, but no server should make more of them (server-server API,
/// "Definitions").
pub(crate) fn check_power_levels(content: &RawValue) -> Result<(), RoomsError> {
    let bad = |what: &str| RoomsError::BadEvent(format!("`{what}` in power levels must be an integer"));
    let content: serde_json::Map<String, serde_json::Value> = serde_json::from_str(content.get())
        .map_err(|_| RoomsError::BadEvent("power levels must be an object".to_owned()))?;
    for field in ["ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"] {
        if content.get(field).is_some_and(|level| !level.is_i64()) {
            return Err(bad(field));
        }
    }
    for field in ["events", "users", "notifications"] {
        let Some(levels) = content.get(field) else { continue };
        let levels = levels.as_object().ok_or_else(|| bad(field))?;
        if levels.values().any(|level| !level.is_i64()) {
            return Err(bad(field));
        }
    }
    Ok(())
}
