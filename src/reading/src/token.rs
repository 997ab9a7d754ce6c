//! Pagination tokens of a room's timeline.
//!
//! Specification: client-server API, "Pagination".

use std::{fmt, str::FromStr};

use rooms::TimelineIndex;
use store::Position;

/// The longest pagination token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 64;

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
