//! The user's own ways into and out of rooms.
//!
//! Specification: client-server API, "Syncing", "Stripped state".

use std::collections::BTreeMap;

use ::rooms::{Membership, MembershipLogRow, MembershipMoved, MembershipRow, TimelineIndex};
use reading::{ClientEvent, RoomEventFilter, Sight, Visibility, stripped};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{LogRecord, Position, StoreError};

pub(crate) use super::section::{Section, Step};
use super::{
    Stream, StreamId, Subject,
    changes::{Changes, Hints},
    section::section,
    span::Span,
};
use crate::{
    SyncError,
    format::to_event,
    hub::Router,
    inbox::Kind,
    reader::{Reader, SeenEvent},
    state::MEMBER,
};

/// See the module.
pub(crate) struct Memberships;

/// The user's membership of a room.
pub(crate) const MOVED: Kind = StreamId::Memberships.urgent();

impl Stream for Memberships {
    const SUBJECT: Subject = Subject::Room;
    type Part = ();

    /// Routes a change that no advance of a room tells to its user. [`super::Rooms`] routes those that one does.
    fn route(router: &mut Router<'_>, record: &LogRecord) -> Result<(), StoreError> {
        let Some(entry) = record.decode::<MembershipMoved>()? else { return Ok(()) };
        let residents = &router.hub.residents;
        let (user, room) = (residents.user(&entry.user), residents.room(&entry.room));
        router.tell_user(user, room, MOVED, record.position);
        Ok(())
    }
}

/// The user's ways into and out of rooms in a range, the oldest step first.
pub(crate) type Paths = BTreeMap<OwnedRoomId, Vec<Step>>;

impl Memberships {
    /// The changes in the range; in a first sync what led to the memberships of now, also of rooms that were left if those are
    /// wanted.
    pub(crate) async fn read(span: &Span<'_>, changes: &Changes, with_left: bool) -> Result<Paths, SyncError> {
        let Reader { rooms, view, viewer, .. } = &span.reader;
        let mut paths = Paths::new();
        if !changes.has(StreamId::Memberships) {
            return Ok(paths);
        }
        let since = span.since_position();
        if since.is_none() && !with_left {
            // The past of rooms that aren't shown is of no interest.
            for (room, row) in rooms.memberships(view, viewer.user).await? {
                let MembershipRow { membership, event, position, forgotten } = row;
                if !forgotten {
                    paths.insert(room, vec![Step { position, membership, event }]);
                }
            }
            return Ok(paths);
        }
        let rows = rooms.membership_log(view, viewer.user, since.unwrap_or(Position::ZERO), span.reader.now()).await?;
        for (position, row) in rows {
            let MembershipLogRow { room, membership, event, forgotten } = row;
            if !forgotten {
                let steps = paths.entry(room).or_default();
                steps.push(Step { position, membership, event });
            } else if since.is_none() {
                paths.remove(&room);
            }
        }
        Ok(paths)
    }

    /// How a room stands to the user now, after the steps of the range; `None` if there is nothing to say about it.
    pub(crate) async fn section(
        span: &Span<'_>,
        room: &RoomId,
        hints: Hints,
        steps: &[Step],
    ) -> Result<Option<Section>, SyncError> {
        let Reader { rooms, view, viewer, .. } = &span.reader;
        let Some(since) = span.since_position() else {
            return Ok(section(Membership::Leave, steps));
        };
        if !steps.is_empty() {
            // As far as this server held the room.
            let root = span.reader.root_at(room, since).await?;
            let mut before = rooms.state(view, room, root).membership(viewer.user).await?;
            if before == Membership::Leave && steps.first().is_some_and(|step| step.membership == Membership::Leave) {
                // An invite or a knock by way of another server, which the room's state here says nothing of, has ended.
                before = Membership::Invite;
            }
            return Ok(section(before, steps));
        }
        if hints.joined {
            return Ok(Some(Section::Joined { fresh: false }));
        }
        let row = rooms.membership(view, viewer.user, room).await?;
        let joined = row.is_some_and(|row| row.membership == Membership::Join);
        Ok(joined.then_some(Section::Joined { fresh: false }))
    }

    /// The user's own member event, which they may see whatever the room's history visibility, if a filter wants it.
    pub(crate) async fn own_event(
        span: &Span<'_>,
        room: &RoomId,
        step: Step,
        filter: &RoomEventFilter,
    ) -> Result<Option<SeenEvent>, SyncError> {
        let Reader { rooms, view, .. } = span.reader;
        let Some(num) = step.event else { return Ok(None) };
        let Some(event) = rooms.event(view, num).await? else {
            return Ok(None);
        };
        let meta = rooms.meta(view, num).await?;
        if !filter.wants_room(room) || !span.reader.room(room).wants(filter, &event, &meta).await? {
            return Ok(None);
        }
        let sight = Sight { seen: Visibility::Visible, membership: Some(step.membership) };
        let index = TimelineIndex::live(step.position);
        Ok(Some(SeenEvent { index, event, meta, sight }))
    }

    /// The stripped state of a room that the user is invited to or knocks at, as clients get it; `None` if they are not to hear of it,
    /// because they ignore who invited them or want no invites.
    pub(crate) async fn stripped_state(
        span: &Span<'_>,
        room: &RoomId,
        step: Step,
    ) -> Result<Option<Vec<ClientEvent>>, SyncError> {
        let (rooms, view, viewer) = (span.reader.rooms, span.reader.view, &span.reader.viewer);
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
                || span.inner.users.blocks_invites(view, viewer.user).await?
            {
                return Ok(None);
            }
        }
        if let Some(kept) = kept {
            return as_clients_get_it(&kept).map(Some);
        }
        let root = span.reader.root_at(room, step.position).await?;
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
        Ok(Some(events))
    }
}

/// Other servers send whole events; clients get what the form has.
fn as_clients_get_it(kept: &[Box<RawValue>]) -> Result<Vec<ClientEvent>, SyncError> {
    let mut events = Vec::with_capacity(kept.len());
    for event in kept {
        let Ok(event) = serde_json::from_str::<StrippedEvent<'_>>(event.get()) else { continue };
        events.push(to_event(&event)?);
    }
    Ok(events)
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
