//! Canonical JSON of text from outside.
//!
//! Specification: appendices, "Canonical JSON"; "Room Version 6" makes servers enforce it.
//!
//! The reader refuses what leaves room for two readings of one text: duplicate keys, numbers
//! beyond 53 bits, fractions, nesting beyond what every reader follows, text that isn't UTF-8.

use std::collections::btree_map::Entry;
use std::fmt;

use ruma::room_version_rules::RoomVersionRules;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::PduError;

/// Arrays and objects inside one another in one text. The JSON reader stops at 128 by itself.
pub const JSON_DEPTH_MAX: usize = 100;

/// What to do with numbers that canonical JSON can't hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Refuse the text.
    Strict,
    /// Read them as strings. Room versions 1 to 5 let such events pass, with an encoding for
    /// signatures that nobody wrote down. So a number in a field that redaction keeps makes the
    /// signature wrong and the event is dropped; anywhere else it makes the content hash wrong and
    /// the event stands in its redacted form, with the right id.
    Lenient,
}

impl Numbers {
    /// How a room version treats numbers in events of other servers.
    pub fn of(rules: &RoomVersionRules) -> Self {
        if rules.authorization.strict_canonical_json { Self::Strict } else { Self::Lenient }
    }
}

/// Reads a JSON object. Fails with [`PduError::Json`] if it isn't canonical JSON (order of keys and
/// white space aside).
pub fn parse_object(text: &[u8], numbers: Numbers) -> Result<CanonicalJsonObject, PduError> {
    into_object(parse_value(text, numbers)?)
}

/// Reads the content of an event that is to be built around it: the event may be as deep as any text,
/// so its content must be less deep by one. Otherwise like [`parse_object`] with [`Numbers::Strict`].
pub(crate) fn parse_content(text: &[u8]) -> Result<CanonicalJsonObject, PduError> {
    let reader = Reader { numbers: Numbers::Strict, depth_left: JSON_DEPTH_MAX - 1 };
    into_object(read(text, reader)?)
}

/// Reads any JSON value; see [`parse_object`].
pub fn parse_value(text: &[u8], numbers: Numbers) -> Result<CanonicalJsonValue, PduError> {
    read(text, Reader { numbers, depth_left: JSON_DEPTH_MAX })
}

fn into_object(value: CanonicalJsonValue) -> Result<CanonicalJsonObject, PduError> {
    match value {
        CanonicalJsonValue::Object(object) => Ok(object),
        _ => Err(PduError::Json("not an object".to_owned())),
    }
}

fn read(text: &[u8], reader: Reader) -> Result<CanonicalJsonValue, PduError> {
    let text = std::str::from_utf8(text).map_err(|error| PduError::Json(error.to_string()))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = reader
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| PduError::Json(error.to_string()))?;
    Ok(value)
}

/// The canonical encoding of an object.
pub fn to_canonical_string(object: &CanonicalJsonObject) -> String {
    // Displaying a value of this type is its canonical JSON: the map is ordered by code point and
    // the encoder adds no white space and escapes only what it must.
    serde_json::to_string(object).expect("maps with string keys encode as JSON")
}

#[derive(Clone, Copy)]
struct Reader {
    numbers: Numbers,
    depth_left: usize,
}

impl Reader {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left, ..self }),
            None => Err(E::custom("nested too deeply")),
        }
    }

    fn odd_number<E: serde::de::Error>(self, text: String) -> Result<CanonicalJsonValue, E> {
        match self.numbers {
            Numbers::Strict => Err(E::custom(format!("the number {text} is out of range"))),
            Numbers::Lenient => Ok(CanonicalJsonValue::String(text)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Reader {
    type Value = CanonicalJsonValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = CanonicalJsonValue;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("canonical JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        match Int::try_from(value) {
            Ok(value) => Ok(CanonicalJsonValue::Integer(value)),
            Err(_) => self.odd_number(value.to_string()),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        match Int::try_from(value) {
            Ok(value) => Ok(CanonicalJsonValue::Integer(value)),
            Err(_) => self.odd_number(value.to_string()),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.odd_number(value.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(CanonicalJsonValue::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = CanonicalJsonObject::new();
        while let Some(key) = map.next_key::<String>()? {
            match object.entry(key) {
                Entry::Vacant(slot) => slot.insert(map.next_value_seed(inner)?),
                Entry::Occupied(slot) => {
                    return Err(A::Error::custom(format!("duplicate key `{}`", slot.key())));
                }
            };
        }
        Ok(CanonicalJsonValue::Object(object))
    }
}
