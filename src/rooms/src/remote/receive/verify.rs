//! The checks that need nothing but the event and its servers' keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use event::{Pdu, PublicKeyMap, ReceivedPdu, RoomVersionRules, Verified, VerifyError};
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};
use serde_json::value::RawValue;

use super::Intake;
use crate::{
    Rooms, RoomsError,
    cpu::Cpu,
    ports::{KeyAnswer, NeededKeys, Reach, RemoteError},
};

/// Events whose keys are asked for, and whose signatures are checked, at one time.
pub(super) const CHECKED_AT_ONCE_MAX: usize = 1_000;

/// Events read before other tasks get their turn.
const PARSED_AT_ONCE_MAX: usize = 100;

/// Events up to this number are checked on the spot, more on a thread of their own.
const CHECKED_INLINE_MAX: usize = 20;

/// Events of an answer, by id, as their text.
pub(super) type AnswerEvents<'j> = HashMap<OwnedEventId, &'j RawValue>;

/// What the checks of an event's text found.
pub(super) enum Checked {
    /// Its format, signatures and hash are right.
    Right(Pdu),
    /// Its hash is wrong, so it was redacted.
    Altered(Pdu),
    /// It is to be dropped; why.
    Wrong(String),
    /// The keys of this server can't be had now, so nobody can say.
    Unknown(OwnedServerName),
}

/// An event with the keys that its signatures are to be checked with, or what is known without checking.
enum Ready {
    Checks(Box<ReceivedPdu>, PublicKeyMap),
    Known(Checked),
}

impl Rooms {
    /// An event of a room that this server need not hold, if its format, signatures and hash are right. It comes from its own server,
    /// so nobody can have altered it on its way.
    pub(crate) async fn verify_unaltered(
        &self,
        origin: &ServerName,
        room: &RoomId,
        rules: &'static RoomVersionRules,
        json: &RawValue,
    ) -> Result<Pdu, RoomsError> {
        let intake = Intake::new(self, room, rules, origin, Reach::Network);
        let received = intake.parse(json).map_err(RoomsError::BadEvent)?;
        let checked = intake.verify_all(vec![received]).await?.pop();
        match checked {
            Some(Checked::Altered(_)) | None => Err(RoomsError::BadEvent("its hash is wrong".to_owned())),
            Some(checked) => intake.verdict(checked)?.map_err(RoomsError::BadEvent),
        }
    }

    /// The events with which a server tells somebody outside what a room is (server-server API, "Inviting to a room"): all of them have to be of
    /// the room and right, and its create event among them. Those whose servers' keys can't be had now are left out.
    pub(crate) async fn verify_stripped(
        &self,
        origin: &ServerName,
        room: &RoomId,
        rules: &'static RoomVersionRules,
        state: &[Box<RawValue>],
    ) -> Result<Vec<Box<RawValue>>, RoomsError> {
        let bad = |reason: String| RoomsError::BadEvent(format!("the room's state: {reason}"));
        let intake = Intake::new(self, room, rules, origin, Reach::Network);
        let mut received = Vec::with_capacity(state.len());
        for json in state {
            received.push(intake.parse(json).map_err(bad)?);
        }
        if !received.iter().any(|event| event.unverified().is_state("m.room.create", "")) {
            return Err(bad("the create event is missing".to_owned()));
        }
        let mut right = Vec::with_capacity(received.len());
        for checked in intake.verify_all(received).await? {
            match checked {
                // What was redacted is told redacted, which its hash doesn't cover.
                Checked::Right(pdu) | Checked::Altered(pdu) => right.push(pdu.json().to_owned()),
                Checked::Wrong(reason) => return Err(bad(reason)),
                Checked::Unknown(server) => tracing::debug!(room.id = %room, %server, "left out of an invite: no keys"),
            }
        }
        Ok(right)
    }
}

impl Intake<'_> {
    /// Checks format, room, signatures and hash. The inner error is why the event is dropped; the outer one means that the keys can't
    /// be had now.
    pub(super) async fn verify(&self, json: &RawValue) -> Result<Result<Pdu, String>, RoomsError> {
        let received = match self.parse(json) {
            Ok(received) => received,
            Err(reason) => return Ok(Err(reason)),
        };
        match self.verify_all(vec![received]).await?.pop() {
            Some(checked) => self.verdict(checked),
            None => Ok(Err("nothing to check".to_owned())),
        }
    }

    /// As [`Intake::verify`], for what a server may have altered that passes it on.
    pub(super) async fn verify_passed_on(&self, json: &RawValue) -> Result<Result<Pdu, String>, RoomsError> {
        let received = match self.parse(json) {
            Ok(received) => received,
            Err(reason) => return Ok(Err(reason)),
        };
        match self.made_whole(self.verify_all(vec![received]).await?).await?.pop() {
            Some(checked) => self.verdict(checked),
            None => Ok(Err("nothing to check".to_owned())),
        }
    }

    fn verdict(&self, checked: Checked) -> Result<Result<Pdu, String>, RoomsError> {
        match checked {
            Checked::Right(pdu) | Checked::Altered(pdu) => Ok(Ok(pdu)),
            Checked::Wrong(reason) => Ok(Err(reason)),
            Checked::Unknown(server) => Err(self.keys_unknown(server)),
        }
    }

    /// Asks the servers of altered events for their own copies, as far as somebody else passed them on. What is stored first stays, so
    /// nobody must be able to take the content of others' events away by being faster than them.
    pub(super) async fn made_whole(&self, checked: Vec<Checked>) -> Result<Vec<Checked>, RoomsError> {
        let mut whole = Vec::with_capacity(checked.len());
        for checked in checked {
            whole.push(match checked {
                Checked::Altered(pdu) => match self.own_copy(&pdu).await? {
                    Some(own) => Checked::Right(own),
                    None => Checked::Altered(pdu),
                },
                other => other,
            });
        }
        Ok(whole)
    }

    async fn own_copy(&self, pdu: &Pdu) -> Result<Option<Pdu>, RoomsError> {
        let server = pdu.sender().server_name();
        if server == self.origin || server == self.rooms.server_name() || !self.may_ask_elsewhere()? {
            return Ok(None);
        }
        let Ok(json) = self.remote()?.event(server, self.room, pdu.event_id()).await else { return Ok(None) };
        let Ok(copy) = self.parse(&json) else { return Ok(None) };
        if copy.unverified().event_id() != pdu.event_id() {
            return Ok(None);
        }
        match self.verify_all(vec![copy]).await?.pop() {
            Some(Checked::Right(own)) => Ok(Some(own)),
            _ => Ok(None),
        }
    }

    fn keys_unknown(&self, server: OwnedServerName) -> RoomsError {
        match self.reach {
            Reach::AtHand => RoomsError::NotAtHand,
            Reach::Network => RemoteError::NotReachable(server).into(),
        }
    }

    /// Checks the format, and that it is an event of the room.
    pub(super) fn parse(&self, json: &RawValue) -> Result<ReceivedPdu, String> {
        let received = ReceivedPdu::parse(json.get().as_bytes(), self.rules).map_err(|error| error.to_string())?;
        if received.unverified().room_id() != self.room {
            return Err("it belongs to another room".to_owned());
        }
        Ok(received)
    }

    /// Those of at most `max` events of an answer whose format is right, by id.
    pub(super) fn parse_all(&self, answer: &[Box<RawValue>], max: usize) -> HashMap<OwnedEventId, ReceivedPdu> {
        let mut parsed = HashMap::new();
        for json in answer.iter().take(max) {
            if let Ok(received) = self.parse(json) {
                parsed.insert(received.unverified().owned_event_id(), received);
            }
        }
        parsed
    }

    /// As [`Intake::parse_all`], for answers too large to be held taken apart.
    pub(super) async fn events_of<'j>(&self, answer: &'j [Box<RawValue>], max: usize) -> AnswerEvents<'j> {
        let mut events = AnswerEvents::new();
        for chunk in answer[..answer.len().min(max)].chunks(PARSED_AT_ONCE_MAX) {
            for json in chunk {
                if let Ok(received) = self.parse(json) {
                    events.insert(received.unverified().owned_event_id(), json);
                }
            }
            // A room's whole state takes seconds.
            tokio::task::yield_now().await;
        }
        events
    }

    /// Those of these events that are right, by id. What is wrong, or can't be checked now, is left out: one event of a server that
    /// is gone is no reason to do without all others.
    pub(super) fn right_ones(&self, checked: Vec<Checked>) -> HashMap<OwnedEventId, Pdu> {
        let mut right = HashMap::with_capacity(checked.len());
        for checked in checked {
            match checked {
                Checked::Right(pdu) | Checked::Altered(pdu) => {
                    right.insert(pdu.owned_event_id(), pdu);
                }
                Checked::Wrong(reason) => tracing::debug!(room.id = %self.room, "left out an event: {reason}"),
                Checked::Unknown(server) => {
                    tracing::debug!(room.id = %self.room, %server, "left out an event: no keys");
                }
            }
        }
        right
    }

    /// Checks signatures and hashes of many events, with one question for the keys of many.
    pub(super) async fn verify_all(&self, mut received: Vec<ReceivedPdu>) -> Result<Vec<Checked>, RoomsError> {
        let mut checked = Vec::with_capacity(received.len());
        while !received.is_empty() {
            let rest = received.split_off(received.len().min(CHECKED_AT_ONCE_MAX));
            let ready = self.with_keys(std::mem::replace(&mut received, rest)).await;
            if ready.len() <= CHECKED_INLINE_MAX {
                checked.extend(ready.into_iter().map(check));
                continue;
            }
            let share = self.rooms.inner.config.cpu.share().await;
            let ran = Cpu::run(&share, move || ready.into_iter().map(check).collect::<Vec<_>>()).await;
            checked.extend(ran.map_err(|_| RoomsError::Busy)?);
        }
        Ok(checked)
    }

    async fn with_keys(&self, received: Vec<ReceivedPdu>) -> Vec<Ready> {
        let own = self.rooms.server_name();
        let mut needed = NeededKeys::new();
        let mut signers = Vec::with_capacity(received.len());
        for event in &received {
            let required = event.required_keys();
            for (server, ids) in required.iter().flatten().filter(|(server, _)| *server != own) {
                let ids_needed = needed.entry(server.clone()).or_default();
                for id in ids {
                    let until_ms = ids_needed.entry(id.clone()).or_default();
                    *until_ms = (*until_ms).max(self.keys_needed_at(event).unwrap_or(0));
                }
            }
            signers.push(required);
        }
        let answers = match needed.is_empty() {
            true => BTreeMap::new(),
            false => self.rooms.inner.ports.keys.public_keys(&needed, self.reach).await,
        };
        let both = received.into_iter().zip(signers);
        both.map(|(event, required)| match required {
            Ok(required) => self.ready(event, &required, &answers),
            Err(error) => Ready::Known(Checked::Wrong(error.to_string())),
        })
        .collect()
    }

    /// When the keys of an event have to be valid, in Unix ms, where the room's version asks for that (room version 5, "Signing key
    /// validity period").
    fn keys_needed_at(&self, event: &ReceivedPdu) -> Option<u64> {
        self.rules.enforce_key_validity.then(|| event.unverified().origin_server_ts())
    }

    fn ready(
        &self,
        event: ReceivedPdu,
        required: &BTreeMap<OwnedServerName, BTreeSet<String>>,
        answers: &BTreeMap<OwnedServerName, KeyAnswer>,
    ) -> Ready {
        let at_ms = self.keys_needed_at(&event);
        let mut keys = PublicKeyMap::new();
        for (server, ids) in required {
            if ids.is_empty() {
                return Ready::Known(Checked::Wrong(format!("{server} has not signed it")));
            }
            let of_server = keys.entry(server.to_string()).or_default();
            if server == self.rooms.server_name() {
                // Old ones too: what this server said long ago comes back from others.
                of_server.extend(self.rooms.inner.keys.valid_at(at_ms));
                continue;
            }
            match answers.get(server) {
                Some(KeyAnswer::Keys(published)) => {
                    let valid = |until_ms: u64| at_ms.is_none_or(|at_ms| at_ms <= until_ms);
                    let usable = published.iter().filter(|(id, key)| ids.contains(*id) && valid(key.valid_until_ms));
                    of_server.extend(usable.map(|(id, key)| (id.clone(), key.key.clone())));
                    if of_server.is_empty() {
                        return Ready::Known(Checked::Wrong(format!("{server} has no such key that was valid then")));
                    }
                }
                Some(KeyAnswer::Never) => {
                    return Ready::Known(Checked::Wrong(format!("nobody knows the keys of {server}")));
                }
                Some(KeyAnswer::NotNow) | None => return Ready::Known(Checked::Unknown(server.clone())),
            }
        }
        Ready::Checks(Box::new(event), keys)
    }
}

fn check(ready: Ready) -> Checked {
    match ready {
        Ready::Known(checked) => checked,
        Ready::Checks(event, keys) => match event.verify(&keys) {
            Ok(Verified::Valid(pdu)) => Checked::Right(pdu),
            Ok(Verified::RedactedHashMismatch(pdu)) => Checked::Altered(pdu),
            Err(VerifyError::Signature(reason)) => Checked::Wrong(format!("signature: {reason}")),
            Err(error) => Checked::Wrong(error.to_string()),
        },
    }
}
