//! The token that a client carries from one sync to the next (`since`, `next_batch`).

use std::{fmt, str::FromStr};

use ruma::RoomId;
use store::Position;

/// How many numbers a token is made of.
const PARTS: usize = 7;
/// Longest token that is looked at, in bytes: 7 numbers of at most 20 digits, with separators.
const TOKEN_LENGTH_BYTES_MAX: usize = 1 + PARTS * 21;

/// A point in time that a client has seen everything up to.
///
/// What is durable is named by a position in the log of one epoch of the store. What is not (typing,
/// presence) has sequence numbers that mean something only until the server restarts, so the token names
/// the run of the server (`boot`) that gave them.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// The store's epoch. After a restore from a backup there is a new one, and older tokens mean nothing.
    pub epoch: u64,
    /// Everything in the log up to here has been sent.
    pub position: Position,
    /// Messages to the device up to this log position have been sent. Below `position` only if more wait than one answer holds.
    pub to_device: u64,
    /// The run of the server that `typing` and `presence` belong to.
    pub boot: u64,
    /// Typing changes up to this number have been sent.
    pub typing: u64,
    /// In which rooms the client may believe that somebody is typing, each by its [`typing_bit`]: what has to be taken back after a
    /// restart.
    pub typing_shown: u64,
    /// Presence changes up to this number have been sent.
    pub presence: u64,
}

/// The string is not a token of this server.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a sync token of this server")]
pub struct BadToken;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, position, to_device, boot, typing, typing_shown, presence } = *self;
        write!(f, "s{epoch}_{position}_{to_device}_{boot}_{typing}_{typing_shown}_{presence}")
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        if text.len() > TOKEN_LENGTH_BYTES_MAX {
            return Err(BadToken);
        }
        let mut numbers = [0_u64; PARTS];
        let mut parts = text.strip_prefix('s').ok_or(BadToken)?.split('_');
        for number in &mut numbers {
            *number = parse_number(parts.next().ok_or(BadToken)?)?;
        }
        if parts.next().is_some() {
            return Err(BadToken);
        }
        let [epoch, position, to_device, boot, typing, typing_shown, presence] = numbers;
        if position > Position::MAX.get() {
            return Err(BadToken);
        }
        let position = Position::from_u64(position);
        Ok(Self { epoch, position, to_device, boot, typing, typing_shown, presence })
    }
}

/// One of 64 bits that a room has in [`Token::typing_shown`], the same in every run of the server; other rooms have it too.
pub(crate) fn typing_bit(room: &RoomId) -> u64 {
    // FNV-1a.
    let hash = room
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    1 << (hash >> 58)
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

    proptest! {
        #[test]
        fn a_token_survives_its_string_form(
            (epoch, position, to_device, boot, typing, typing_shown, presence) in
                any::<(u64, u64, u64, u64, u64, u64, u64)>()
        ) {
            let position = Position::from_u64(position);
            let token = Token { epoch, position, to_device, boot, typing, typing_shown, presence };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn other_strings_are_refused_without_panicking(text in ".{0,40}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string().parse(), Ok(token));
            }
        }
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for text in ["", "s", "s1_2_3", "s1_2_3_4_5_1_7_8", "t1_2_3_4_5_1_7", "s+1_2_3_4_5_1_7"] {
            assert_eq!(text.parse::<Token>(), Err(BadToken), "{text}");
        }
        assert_eq!("s1_9223372036854775808_3_4_5_1_7".parse::<Token>(), Err(BadToken));
    }
}
