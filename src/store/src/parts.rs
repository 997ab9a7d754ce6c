//! [`Encode`], [`Decode`] and [`Prefix`] for the parts of keys and for pairs of them.

use std::str::FromStr;

use crate::{
    codec::{Decode, Encode, Fixed, Prefix, Reader, Text, Writer},
    error::DecodeError,
    position::{Position, Stamp},
};

/// `Encode` for a type and for references to it.
macro_rules! encode_as {
    ([$($generics:tt)*] $key:ty, $from:ty, |$value:ident, $w:ident| $body:expr) => {
        impl<$($generics)*> Encode<$key> for $from {
            fn encode(&self, $w: &mut Writer) {
                let $value = self;
                $body
            }
        }
        impl<$($generics)*> Encode<$key> for &$from {
            fn encode(&self, $w: &mut Writer) {
                let $value = *self;
                $body
            }
        }
    };
}

macro_rules! number {
    ($($number:ty),*) => {$(
        encode_as!([] $number, $number, |value, w| w.raw(&value.to_be_bytes()));
        impl Decode for $number {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(<$number>::from_be_bytes(r.array()?))
            }
        }
    )*};
}

number!(u8, u16, u32, u64);

/// Flips the sign bit, so that negative numbers sort first.
const SIGN: u64 = 1 << 63;

encode_as!([] i64, i64, |value, w| w.raw(&(value.cast_unsigned() ^ SIGN).to_be_bytes()));

impl Decode for i64 {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((u64::from_be_bytes(r.array()?) ^ SIGN).cast_signed())
    }
}

encode_as!([] bool, bool, |value, w| w.raw(&[u8::from(*value)]));

impl Decode for bool {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeError::Invalid("bool")),
        }
    }
}

encode_as!([] Position, Position, |value, w| w.position(*value));
encode_as!([] Position, Stamp, |value, w| w.position(Position::from(*value)));

impl Decode for Position {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = u64::from_be_bytes(r.array()?);
        if number > Position::MAX.get() {
            return Err(DecodeError::Invalid("position"));
        }
        Ok(Position::from_u64(number))
    }
}

impl<T: AsRef<str> + ?Sized> Encode<String> for T {
    fn encode(&self, w: &mut Writer) {
        w.escaped(self.as_ref().as_bytes());
    }
}

impl Decode for String {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        String::from_utf8(r.escaped()?).map_err(|_| DecodeError::Invalid("text"))
    }
}

impl<T: AsRef<[u8]> + ?Sized> Encode<Vec<u8>> for T {
    fn encode(&self, w: &mut Writer) {
        w.escaped(self.as_ref());
    }
}

impl Decode for Vec<u8> {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.escaped()
    }
}

impl<K, T: AsRef<str> + ?Sized> Encode<Text<K>> for T {
    fn encode(&self, w: &mut Writer) {
        w.escaped(self.as_ref().as_bytes());
    }
}

impl<T: FromStr> Decode for Text<T> {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Text::parse(&r.escaped()?)
    }
}

encode_as!([const N: usize] Fixed<N>, Fixed<N>, |value, w| w.raw(&value.0));
encode_as!([const N: usize] Fixed<N>, [u8; N], |value, w| w.raw(value));

impl<const N: usize> Decode for Fixed<N> {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Fixed(r.array()?))
    }
}

encode_as!([K, T: Encode<K>] Option<K>, Option<T>, |value, w| match value {
    None => w.raw(&[0]),
    Some(part) => {
        w.raw(&[1]);
        part.encode(w);
    }
});

impl<K: Decode> Decode for Option<K> {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.array()? {
            [0] => Ok(None),
            [1] => Ok(Some(K::decode(r)?)),
            _ => Err(DecodeError::Invalid("option")),
        }
    }
}

/// `Prefix` of keys that are one part.
macro_rules! single {
    ($([$($generics:tt)*] $key:ty),* $(,)?) => {$(
        impl<Part: Encode<$key>, $($generics)*> Prefix<$key> for (Part,) {
            fn encode_prefix(&self, w: &mut Writer) {
                self.0.encode(w);
            }
        }
    )*};
}

single!(
    [] u8, [] u16, [] u32, [] u64, [] i64, [] bool, [] Position, [] String, [] Vec<u8>,
    [T] Text<T>, [T] Option<T>, [const N: usize] Fixed<N>,
);

/// Encoding of a tuple type. Longer keys are structs, see [`Key`](crate::Key).
macro_rules! tuple {
    ($($key:ident $part:ident $index:tt),+) => {
        impl<$($key, $part: Encode<$key>),+> Encode<($($key,)+)> for ($($part,)+) {
            fn encode(&self, w: &mut Writer) {
                $(self.$index.encode(w);)+
            }
        }
        impl<$($key, $part: Encode<$key>),+> Encode<($($key,)+)> for &($($part,)+) {
            fn encode(&self, w: &mut Writer) {
                $(self.$index.encode(w);)+
            }
        }
        impl<$($key: Decode),+> Decode for ($($key,)+) {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(($($key::decode(r)?,)+))
            }
        }
    };
}

tuple!(KA A 0);
tuple!(KA A 0, KB B 1);

impl<KA, A: Encode<KA>> Prefix<(KA,)> for (A,) {
    fn encode_prefix(&self, w: &mut Writer) {
        self.0.encode(w);
    }
}

impl<KA, KB, A: Encode<KA>> Prefix<(KA, KB)> for (A,) {
    fn encode_prefix(&self, w: &mut Writer) {
        self.0.encode(w);
    }
}

impl<KA, KB, A: Encode<KA>, B: Encode<KB>> Prefix<(KA, KB)> for (A, B) {
    fn encode_prefix(&self, w: &mut Writer) {
        self.encode(w);
    }
}
