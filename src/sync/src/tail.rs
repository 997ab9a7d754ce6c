//! The last advances of a room, kept in memory: what most syncs of a room's members ask about.

use std::collections::VecDeque;

use rooms::EventNum;
use state_tree::Root;
use store::Position;

/// Advances that a room's tail holds.
const TAIL_ADVANCES_MAX: usize = 16;

/// One advance of a room, as its log entry told it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Advance {
    /// The entry's position.
    pub(crate) position: Position,
    /// The new event, unless only the state moved.
    pub(crate) event: Option<NewEvent>,
    /// The room's state from here on.
    pub(crate) root: Root,
}

/// What the log tells of an event.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct NewEvent {
    pub(crate) num: EventNum,
    /// Its sender's number, if they are a user of this server.
    pub(crate) sender: Option<u32>,
    /// What it is ([`rooms::LoggedEvent::flags`]).
    pub(crate) flags: u8,
    /// Whether there was a gap before it.
    pub(crate) after_gap: bool,
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
    pub(crate) events: Vec<(Position, NewEvent)>,
    /// Whether there may be gaps before or between the events.
    pub(crate) gaps: bool,
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
        let mut range = TailRange { before: self.base, after: self.base, events: Vec::new(), gaps: false };
        for advance in &self.advances {
            if advance.position > until {
                break;
            }
            range.after = advance.root;
            if advance.position <= since {
                range.before = advance.root;
            } else if let Some(event) = advance.event {
                range.events.push((advance.position, event));
                range.gaps |= event.after_gap;
            }
        }
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use store::{Decode, Reader};

    use super::*;

    fn root(number: u8) -> Root {
        Root::decode(&mut Reader::new(&[number; 64])).unwrap()
    }

    proptest! {
        /// Wherever a tail knows a range, it says what all the advances say.
        #[test]
        fn a_tail_knows_the_end_of_history(
            history in prop::collection::vec((1_u64..4, any::<bool>(), any::<bool>(), any::<u8>()), 1..60),
            since in 0_u64..150,
            length in 0_u64..60,
        ) {
            let mut at = 5;
            let mut tail = Tail::new(Position::from_u64(at), root(0));
            let mut advances = Vec::new();
            for (number, (step, has_event, after_gap, state)) in history.into_iter().enumerate() {
                at += step;
                let event = NewEvent { num: EventNum(number as u64), sender: None, flags: state, after_gap };
                let event = has_event.then_some(event);
                let advance = Advance { position: Position::from_u64(at), event, root: root(state) };
                tail.push(advance);
                advances.push(advance);
            }
            let (since, until) = (Position::from_u64(since), Position::from_u64(since + length));
            let Some(range) = tail.range(since, until) else {
                prop_assert!(since < tail.floor);
                return Ok(());
            };
            let root_at = |position| {
                let before = advances.iter().rev().find(|advance| advance.position <= position);
                before.map_or(root(0), |advance| advance.root)
            };
            prop_assert_eq!((range.before, range.after), (root_at(since), root_at(until)));
            let mut events = Vec::new();
            let mut gaps = false;
            for advance in advances.iter().filter(|advance| advance.position > since && advance.position <= until) {
                if let Some(event) = advance.event {
                    events.push((advance.position, event));
                    gaps |= event.after_gap;
                }
            }
            prop_assert_eq!(range.events, events);
            prop_assert_eq!(range.gaps, gaps);
        }
    }
}
