//! Who is typing. In no log: it means nothing after a restart, but that clients may still show somebody as typing.
//!
//! Specification: client-server API, "Typing Notifications".

use std::{collections::HashSet, fmt};

use reading::ClientEvent;
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::Serialize;
use tokio::sync::watch;

use super::{
    Sources, Stream, StreamId, Subject, VolatileStream,
    changes::{Changes, Hints},
    span::Span,
    token::{BadToken, Part, Token, TokenNumbers, write_if_any},
};
use crate::{
    Inner, SyncError,
    format::to_event,
    hub::{Hub, Router},
    inbox::Kind,
    sequence::{Numbers, Sequence},
};

/// Members of a large room for each second that its typing waits for more: so much of it is routed in a second, however many type.
const LATE_MEMBERS_PER_SECOND: usize = 1_000;

/// Users that are told to type in a large room: nobody reads a longer list.
const USERS_IN_LARGE_ROOM_MAX: usize = 10;

/// See the module.
pub(crate) struct Typing;

const CHANGED: Kind = StreamId::Typing.urgent();
/// The same in a large room.
const CHANGED_LATE: Kind = StreamId::Typing.relaxed();

impl Stream for Typing {
    const SUBJECT: Subject = Subject::Room;
    const SEQUENCE: Sequence = Sequence::Typing;
    type Part = TypingPart;
}

impl VolatileStream for Typing {
    fn last(sources: &Sources<'_>) -> u64 {
        sources.rooms.typing().sequence()
    }

    fn subscribe(sources: &Sources<'_>) -> watch::Receiver<u64> {
        sources.rooms.typing().subscribe()
    }

    fn route_after(router: &mut Router<'_>, sources: &Sources<'_>, since: u64) -> u64 {
        let typing = sources.rooms.typing();
        let Some((rooms, last)) = typing.changed_since(since) else {
            // More rooms changed than are remembered; nobody can tell which.
            let last = typing.sequence();
            router.hub.routing(Sequence::Typing, last);
            router.reset(Sequence::Typing, last);
            return last;
        };
        router.hub.routing(Sequence::Typing, last);
        for room in rooms {
            let active = !typing.users(&room).is_empty();
            Self::route_room(router, &room, active, last);
        }
        last
    }
}

/// How much of typing a client has seen.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct TypingPart {
    /// Changes up to this number; `None` if none of this run of the server.
    pub(crate) seen: Option<u64>,
    /// In which rooms the client may believe that somebody is typing, each by its [`bit`]: what has to be taken back after a restart.
    pub(crate) shown: u64,
}

impl Part for TypingPart {
    fn told(since: Option<Self>, numbers: &Numbers) -> Self {
        Self { seen: Some(numbers[Sequence::Typing]), shown: since.map_or(0, |since| since.shown) }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_if_any(self.seen, f)?;
        write!(f, "_{}", self.shown)
    }

    fn read(numbers: &mut TokenNumbers<'_>) -> Result<Self, BadToken> {
        Ok(Self { seen: numbers.number_if_any()?, shown: numbers.number()? })
    }

    fn after_restart(self) -> Self {
        Self { seen: None, ..self }
    }
}

/// Who types as an answer begins to be made.
#[derive(Copy, Clone)]
pub(crate) struct TypingNow {
    /// The rooms of the user, each by its [`bit`], in which somebody types whom they don't ignore.
    shown: u64,
    /// Whether something changed that isn't routed yet.
    is_ahead: bool,
}

impl TypingNow {
    /// To be asked before an inbox is looked at: what changes in between is unrouted, or in the inbox.
    pub(crate) fn new(inner: &Inner, user: u32, ignored: &HashSet<OwnedUserId>, routed: &Numbers) -> Self {
        let (hub, typing) = (&inner.hub, inner.rooms.typing());
        let mut shown = 0;
        for room in active_of(hub, user) {
            if ignored.is_empty() || typing.users(&room).iter().any(|user| !ignored.contains(user)) {
                shown |= bit(&room);
            }
        }
        Self { shown, is_ahead: typing.sequence() > routed[Sequence::Typing] }
    }

    /// In which rooms a client may believe that somebody is typing, once it was told of some (each by its [`bit`]).
    pub(crate) fn shown_after(self, since: Option<&Token>, told: u64) -> u64 {
        let before = since.filter(|_| self.is_ahead).map_or(0, |since| since.parts.typing.shown);
        self.shown | told | before
    }
}

/// One of 64 bits that a room has in [`TypingPart::shown`], the same in every run of the server; other rooms have it too.
pub(crate) fn bit(room: &RoomId) -> u64 {
    // FNV-1a.
    let hash = room
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    1 << (hash >> 58)
}

/// The user's rooms in which somebody is typing.
fn active_of(hub: &Hub, user: u32) -> impl Iterator<Item = OwnedRoomId> {
    let mut active: Vec<u32> = hub.typing.lock().active.iter().copied().collect();
    if !active.is_empty() {
        active = hub.residents.joined_among(user, active.into_iter());
    }
    active.into_iter().filter_map(|room| hub.residents.room_id(room).cloned())
}

#[derive(Serialize)]
struct TypingEvent<'a> {
    content: TypingContent<'a>,
    #[serde(rename = "type")]
    event_type: &'static str,
}

#[derive(Serialize)]
struct TypingContent<'a> {
    user_ids: &'a [OwnedUserId],
}

impl Typing {
    /// Routes a change in a room; `active` if there still is anybody who types. That of a large room waits for more, until
    /// the room is announced again ([`Typing::late`]).
    fn route_room(router: &mut Router<'_>, room: &RoomId, active: bool, number: u64) {
        let (hub, room) = (router.hub, router.hub.residents.room(room));
        let is_large = hub.is_large(room);
        let kind = {
            let mut typing = hub.typing.lock();
            if active {
                typing.active.insert(room)
            } else {
                typing.active.remove(&room)
            };
            let waits = typing.late.get(&room).is_none_or(|seconds| *seconds > 0);
            if is_large && waits {
                let seconds = hub.residents.member_count(room).div_ceil(LATE_MEMBERS_PER_SECOND);
                typing.late.entry(room).or_insert(seconds);
                return;
            }
            if typing.late.remove(&room).is_some() { CHANGED_LATE } else { CHANGED }
        };
        router.tell_members(room, kind, (Sequence::Typing, number));
    }

    /// To be called every second: the large rooms whose typing is to be announced once more, to be routed now.
    pub(crate) fn late(hub: &Hub) -> Vec<OwnedRoomId> {
        let mut due = Vec::new();
        for (room, seconds) in &mut hub.typing.lock().late {
            *seconds = seconds.saturating_sub(1);
            if *seconds == 0 {
                due.extend(hub.residents.room_id(*room).cloned());
            }
        }
        due
    }

    /// The rooms in which somebody types now.
    pub(super) fn add_active(span: &Span<'_>, changes: &mut Changes) {
        if !span.wanted.contains(StreamId::Typing) {
            return;
        }
        let hub = &span.inner.hub;
        for room in active_of(hub, span.number) {
            let number = hub.residents.room(&room);
            changes.add_room(room, number, StreamId::Typing);
        }
    }

    /// What may have changed since a token to which no inbox reaches back.
    pub(super) async fn add_unlisted(span: &Span<'_>, since: &Token, changes: &mut Changes) -> Result<(), SyncError> {
        let typing = span.inner.rooms.typing();
        let TypingPart { seen, shown } = since.parts.typing;
        let moved = |room: &RoomId| match seen {
            // More changed than the inbox holds: look at each room.
            Some(seen) => typing.changed_at(room) > seen,
            // The client may show somebody as typing of whom this run of the server knows nothing.
            None => bit(room) & shown != 0 || typing.changed_at(room) > 0,
        };
        if seen.is_none() && shown == 0 {
            Self::add_active(span, changes);
            return Ok(());
        }
        let mark = |hub: &Hub, hints: &mut Hints| {
            if hub.residents.room_id(hints.number).is_some_and(|room| moved(room)) {
                hints.streams.insert(StreamId::Typing);
            }
        };
        span.add_joined(changes, mark).await
    }

    /// Who types in a room now of those whom the user doesn't ignore, if that may be news. That nobody does any more is for those who
    /// may believe that somebody does.
    pub(crate) fn read(span: &Span<'_>, room: &RoomId, hints: Hints) -> Option<Vec<OwnedUserId>> {
        let changed = hints.has(StreamId::Typing);
        if !changed && !hints.unknown {
            return None;
        }
        let mut users = span.reader.rooms.typing().users(room);
        users.retain(|user| !span.reader.viewer.ignored.contains(user));
        if span.inner.hub.is_large(hints.number) {
            users.truncate(USERS_IN_LARGE_ROOM_MAX);
        }
        let may_be_shown = span.since.is_some_and(|since| since.parts.typing.shown != 0);
        (!users.is_empty() || (changed && may_be_shown)).then_some(users)
    }

    /// As clients get it.
    pub(crate) fn event(user_ids: &[OwnedUserId]) -> Result<ClientEvent, SyncError> {
        to_event(&TypingEvent { content: TypingContent { user_ids }, event_type: "m.typing" })
    }
}
