//! The checks that need nothing but the event and its servers' keys.

use event::{Pdu, ReceivedPdu, VerifyError};
use serde_json::value::RawValue;

use super::Intake;
use crate::{RoomsError, ports::RemoteError};

impl Intake<'_> {
    /// Checks format, room, signatures and hash. The inner error is why the event is dropped; the outer one means that the keys can't
    /// be had now.
    pub(super) async fn verify(&self, json: &RawValue) -> Result<Result<Pdu, String>, RoomsError> {
        let received = match ReceivedPdu::parse(json.get().as_bytes(), self.rules) {
            Ok(received) => received,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let pdu = received.unverified();
        if pdu.room_id() != self.room {
            return Ok(Err("it belongs to another room".to_owned()));
        }
        let own = self.rooms.server_name();
        let mut needed = match received.required_keys() {
            Ok(needed) => needed,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if let Some(server) = needed.iter().find(|(_, keys)| keys.is_empty()).map(|(server, _)| server) {
            return Ok(Err(format!("{server} has not signed it")));
        }
        let signed_by_us = needed.remove(own).is_some();
        let valid_at_ms = self.rules.enforce_key_validity.then(|| pdu.origin_server_ts());
        let mut keys = if needed.is_empty() {
            event::PublicKeyMap::new()
        } else {
            self.rooms.inner.ports.keys.public_keys(&needed, valid_at_ms).await
        };
        if signed_by_us {
            // Old ones too: what this server said long ago comes back from others.
            keys.entry(own.to_string()).or_default().extend(self.rooms.inner.keys.valid_at(valid_at_ms));
        }
        if let Some(server) = needed.keys().find(|server| !keys.contains_key(server.as_str())) {
            return Err(RemoteError::NotReachable(server.clone()).into());
        }
        match received.verify(&keys) {
            Ok(verified) => Ok(Ok(verified.into_pdu())),
            Err(VerifyError::Signature(reason)) => Ok(Err(format!("signature: {reason}"))),
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}
