//! One room's news for one user, whichever answer they are part of.

use std::collections::BTreeSet;

use reading::{MemberSummary, RoomEventFilter, Viewer, Visibility};
use rooms::{TimelineIndex, notable};
use ruma::{OwnedUserId, RoomId};
use state_tree::Root;
use store::Position;

use crate::{
    SyncError,
    reader::{Reader, SeenEvent},
    slice::{Slice, SliceRange},
    state::{MEMBER, Roots, StateDelta},
    streams::{changes::Hints, span::Span},
    tail::{NewEvent, TailRange},
};

/// Types of state events that the name of a room depends on.
const NAMING_TYPES: [&str; 3] = [MEMBER, "m.room.name", "m.room.canonical_alias"];

/// A part of a room's history.
pub(crate) struct RoomRange {
    /// The state that the client has, and that at the end.
    roots: Roots,
    /// The start of the timeline; `None` for all there is.
    since: Option<Position>,
    /// The end.
    until: Position,
    /// What is known of it already.
    tail: Option<TailRange>,
    /// Whether the user is joined at the end, so that it matters what the room is called.
    is_joined: bool,
}

impl RoomRange {
    /// From a position, or the start of all, to now, for who is in the room. `hints`: the whole state may be wanted.
    pub(crate) async fn up_to_now(
        span: &Span<'_>,
        room: &RoomId,
        hints: Hints,
        since: Option<Position>,
    ) -> Result<Self, SyncError> {
        let (reader, until) = (&span.reader, span.reader.now());
        let tail = since.and_then(|since| span.inner.hub.tail(hints.number, since, until));
        let end = match &tail {
            Some(tail) => tail.after,
            None => reader.root_now(room).await?,
        };
        let known = match (since, &tail) {
            _ if hints.full => None,
            (None, _) => None,
            (Some(_), Some(tail)) => Some(tail.before),
            (Some(since), None) => Some(reader.root_at(room, since).await?),
        };
        Ok(Self { roots: Roots { known, end }, since, until, tail, is_joined: true })
    }

    /// From a position, or the start of all, to where the user left the room. `full`: the whole state is wanted.
    pub(crate) async fn up_to_end(
        span: &Span<'_>,
        room: &RoomId,
        (since, end): (Option<Position>, Position),
        full: bool,
    ) -> Result<Self, SyncError> {
        let known = match since {
            Some(since) if !full => Some(span.reader.root_at(room, since).await?),
            _ => None,
        };
        let roots = Roots { known, end: span.reader.root_at(room, end).await? };
        Ok(Self { roots, since, until: end, tail: None, is_joined: false })
    }

    /// Who else is told the same: the position of the first of some new events, if all else of the room is as it was and `user`, who has
    /// been in it all the time, sent none of them.
    pub(crate) fn shared(&self, user: u32) -> Option<Position> {
        let tail = self.tail.as_ref().filter(|tail| self.roots.known == Some(self.roots.end) && !tail.gaps)?;
        let concerns_all = |event: &NewEvent| {
            event.sender != Some(user) && event.flags & notable::SENT != 0 && event.flags & notable::REDACTS == 0
        };
        let all = tail.events.iter().all(|(_, event)| concerns_all(event));
        tail.events.first().filter(|_| all).map(|(first, _)| *first)
    }

    /// Whether the client is told the whole state, as if it knew nothing of the room.
    pub(crate) fn is_anew(&self) -> bool {
        self.roots.known.is_none()
    }
}

/// A part of a room's history, as a client is to be told it.
#[derive(Copy, Clone)]
pub(crate) struct RoomView<'a> {
    pub(crate) room: &'a RoomId,
    pub(crate) range: &'a RoomRange,
    /// Events of the timeline: the newest, at most so many.
    pub(crate) limit: usize,
    /// Those of the timeline that are wanted.
    pub(crate) timeline: &'a RoomEventFilter,
    pub(crate) required: RequiredState,
}

/// Which state is told.
#[derive(Copy, Clone)]
pub(crate) struct RequiredState {
    /// That at the end, and not what the timeline is to be applied to.
    pub(crate) after: bool,
    /// Of members only those whom the rest of the news speaks of (client-server API, "Lazy-loading room members").
    pub(crate) lazy: bool,
}

/// What a [`RoomView`] shows.
pub(crate) struct RoomNews {
    pub(crate) timeline: Slice,
    pub(crate) state: StateDelta,
    /// What names the room, if that may have changed.
    pub(crate) summary: Option<MemberSummary>,
    /// Whether anything happened in the timeline that the user may see, shown or not.
    pub(crate) eventful: bool,
}

impl RoomNews {
    /// Whether everybody is told this whom [`RoomRange::shared`] means, if it is told to who ignores nobody.
    pub(crate) fn is_shared(&self) -> bool {
        let plain = |seen: &SeenEvent| {
            seen.sight.seen == Visibility::Visible && !seen.meta.has_relations && seen.meta.redacted_by.is_none()
        };
        self.summary.is_none()
            && self.state.changed.is_empty()
            && !self.timeline.limited
            && self.timeline.events.iter().all(plain)
    }
}

impl RoomView<'_> {
    /// Reads the news.
    pub(crate) async fn read(&self, reader: &Reader<'_>) -> Result<RoomNews, SyncError> {
        let RoomView { room, range, limit, timeline: filter, required } = *self;
        let RoomRange { roots, since, until, ref tail, is_joined } = *range;
        let viewer = Viewer { joined_in: is_joined.then_some(roots.end), ..reader.viewer };
        let slice = SliceRange { room, since, until, limit, filter, tail: tail.as_ref() };
        let mut slice = Reader { viewer, ..*reader }.slice(slice).await?;
        if !required.after {
            reader.cut_misleading(room, &mut slice, roots.end).await?;
        }
        let summary = match is_joined && self.names_change(reader, &slice).await? {
            true => Some(reader.room(room).member_summary(roots.end).await?),
            false => None,
        };
        let lazy = self.lazy_members(reader, &slice, summary.as_ref());
        let mut state = match required.after {
            true => reader.state_after(room, roots, lazy.as_ref()).await?,
            false => reader.state_before(room, roots, &slice, lazy.as_ref()).await?,
        };
        if let (Some(since), Some(_)) = (since, roots.known)
            && (slice.limited || (slice.redacts && slice.thinned))
        {
            // The client may not be shown the redactions themselves.
            let mut redacted = reader.redacted_state(room, (since, until), roots.end, &slice).await?;
            redacted.retain(|num| !state.changed.contains(num) && !state.members.contains(num));
            state.changed.extend(redacted);
        }
        let eventful = slice.eventful && (slice.thinned || slice.redacts || !slice.events.is_empty());
        Ok(RoomNews { timeline: slice, state, summary, eventful })
    }

    /// Whether what the room is called may have changed.
    async fn names_change(&self, reader: &Reader<'_>, slice: &Slice) -> Result<bool, SyncError> {
        let RoomRange { roots, since, .. } = *self.range;
        let (Some(known), Some(since)) = (roots.known, since) else { return Ok(true) };
        let changes = reader.diff(self.room, known, roots.end).await?;
        if changes.iter().any(|change| NAMING_TYPES.contains(&&*change.key.event_type)) {
            return Ok(true);
        }
        // A redaction leaves the state as it is and takes the name.
        let may = slice.redacts || slice.limited;
        Ok(may && reader.name_redacted_since(self.room, roots.end, since).await?)
    }

    /// The members that lazy loading has to tell, if it is wanted: senders, who the room is named after, and the user themselves
    /// where everything is told.
    fn lazy_members(
        &self,
        reader: &Reader<'_>,
        slice: &Slice,
        summary: Option<&MemberSummary>,
    ) -> Option<BTreeSet<OwnedUserId>> {
        if !self.required.lazy {
            return None;
        }
        let mut members: BTreeSet<OwnedUserId> = BTreeSet::new();
        for seen in &slice.events {
            members.insert(seen.event.pdu.sender().to_owned());
        }
        if let Some(heroes) = summary.and_then(|summary| summary.heroes.as_ref()) {
            members.extend(heroes.iter().cloned());
        }
        if self.range.is_anew() {
            members.insert(reader.viewer.user.to_owned());
        }
        Some(members)
    }
}

impl Reader<'_> {
    /// Whether what names the room in a state was redacted after a position.
    async fn name_redacted_since(&self, room: &RoomId, root: Root, since: Position) -> Result<bool, SyncError> {
        let keys = [("m.room.name", ""), ("m.room.canonical_alias", "")];
        let entries = self.rooms.tree().get_many(&self.source(room), root, &keys).await?;
        for entry in entries.into_iter().flatten() {
            let Some(redaction) = self.rooms.meta(self.view, entry.event).await?.redacted_by else { continue };
            let index = self.rooms.meta(self.view, redaction).await?.index;
            if index.is_some_and(|index| index > TimelineIndex::after_position(since)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
