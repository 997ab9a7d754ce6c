//! The last advances of a room, kept in memory: what most syncs of a room's members ask about.

use std::collections::VecDeque;

use rooms::{EventNum, snapshot::Root};
use store::Position;

/// Advances that a room's tail holds.
const TAIL_ADVANCES_MAX: usize = 16;

/// One advance of a room, as its log entry told it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Advance {
    /// The entry's position.
    pub(crate) position: Position,
    /// The new event, unless only the state moved.
    pub(crate) event: Option<EventNum>,
    /// Whether the event is by a user of this server, so that no hole can be before it.
    pub(crate) local: bool,
    /// The room's state from here on.
    pub(crate) root: Root,
}

/// Every advance of a room after a floor.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    floor: Position,
    /// The state at the floor.
    base: Root,
    advances: VecDeque<Advance>,
}

/// What a tail knows of a range of positions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TailRange {
    /// The room's state at the start.
    pub(crate) before: Root,
    /// The room's state at the end.
    pub(crate) after: Root,
    /// The events in between, oldest first.
    pub(crate) events: Vec<(Position, EventNum)>,
    /// Whether there may be holes between the events.
    pub(crate) holes: bool,
}

impl Tail {
    /// A tail that starts just before an advance, with the state that was then.
    pub(crate) fn new(before: Position, base: Root) -> Self {
        Self { floor: before, base, advances: VecDeque::new() }
    }

    /// Adds the newest advance.
    pub(crate) fn push(&mut self, advance: Advance) {
        if self.advances.len() >= TAIL_ADVANCES_MAX
            && let Some(oldest) = self.advances.pop_front()
        {
            self.floor = oldest.position;
            self.base = oldest.root;
        }
        self.advances.push_back(advance);
    }

    /// What happened in `(since, until]`, or `None` if the tail doesn't reach back so far.
    pub(crate) fn range(&self, since: Position, until: Position) -> Option<TailRange> {
        if since < self.floor {
            return None;
        }
        let mut range = TailRange { before: self.base, after: self.base, events: Vec::new(), holes: false };
        for advance in &self.advances {
            if advance.position > until {
                break;
            }
            range.after = advance.root;
            if advance.position <= since {
                range.before = advance.root;
            } else if let Some(event) = advance.event {
                range.events.push((advance.position, event));
                range.holes |= !advance.local;
            }
        }
        Some(range)
    }
}
