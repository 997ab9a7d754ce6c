//! The tuple encoding of keys: bytewise order is the order of the values.
//!
//! Numbers are big-endian with a fixed width (signed ones with the sign bit flipped). Strings and
//! byte strings are self-delimiting: they end in `00`, and the bytes `00` and `01` inside are written
//! as `01 01` and `01 02`. A tuple is its parts one after another, so the encoding of the leading
//! parts of a key is a prefix of the encoding of the key.

use std::{fmt, ops::Deref, str::FromStr};

use crate::{error::DecodeError, position::Position};

/// Ends a string.
const END: u8 = 0x00;
/// Starts the two-byte form of `00` and `01`.
const ESCAPE: u8 = 0x01;

/// Collects encoded bytes, and where in them stamps wait for their position.
#[derive(Debug, Default)]
pub struct Writer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) stamps: Vec<StampAt>,
    pub(crate) failure: Option<String>,
}

/// Eight bytes at `offset` that become the position of the log entry with this index.
#[derive(Copy, Clone, Debug)]
pub(crate) struct StampAt {
    pub(crate) offset: usize,
    pub(crate) index: u8,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Appends bytes as they are. Only for the last part of a value: they don't delimit themselves.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a self-delimiting byte string.
    pub fn escaped(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte <= ESCAPE) {
            self.bytes.extend_from_slice(&rest[..at]);
            self.bytes.extend_from_slice(&[ESCAPE, rest[at] + 1]);
            rest = &rest[at + 1..];
        }
        self.bytes.extend_from_slice(rest);
        self.bytes.push(END);
    }

    /// Appends a position, or a placeholder that is replaced at commit.
    pub fn position(&mut self, position: Position) {
        if let Some(index) = position.stamp_index() {
            self.stamps.push(StampAt { offset: self.bytes.len(), index });
        }
        self.bytes.extend_from_slice(&position.get().to_be_bytes());
    }

    /// Notes that a value can't be encoded; the batch that it is for will be refused.
    pub fn fail(&mut self, reason: impl fmt::Display) {
        self.failure.get_or_insert_with(|| reason.to_string());
    }

    /// What was written so far, with placeholders where stamps are.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written so far.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Takes parts from the front of encoded bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(*head)
    }

    /// The next self-delimiting byte string.
    pub fn escaped(&mut self) -> Result<Vec<u8>, DecodeError> {
        let mut out = Vec::new();
        loop {
            let at = self.bytes.iter().position(|byte| *byte <= ESCAPE);
            let at = at.ok_or(DecodeError::Truncated)?;
            out.extend_from_slice(&self.bytes[..at]);
            let stop = self.bytes[at];
            self.bytes = &self.bytes[at + 1..];
            if stop == END {
                return Ok(out);
            }
            match self.array::<1>()? {
                [1] => out.push(0),
                [2] => out.push(1),
                _ => return Err(DecodeError::Invalid("escape in a byte string")),
            }
        }
    }

    /// Everything that is left, as it is.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Checks that nothing is left.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

/// A thing that encodes as the owned key type `K`: a `&str` for a [`String`] or a [`Text`], a tuple of
/// borrowed things for a tuple of owned ones.
pub trait Encode<K: ?Sized> {
    /// Appends the encoding.
    fn encode(&self, w: &mut Writer);
}

/// A type that can be read back from its tuple encoding.
pub trait Decode: Sized {
    /// Takes one value from the front of `r`.
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Leading elements of the key type `K`: `()`, `(a,)`, `(a, b)` … up to the whole key. A key of one
/// part takes `()` and `(part,)`.
pub trait Prefix<K> {
    /// Appends the encoding of the elements.
    fn encode_prefix(&self, w: &mut Writer);
}

impl<K> Prefix<K> for () {
    fn encode_prefix(&self, _: &mut Writer) {}
}

/// Decodes all of `bytes` as one `K`.
pub fn decode_all<K: Decode>(bytes: &[u8]) -> Result<K, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = K::decode(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// The encoding of `value` as a `K`. Stamps are not replaced.
pub fn encode_to_vec<K: ?Sized>(value: &(impl Encode<K> + ?Sized)) -> Vec<u8> {
    let mut writer = Writer::new();
    value.encode(&mut writer);
    writer.bytes
}

/// The smallest byte string above everything that starts with `prefix`; `None` if there is none.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut bound = prefix[..=last].to_vec();
    bound[last] += 1;
    Some(bound)
}

/// A value stored as the string that it is shown as and parsed from, for example a Matrix identifier.
/// Everything that is `AsRef<str>` encodes as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Text<T>(pub T);

impl<T> Text<T> {
    /// The value itself.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Text<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: AsRef<str>> AsRef<str> for Text<T> {
    fn as_ref(&self) -> &str {
        self.0.as_ref()
    }
}

impl<T> From<T> for Text<T> {
    fn from(value: T) -> Text<T> {
        Text(value)
    }
}

impl<T: fmt::Display> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: FromStr> Text<T> {
    /// Parses stored text.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Text<T>, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid("text"))?;
        let value = text.parse().map_err(|_| DecodeError::Invalid("text of its type"))?;
        Ok(Text(value))
    }
}

/// Exactly `N` bytes, written as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fixed<const N: usize>(pub [u8; N]);

impl<const N: usize> Deref for Fixed<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> From<[u8; N]> for Fixed<N> {
    fn from(bytes: [u8; N]) -> Fixed<N> {
        Fixed(bytes)
    }
}
