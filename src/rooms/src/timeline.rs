//! A room's timeline as clients page through it: tokens, ranges, and the gaps in it.
//!
//! Specification: client-server API, "Syncing" and "Getting events for a room".

use ruma::{OwnedEventId, RoomId};
use state_tree::EventNum;
use store::{Position, Range, View};

use crate::{
    Rooms, RoomsError,
    tables::{Gaps, Timeline},
    types::TimelineIndex,
};

/// The most events that one call of [`Rooms::timeline`] returns.
pub const TIMELINE_PAGE_EVENTS_MAX: usize = 1_000;

/// The order in which a range of events is read.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Direction {
    /// From older to newer events (`f`).
    Forward,
    /// From newer to older events (`b`).
    #[default]
    Backward,
}

impl TimelineIndex {
    /// The smallest index above this one.
    pub fn successor(self) -> Self {
        if let Some(minor) = self.minor.checked_add(1) {
            return Self { minor, ..self };
        }
        if self.major < Position::MAX {
            return Self { major: self.major.next(), minor: 0, ..self };
        }
        match self.era {
            0 => Self { era: 1, major: Position::ZERO, minor: 0 },
            _ => self,
        }
    }

    /// The greatest index below this one.
    pub fn predecessor(self) -> Option<Self> {
        if let Some(minor) = self.minor.checked_sub(1) {
            return Some(Self { minor, ..self });
        }
        if let Some(major) = self.major.get().checked_sub(1) {
            return Some(Self { major: Position::from_u64(major), minor: u32::MAX, ..self });
        }
        match self.era {
            0 => None,
            _ => Some(Self { era: 0, major: Position::MAX, minor: u32::MAX }),
        }
    }
}

/// Which events of a room's timeline to read.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct TimelineRange {
    /// Only events with an index strictly above this one.
    pub after: Option<TimelineIndex>,
    /// Only events with an index strictly below this one.
    pub before: Option<TimelineIndex>,
    /// Where to start and in which order the events come.
    pub direction: Direction,
    /// At most this many events, bounded by [`TIMELINE_PAGE_EVENTS_MAX`].
    pub limit: usize,
}

/// A gap in the timeline: events before `index` exist that this server doesn't hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The event after the gap.
    pub index: TimelineIndex,
    /// Its predecessors that are missing.
    pub missing: Vec<OwnedEventId>,
}

/// A stretch of a timeline without gaps inside.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimelinePage {
    /// The events in the direction asked for.
    pub events: Vec<(TimelineIndex, EventNum)>,
    /// The gap at which the page ends, if one ended it. Reading backward, its index is that of the
    /// last event of the page; reading forward, that of the event that would come next.
    pub gap: Option<Gap>,
    /// Whether the range holds more events beyond this page.
    pub more: bool,
}

impl Rooms {
    /// Reads a stretch of a room's timeline, all of it or up to the first gap.
    ///
    /// Visibility is not applied here. A gap at the event that a forward page starts with lies before
    /// the page and doesn't end it.
    pub async fn timeline(&self, view: &View, room: &RoomId, range: TimelineRange) -> Result<TimelinePage, RoomsError> {
        let limit = range.limit.min(TIMELINE_PAGE_EVENTS_MAX);
        if limit == 0 {
            return Ok(TimelinePage::default());
        }
        // One row more than asked for tells whether there is more.
        let rows = narrow::<Timeline>(room, &range).limit(limit + 1);
        let mut events: Vec<(TimelineIndex, EventNum)> = Vec::new();
        for ((_, index), num) in view.scan::<Timeline>(rows).await?.rows {
            events.push((index, num));
        }
        let more = events.len() > limit;
        events.truncate(limit);
        let mut page = TimelinePage { events, gap: None, more };
        self.cut_at_gap(view, room, range.direction, &mut page).await?;
        Ok(page)
    }

    /// Ends the page at the first gap in it.
    async fn cut_at_gap(
        &self,
        view: &View,
        room: &RoomId,
        direction: Direction,
        page: &mut TimelinePage,
    ) -> Result<(), RoomsError> {
        let (Some(first), Some(last)) = (page.events.first(), page.events.last()) else {
            return Ok(());
        };
        let gaps = match direction {
            Direction::Backward => {
                Range::<Gaps>::prefix(&(room,)).from(&(room, last.0)).through(&(room, first.0)).reverse()
            }
            Direction::Forward => Range::<Gaps>::prefix(&(room,)).after(&(room, first.0)).through(&(room, last.0)),
        };
        let Some(((_, index), missing)) = view.first::<Gaps>(gaps).await? else {
            return Ok(());
        };
        let kept = match direction {
            Direction::Backward => page.events.iter().take_while(|event| event.0 >= index).count(),
            Direction::Forward => page.events.iter().take_while(|event| event.0 < index).count(),
        };
        page.more |= kept < page.events.len();
        page.events.truncate(kept);
        page.gap = Some(Gap { index, missing: missing.0 });
        Ok(())
    }

    /// The gap before the event at an index, if there is one.
    pub async fn gap_at(&self, view: &View, room: &RoomId, index: TimelineIndex) -> Result<Option<Gap>, RoomsError> {
        let missing = view.get::<Gaps>(&(room, index)).await?;
        Ok(missing.map(|missing| Gap { index, missing: missing.0 }))
    }

    /// The index of a room's newest event.
    pub async fn newest_index(&self, view: &View, room: &RoomId) -> Result<Option<TimelineIndex>, RoomsError> {
        let rows = Range::<Timeline>::prefix(&(room,)).reverse();
        Ok(view.first::<Timeline>(rows).await?.map(|((_, index), _)| index))
    }
}

/// The keys of a table ordered by room and index that lie in `range`.
fn narrow<T>(room: &RoomId, range: &TimelineRange) -> Range<T>
where
    T: store::Table<Key = (store::Text<ruma::OwnedRoomId>, TimelineIndex)>,
{
    let mut keys = Range::<T>::prefix(&(room,));
    if let Some(after) = range.after {
        keys = keys.after(&(room, after));
    }
    if let Some(before) = range.before {
        keys = keys.before(&(room, before));
    }
    match range.direction {
        Direction::Forward => keys,
        Direction::Backward => keys.reverse(),
    }
}
