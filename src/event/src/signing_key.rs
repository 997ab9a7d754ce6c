//! The key with which this server signs.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ed25519_dalek::{Signer, SigningKey as DalekKey};
use ruma::signatures::{KeyPair, Signature};
use ruma::{AnyKeyName, CanonicalJsonObject, OwnedServerSigningKeyId, OwnedSigningKeyId, ServerName};

use crate::{PduError, Random};

/// Bytes of an ed25519 seed, which is all that has to be kept of a key.
pub const SIGNING_KEY_BYTES: usize = 32;

/// Random letters in the version of a generated key.
const KEY_VERSION_LEN: usize = 6;

/// An ed25519 key pair with its id, `ed25519:<version>`.
#[derive(Clone)]
pub struct SigningKey {
    key: DalekKey,
    /// The id as text, because it is written into every event.
    id: String,
    any_id: OwnedSigningKeyId<AnyKeyName>,
}

impl SigningKey {
    /// A new key with a random version.
    pub fn generate(random: &dyn Random) -> Self {
        let mut seed = [0; SIGNING_KEY_BYTES];
        random.fill(&mut seed);
        let version = random.alphanumeric(KEY_VERSION_LEN);
        Self::from_seed(&seed, &version).expect("letters and digits are a valid key version")
    }

    /// The key with this seed and version. Fails if the version has other characters than
    /// letters, digits and `_`.
    pub fn from_seed(seed: &[u8; SIGNING_KEY_BYTES], version: &str) -> Result<Self, PduError> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if version.is_empty() || !version.bytes().all(valid) {
            return Err(PduError::Field { field: "signing key version" });
        }
        let id = format!("ed25519:{version}");
        let any_id = OwnedSigningKeyId::<AnyKeyName>::try_from(id.as_str())
            .map_err(|_| PduError::Field { field: "signing key version" })?;
        Ok(Self { key: DalekKey::from_bytes(seed), id, any_id })
    }

    /// The seed, to be kept secret.
    pub fn seed(&self) -> [u8; SIGNING_KEY_BYTES] {
        self.key.to_bytes()
    }

    /// The key's id, as it stands in signatures: `ed25519:<version>`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key's id as the type that server-server requests use.
    pub fn server_key_id(&self) -> OwnedServerSigningKeyId {
        OwnedServerSigningKeyId::try_from(self.id.as_str()).expect("the version has been checked when the key was made")
    }

    /// The part of the id after the colon.
    pub fn version(&self) -> &str {
        self.id.split_once(':').map_or("", |(_, version)| version)
    }

    /// The public half.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The public half in unpadded base64, as published.
    pub fn public_key_base64(&self) -> String {
        STANDARD_NO_PAD.encode(self.public_key())
    }

    /// The signature of `message` in unpadded base64.
    pub fn sign_base64(&self, message: &[u8]) -> String {
        STANDARD_NO_PAD.encode(self.key.sign(message).to_bytes())
    }

    /// Adds this key's signature to `object` under the name of `server`.
    ///
    /// Fails if `signatures` is there and isn't an object of objects. Specification: appendices,
    /// "Signing JSON".
    pub fn sign_json(&self, server: &ServerName, object: &mut CanonicalJsonObject) -> Result<(), PduError> {
        ruma::signatures::sign_json(server.as_str(), self, object).map_err(|error| PduError::Json(error.to_string()))
    }
}

impl KeyPair for SigningKey {
    fn sign(&self, message: &[u8]) -> Signature {
        Signature::new(self.any_id.clone(), self.key.sign(message).to_bytes().to_vec())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seed must not reach a log.
        formatter.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}
