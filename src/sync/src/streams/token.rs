//! The token that a client carries from one sync to the next (`since`, `next_batch`).

use std::{fmt, str::FromStr};

use store::Position;

use super::Parts;
use crate::sequence::{Numbers, Sequence};

/// Longest token that is looked at, in bytes.
const TOKEN_LENGTH_BYTES_MAX: usize = 256;

/// A point in time that a client has seen everything up to.
///
/// What is durable is named by a position in the log of one epoch of the store. What is not has sequence numbers that mean something
/// only until the server restarts, so the token names the run of the server (`boot`) that gave them.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// The store's epoch. After a restore from a backup there is a new one, and older tokens mean nothing.
    pub epoch: u64,
    /// Everything in the log up to here has been sent.
    pub position: Position,
    /// The run of the server that the volatile numbers belong to.
    pub boot: u64,
    /// What streams need to know besides.
    pub(crate) parts: Parts,
}

/// A stream's part of a token.
pub(crate) trait Part: Copy {
    /// What it is once everything up to these numbers was told to who had shown `since`.
    fn told(since: Option<Self>, numbers: &Numbers) -> Self;
    /// Appends its numbers to a token's string form, each after an underscore.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
    /// Takes its numbers from what is left of a token's string form.
    fn read(numbers: &mut TokenNumbers<'_>) -> Result<Self, BadToken>;

    /// Whether it can have been given with everything in the log up to a position.
    fn is_possible(&self, _: Position) -> bool {
        true
    }

    /// What of it means something to the next run of the server.
    fn after_restart(self) -> Self {
        self
    }

    /// Whether the answer had no room for all that there was up to a position.
    fn is_behind(&self, _: Position) -> bool {
        false
    }
}

/// The part of a stream that has none.
impl Part for () {
    fn told(_: Option<Self>, _: &Numbers) -> Self {}

    fn write(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn read(_: &mut TokenNumbers<'_>) -> Result<Self, BadToken> {
        Ok(())
    }
}

/// The string is not a token of this server.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a sync token of this server")]
pub struct BadToken;

/// The numbers of a token's string form that are not read yet.
pub(crate) struct TokenNumbers<'t>(std::str::Split<'t, char>);

impl TokenNumbers<'_> {
    /// The next one.
    pub(crate) fn number(&mut self) -> Result<u64, BadToken> {
        parse_number(self.0.next().ok_or(BadToken)?)
    }

    /// The next one, which may be left out.
    pub(crate) fn number_if_any(&mut self) -> Result<Option<u64>, BadToken> {
        match self.0.next().ok_or(BadToken)? {
            "" => Ok(None),
            digits => parse_number(digits).map(Some),
        }
    }

    /// The next one, which is a position.
    pub(crate) fn position(&mut self) -> Result<Position, BadToken> {
        let number = self.number()?;
        if number > Position::MAX.get() { Err(BadToken) } else { Ok(Position::from_u64(number)) }
    }
}

/// Appends a number that may be left out.
pub(crate) fn write_if_any(number: Option<u64>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match number {
        Some(number) => write!(f, "_{number}"),
        None => f.write_str("_"),
    }
}

impl Token {
    /// The number of a sequence up to which the client has seen everything; `None` if nothing of this run of the server.
    pub(crate) fn seen(&self, sequence: Sequence) -> Option<u64> {
        match sequence {
            Sequence::Log => Some(self.position.get()),
            Sequence::Typing => self.parts.typing.seen,
            Sequence::Presence => self.parts.presence.seen,
        }
    }

    /// Whether it can have been given before a position was published.
    pub(crate) fn is_possible(&self, published: Position) -> bool {
        self.position <= published && self.parts.is_possible(self.position)
    }

    /// The token of who has shown one and was told everything up to these numbers.
    pub(crate) fn told(epoch: u64, boot: u64, since: Option<&Self>, numbers: &Numbers) -> Self {
        let parts = Parts::told(since.map(|since| since.parts), numbers);
        // A view that lags behind must not send the client back.
        let position = since.map_or(Position::ZERO, |since| since.position).max(numbers.position());
        Self { epoch, position, boot, parts }
    }

    /// What it means to a run of the server.
    pub(crate) fn in_run(self, boot: u64) -> Self {
        let parts = if self.boot == boot { self.parts } else { self.parts.after_restart() };
        Self { boot, parts, ..self }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, position, boot, parts } = self;
        write!(f, "s{epoch}_{position}_{boot}")?;
        parts.write(f)
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        if text.len() > TOKEN_LENGTH_BYTES_MAX {
            return Err(BadToken);
        }
        let mut numbers = TokenNumbers(text.strip_prefix('s').ok_or(BadToken)?.split('_'));
        let (epoch, position, boot) = (numbers.number()?, numbers.position()?, numbers.number()?);
        let parts = Parts::read(&mut numbers)?;
        if numbers.0.next().is_some() {
            return Err(BadToken);
        }
        Ok(Self { epoch, position, boot, parts })
    }
}

/// Only digits: `u64::from_str` would take a sign as well.
fn parse_number(digits: &str) -> Result<u64, BadToken> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadToken);
    }
    digits.parse().map_err(|_| BadToken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any token with all its parts.
    fn tokens() -> impl Strategy<Value = Token> {
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
        let parts = (any::<u64>(), any::<Option<u64>>(), any::<u64>(), any::<Option<u64>>());
        (numbers, parts).prop_map(|((epoch, position, boot), (to_device, typing, shown, presence))| {
            let mut parts = Parts::told(None, &Numbers::default());
            parts.to_device.up_to = Position::from_u64(to_device);
            (parts.typing.seen, parts.typing.shown) = (typing, shown);
            parts.presence.seen = presence;
            Token { epoch, position: Position::from_u64(position), boot, parts }
        })
    }

    proptest! {
        #[test]
        fn a_token_survives_its_string_form(token in tokens()) {
            prop_assert_eq!(token.to_string().parse(), Ok(token));
            prop_assert!(token.to_string().len() <= TOKEN_LENGTH_BYTES_MAX);
        }

        #[test]
        fn other_strings_are_refused_without_panicking(text in ".{0,40}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string().parse(), Ok(token));
            }
        }

        /// What volatile numbers say ends with the run of the server, all else stays.
        #[test]
        fn a_restart_takes_what_only_one_run_of_the_server_knows(token in tokens(), boot in any::<u64>()) {
            prop_assert_eq!(token.in_run(token.boot), token);
            let later = token.in_run(boot);
            prop_assert_eq!(later.boot, boot);
            prop_assert_eq!((later.epoch, later.position), (token.epoch, token.position));
            prop_assert_eq!(later.parts.to_device, token.parts.to_device);
            prop_assert_eq!(later.parts.typing.shown, token.parts.typing.shown);
            if boot != token.boot {
                for sequence in Sequence::ALL {
                    prop_assert_eq!(later.seen(sequence).is_some(), sequence == Sequence::Log);
                }
            }
        }

        /// Whoever was told everything has seen what there was, and is behind only if something waits.
        #[test]
        fn who_was_told_all_is_not_behind(token in tokens(), position in any::<u64>(), typing in any::<u64>()) {
            let position = Position::from_u64(position).max(token.position);
            let mut numbers = Numbers::of_log(position);
            numbers[Sequence::Typing] = typing;
            prop_assume!(token.parts.is_possible(token.position));
            for since in [None, Some(token.parts)] {
                let parts = Parts::told(since, &numbers);
                prop_assert!(parts.is_possible(position));
                prop_assert!(parts.behind(position).is_empty());
                let next = Token { position, parts, ..token };
                prop_assert_eq!(next.seen(Sequence::Typing), Some(typing));
                prop_assert_eq!(next.seen(Sequence::Presence), Some(0));
            }
        }
    }

    #[test]
    fn foreign_tokens_are_refused() {
        let token: Token = "s1_2_3_2_4_5_6".parse().unwrap();
        assert_eq!((token.epoch, token.position.get(), token.boot), (1, 2, 3));
        for text in ["", "s", "s1_2_3", "s1_2_3_2_4_5_6_7", "t1_2_3_2_4_5_6", "s+1_2_3_2_4_5_6", "s1_2__2_4_5_6"] {
            assert_eq!(text.parse::<Token>(), Err(BadToken), "{text}");
        }
        for text in ["s1_9223372036854775808_3_2_4_5_6", "s1_2_3_9223372036854775808_4_5_6"] {
            assert_eq!(text.parse::<Token>(), Err(BadToken), "{text}");
        }
    }
}
