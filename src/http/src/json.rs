//! What JSON may be at all: checked once at the door, whatever becomes of it.
//!
//! Much of what clients send is stored as text and handed to others as it is. The parser of this server reads over what it
//! keeps as text, and clients differ in what they take: a lone surrogate, a number beyond all numbers or a key that is
//! there twice makes some of them refuse the whole answer that it is in. So nobody gets to store such a thing.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::ApiError;

/// Greatest nesting of objects and arrays in a request. Below the depth at which the JSON parser gives up, which it
/// doesn't do for parts that are kept as raw text.
pub const JSON_DEPTH_MAX: usize = 100;

/// Checks that a text is JSON that every parser reads, and reads alike: UTF-8, whole characters in strings, numbers that fit
/// a double, no key twice in an object, not nested more than [`JSON_DEPTH_MAX`] deep.
///
/// # Errors
/// `M_NOT_JSON`; `M_BAD_JSON` for what the grammar allows.
pub fn check_json(bytes: &[u8]) -> Result<(), ApiError> {
    // Strings that are borrowed from bytes are checked one by one, but those that are passed over aren't.
    let text = std::str::from_utf8(bytes).map_err(|_| ApiError::not_json("The request's body is not UTF-8"))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = Checker { depth_left: JSON_DEPTH_MAX }.deserialize(&mut reader).and_then(|()| reader.end());
    read.map_err(|error| {
        if error.is_data() {
            return ApiError::bad_json(error.to_string());
        }
        ApiError::not_json(format!("The request's body is not JSON: {error}"))
    })
}

#[derive(Copy, Clone)]
struct Checker {
    depth_left: usize,
}

impl Checker {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left }),
            None => Err(E::custom(format!("JSON nested deeper than {JSON_DEPTH_MAX}"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Checker {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checker {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut keys: Vec<Cow<'de, str>> = Vec::new();
        while let Some(key) = map.next_key_seed(Key)? {
            keys.push(key);
            map.next_value_seed(inner)?;
        }
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(A::Error::custom(format!("duplicate key `{}`", twice[0]))),
            None => Ok(()),
        }
    }
}

/// A key, without a copy where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_parsers_refuse_is_refused() {
        let deepest = format!("{}{}", "[".repeat(JSON_DEPTH_MAX), "]".repeat(JSON_DEPTH_MAX));
        let good = [
            "{}",
            "[]",
            "null",
            r#""\ud83d\ude00 and \u0000""#,
            r#"{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1e300}], "c": -0.5, "d": 123456789012345678901234567890}"#,
            &deepest,
        ];
        for text in good {
            assert!(check_json(text.as_bytes()).is_ok(), "{text}");
        }
        let too_deep = format!("[{deepest}]");
        let very_deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let bad = [
            (r#"{"a": "\ud800"}"#, "M_NOT_JSON"),
            (r#"{"\udc00": 1}"#, "M_NOT_JSON"),
            (r#"["\ud800\u0041"]"#, "M_NOT_JSON"),
            ("[1e999]", "M_NOT_JSON"),
            ("[-1e999]", "M_NOT_JSON"),
            (r#"{"a": 1, "b": 2, "a": 1}"#, "M_BAD_JSON"),
            (r#"[{"a": {"b": 1, "\u0062": 2}}]"#, "M_BAD_JSON"),
            (&too_deep, "M_BAD_JSON"),
            (&very_deep, "M_BAD_JSON"),
            ("{} {}", "M_NOT_JSON"),
            ("[01]", "M_NOT_JSON"),
            ("[NaN]", "M_NOT_JSON"),
            ("{\"a\": \"\u{1}\"}", "M_NOT_JSON"),
            ("", "M_NOT_JSON"),
        ];
        for (text, errcode) in bad {
            let shown = &text[..text.len().min(60)];
            assert_eq!(
                check_json(text.as_bytes()).map_err(|error| error.errcode().to_owned()),
                Err(errcode.to_owned()),
                "{shown}"
            );
        }
    }
}
