//! Policy servers: another server's recommendation, as a signature on the event.
//!
//! Specification: server-server API, "Policy Servers".

use ruma::ServerName;
use ruma::SigningKeyAlgorithm;
use ruma::events::room::policy::RoomPolicyEventContent;
use ruma::room_version_rules::RoomVersionRules;
use ruma::signatures::verify_policy_server_signature;

use crate::canonical::{self, Numbers};
use crate::{Pdu, VerifyError};

/// The policy server that a room names.
#[derive(Debug, Clone)]
pub struct PolicyServer {
    content: RoomPolicyEventContent,
}

impl PolicyServer {
    /// The policy server of a `m.room.policy` event in the current state, or `None` if the event
    /// doesn't name one. The room uses it only while that server has a user joined.
    pub fn of(event: &Pdu) -> Option<Self> {
        if !event.is_state("m.room.policy", "") {
            return None;
        }
        let content = event.content_as::<RoomPolicyEventContent>().ok()?;
        content.public_keys.contains_key(&SigningKeyAlgorithm::Ed25519).then_some(Self { content })
    }

    /// The server to ask.
    pub fn server_name(&self) -> &ServerName {
        &self.content.via
    }

    /// Whether the event needs no recommendation: the event that names the policy server.
    pub fn exempts(event: &Pdu) -> bool {
        event.is_state("m.room.policy", "")
    }

    /// Checks that the policy server has signed the event. Exempt events pass.
    pub fn verify(&self, event: &Pdu, rules: &RoomVersionRules) -> Result<(), VerifyError> {
        let object = canonical::parse_object(event.json().get().as_bytes(), Numbers::Lenient)?;
        verify_policy_server_signature(&self.content, &object, rules)
            .map_err(|error| VerifyError::Signature(error.to_string()))
    }
}
