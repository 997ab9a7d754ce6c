//! What tables hold: single parts, raw text and bytes, JSON, versioned records, and rows (see [`Value`](macro@crate::Value)).

use std::{ops::Deref, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    codec::{Decode, Encode, Fixed, Text, Writer, decode_all},
    error::DecodeError,
    position::{Position, Stamp},
};

/// A thing that is stored as the value type `V`: the value itself, a `&str` for a [`String`] or a [`Text`], a row with borrowed
/// fields for one that owns them.
pub trait EncodeValue<V: ?Sized> {
    /// Appends the encoding, which may be nothing. Stamps are replaced where it is tuple-coded.
    fn encode_value(&self, w: &mut Writer);
}

/// A type that a table can hold.
pub trait Value: EncodeValue<Self> + Sized {
    /// Reads the value's encoding; `bytes` is all of it.
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// A value's encoding, for example to hash or to compare it. Stamps are not replaced.
pub fn encode_value_to_vec<V>(value: &impl EncodeValue<V>) -> Vec<u8> {
    let mut writer = Writer::new();
    value.encode_value(&mut writer);
    writer.bytes
}

/// The first byte of every value in a table. With it no value is empty, whatever its type: RocksDB answers a key that it
/// could not look for, as a block of a file is not in memory, as found with an empty value.
const START: u8 = 1;

/// Appends a value as it stands in a table.
pub(crate) fn write_stored(w: &mut Writer, write: impl FnOnce(&mut Writer)) {
    w.raw(&[START]);
    write(w);
}

/// Reads a value as it stands in a table.
pub(crate) fn read_stored<V: Value>(stored: &[u8]) -> Result<V, DecodeError> {
    match stored.split_first() {
        Some((&START, encoded)) => V::decode_value(encoded),
        Some(_) => Err(DecodeError::Invalid("start of a value")),
        None => Err(DecodeError::Truncated),
    }
}

macro_rules! part_coded {
    ($([$($generics:tt)*] $value:ty),* $(,)?) => {$(
        impl<$($generics)*> EncodeValue<$value> for $value {
            fn encode_value(&self, w: &mut Writer) {
                Encode::<$value>::encode(self, w);
            }
        }
        impl<$($generics)*> Value for $value {
            fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
                decode_all(bytes)
            }
        }
    )*};
}

part_coded!(
    [] u8, [] u16, [] u32, [] u64, [] i64, [] bool, [] Position,
    [const N: usize] Fixed<N>,
    [A: Encode<A> + Decode] Option<A>,
);

impl EncodeValue<Position> for Stamp {
    fn encode_value(&self, w: &mut Writer) {
        w.position(Position::from(*self));
    }
}

impl EncodeValue<()> for () {
    fn encode_value(&self, _: &mut Writer) {}
}

impl Value for () {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

/// A value that is one string is stored without escapes: nothing follows it.
impl<T: AsRef<str> + ?Sized> EncodeValue<String> for T {
    fn encode_value(&self, w: &mut Writer) {
        w.raw(self.as_ref().as_bytes());
    }
}

impl Value for String {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid("text"))
    }
}

impl<K, T: AsRef<str> + ?Sized> EncodeValue<Text<K>> for T {
    fn encode_value(&self, w: &mut Writer) {
        w.raw(self.as_ref().as_bytes());
    }
}

impl<T: AsRef<str> + FromStr> Value for Text<T> {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        Text::parse(bytes)
    }
}

impl<T: AsRef<[u8]> + ?Sized> EncodeValue<Vec<u8>> for T {
    fn encode_value(&self, w: &mut Writer) {
        w.raw(self.as_ref());
    }
}

impl Value for Vec<u8> {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(bytes.to_vec())
    }
}

impl<T: AsRef<[u8]> + ?Sized> EncodeValue<Bytes> for T {
    fn encode_value(&self, w: &mut Writer) {
        w.raw(self.as_ref());
    }
}

impl Value for Bytes {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

/// A value stored as JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Json<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Serialize> EncodeValue<Json<T>> for Json<T> {
    fn encode_value(&self, w: &mut Writer) {
        if let Err(error) = serde_json::to_writer(&mut w.bytes, &self.0) {
            w.fail(error);
        }
    }
}

impl<T: Serialize + DeserializeOwned> Value for Json<T> {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        let value = serde_json::from_slice(bytes);
        value.map(Json).map_err(|error| DecodeError::Serde(error.to_string()))
    }
}

/// A struct whose stored form may change: fields with `#[serde(default)]` can be added freely; for
/// anything else the old shape stays as [`Versioned::Previous`] and is upgraded when read.
pub trait Versioned: Serialize + DeserializeOwned {
    /// The version of this shape, 1 for the first.
    const VERSION: u8;
    /// The shape before this one; [`NoPrevious`] for the first.
    type Previous: Versioned;
    /// This shape from the one before it.
    fn upgrade(previous: Self::Previous) -> Self;
}

/// What came before the first shape of a record: nothing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum NoPrevious {}

impl Versioned for NoPrevious {
    const VERSION: u8 = 0;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> NoPrevious {
        previous
    }
}

/// A versioned struct, stored as its version and MessagePack with named fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record<T>(pub T);

impl<T> Deref for Record<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Versioned> EncodeValue<Record<T>> for Record<T> {
    fn encode_value(&self, w: &mut Writer) {
        w.raw(&[T::VERSION]);
        write_named(&self.0, w);
    }
}

impl<T: Versioned> Value for Record<T> {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (version, body) = bytes.split_first().ok_or(DecodeError::Truncated)?;
        decode_version(*version, body).map(Record)
    }
}

/// Reads a record of version `stored` and upgrades it step by step.
fn decode_version<T: Versioned>(stored: u8, body: &[u8]) -> Result<T, DecodeError> {
    if stored > T::VERSION {
        return Err(DecodeError::Newer { stored, known: T::VERSION });
    }
    if stored == T::VERSION {
        return read_named(body);
    }
    if T::VERSION == 0 {
        return Err(DecodeError::Invalid("record version"));
    }
    decode_version::<T::Previous>(stored, body).map(T::upgrade)
}

/// Appends `value` as MessagePack with named fields.
#[doc(hidden)]
pub fn write_named(value: &impl Serialize, w: &mut Writer) {
    if let Err(error) = rmp_serde::encode::write_named(&mut w.bytes, value) {
        w.fail(error);
    }
}

/// Reads MessagePack.
#[doc(hidden)]
pub fn read_named<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(bytes).map_err(|error| DecodeError::Serde(error.to_string()))
}
