//! A room's timeline as clients page through it: tokens, ranges, and the holes in it.
//!
//! Specification: client-server API, "Syncing" and "Getting events for a room".

use std::{fmt, str::FromStr};

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

/// The longest pagination token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 64;

/// The order in which a range of events is read.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Direction {
    /// From older to newer events (`f`).
    Forward,
    /// From newer to older events (`b`).
    #[default]
    Backward,
}

/// A point *between* two events of a room's timeline: all events with a smaller index lie before it,
/// the others after it. Its string form is the pagination token that clients get.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimelineToken(TimelineIndex);

/// The token is not one that this server gave.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a pagination token of this server")]
pub struct BadToken;

impl TimelineToken {
    /// The point just before the event with this index.
    pub fn before(index: TimelineIndex) -> Self {
        Self(index)
    }

    /// The point just after the event with this index.
    pub fn after(index: TimelineIndex) -> Self {
        Self(index.successor())
    }

    /// The point after all that the server had at a position of the log.
    pub fn at(position: Position) -> Self {
        Self(TimelineIndex::after_position(position))
    }

    /// For ranges: the events before this point have an index strictly below it.
    pub fn upper(self) -> TimelineIndex {
        self.0
    }

    /// For ranges: the events after this point have an index strictly above it. `None` if that is
    /// every event.
    pub fn lower(self) -> Option<TimelineIndex> {
        self.0.predecessor()
    }

    /// The position of the log by which everything before this point had happened; what "the state at
    /// this token" is taken at. Events of before this server's time give [`Position::ZERO`].
    pub fn position(self) -> Position {
        if self.0.era == 0 {
            return Position::ZERO;
        }
        if self.0.minor > TimelineIndex::LIVE_MINOR {
            return self.0.major;
        }
        Position::from_u64(self.0.major.get().saturating_sub(1))
    }
}

impl fmt::Display for TimelineToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}_{}_{}", self.0.era, self.0.major, self.0.minor)
    }
}

impl FromStr for TimelineToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(BadToken);
        }
        let rest = text.strip_prefix('t').ok_or(BadToken)?;
        let mut parts = rest.split('_');
        let era = number(parts.next())?;
        let major = number(parts.next())?;
        let minor = number(parts.next())?;
        if parts.next().is_some() || era > 1 || major > Position::MAX.get() {
            return Err(BadToken);
        }
        let era = u8::try_from(era).map_err(|_| BadToken)?;
        let minor = u32::try_from(minor).map_err(|_| BadToken)?;
        Ok(Self(TimelineIndex { era, major: Position::from_u64(major), minor }))
    }
}

/// One number of a token: digits only, so that every token has one spelling of its parts.
fn number(part: Option<&str>) -> Result<u64, BadToken> {
    let part = part.ok_or(BadToken)?;
    if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadToken);
    }
    part.parse().map_err(|_| BadToken)
}

impl TimelineIndex {
    /// The smallest index above this one.
    pub(crate) fn successor(self) -> Self {
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
    pub(crate) fn predecessor(self) -> Option<Self> {
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

/// A hole in the timeline: events before `index` exist that this server doesn't hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The event after the hole.
    pub index: TimelineIndex,
    /// Its predecessors that are missing.
    pub missing: Vec<OwnedEventId>,
}

/// A stretch of a timeline without holes inside.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimelinePage {
    /// The events in the direction asked for.
    pub events: Vec<(TimelineIndex, EventNum)>,
    /// The hole at which the page ends, if one ended it. Reading backward, its index is that of the
    /// last event of the page; reading forward, that of the event that would come next.
    pub gap: Option<Gap>,
    /// Whether the range holds more events beyond this page.
    pub more: bool,
}

impl Rooms {
    /// Reads a stretch of a room's timeline, all of it or up to the first hole.
    ///
    /// Visibility is not applied here. A hole at the event that a forward page starts with lies before
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

    /// Ends the page at the first hole in it.
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

    /// The hole before the event at an index, if there is one.
    pub(crate) async fn gap_at(
        &self,
        view: &View,
        room: &RoomId,
        index: TimelineIndex,
    ) -> Result<Option<Gap>, RoomsError> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index() -> impl Strategy<Value = TimelineIndex> {
        let major = prop_oneof![Just(0), Just(Position::MAX.get()), 0..1_000_u64];
        let minor = prop_oneof![Just(0), Just(u32::MAX), any::<u32>()];
        (0..=1_u8, major, minor).prop_map(|(era, major, minor)| TimelineIndex {
            era,
            major: Position::from_u64(major),
            minor,
        })
    }

    proptest! {
        #[test]
        fn tokens_read_back(index in index()) {
            let token = TimelineToken::before(index);
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn neighbours_have_nothing_between_them(index in index()) {
            if let Some(below) = index.predecessor() {
                prop_assert!(below < index);
                prop_assert_eq!(below.successor(), index);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = text.parse::<TimelineToken>();
        }
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for text in ["", "t", "t1", "t1_2", "t1_2_3_4", "t2_1_1", "s1_2_3", "t1_-2_3", "t1_+2_3"] {
            assert_eq!(text.parse::<TimelineToken>(), Err(BadToken), "{text}");
        }
    }

    #[test]
    fn a_token_at_a_position_lies_between_the_events_around_it() {
        let at = TimelineToken::at(Position::from_u64(7));
        assert!(TimelineIndex::live(Position::from_u64(7)) < at.upper());
        assert!(TimelineIndex::live(Position::from_u64(8)) > at.upper());
        assert_eq!(at.position(), Position::from_u64(7));
        let before = TimelineToken::before(TimelineIndex::live(Position::from_u64(7)));
        assert_eq!(before.position(), Position::from_u64(6));
        let after = TimelineToken::after(TimelineIndex::live(Position::from_u64(7)));
        assert_eq!(after.position(), Position::from_u64(7));
    }
}
