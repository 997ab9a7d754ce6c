//! How much of a room a user hasn't read: notifications and highlights, by thread.
//!
//! Specification: client-server API, "Receiving notifications", "Marking notifications as read", "Threaded
//! read receipts".
//!
//! Nobody counts for users who don't ask. A user's tally of a room lists by thread the unread events that
//! notify them, up to an index; asking again looks at newer events only. With the default rules the events need not be
//! read at all: an index says which events notify everybody (`notable`).
//!
//! What is counted doesn't depend on when it is: an event is judged by what the room was at it (the user's name, the power
//! levels, the number of members), an event that was redacted counts for nobody, and one that came late to fill a gap
//! notifies nobody. Push rules and ignored users are those of the time at which the event came, because all is counted
//! and stored before they change ([`crate::Reading::settle_unread`]).

mod count;
mod tally;

use std::{collections::BTreeMap, sync::Arc};

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};
use store::{NoPrevious, Position, Versioned};

pub use self::count::may_count;
pub(crate) use self::tally::TallyCache;
use rooms::{EventMeta, StoredEvent, TimelineIndex};

/// The highest count that is shown for one thread.
pub const UNREAD_EVENTS_MAX: u64 = 1_000;

/// Unread events that are remembered for one user in one room, in all threads together.
pub const UNREAD_EVENTS_KEPT_MAX: usize = 4_000;

/// Threads with something unread that are remembered for one user in one room: those with the newest events.
pub const UNREAD_THREADS_MAX: usize = 200;

/// Events that are looked at to count anew, from the newest back. What lies further back counts as read.
pub const UNREAD_EVENTS_LOOKED_AT_MAX: usize = 1_000;

/// Notifications and highlights.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Unread events that notify the user.
    pub notifications: u64,
    /// Those among them that are highlighted.
    pub highlights: u64,
}

/// What a user hasn't read of a room.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnreadCounts {
    /// Outside of threads.
    pub main: Count,
    /// In each thread that has something unread, by its root.
    pub threads: BTreeMap<OwnedEventId, Count>,
}

impl UnreadCounts {
    /// The room as a whole, for clients that don't ask for threads.
    pub fn total(&self) -> Count {
        let mut total = self.main;
        for thread in self.threads.values() {
            total.notifications += thread.notifications;
            total.highlights += thread.highlights;
        }
        total
    }
}

/// A tally as it is stored. Indices are era, major and minor.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StoredCounts {
    /// Where the user joined.
    pub(crate) start: (u8, u64, u32),
    /// The index up to which events were looked at.
    pub(crate) counted_to: (u8, u64, u32),
    /// What is unread.
    pub(crate) threads: Vec<StoredThread>,
}

/// What is unread of a thread.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredThread {
    /// Its root; `None` for the main timeline.
    pub(crate) root: Option<OwnedEventId>,
    /// The positions of the unread events that notify, and whether they are highlighted.
    pub(crate) events: Vec<(u64, bool)>,
}

/// What happened in a room since a position, for a user of whom neither membership nor receipts of the room moved.
#[derive(Copy, Clone, Debug)]
pub struct NewEvents<'a> {
    /// The position.
    pub since: Position,
    /// The events of the timeline since then that may count for the user ([`may_count`]), oldest first.
    pub events: &'a [(TimelineIndex, Arc<StoredEvent>, EventMeta)],
}

impl Versioned for StoredCounts {
    const VERSION: u8 = 1;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> Self {
        match previous {}
    }
}
