//! Joining rooms of other servers, from both sides.
//!
//! Specification: server-server API, "Joining Rooms". The resident server gives a template, takes the signed join in and answers with
//! the room's state; the joining server makes a room of that. Who is asked, and how, is the business of a higher layer.

use std::{collections::HashSet, sync::Arc};

use event::{Pdu, PduBuilder, ReceivedPdu, countersign};
use ruma::{EventId, OwnedEventId, RoomId, RoomVersionId, ServerName, UserId};
use serde_json::{Map, Value, value::RawValue};
use state_tree::{EventNum, Root};
use store::CommitError;

use crate::{
    Rooms, RoomsError,
    engine::{
        advance::{Follows, Placed},
        append::{ATTEMPTS_MAX, Draft, Sent},
        membership::member_content,
        resolve::{Ahead, Fork},
        turn::Turn,
    },
    json::to_json,
    ports::RemoteError,
    remote::serve::{Asker, ServedRoom},
    tables::Metas,
    types::{EventStatus, Extremity, MEMBER, Membership, StoredEvent},
};

/// Events of a room's state, and of its auth chain, that are taken from another server.
pub(crate) const ROOM_EVENTS_MAX: usize = 200_000;

/// Member events of one user that are followed back to find out whether another server knows one of them.
const MEMBERSHIPS_LOOKED_AT_MAX: usize = 100;

/// An event for another server to complete and sign.
#[derive(Clone, Debug)]
pub struct JoinTemplate {
    /// The room's version.
    pub version: RoomVersionId,
    /// The event without hashes and signatures.
    pub event: Box<RawValue>,
}

/// What a server that has let a user in tells about the room.
#[derive(Clone, Debug)]
pub struct RoomState {
    /// The join, with all signatures.
    pub event: Box<RawValue>,
    /// The state before it.
    pub state: Vec<Box<RawValue>>,
    /// The auth chain of that state.
    pub auth_chain: Vec<Box<RawValue>>,
}

impl Rooms {
    /// A template for a join by a user of another server (`make_join`).
    ///
    /// Fails with [`RoomsError::IncompatibleRoomVersion`] if their server doesn't know the room's version.
    pub async fn make_join(
        &self,
        room: &RoomId,
        user: &UserId,
        versions: &[RoomVersionId],
    ) -> Result<JoinTemplate, RoomsError> {
        let view = self.inner.store.view().await?;
        let info = self.info(&view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        if !self.is_server_joined(&view, room, self.server_name()).await? {
            return Err(RoomsError::RoomNotFound);
        }
        if !self.acl_allows(&view, room, user.server_name()).await? {
            return Err(RoomsError::forbidden("the room's access list forbids your server"));
        }
        if !versions.contains(&info.version) {
            return Err(RoomsError::IncompatibleRoomVersion { room_version: info.version });
        }
        let mut content = member_content(None, "join")?;
        if let Some(authoriser) = self.join_authoriser(&view, room, user).await? {
            content.insert("join_authorised_via_users_server".to_owned(), authoriser.as_str().into());
        }
        let draft = Draft::state(user, MEMBER, user.as_str(), to_json(&content)?);
        let pdu = self.draft_only(room, &draft).await?;
        let mut object: Map<String, Value> = serde_json::from_str(pdu.json().get())
            .map_err(|error| RoomsError::corrupt(format!("a template: {error}")))?;
        for field in ["event_id", "hashes", "signatures"] {
            object.remove(field);
        }
        Ok(JoinTemplate { version: info.version, event: to_json(&object)? })
    }

    /// The join that follows from a template, signed by this server.
    ///
    /// Fails with [`RemoteError::BadAnswer`] if the template is for something else.
    pub fn complete_join(
        &self,
        room: &RoomId,
        user: &UserId,
        template: &JoinTemplate,
        content: Option<&RawValue>,
    ) -> Result<Pdu, RoomsError> {
        let bad = |what: &str| RoomsError::from(RemoteError::BadAnswer(what.to_owned()));
        let rules = event::rules(&template.version)
            .ok_or_else(|| RoomsError::UnsupportedRoomVersion(template.version.clone()))?;
        let object: Map<String, Value> =
            serde_json::from_str(template.event.get()).map_err(|_| bad("the template is no object"))?;
        let is = |field: &str, value: &str| object.get(field).and_then(Value::as_str) == Some(value);
        let of_user = is("sender", user.as_str()) && is("state_key", user.as_str());
        if !(of_user && is("type", MEMBER) && is("room_id", room.as_str())) {
            return Err(bad("the template is for something else"));
        }
        let mut joined = member_content(content, "join")?;
        let via = object.get("content").and_then(|content| content.get("join_authorised_via_users_server"));
        if let Some(via) = via {
            joined.insert("join_authorised_via_users_server".to_owned(), via.clone());
        }
        let mut builder = PduBuilder::new(user.to_owned(), MEMBER.to_owned(), to_json(&joined)?);
        builder.room_id = Some(room.to_owned());
        builder.state_key = Some(user.to_string());
        builder.depth = object.get("depth").and_then(Value::as_u64).ok_or_else(|| bad("the template has no depth"))?;
        builder.origin_server_ts = self.inner.clock.now_ms();
        for (field, ids) in [("prev_events", &mut builder.prev_events), ("auth_events", &mut builder.auth_events)] {
            let named =
                object.get(field).and_then(Value::as_array).ok_or_else(|| bad("the template names no events"))?;
            for reference in named {
                // Room versions 1 and 2: pairs of an id and an object with a hash.
                let (id, hash) = match reference {
                    Value::Array(pair) => (pair.first(), pair.get(1).and_then(|hashes| hashes.get("sha256"))),
                    id => (Some(id), None),
                };
                let id = id.and_then(Value::as_str).and_then(|id| EventId::parse(id).ok());
                let id = id.ok_or_else(|| bad("the template names something that is no event"))?;
                if let Some(hash) = hash.and_then(Value::as_str) {
                    builder.reference_hashes.insert(id.clone(), hash.to_owned());
                }
                ids.push(id);
            }
        }
        Ok(builder.build(rules, &self.signing_key(), self.server_name())?)
    }

    /// Takes in a signed join by a user of the asking server (`send_join`) and tells the room's state before it.
    pub async fn send_join(&self, asker: &Asker<'_>, room: &RoomId, json: &RawValue) -> Result<RoomState, RoomsError> {
        let origin = asker.server;
        let view = self.inner.store.view().await?;
        let rules = self.rules(&view, room).await?;
        if !self.is_server_joined(&view, room, self.server_name()).await? {
            // What this server holds of the room is of the past: nobody may be let in by it.
            return Err(RoomsError::RoomNotFound);
        }
        if !self.acl_allows(&view, room, origin).await? {
            return Err(RoomsError::forbidden("the room's access list forbids your server"));
        }
        let mut received = ReceivedPdu::parse(json.get().as_bytes(), rules)?;
        let pdu = received.unverified();
        let is_join = pdu.event_type() == MEMBER
            && pdu.state_key() == Some(pdu.sender().as_str())
            && Membership::of(pdu) == Membership::Join
            && pdu.sender().server_name() == origin;
        if !is_join {
            return Err(RoomsError::BadEvent("not a join of a user of your server".to_owned()));
        }
        if received.required_keys()?.contains_key(self.server_name()) {
            // We are asked to vouch for it, and do so only if we would in a template.
            if self.join_authoriser(&view, room, pdu.sender()).await?.is_none() {
                return Err(RoomsError::UnableToGrantJoin);
            }
            let signed = countersign(pdu, rules, &self.signing_key(), self.server_name())?;
            received = ReceivedPdu::parse(signed.json().get().as_bytes(), rules)?;
        }
        let pdu = self.verify_for(origin, room, received.unverified().json()).await?;
        let status = self.take_in_verified(origin, room, pdu.clone()).await?;
        self.sent(status, &pdu).await?;

        let view = self.inner.store.view().await?;
        let (before, _) = self.state_around(&view, pdu.event_id()).await?;
        let told = ServedRoom::new(self, &view, asker, room).state(self.state(&view, room, before)).await?;
        Ok(RoomState { event: pdu.json().to_owned(), state: told.state, auth_chain: told.auth_chain })
    }

    /// Makes a room of what the server that let a local user in told about it.
    ///
    /// If this server held the room before and nobody of it was left in it, what it knew of the room's state is of the past, and what
    /// the other server tells takes its place.
    pub async fn enter(
        &self,
        origin: &ServerName,
        room: &RoomId,
        version: &RoomVersionId,
        answer: &RoomState,
    ) -> Result<Sent, RoomsError> {
        let bad = |what: &str| RoomsError::from(RemoteError::BadAnswer(what.to_owned()));
        let rules = event::rules(version).ok_or_else(|| RoomsError::UnsupportedRoomVersion(version.clone()))?;
        if answer.state.len() > ROOM_EVENTS_MAX || answer.auth_chain.len() > ROOM_EVENTS_MAX {
            return Err(bad("the room is too large"));
        }
        let entrance = self.take_room_in(origin, room, rules, answer).await?;
        let mut ahead = Ahead::default();
        for _ in 0..ATTEMPTS_MAX {
            let turn = match self.head(&self.inner.store.view().await?, room).await? {
                Some(_) => self.turn(room).await?,
                None => match self.new_room(&entrance.create).await {
                    // Another user entered first.
                    Err(RoomsError::Commit(CommitError::Conflict)) => continue,
                    turn => turn?,
                },
            };
            if turn.info.version != *version {
                return Err(bad("the room has another version"));
            }
            if turn.info.create != entrance.create.num {
                return Err(bad("the room begins with another event"));
            }
            match turn.enter(&entrance, &ahead).await? {
                Entering::Known => break,
                Entering::Resolve(fork) => self.resolve_ahead(fork, &mut ahead).await?,
                Entering::Built(turn) => match self.write(*turn, false).await {
                    Ok(_) => break,
                    // Another user entered at the same time, or the room went on.
                    Err(RoomsError::Commit(CommitError::Conflict)) => {}
                    Err(error) => return Err(error),
                },
            }
        }
        self.catch_up(room).await?;
        let status = self.meta(&self.inner.store.view().await?, entrance.event.num).await?.status;
        self.sent(status, entrance.event.pdu.as_received()).await
    }
}

/// A join that another server let in, with what that server told of the room.
pub(crate) struct Entrance {
    pub(crate) event: Arc<StoredEvent>,
    pub(crate) before: Root,
    pub(crate) after: Root,
    /// The create event in the state before it.
    pub(crate) create: Arc<StoredEvent>,
    /// Events before it that this server doesn't hold.
    pub(crate) gap: Vec<OwnedEventId>,
}

/// What came of a turn that was to let a join in.
enum Entering {
    /// It has its place already.
    Known,
    /// States have to be resolved before.
    Resolve(Fork),
    Built(Box<Turn>),
}

impl Turn {
    /// Gives a join that another server let in its place.
    ///
    /// Nobody asks the current state here whether it allows the join: the others in the room have it.
    async fn enter(mut self, entrance: &Entrance, ahead: &Ahead) -> Result<Entering, RoomsError> {
        let event = &entrance.event;
        let meta = self.meta(event.num).await?;
        match meta.status {
            EventStatus::Accepted if meta.is_settled() => return Ok(Entering::Known),
            EventStatus::Rejected(reason) if meta.is_settled() => return Err(RoomsError::Forbidden(reason)),
            // The others in the room think otherwise.
            _ => {}
        }
        let had = self.view.get::<Metas>(&event.num).await?;
        let redacted_by = self.redaction_of(event).await?;
        let follows = if self.joined_of(self.rooms.server_name()).await? == 0 {
            self.head.extremities = self.untold(entrance).await?;
            self.forget_sidelined();
            Follows::Named
        } else {
            // What is held here is of the present. What one other server tells counts beside it, as always.
            Follows::Nothing
        };
        let behind = match follows {
            Follows::Named => self.behind(event).await?,
            Follows::Nothing => HashSet::new(),
        };
        self.add_event(event);
        let front = self.front_after(Extremity::of(event, entrance.after), &behind).await?;
        let roots = front.roots();
        let Some(resolved) = self.resolved(&roots, ahead) else { return Ok(Entering::Resolve(self.fork(roots))) };
        let placed = Placed {
            event: event.clone(),
            before: entrance.before,
            after: entrance.after,
            had: Some(had),
            redacted_by,
            gap: entrance.gap.clone(),
            follows,
        };
        self.place(&placed, front, resolved).await?;
        Ok(Entering::Built(Box::new(self)))
    }

    /// Those of the head's extremities that are state set by this server's users which the told state knows nothing of, like a leave
    /// that never reached the others: nobody else may have them.
    async fn untold(&self, entrance: &Entrance) -> Result<Vec<Extremity>, RoomsError> {
        let mut untold = Vec::new();
        for extremity in &self.head.extremities {
            let event = self.event(extremity.num).await?;
            let Some(state_key) = event.pdu.state_key() else { continue };
            if !self.rooms.is_local(event.pdu.sender()) {
                continue;
            }
            let told = self.state_event(entrance.before, event.pdu.event_type(), state_key).await?;
            if !self.leads_to(told, extremity.num).await? {
                untold.push(extremity.clone());
            }
        }
        Ok(untold)
    }

    /// Whether a state event is another, or is authorised by it, directly or through earlier events at the same key.
    async fn leads_to(&self, from: Option<Arc<StoredEvent>>, to: EventNum) -> Result<bool, RoomsError> {
        let mut next = from;
        for _ in 0..MEMBERSHIPS_LOOKED_AT_MAX {
            let Some(event) = next.take() else { break };
            if event.num == to || event.auth.contains(&to) {
                return Ok(true);
            }
            for num in event.auth.iter() {
                let earlier = self.event(*num).await?;
                if earlier.pdu.event_type() == event.pdu.event_type()
                    && earlier.pdu.state_key() == event.pdu.state_key()
                {
                    next = Some(earlier);
                }
            }
        }
        Ok(false)
    }
}
