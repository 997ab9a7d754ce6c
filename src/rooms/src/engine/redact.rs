//! Redactions, in whichever order they and their targets arrive.
//!
//! Specification: client-server API, "Redactions"; room versions, "Handling redactions". A redaction is remembered under the
//! id that it names. It applies once both events are part of the room, if the power levels before the redaction
//! allow it; bodies are never changed, readers redact what the meta says is redacted.

use std::sync::Arc;

use event::{Pdu, auth::PowerLevels, may_redact};
use ruma::{EventId, OwnedEventId, RoomId};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use state_tree::{EventNum, Root};
use store::{Position, Range, View};

use crate::{
    Rooms, RoomsError,
    engine::{
        append::{Draft, Extra, Sender, Sent},
        turn::Turn,
    },
    json::to_json,
    log::EventRedacted,
    rows::TxnKey,
    tables::{Redactions, StateRedactions},
    types::{EventStatus, REDACTION, StoredEvent, TimelineIndex},
};

/// Redactions of one event that are looked at; the first that applies is enough.
const REDACTIONS_LOOKED_AT_MAX: usize = 100;

/// Redacted state events that one reader is told of.
pub const STATE_REDACTIONS_MAX: usize = 1_000;

/// What became of a redaction.
mod outcome {
    /// Its target isn't here yet.
    pub(super) const PENDING: u8 = 0;
    /// It applies.
    pub(super) const APPLIED: u8 = 1;
    /// It may not redact its target.
    pub(super) const REFUSED: u8 = 2;
}

/// What the content of a redaction names.
#[derive(Deserialize)]
struct Target {
    redacts: OwnedEventId,
}

impl Rooms {
    /// Redacts an event, with an optional reason and further content.
    ///
    /// Fails with [`RoomsError::EventNotFound`] if the room has no such event and with
    /// [`RoomsError::Forbidden`] if the user may not redact it.
    pub async fn redact(
        &self,
        sender: &Sender<'_>,
        room: &RoomId,
        target: &EventId,
        reason: Option<&str>,
        extra: Extra<'_>,
    ) -> Result<Sent, RoomsError> {
        let txn = TxnKey::of(sender, "redact", room, target.as_str())?;
        let content = match reason {
            Some(reason) => json!({ "reason": reason }),
            None => json!({}),
        };
        self.place_redaction((sender, txn), room, target, to_json(&content)?, extra).await
    }

    /// Sends a redaction as a client does that sends it like any other message: its content names the target, whatever
    /// the room's version.
    ///
    /// Fails as [`Rooms::redact`], and with [`RoomsError::BadEvent`] if the content names no event.
    pub(crate) async fn send_redaction(
        &self,
        sender: &Sender<'_>,
        room: &RoomId,
        content: Box<RawValue>,
        extra: Extra<'_>,
    ) -> Result<Sent, RoomsError> {
        let txn = TxnKey::of(sender, "send", room, REDACTION)?;
        let named = serde_json::from_str::<Target>(content.get());
        let Ok(Target { redacts: target }) = named else {
            return Err(RoomsError::BadEvent("a redaction names the event that it `redacts`".to_owned()));
        };
        self.place_redaction((sender, txn), room, &target, content, extra).await
    }

    async fn place_redaction(
        &self,
        (sender, txn): (&Sender<'_>, Option<TxnKey>),
        room: &RoomId,
        target: &EventId,
        content: Box<RawValue>,
        extra: Extra<'_>,
    ) -> Result<Sent, RoomsError> {
        let view = self.inner.store.view().await?;
        if let Some(txn) = &txn
            && let Some(answered) = self.answered(&view, txn).await?
        {
            return Ok(answered.sent);
        }
        let head = self.head(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        // Before anything tells whether there is such an event.
        self.check_joined(&view, room, sender.user).await?;
        let event = self.event_by_id(&view, target).await?.ok_or(RoomsError::EventNotFound)?;
        if event.pdu.room_id() != room {
            return Err(RoomsError::EventNotFound);
        }
        if event.pdu.sender() != sender.user {
            let levels = self.state(&view, room, head.root).power_levels().await?;
            if !levels.may_redact_others(sender.user) {
                return Err(RoomsError::forbidden("you may not redact the events of others in this room"));
            }
        }
        let mut draft = Draft::message(sender.user, REDACTION, content);
        draft.redacts = Some(target.to_owned());
        self.append(room, &draft, txn.as_ref(), extra).await
    }
}

impl Rooms {
    /// State events of a room that were redacted after `since` and not after `until`: at most the newest
    /// [`STATE_REDACTIONS_MAX`].
    pub async fn state_redacted(
        &self,
        view: &View,
        room: &RoomId,
        since: Position,
        until: Position,
    ) -> Result<Vec<EventNum>, RoomsError> {
        let rows = Range::<StateRedactions>::prefix(&(room,))
            .after(&(room, since))
            .through(&(room, until))
            .reverse()
            .limit(STATE_REDACTIONS_MAX);
        Ok(view.scan::<StateRedactions>(rows).await?.rows.into_iter().map(|(_, num)| num).collect())
    }
}

impl Turn {
    /// If a new event is a redaction: remembers it, and applies it if its target is here.
    pub(crate) async fn redact_target(&mut self, event: &Arc<StoredEvent>, before: Root) -> Result<(), RoomsError> {
        let Some(target_id) = event.pdu.as_received().redacts(self.rules) else { return Ok(()) };
        let result = match self.rooms.event_by_id(&self.view, &target_id).await? {
            Some(target) => {
                let meta = self.meta(target.num).await?;
                if meta.status != EventStatus::Accepted && meta.status != EventStatus::SoftFailed {
                    outcome::PENDING
                } else if !self.may_redact(event.pdu.as_received(), before, target.pdu.as_received()).await? {
                    outcome::REFUSED
                } else {
                    if meta.redacted_by.is_none() {
                        self.apply_redaction(&target, event.num, meta.index).await?;
                    }
                    outcome::APPLIED
                }
            }
            None => outcome::PENDING,
        };
        self.batch.put::<Redactions>(&(&target_id, event.num), &result);
        Ok(())
    }

    async fn apply_redaction(
        &mut self,
        target: &Arc<StoredEvent>,
        redaction: EventNum,
        index: Option<TimelineIndex>,
    ) -> Result<(), RoomsError> {
        let num = target.num;
        self.change_meta(num, |meta| meta.redacted_by = Some(redaction)).await?;
        if let Some(index) = index {
            self.unindex(target, index).await?;
        }
        let stamp = self.batch.log(&EventRedacted { room: self.room.clone(), target: num, redaction });
        if target.pdu.state_key().is_some() {
            self.batch.put::<StateRedactions>(&(&self.room, stamp), &num);
        }
        Ok(())
    }

    /// The redaction that applies to an event which gets its place now.
    pub(crate) async fn redaction_of(&mut self, event: &StoredEvent) -> Result<Option<EventNum>, RoomsError> {
        match self.meta(event.num).await?.redacted_by {
            Some(redaction) => Ok(Some(redaction)),
            None => self.early_redaction(event.pdu.as_received()).await,
        }
    }

    /// A redaction that came before its target, which arrives now, and applies to it.
    async fn early_redaction(&mut self, target: &Pdu) -> Result<Option<EventNum>, RoomsError> {
        let range = Range::<Redactions>::prefix(&(target.event_id(),)).limit(REDACTIONS_LOOKED_AT_MAX);
        let mut applies = None;
        for ((_, num), result) in self.view.scan(range).await?.rows {
            if result != outcome::PENDING {
                continue;
            }
            let Some(redaction) = self.rooms.event(&self.view, num).await? else { continue };
            let meta = self.meta(num).await?;
            if meta.status != EventStatus::Accepted || redaction.pdu.room_id() != &*self.room {
                continue;
            }
            let allowed = self.may_redact(redaction.pdu.as_received(), meta.before, target).await?;
            let result = if allowed { outcome::APPLIED } else { outcome::REFUSED };
            self.batch.put::<Redactions>(&(target.event_id(), num), &result);
            if allowed && applies.is_none() {
                applies = Some(num);
            }
        }
        Ok(applies)
    }

    async fn may_redact(&self, redaction: &Pdu, before: Root, target: &Pdu) -> Result<bool, RoomsError> {
        let create = self.state_event(before, "m.room.create", "").await?;
        let levels = self.state_event(before, "m.room.power_levels", "").await?;
        let create = create.ok_or_else(|| RoomsError::corrupt("a state without create event"))?;
        let create = self.shown(&create).await?;
        let levels = match levels {
            Some(levels) => Some(self.shown(&levels).await?),
            None => None,
        };
        match PowerLevels::new(self.rules, &create, levels.as_deref()) {
            Ok(levels) => Ok(may_redact(self.rules, redaction, target, &levels)),
            // Levels that nobody can read allow nothing.
            Err(_) => Ok(false),
        }
    }
}
