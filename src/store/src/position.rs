//! Positions in the log, and stamps that stand for positions not given yet.

use serde::{Deserialize, Serialize};

/// Encoded numbers from here on are placeholders for positions that a commit will give.
const PLACEHOLDER_FIRST: u64 = 1 << 63;

/// A place in the log: ascending, never given twice, not without gaps.
///
/// Real positions are below 2^63. Numbers above are placeholders made from a [`Stamp`]; they mean
/// something only inside the batch that gave the stamp.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Position(u64);

impl Position {
    /// Before everything: no entry of the log has this position.
    pub const ZERO: Position = Position(0);
    /// Above every position that is ever given.
    pub const MAX: Position = Position(PLACEHOLDER_FIRST - 1);

    /// The position with this number. Numbers above [`Position::MAX`] become `MAX`, so that a number
    /// from outside can't pass for a placeholder.
    pub const fn from_u64(number: u64) -> Position {
        if number >= PLACEHOLDER_FIRST { Position::MAX } else { Position(number) }
    }

    /// The number of the position.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position after this one ([`Position::MAX`] stays).
    pub const fn next(self) -> Position {
        Position::from_u64(self.0.saturating_add(1))
    }

    /// The index of the stamp that this placeholder stands for, if it is one.
    pub(crate) fn stamp_index(self) -> Option<u8> {
        let index = self.0.checked_sub(PLACEHOLDER_FIRST)?;
        u8::try_from(index).ok()
    }
}

impl From<u64> for Position {
    fn from(number: u64) -> Position {
        Position::from_u64(number)
    }
}

impl From<Position> for u64 {
    fn from(position: Position) -> u64 {
        position.0
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The position that one log entry of a batch will get when the batch is committed.
///
/// Turn it into a [`Position`] and encode that in keys and tuple-coded values of the same batch; the
/// bytes are replaced at commit.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Stamp(pub(crate) u8);

impl From<Stamp> for Position {
    fn from(stamp: Stamp) -> Position {
        Position(PLACEHOLDER_FIRST + u64::from(stamp.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_numbers_never_become_placeholders() {
        assert_eq!(Position::from_u64(u64::MAX), Position::MAX);
        assert_eq!(Position::MAX.stamp_index(), None);
        assert_eq!(Position::from(Stamp(7)).stamp_index(), Some(7));
        let read: Position = serde_json::from_str("18446744073709551615").unwrap();
        assert_eq!(read, Position::MAX);
    }
}
