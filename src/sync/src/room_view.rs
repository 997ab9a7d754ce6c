//! One room's news for one user, whichever answer they are part of.

use std::collections::BTreeSet;

use reading::{MemberSummary, RoomEventFilter, Viewer};
use rooms::TimelineIndex;
use ruma::{OwnedUserId, RoomId};
use state_tree::Root;
use store::Position;

use crate::{
    SyncError,
    reader::Reader,
    slice::{Slice, SliceRange},
    state::{MEMBER, Roots, StateDelta},
    tail::TailRange,
};

/// Types of state events that the name of a room depends on.
const NAMING_TYPES: [&str; 3] = [MEMBER, "m.room.name", "m.room.canonical_alias"];

/// A part of a room's history, as a client is to be told it.
#[derive(Copy, Clone)]
pub(crate) struct RoomView<'a> {
    pub(crate) room: &'a RoomId,
    /// The state that the client has, and that at the end.
    pub(crate) roots: Roots,
    /// The start of the timeline; `None` for all there is.
    pub(crate) since: Option<Position>,
    /// The end.
    pub(crate) until: Position,
    /// Events of the timeline: the newest, at most so many.
    pub(crate) limit: usize,
    /// Those of the timeline that are wanted.
    pub(crate) timeline: &'a RoomEventFilter,
    /// What is known of the range already.
    pub(crate) tail: Option<&'a TailRange>,
    pub(crate) required: RequiredState,
    /// Whether the user is joined at the end, so that it matters what the room is called.
    pub(crate) is_joined: bool,
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

impl RoomView<'_> {
    /// Reads the news.
    pub(crate) async fn read(&self, reader: &Reader<'_>) -> Result<RoomNews, SyncError> {
        let RoomView { room, roots, since, until, limit, timeline: filter, tail, required, is_joined } = *self;
        let viewer = Viewer { joined_in: is_joined.then_some(roots.end), ..reader.viewer };
        let range = SliceRange { room, since, until, limit, filter, tail };
        let mut slice = Reader { viewer, ..*reader }.slice(range).await?;
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
        let (Some(known), Some(since)) = (self.roots.known, self.since) else { return Ok(true) };
        let changes = reader.diff(self.room, known, self.roots.end).await?;
        if changes.iter().any(|change| NAMING_TYPES.contains(&&*change.key.event_type)) {
            return Ok(true);
        }
        // A redaction leaves the state as it is and takes the name.
        let may = slice.redacts || slice.limited;
        Ok(may && reader.name_redacted_since(self.room, self.roots.end, since).await?)
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
        if self.roots.known.is_none() {
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
