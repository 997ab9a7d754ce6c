//! What orders changes: the log, and what numbers the changes of that which is in no log.

use std::ops::{Index, IndexMut};

use store::Position;

/// An order of changes. The volatile ones start anew with the process, so their numbers mean nothing to another run of the server.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Sequence {
    /// The log.
    Log,
    /// Changes of who is typing.
    Typing,
    /// Changes of presence.
    Presence,
}

impl Sequence {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Log, Self::Typing, Self::Presence];
}

/// A number of each sequence: how far something is.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Numbers([u64; Sequence::ALL.len()]);

impl Numbers {
    /// A position of the log, and the start of all else.
    pub(crate) fn of_log(position: Position) -> Self {
        let mut numbers = Self::default();
        numbers[Sequence::Log] = position.get();
        numbers
    }

    /// The number of the log, as a position.
    pub(crate) fn position(&self) -> Position {
        Position::from_u64(self[Sequence::Log])
    }

    /// Whether all are as high as those.
    pub(crate) fn reach(&self, to: &Self) -> bool {
        Sequence::ALL.iter().all(|sequence| self[*sequence] >= to[*sequence])
    }
}

impl Index<Sequence> for Numbers {
    type Output = u64;

    fn index(&self, sequence: Sequence) -> &u64 {
        &self.0[sequence as usize]
    }
}

impl IndexMut<Sequence> for Numbers {
    fn index_mut(&mut self, sequence: Sequence) -> &mut u64 {
        &mut self.0[sequence as usize]
    }
}
