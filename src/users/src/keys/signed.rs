//! Signed JSON objects as clients upload them, and the keys that sign them.
//!
//! Specification: appendices, "Signing JSON"; client-server API, "Key algorithms".

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey, verify_batch};
use event::canonical::{self, Numbers};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId};
use serde_json::value::RawValue;
use vodozemac::{Ed25519PublicKey, Ed25519Signature};

use crate::{Error, Result};

/// Signatures from which on it takes less to check them together.
const CHECKED_TOGETHER_MIN: usize = 4;

/// Bytes of an Ed25519 or Curve25519 public key.
const PUBLIC_KEY_BYTES: usize = 32;

/// A JSON object as it was uploaded, unknown fields included, without `unsigned`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SignedObject {
    object: CanonicalJsonObject,
    signatures: CanonicalJsonObject,
}

impl SignedObject {
    /// Reads what somebody uploaded, which must have these fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], [`Error::MissingKeyField`], [`Error::TooLarge`].
    pub(super) fn parse(
        what: &'static str,
        json: &RawValue,
        bytes_max: usize,
        required: &[&'static str],
    ) -> Result<Self> {
        if json.get().len() > bytes_max {
            return Err(Error::TooLarge { what, max: bytes_max });
        }
        let object = canonical::parse_object(json.get().as_bytes(), Numbers::Strict).ok();
        let object = object.ok_or(Error::InvalidKey("it must be an object in canonical JSON"))?;
        if let Some(missing) = required.iter().find(|&&field| !object.contains_key(field)) {
            return Err(Error::MissingKeyField(missing));
        }
        Self::of(object).ok_or(Error::InvalidKey("signatures must be an object"))
    }

    /// Reads what this crate wrote.
    pub(super) fn stored(json: &str) -> Result<Self> {
        let object = canonical::parse_object(json.as_bytes(), Numbers::Strict).ok();
        object.and_then(Self::of).ok_or_else(|| {
            let source = serde::de::Error::custom("not a signed object");
            Error::Damaged { what: "a public key", source }
        })
    }

    fn of(mut object: CanonicalJsonObject) -> Option<Self> {
        object.remove("unsigned");
        let signatures = match object.remove("signatures") {
            Some(CanonicalJsonValue::Object(signatures)) => signatures,
            None => CanonicalJsonObject::new(),
            Some(_) => return None,
        };
        Some(Self { object, signatures })
    }

    /// A field that is text.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.object.get(field)?.as_str()
    }

    /// A field that is an object.
    pub(super) fn object(&self, field: &str) -> Option<&CanonicalJsonObject> {
        self.object.get(field)?.as_object()
    }

    /// A field that is an array of texts.
    pub(super) fn texts(&self, field: &str) -> Option<Vec<&str>> {
        self.object.get(field)?.as_array()?.iter().map(CanonicalJsonValue::as_str).collect()
    }

    /// Whether the two say the same, whoever signed them.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.object == other.object
    }

    /// The bytes that are signed.
    pub(super) fn signed_text(&self) -> String {
        canonical::to_canonical_string(&self.object)
    }

    /// Key ids and signatures of `user`, those that aren't text left out.
    pub(super) fn signatures_of(&self, user: &UserId) -> impl Iterator<Item = (&str, &str)> {
        let of_user = self.signatures.get(user.as_str()).and_then(CanonicalJsonValue::as_object);
        let all = of_user.into_iter().flatten();
        all.filter_map(|(id, signature)| Some((id.as_str(), signature.as_str()?)))
    }

    /// The signature of `user` with the key of this id.
    pub(super) fn signature(&self, user: &UserId, key_id: &str) -> Option<&str> {
        self.signatures_of(user).find(|(id, _)| *id == key_id).map(|(_, signature)| signature)
    }

    /// Adds a signature, or replaces that of the same key.
    pub(super) fn add_signature(&mut self, user: &UserId, key_id: &str, signature: &str) {
        let of_user = self
            .signatures
            .entry(user.to_string())
            .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
        if let CanonicalJsonValue::Object(of_user) = of_user {
            of_user.insert(key_id.to_owned(), CanonicalJsonValue::String(signature.to_owned()));
        }
    }

    /// Without any signature.
    pub(super) fn unsigned(&self) -> Self {
        Self { object: self.object.clone(), signatures: CanonicalJsonObject::new() }
    }

    /// All of it as canonical JSON.
    pub(super) fn to_json(&self) -> String {
        let mut object = self.object.clone();
        object.insert("signatures".to_owned(), CanonicalJsonValue::Object(self.signatures.clone()));
        canonical::to_canonical_string(&object)
    }
}

/// Whether `signature` (base64) is that of `key` over `text`.
pub(super) fn verifies(key: &Ed25519PublicKey, text: &str, signature: &str) -> bool {
    match Ed25519Signature::from_base64(signature) {
        Ok(signature) => key.verify(text.as_bytes(), &signature).is_ok(),
        Err(_) => false,
    }
}

/// Whether all of these texts have a signature (base64) of `key`. Many are checked together, which takes less than half as long.
pub(super) fn all_verify(key: &Ed25519PublicKey, signed: &[(&str, &str)]) -> bool {
    let together = || {
        if signed.len() < CHECKED_TOGETHER_MIN {
            return None;
        }
        let key = VerifyingKey::from_bytes(key.as_bytes()).ok().filter(|key| !key.is_weak())?;
        let mut texts = Vec::with_capacity(signed.len());
        let mut signatures = Vec::with_capacity(signed.len());
        for (text, signature) in signed {
            texts.push(text.as_bytes());
            signatures.push(Signature::from_bytes(&Ed25519Signature::from_base64(signature).ok()?.to_bytes()));
        }
        verify_batch(&texts, &signatures, &vec![key; signed.len()]).ok()
    };
    together().is_some() || signed.iter().all(|(text, signature)| verifies(key, text, signature))
}

/// A public signing key from unpadded base64.
pub(super) fn ed25519_key(text: &str) -> Option<Ed25519PublicKey> {
    Ed25519PublicKey::from_slice(&public_key_bytes(text)?).ok()
}

/// The bytes of a public key from unpadded base64; there is one way to write each key.
pub(super) fn public_key_bytes(text: &str) -> Option<[u8; PUBLIC_KEY_BYTES]> {
    STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// The id of an ed25519 key with this name: a device id, or a public key in unpadded base64.
pub(super) fn ed25519_id(name: &str) -> String {
    format!("ed25519:{name}")
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    #[test]
    fn of_many_signatures_each_counts() {
        let secret = SigningKey::from_bytes(&[7; 32]);
        let key = Ed25519PublicKey::from_slice(secret.verifying_key().as_bytes()).expect("a key");
        let texts: Vec<String> = (0..10).map(|number| format!("text {number}")).collect();
        let sign = |text: &String| STANDARD_NO_PAD.encode(secret.sign(text.as_bytes()).to_bytes());
        let signatures: Vec<String> = texts.iter().map(sign).collect();
        for count in 0..=texts.len() {
            let mut signed: Vec<(&str, &str)> = Vec::new();
            for (text, signature) in texts.iter().zip(&signatures).take(count) {
                signed.push((text, signature));
            }
            assert!(all_verify(&key, &signed), "{count}");
            for wrong in 0..count {
                let mut signed = signed.clone();
                signed[wrong].0 = "another text";
                assert!(!all_verify(&key, &signed), "{wrong} of {count}");
                signed[wrong] = (&texts[wrong], "no signature");
                assert!(!all_verify(&key, &signed), "{wrong} of {count}");
            }
        }
    }
}
