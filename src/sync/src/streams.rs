//! Streams: the kinds of news that a user may get.
//!
//! Each is a type in a file of its own that routes its changes into inboxes, reads what a range of them has for a user, and owns its
//! part of the token. The list below is all that knows them; the folds (classic `/sync`) put together what they read.

pub(crate) mod account_data;
pub(crate) mod changes;
pub(crate) mod device_lists;
pub(crate) mod key_counts;
pub(crate) mod memberships;
pub(crate) mod presence;
pub(crate) mod receipts;
pub(crate) mod rooms;
mod section;
pub(crate) mod span;
pub(crate) mod to_device;
pub(crate) mod token;
pub(crate) mod typing;

use std::fmt;

use futures_util::{
    StreamExt,
    stream::{BoxStream, unfold},
};
use store::{LogRecord, Position, StoreError};
use tokio::sync::watch;
use users::Users;

use self::token::{BadToken, Part, TokenNumbers};
use crate::{
    hub::{Hub, Router},
    inbox::Kind,
    sequence::{Numbers, Sequence},
};

/// A kind of news.
pub(crate) trait Stream {
    /// What its changes in inboxes are about.
    const SUBJECT: Subject;
    /// What orders its changes.
    const SEQUENCE: Sequence = Sequence::Log;
    /// Whether the tables tell what of it changed in a range. What they don't comes with every answer.
    const IN_TABLES: bool = true;
    /// Its part of the token.
    type Part: Part;

    /// Puts a record of the log into the inboxes of those whom it concerns, if it is the stream's. Reads nothing.
    fn route(_: &mut Router<'_>, _: &LogRecord) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether a room that the user is in, by its number, may have news since a position, for a token to which the inbox doesn't reach back.
    fn may_have_changed(_: &Hub, _: u32, _: Position) -> bool {
        false
    }
}

/// A stream whose changes are in no log, but have numbers of their own.
pub(crate) trait VolatileStream: Stream {
    /// The number of its last change.
    fn last(sources: &Sources<'_>) -> u64;
    /// Wakes with the number of the last change, whenever there is one.
    fn subscribe(sources: &Sources<'_>) -> watch::Receiver<u64>;
    /// Puts what changed after a number into the inboxes, and gives the number up to which it did.
    fn route_after(router: &mut Router<'_>, sources: &Sources<'_>, since: u64) -> u64;
}

/// Where volatile streams come from.
#[derive(Copy, Clone)]
pub(crate) struct Sources<'a> {
    pub(crate) rooms: &'a ::rooms::Rooms,
    pub(crate) users: &'a Users,
}

/// What a change is about.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    /// The account.
    Account,
    /// One of the user's devices.
    Device,
    /// A room.
    Room,
    /// A user.
    User,
}

/// Makes the list of streams, and what goes through all of them.
macro_rules! streams {
    ($($(#[$doc:meta])* $name:ident = $field:ident),+ $(,)?) => {
        $(pub(crate) use self::$field::$name;)+

        /// One of the streams.
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub(crate) enum StreamId {
            $($(#[$doc])* $name,)+
        }

        impl StreamId {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            pub(crate) const fn subject(self) -> Subject {
                match self { $(Self::$name => <$name as Stream>::SUBJECT),+ }
            }

            pub(crate) const fn sequence(self) -> Sequence {
                match self { $(Self::$name => <$name as Stream>::SEQUENCE),+ }
            }

            const fn is_in_tables(self) -> bool {
                match self { $(Self::$name => <$name as Stream>::IN_TABLES),+ }
            }

            fn may_have_changed(self, hub: &Hub, room: u32, since: Position) -> bool {
                match self { $(Self::$name => <$name as Stream>::may_have_changed(hub, room, since)),+ }
            }
        }

        /// Puts a record of the log into the inboxes of those whom it concerns.
        pub(crate) fn route(router: &mut Router<'_>, record: &LogRecord) -> Result<(), StoreError> {
            $(<$name as Stream>::route(router, record)?;)+
            Ok(())
        }

        /// The parts of a token that streams own, in the order of the list.
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub(crate) struct Parts {
            $(pub(crate) $field: <$name as Stream>::Part,)+
        }

        impl Part for Parts {
            fn told(since: Option<Self>, numbers: &Numbers) -> Self {
                Self { $($field: Part::told(since.map(|since| since.$field), numbers),)+ }
            }

            fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(self.$field.write(f)?;)+
                Ok(())
            }

            fn read(numbers: &mut TokenNumbers<'_>) -> Result<Self, BadToken> {
                Ok(Self { $($field: Part::read(numbers)?,)+ })
            }

            fn is_possible(&self, position: Position) -> bool {
                $(self.$field.is_possible(position))&&+
            }

            fn after_restart(self) -> Self {
                Self { $($field: self.$field.after_restart(),)+ }
            }
        }

        impl Parts {
            /// The streams of which the last answer had no room for all.
            pub(crate) fn behind(&self, position: Position) -> StreamSet {
                let mut behind = StreamSet::default();
                $(if self.$field.is_behind(position) {
                    behind.insert(StreamId::$name);
                })+
                behind
            }
        }
    };
}

streams! {
    /// Timelines and state of rooms.
    Rooms = rooms,
    /// The user's own ways into and out of rooms.
    Memberships = memberships,
    /// Who has read how far.
    Receipts = receipts,
    /// What the user's clients keep with the account, for it and for rooms.
    AccountData = account_data,
    /// Messages to the device.
    ToDevice = to_device,
    /// Whose keys changed.
    DeviceLists = device_lists,
    /// How many keys the device has left.
    KeyCounts = key_counts,
    /// Who is typing.
    Typing = typing,
    /// How present others are.
    Presence = presence,
}

impl StreamId {
    /// A change of it for which a waiting poll is answered at once.
    pub(crate) const fn urgent(self) -> Kind {
        Kind { stream: self as u8, is_urgent: true }
    }

    /// A change of it that waits for others.
    pub(crate) const fn relaxed(self) -> Kind {
        Kind { stream: self as u8, is_urgent: false }
    }

    /// Whose a change is.
    pub(crate) fn of(kind: Kind) -> Option<Self> {
        Self::ALL.get(usize::from(kind.stream)).copied()
    }
}

/// Some of the streams.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct StreamSet(u16);

impl StreamSet {
    /// None of them.
    pub(crate) const NONE: Self = Self(0);
    /// All of them.
    pub(crate) const ALL: Self = Self((1 << StreamId::ALL.len()) - 1);

    /// Those of one sequence.
    pub(crate) fn of(sequence: Sequence) -> Self {
        Self::all_that(|stream| stream.sequence() == sequence)
    }

    /// Those of the log that the tables tell of, for tokens to which an inbox doesn't reach back.
    pub(crate) fn of_tables() -> Self {
        Self::all_that(|stream| stream.sequence() == Sequence::Log && stream.is_in_tables())
    }

    /// Those whose changes are about something.
    pub(crate) fn about(subject: Subject) -> Self {
        Self::all_that(|stream| stream.subject() == subject)
    }

    fn all_that(counts: impl Fn(StreamId) -> bool) -> Self {
        let mut set = Self::default();
        StreamId::ALL.iter().filter(|stream| counts(**stream)).for_each(|stream| set.insert(*stream));
        set
    }

    pub(crate) fn insert(&mut self, stream: StreamId) {
        self.0 |= 1 << stream as u8;
    }

    pub(crate) fn contains(self, stream: StreamId) -> bool {
        self.0 & 1 << stream as u8 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those of either.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All but one.
    pub(crate) fn without(self, stream: StreamId) -> Self {
        Self(self.0 & !(1 << stream as u8))
    }

    /// Those of which a room may have news since a position, by what is in memory.
    pub(crate) fn changed_in(hub: &Hub, room: u32, since: Position) -> Self {
        Self::all_that(|stream| stream.may_have_changed(hub, room, since))
    }
}

/// What a [`VolatileStream`] does.
pub(crate) struct Volatile {
    pub(crate) sequence: Sequence,
    pub(crate) last: fn(&Sources<'_>) -> u64,
    pub(crate) subscribe: fn(&Sources<'_>) -> watch::Receiver<u64>,
    pub(crate) route_after: fn(&mut Router<'_>, &Sources<'_>, u64) -> u64,
}

impl Volatile {
    const fn of<S: VolatileStream>() -> Self {
        Self { sequence: S::SEQUENCE, last: S::last, subscribe: S::subscribe, route_after: S::route_after }
    }

    /// Yields this whenever there is a change.
    pub(crate) fn changes(&'static self, sources: &Sources<'_>) -> BoxStream<'static, &'static Self> {
        let watched = (self.subscribe)(sources);
        let next = move |mut watched: watch::Receiver<u64>| async move {
            watched.changed().await.ok()?;
            watched.borrow_and_update();
            Some((self, watched))
        };
        unfold(watched, next).boxed()
    }
}

/// The streams that are in no log.
pub(crate) static VOLATILE: [Volatile; 2] = [Volatile::of::<Typing>(), Volatile::of::<Presence>()];

/// How far the volatile streams are. The log is left at its start.
pub(crate) fn last_numbers(sources: &Sources<'_>) -> Numbers {
    let mut numbers = Numbers::default();
    for stream in &VOLATILE {
        numbers[stream.sequence] = (stream.last)(sources);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_is_found_again_by_what_inboxes_keep_of_it() {
        for stream in StreamId::ALL {
            for kind in [stream.urgent(), stream.relaxed()] {
                assert_eq!(StreamId::of(kind), Some(*stream));
            }
            assert!(StreamSet::of(stream.sequence()).contains(*stream));
            assert!(!StreamSet::ALL.without(*stream).contains(*stream));
        }
        assert_eq!(StreamId::of(Kind { stream: u8::MAX, is_urgent: true }), None);
    }
}
