//! Rooms that the user left, or is not in yet.

use reading::{ClientEvent, Sight, Visibility, stripped};
use rooms::{Membership, TimelineIndex};
use ruma::{OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::Position;

use super::{Answer, account::to_event};
use crate::{
    LeftRoom, StateUpdate, SyncError,
    membership::Step,
    reader::SeenEvent,
    response::Events,
    state::{MEMBER, Roots},
};

impl Answer<'_> {
    /// What to say about a room that the user was in up to `end`.
    pub(super) async fn left(
        &self,
        room: &RoomId,
        end: Position,
        fresh: bool,
        last: Step,
        account_data: Vec<ClientEvent>,
    ) -> Result<LeftRoom, SyncError> {
        let since = self.since.filter(|_| !fresh);
        let known = match since {
            Some(since) if !self.session.request.full_state => Some(self.reader.root_at(room, since).await?),
            _ => None,
        };
        let roots = Roots { known, end: self.reader.root_at(room, end).await? };
        let told = self.tell(room, roots, (since, end), None, false).await?;
        let mut update = LeftRoom { state: told.state, timeline: told.timeline, ..LeftRoom::default() };
        update.account_data.events = account_data;
        if last.position > end {
            // A ban after the leave, say.
            update.timeline.events.extend(self.own_member_event(room, last).await?);
        }
        Ok(update)
    }

    /// What to say about a room that the user isn't in and wasn't: the end of an invite, a knock or a hope.
    pub(super) async fn refused(&self, room: &RoomId, last: Step) -> Result<LeftRoom, SyncError> {
        let mut update = LeftRoom::default();
        if self.session.request.use_state_after {
            update.state = StateUpdate::After(Events::default());
        }
        update.timeline.events.extend(self.own_member_event(room, last).await?);
        Ok(update)
    }

    /// The user's own member event, which they may see whatever the room's history visibility.
    async fn own_member_event(&self, room: &RoomId, step: Step) -> Result<Option<ClientEvent>, SyncError> {
        let (rooms, view) = (self.reader.rooms, self.reader.view);
        let filter = &self.session.filter.room.timeline;
        let Some(num) = step.event else { return Ok(None) };
        let Some(event) = rooms.event(view, num).await? else {
            return Ok(None);
        };
        let meta = rooms.meta(view, num).await?;
        if !filter.wants_room(room) || !self.reader.room(room).wants(filter, &event, &meta).await? {
            return Ok(None);
        }
        let sight = Sight { seen: Visibility::Visible, membership: Some(step.membership) };
        let index = TimelineIndex::live(step.position);
        let seen = SeenEvent { index, event, meta, sight };
        Ok(self.timeline_events(room, &[seen], false).await?.pop())
    }

    /// The stripped state of a room that the user is invited to or knocks at; `None` if they are not to hear of it, because
    /// they ignore who invited them or want no invites.
    pub(super) async fn stripped(&self, room: &RoomId, step: Step) -> Result<Option<Events>, SyncError> {
        let (rooms, view, viewer) = (self.reader.rooms, self.reader.view, &self.reader.viewer);
        let member = match step.event {
            Some(num) => rooms.event(view, num).await?,
            None => None,
        };
        // Kept only while the way in leads through another server: then what this one knows of the room, and the user's last
        // member event in it, are of an earlier time.
        let kept = rooms.stripped_state(view, viewer.user, room).await?;
        if step.membership == Membership::Invite {
            let sender = match (&member, &kept) {
                (_, Some(kept)) => inviter(kept, viewer.user),
                (Some(member), None) => Some(member.pdu.sender().to_owned()),
                (None, None) => None,
            };
            if sender.is_some_and(|sender| viewer.ignored.contains(&sender))
                || self.session.inner.users.blocks_invites(view, viewer.user).await?
            {
                return Ok(None);
            }
        }
        if let Some(kept) = kept {
            let mut events: Vec<ClientEvent> = Vec::with_capacity(kept.len());
            for event in &kept {
                // Other servers send whole events; clients get what the form has.
                let Ok(event) = serde_json::from_str::<StrippedEvent<'_>>(event.get()) else { continue };
                events.push(to_event(&event)?);
            }
            return Ok(Some(Events { events }));
        }
        let root = self.reader.root_at(room, step.position).await?;
        let inviter = member.as_ref().filter(|_| step.membership == Membership::Invite);
        let inviter = inviter.map(|member| member.pdu.sender());
        let mut told = rooms.state(view, room, root).shown_to_invited(inviter).await?;
        if let Some(member) = &member {
            told.extend(rooms.shown(view, &[member.num]).await?);
        }
        let mut events: Vec<ClientEvent> = Vec::with_capacity(told.len());
        for event in &told {
            events.push(stripped(event)?.into());
        }
        Ok(Some(Events { events }))
    }
}

/// Stripped state as clients get it.
#[derive(Deserialize, Serialize)]
struct StrippedEvent<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    sender: OwnedUserId,
    state_key: String,
    #[serde(rename = "type")]
    event_type: String,
}

#[derive(Deserialize)]
struct StrippedMember {
    sender: OwnedUserId,
    state_key: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
}

/// Who invited the user, by the stripped state.
fn inviter(stripped: &[Box<RawValue>], user: &UserId) -> Option<OwnedUserId> {
    for event in stripped {
        // Most stripped state is no member event and doesn't read as one.
        let Ok(member) = serde_json::from_str::<StrippedMember>(event.get()) else {
            continue;
        };
        if member.event_type == MEMBER && member.state_key == user {
            return Some(member.sender);
        }
    }
    None
}
