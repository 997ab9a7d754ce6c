//! Invites to users of other servers: their server signs the event too, before it enters the room.
//!
//! Specification: server-server API, "Inviting to a room".

use event::{
    PDU_SIZE_BYTES_MAX, Pdu,
    canonical::{self, Numbers},
};
use ruma::{OwnedUserId, RoomId, RoomVersionId, ServerName, UserId};
use serde_json::{Value, value::RawValue};
use store::{Batch, Json, View};

use crate::{
    Rooms, RoomsError,
    engine::{
        append::{Draft, Sent},
        membership::moved_membership,
    },
    ports::RemoteError,
    shown::Shown,
    state::StateView,
    tables::StrippedStates,
    types::{EventStatus, MEMBER, Membership},
};

/// Events of stripped state that are kept of one invite.
const STRIPPED_EVENTS_MAX: usize = 50;

/// Bytes of stripped state that are kept of one invite.
const STRIPPED_BYTES_MAX: usize = 256 * 1024;

/// Signatures taken from one server's answer.
const SIGNATURES_MAX: usize = 10;

/// What those who are invited to a room or knock at it are told of it (client-server API, "Stripped state").
const STRIPPED_TYPES: &[&str] = &[
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// An invite of one of this server's users by another server, checked.
#[derive(Clone, Debug)]
pub struct ReceivedInvite {
    target: OwnedUserId,
    /// The event with this server's signature.
    signed: Pdu,
    /// What came with it of the room's state.
    state: Vec<Box<RawValue>>,
}

impl ReceivedInvite {
    /// Who is invited.
    pub fn target(&self) -> &UserId {
        &self.target
    }
}

impl Rooms {
    /// Invites a user of another server.
    pub(crate) async fn invite_remote(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        content: Box<RawValue>,
    ) -> Result<Sent, RoomsError> {
        let view = self.inner.store.view().await?;
        let info = self.info(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        let draft = Draft::state(sender, MEMBER, target.as_str(), content);
        let pdu = self.draft_only(room, &draft).await?;
        let head = self.head(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        let stripped = self.state(&view, room, head.root).shown_to_invited(Some(sender)).await?;
        let stripped: Vec<Box<RawValue>> = stripped.iter().map(|pdu| pdu.json().to_owned()).collect();
        let server = target.server_name();
        let remote = &self.inner.ports.remote;
        let signed = remote.invite(server, &info.version, pdu.json(), &stripped).await?;
        // Only the signature is taken from the answer: nothing else can have changed then.
        let signed = with_signature_of(&pdu, server, &signed)?;
        let status = self.take_in_verified(server, room, signed.clone()).await?;
        self.sent(status, &signed).await
    }

    /// Checks an invite of one of our users by another server, and what comes with it of the room's state. Whether the user is there
    /// and lets themselves be invited is not known here (`flows::Flows::receive_invite`).
    ///
    /// Fails with [`RoomsError::UnsupportedRoomVersion`] if we could never take part in the room, and with [`RoomsError::BadEvent`] if one
    /// of the checks that the specification demands fails.
    pub async fn check_invite(
        &self,
        origin: &ServerName,
        room: &RoomId,
        version: &RoomVersionId,
        json: &RawValue,
        state: &[Box<RawValue>],
    ) -> Result<ReceivedInvite, RoomsError> {
        let rules = event::rules(version).ok_or_else(|| RoomsError::UnsupportedRoomVersion(version.clone()))?;
        let pdu = self.verify_unaltered(origin, room, rules, json).await?;
        let target = pdu.state_key().and_then(|key| UserId::parse(key).ok());
        let target = target.filter(|user| self.is_local(user));
        let is_invite = pdu.event_type() == MEMBER && Membership::of(&pdu) == Membership::Invite;
        let (Some(target), true) = (target, is_invite && pdu.sender().server_name() == origin) else {
            return Err(RoomsError::BadEvent("not an invite of one of our users by one of yours".to_owned()));
        };
        let state = &state[..state.len().min(STRIPPED_EVENTS_MAX)];
        // Servers may, and here do, ask nothing of what comes with invites to rooms of versions 1 to 11: many send what clients get. What
        // tells those of version 12 and later is that their ids are those of their create events.
        let kept = match event::room_id_is_create_hash(rules) {
            true => kept_stripped(&self.verify_stripped(origin, room, rules, state).await?, &target),
            false => kept_stripped(state, &target),
        };
        let signed = event::countersign(&pdu, rules, &self.signing_key(), self.server_name())?;
        Ok(ReceivedInvite { target, signed, state: kept })
    }

    /// Remembers an invite with what came with it, and gives the event with this server's signature.
    ///
    /// Fails with [`RoomsError::Forbidden`] if the user is in the room.
    pub async fn take_invite(&self, invite: &ReceivedInvite) -> Result<Box<RawValue>, RoomsError> {
        let (target, room, signed) = (&invite.target, invite.signed.room_id(), invite.signed.json());
        let decide = |view: View| async move {
            if self.head(&view, room).await?.is_some() && self.is_server_joined(&view, room, self.server_name()).await?
            {
                // It comes as an event of the room too.
                return Ok((Batch::new(), ()));
            }
            let row = self.membership(&view, target, room).await?;
            match row.map(|row| row.membership) {
                Some(Membership::Join) => return Err(RoomsError::forbidden("the user is in the room")),
                Some(Membership::Ban | Membership::Leave | Membership::Invite | Membership::Knock) | None => {}
            }
            let mut told = invite.state.clone();
            told.push(signed.to_owned());
            let mut batch = Batch::new();
            batch.put::<StrippedStates>(&(target, room), &Json(told));
            Ok((moved_membership((target, room), row, Membership::Invite, false, batch), ()))
        };
        self.inner.store.retry(decide).await?;
        Ok(signed.to_owned())
    }

    /// The answer for an event of ours that took the way of a received one.
    pub(crate) async fn sent(&self, status: EventStatus, pdu: &Pdu) -> Result<Sent, RoomsError> {
        match status {
            EventStatus::Accepted => {
                let position = self.inner.store.view().await?.position();
                Ok(Sent { event_id: pdu.owned_event_id(), position })
            }
            EventStatus::Rejected(reason) => Err(RoomsError::Forbidden(reason)),
            _ => Err(RoomsError::forbidden("the room's current state doesn't allow it")),
        }
    }
}

impl StateView<'_> {
    /// What those outside the room who are invited or knock may see of the state, and the member event of who invited them, by
    /// which clients name a direct chat.
    pub async fn shown_to_invited(&self, inviter: Option<&UserId>) -> Result<Vec<Shown>, RoomsError> {
        let mut keys: Vec<(&str, &str)> = STRIPPED_TYPES.iter().map(|kind| (*kind, "")).collect();
        keys.extend(inviter.map(|user| (MEMBER, user.as_str())));
        self.rooms.shown(self.view, &self.nums_at(&keys).await?).await
    }
}

/// What is kept of the stripped state that another server tells: JSON of which there is one reading, as our clients get it, and not
/// too much of it. Who invites `target` the invite says and nothing else.
fn kept_stripped(stripped: &[Box<RawValue>], target: &UserId) -> Vec<Box<RawValue>> {
    let mut kept = Vec::new();
    let mut bytes = 0;
    for json in stripped {
        let Ok(mut object) = canonical::parse_object(json.get().as_bytes(), Numbers::Strict) else { continue };
        object.remove("unsigned");
        let is = |field: &str, value: &str| object.get(field).and_then(|found| found.as_str()) == Some(value);
        if is("type", MEMBER) && is("state_key", target.as_str()) {
            continue;
        }
        let text = canonical::to_canonical_string(&object);
        if text.len() > PDU_SIZE_BYTES_MAX || bytes + text.len() > STRIPPED_BYTES_MAX {
            continue;
        }
        bytes += text.len();
        kept.extend(RawValue::from_string(text).ok());
    }
    kept
}

/// The event with the signatures that a server made on a copy of it.
fn with_signature_of(pdu: &Pdu, server: &ServerName, copy: &RawValue) -> Result<Pdu, RoomsError> {
    let bad = |what: &str| RoomsError::from(RemoteError::BadAnswer(what.to_owned()));
    let copy: Value = serde_json::from_str(copy.get()).map_err(|_| bad("the invite is no JSON"))?;
    let signatures = copy.pointer("/signatures").and_then(|all| all.get(server.as_str())).and_then(Value::as_object);
    let signatures = signatures.ok_or_else(|| bad("the invite isn't signed"))?;
    let mut signed = pdu.clone();
    for (key_id, signature) in signatures.iter().take(SIGNATURES_MAX) {
        let signature = signature.as_str().ok_or_else(|| bad("a signature isn't text"))?;
        signed = event::add_signature(&signed, server, key_id, signature.to_owned())?;
    }
    Ok(signed)
}
