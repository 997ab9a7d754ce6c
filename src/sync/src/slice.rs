//! The stretch of a room's timeline that a sync shows.
//!
//! Specification: client-server API, "Syncing" (`limited`, `prev_batch`).

use reading::{RoomEventFilter, TimelineToken};
use rooms::{Direction, EventNum, TimelineIndex, TimelineRange};
use ruma::RoomId;
use store::Position;

use crate::{
    SyncError,
    reader::{Reader, Seen, SeenEvent},
    tail::{NewEvent, TailRange},
};

/// Events of one room that are looked at to find those that a filter wants.
const SCANNED_EVENTS_MAX: usize = 1_000;

/// Events that are read at once where a filter may refuse many.
const FILTERED_PAGE_EVENTS: usize = 50;

/// The newest events of a range, without gaps between them.
#[derive(Debug)]
pub(crate) struct Slice {
    /// Oldest first.
    pub(crate) events: Vec<SeenEvent>,
    /// Whether there are (or may be) more in the range before these.
    pub(crate) limited: bool,
    /// The point from which a client reads on backward.
    pub(crate) start: TimelineToken,
    /// Whether the range has any events at all, wanted and visible or not.
    pub(crate) eventful: bool,
    /// Whether there are redactions among the events of the range that were looked at, wanted or not.
    pub(crate) redacts: bool,
    /// Whether the filter left out events of the range.
    pub(crate) thinned: bool,
}

/// Which part of a room's timeline to read.
#[derive(Copy, Clone, Debug)]
pub(crate) struct SliceRange<'a> {
    pub(crate) room: &'a RoomId,
    /// Only what came after this.
    pub(crate) since: Option<Position>,
    /// Only what had come by then.
    pub(crate) until: Position,
    /// At most so many events.
    pub(crate) limit: usize,
    pub(crate) filter: &'a RoomEventFilter,
    /// What is known of the range already.
    pub(crate) tail: Option<&'a TailRange>,
}

/// Events as the timeline has them, newest first.
struct Page {
    events: Vec<(TimelineIndex, EventNum)>,
    /// Whether the range goes on before these.
    more: bool,
    /// Whether there is a gap before these.
    gap: bool,
}

impl Slice {
    fn empty(until: Position) -> Self {
        Self {
            events: Vec::new(),
            limited: false,
            start: TimelineToken::at(until),
            eventful: false,
            redacts: false,
            thinned: false,
        }
    }

    /// Drops the first `count` events: they must not be applied to the client's state.
    pub(crate) fn cut(&mut self, count: usize) {
        let Some(last) = self.events.drain(..count).next_back() else {
            return;
        };
        self.limited = true;
        self.start = TimelineToken::after(last.index);
    }
}

impl Reader<'_> {
    /// Reads the newest events of a range that the user wants and may see.
    pub(crate) async fn slice(&self, range: SliceRange<'_>) -> Result<Slice, SyncError> {
        let mut slice = Slice::empty(range.until);
        if !range.filter.wants_room(range.room) {
            return Ok(slice);
        }
        let mut before = slice.start.upper();
        let mut scanned = 0;
        loop {
            let page = self.page(&range, before).await?;
            let Some((oldest, _)) = page.events.last() else {
                slice.limited |= page.gap;
                break;
            };
            before = *oldest;
            slice.eventful = true;
            scanned += page.events.len();
            let Seen { events: seen, redacts, thinned } = self.seen(range.room, &page.events, range.filter).await?;
            slice.redacts |= redacts;
            slice.thinned |= thinned;
            let room_left = range.limit - slice.events.len();
            let full = seen.len() > room_left || (seen.len() == room_left && page.more);
            slice.events.extend(seen.into_iter().take(room_left));
            slice.limited |= full || page.gap || (page.more && scanned >= SCANNED_EVENTS_MAX);
            if slice.limited || !page.more {
                break;
            }
        }
        slice.events.reverse();
        if let Some(first) = slice.events.first() {
            slice.start = TimelineToken::before(first.index);
        }
        Ok(slice)
    }

    /// The events just before an index.
    async fn page(&self, range: &SliceRange<'_>, before: TimelineIndex) -> Result<Page, SyncError> {
        if let Some(tail) = range.tail
            && !tail.gaps
        {
            let live = |(position, event): &(Position, NewEvent)| (TimelineIndex::live(*position), event.num);
            let events: Vec<_> = tail.events.iter().rev().map(live).collect();
            return Ok(Page { events, more: false, gap: false });
        }
        let plain = *range.filter == RoomEventFilter { limit: range.filter.limit, ..RoomEventFilter::default() };
        let limit = if plain { range.limit + 1 } else { range.limit.max(FILTERED_PAGE_EVENTS) };
        let rows = TimelineRange {
            after: range.since.map(TimelineIndex::after_position),
            before: Some(before),
            direction: Direction::Backward,
            limit,
        };
        let page = self.rooms.timeline(self.view, range.room, rows).await?;
        Ok(Page { events: page.events, more: page.more, gap: page.gap.is_some() })
    }
}
