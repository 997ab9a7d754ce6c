//! Events of this server's own users: build, authorise, sign, queue.

use std::{collections::HashSet, sync::Arc};

use event::{Pdu, PduBuilder, PolicyServer, auth};
use ruma::{
    DeviceId, EventId, OwnedEventId, OwnedUserId, RoomId, UserId, room_version_rules::EventsReferenceFormatVersion,
};
use serde_json::value::RawValue;
use state_tree::{Entry, Root};
use store::{Batch, CommitError, Position};

use crate::{
    Rooms, RoomsError,
    engine::{
        advance::{Follows, Placed},
        annotations::Annotation,
        head::NextAnswer,
        resolve::{Ahead, Fork},
        turn::{AuthState, Turn},
        txn_ids::Answered,
    },
    relations::{RelatesTo, relates_to},
    rows::TxnKey,
    types::{Extremity, StoredEvent},
};

/// How often an operation is built again because another change was faster.
pub(crate) const ATTEMPTS_MAX: usize = 16;

/// The greatest depth that an event can have: integers beyond it aren't canonical JSON.
const DEPTH_MAX: u64 = (1 << 53) - 1;

/// The id of the key with which every policy server signs (server-server API, "Validating Policy Server signatures").
const POLICY_KEY_ID: &str = "ed25519:policy_server";

/// Who sends, and under which transaction.
#[derive(Copy, Clone, Debug)]
pub struct Sender<'a> {
    /// The user, one of this server's.
    pub user: &'a UserId,
    /// The device, or what stands for it (an application service).
    pub device: Option<&'a DeviceId>,
    /// The client's transaction id. Only with a device.
    pub txn_id: Option<&'a str>,
}

impl<'a> Sender<'a> {
    /// A user without device and transaction.
    pub fn user(user: &'a UserId) -> Self {
        Self { user, device: None, txn_id: None }
    }
}

/// What an event was given when it was stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The event's id.
    pub event_id: OwnedEventId,
    /// Where it was stored: at or before this position of the log.
    pub position: Position,
}

/// What else goes into the batch of an event. Called again if the batch has to be built again.
pub type Extra<'a> = &'a (dyn Fn(&mut Batch) + Send + Sync);

/// Nothing else.
pub(crate) fn nothing(_: &mut Batch) {}

/// An event before it has a place.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) sender: OwnedUserId,
    pub(crate) event_type: String,
    pub(crate) state_key: Option<String>,
    pub(crate) content: Box<RawValue>,
    /// What its content says that it relates to.
    pub(crate) relation: Option<RelatesTo>,
    pub(crate) redacts: Option<OwnedEventId>,
    /// When it was sent, in Unix ms, where an application service says so.
    pub(crate) timestamp_ms: Option<u64>,
}

impl Draft {
    pub(crate) fn message(sender: &UserId, event_type: &str, content: Box<RawValue>) -> Self {
        Self {
            sender: sender.to_owned(),
            event_type: event_type.to_owned(),
            state_key: None,
            relation: relates_to(&content),
            content,
            redacts: None,
            timestamp_ms: None,
        }
    }

    /// What decides which state events authorise it.
    fn auth_key(&self) -> (&str, &UserId, Option<&str>, &RawValue) {
        (&self.event_type, &self.sender, self.state_key.as_deref(), &self.content)
    }

    pub(crate) fn state(sender: &UserId, event_type: &str, state_key: &str, content: Box<RawValue>) -> Self {
        Self { state_key: Some(state_key.to_owned()), ..Self::message(sender, event_type, content) }
    }
}

/// What came of a turn: an event to write, or the wish to begin again later.
enum Step {
    Built(Box<Turn>, OwnedEventId),
    Wait(NextAnswer),
    /// The room's policy server has to sign the event first.
    Ask(PolicyServer, Own),
    /// States have to be resolved for it.
    Resolve(Fork),
    /// It is merged as one from elsewhere would be.
    Merge(Own),
    Answered(Answered),
}

/// An event of one of this server's users that is built before it has its place.
pub(crate) struct Own {
    pub(crate) pdu: Pdu,
    /// The client's transaction that it answers.
    pub(crate) answers: Option<TxnKey>,
    pub(crate) annotation: Option<Annotation>,
}

impl Rooms {
    /// Appends one event, building it again while others are faster.
    pub(crate) async fn append(
        &self,
        room: &RoomId,
        draft: &Draft,
        txn: Option<&TxnKey>,
        extra: Extra<'_>,
    ) -> Result<Sent, RoomsError> {
        let mut ahead = Ahead::default();
        for _ in 0..ATTEMPTS_MAX {
            let own = match self.append_step(room, draft, txn, extra, &ahead).await? {
                Step::Answered(answered) => return Ok(answered.sent),
                Step::Wait(answer) => {
                    answer.wait().await;
                    continue;
                }
                Step::Resolve(fork) => {
                    self.resolve_ahead(fork, &mut ahead).await?;
                    continue;
                }
                Step::Built(turn, event_id) => match self.write(*turn, false).await {
                    Ok(position) => return Ok(Sent { event_id, position }),
                    Err(RoomsError::Commit(CommitError::Conflict)) => continue,
                    Err(error) => return Err(error),
                },
                Step::Ask(policy, own) => {
                    let pdu = self.ask_policy_server(room, &policy, own.pdu).await?;
                    Own { pdu, ..own }
                }
                Step::Merge(own) => own,
            };
            match self.place_own(room, own, extra).await {
                // What it follows was not written after all.
                Err(RoomsError::Commit(CommitError::Conflict)) => {}
                placed => return placed,
            }
        }
        Err(RoomsError::Busy)
    }

    async fn append_step(
        &self,
        room: &RoomId,
        draft: &Draft,
        txn: Option<&TxnKey>,
        extra: Extra<'_>,
        ahead: &Ahead,
    ) -> Result<Step, RoomsError> {
        let mut turn = self.turn(room).await?;
        if let Some(txn) = txn {
            if turn.is_answered(txn) {
                return Ok(Step::Wait(turn.next_answer()));
            }
            if let Some(answered) = self.answered(&turn.view, txn).await? {
                return Ok(Step::Answered(answered));
            }
        }
        if turn.touches_queued(draft) {
            return Ok(Step::Wait(turn.next_answer()));
        }
        let annotation = turn.check_annotation(draft).await?;
        let policy = turn
            .policy_server()
            .await?
            .filter(|_| !(draft.event_type == "m.room.policy" && draft.state_key.as_deref() == Some("")));
        if policy.is_some() || turn.head.sidelined.is_some() {
            let pdu = match turn.draft_only(draft, ahead).await? {
                Drafted::Built(pdu) => pdu,
                Drafted::Resolve(fork) => return Ok(Step::Resolve(fork)),
            };
            let own = Own { pdu, answers: txn.cloned(), annotation };
            return Ok(match policy {
                Some(policy) => Step::Ask(policy, own),
                None => Step::Merge(own),
            });
        }
        let event = turn.append(draft).await?;
        if let Some(annotation) = &annotation {
            turn.store_annotation(annotation, &draft.sender, event.num);
        }
        if let Some(txn) = txn {
            turn.store_answer(txn, event.num).await?;
        }
        extra(&mut turn.batch);
        let event_id = event.pdu.owned_event_id();
        Ok(Step::Built(Box::new(turn), event_id))
    }
}

/// What came of building an event without placing it.
pub(crate) enum Drafted {
    Built(Pdu),
    /// States have to be resolved before.
    Resolve(Fork),
}

impl Rooms {
    /// Builds and authorises an event without placing it: it is sent elsewhere first.
    pub(crate) async fn draft_only(&self, room: &RoomId, draft: &Draft) -> Result<Pdu, RoomsError> {
        let mut ahead = Ahead::default();
        for _ in 0..ATTEMPTS_MAX {
            match self.turn(room).await?.draft_only(draft, &ahead).await? {
                Drafted::Built(pdu) => return Ok(pdu),
                Drafted::Resolve(fork) => self.resolve_ahead(fork, &mut ahead).await?,
            }
        }
        Err(RoomsError::Busy)
    }

    /// An event with the signature of the room's policy server, which is asked outside of any turn.
    pub(crate) async fn ask_policy_server(
        &self,
        room: &RoomId,
        policy: &PolicyServer,
        pdu: Pdu,
    ) -> Result<Pdu, RoomsError> {
        let server = policy.server_name();
        let signature = self.inner.ports.policy.sign(server, pdu.json()).await?;
        let signed = event::add_signature(&pdu, server, POLICY_KEY_ID, signature)?;
        let rules = self.rules(&self.inner.store.view().await?, room).await?;
        match policy.verify(&signed, rules) {
            Ok(()) => Ok(signed),
            Err(error) => Err(RoomsError::forbidden(format!("the policy server's signature is wrong: {error}"))),
        }
    }
}

impl Turn {
    /// Whether the event changes the meta of an event that isn't published yet, whose index nobody knows.
    fn touches_queued(&self, draft: &Draft) -> bool {
        let related = draft.relation.as_ref().map(|relation| &*relation.parent);
        let targets = [draft.redacts.as_deref(), related];
        targets.into_iter().flatten().any(|target: &EventId| self.is_queued(target))
    }

    /// Builds, authorises and places an event of one of this server's users.
    ///
    /// While extremities are sidelined this resolves states within the turn, so only who must have several events in one batch does
    /// it then.
    pub(crate) async fn append(&mut self, draft: &Draft) -> Result<Arc<StoredEvent>, RoomsError> {
        let before = if self.head.sidelined.is_none() {
            self.head.resolved
        } else {
            self.resolve(&self.head.cited_roots()).await?
        };
        let event = self.build_on(before, draft).await?;
        let after = self.state_after(before, &event).await?;
        self.add_event(&event);
        let front = self.front_after(Extremity::of(&event, after), &event.prev.iter().copied().collect()).await?;
        // It names all extremities, so nearly always it is the only one then.
        let resolved = match &*front.roots() {
            [root] => *root,
            roots => self.resolve(roots).await?,
        };
        let placed = Placed {
            event: event.clone(),
            before,
            after,
            had: None,
            redacted_by: None,
            gap: Vec::new(),
            follows: Follows::Named,
        };
        self.place(&placed, front, resolved).await?;
        Ok(event)
    }

    /// An event that names all extremities of the head, whose states resolve to `before`, authorised.
    async fn build_on(&mut self, before: Root, draft: &Draft) -> Result<Arc<StoredEvent>, RoomsError> {
        let auth = self.auth_state(before, draft.auth_key()).await?;
        let event = self.build(draft, &auth).await?;
        self.authorise(&event, &auth)?;
        if before != self.head.resolved {
            // Not all extremities are named: it must be allowed by the whole current state too.
            let current = self.auth_state(self.head.resolved, draft.auth_key()).await?;
            self.authorise(&event, &current)?;
        }
        Ok(event)
    }

    /// Builds and authorises an event without placing it.
    async fn draft_only(mut self, draft: &Draft, ahead: &Ahead) -> Result<Drafted, RoomsError> {
        let before = if self.head.sidelined.is_none() {
            self.head.resolved
        } else {
            let roots = self.head.cited_roots();
            match self.resolved(&roots, ahead) {
                Some(before) => before,
                None => return Ok(Drafted::Resolve(self.fork(roots))),
            }
        };
        let event = self.build_on(before, draft).await?;
        Ok(Drafted::Built(event.pdu.as_received().clone()))
    }

    /// The state after an event, given the state before it.
    pub(crate) async fn state_after(&mut self, before: Root, event: &StoredEvent) -> Result<Root, RoomsError> {
        let Some(state_key) = event.pdu.state_key() else { return Ok(before) };
        let entry = Entry { event: event.num, generation: event.generation };
        let event_type = event.pdu.event_type().to_owned();
        self.apply(before, &[((&event_type, state_key), Some(entry))]).await
    }

    /// Places the first event of a room.
    pub(crate) async fn place_first(&mut self, placed: Placed) -> Result<(), RoomsError> {
        let event = &placed.event;
        self.add_event(event);
        let front = self.front_after(Extremity::of(event, placed.after), &HashSet::new()).await?;
        self.place(&placed, front, placed.after).await
    }

    /// An event that names all extremities of the head.
    async fn build(&mut self, draft: &Draft, auth: &AuthState) -> Result<Arc<StoredEvent>, RoomsError> {
        let cited = self.head.extremities.clone();
        let mut builder = PduBuilder::new(draft.sender.clone(), draft.event_type.clone(), draft.content.clone());
        builder.room_id = Some(self.room.clone());
        builder.state_key.clone_from(&draft.state_key);
        builder.redacts.clone_from(&draft.redacts);
        builder.prev_events = cited.iter().map(|extremity| extremity.event_id.clone()).collect();
        let implied_create = event::room_id_is_create_hash(self.rules);
        let mut authorising: Vec<&Arc<StoredEvent>> = auth.0.values().map(|authority| &authority.event).collect();
        authorising.retain(|event| !(implied_create && event.num == self.info.create));
        authorising.sort_by_key(|event| event.num);
        builder.auth_events = authorising.iter().map(|event| event.pdu.owned_event_id()).collect();
        builder.depth = (self.head.depth + 1).min(DEPTH_MAX);
        builder.origin_server_ts = draft.timestamp_ms.unwrap_or_else(|| self.rooms.inner.clock.now_ms());
        if self.rules.events_reference_format == EventsReferenceFormatVersion::V1 {
            let mut named: Vec<Arc<StoredEvent>> = authorising.iter().map(|event| (*event).clone()).collect();
            for extremity in &cited {
                named.push(self.event(extremity.num).await?);
            }
            for event in named {
                let hash = event::reference_hash(event.pdu.as_received(), self.rules)?;
                builder.reference_hashes.insert(event.pdu.owned_event_id(), hash);
            }
        }
        let generation = authorising.iter().map(|event| event.generation + 1).max().unwrap_or(0);
        let auth = authorising.iter().map(|event| event.num).collect();
        let pdu = builder.build(self.rules, &self.rooms.signing_key(), self.rooms.server_name())?;

        let num = self.rooms.inner.events.next_num().await?;
        self.name(pdu.event_id(), num);
        let prev = cited.iter().map(|extremity| extremity.num).collect();
        Ok(Arc::new(StoredEvent::new(num, pdu, auth, prev, generation)))
    }

    /// The authorisation rules, against the event's own auth events and a state.
    fn authorise(&self, event: &StoredEvent, state: &AuthState) -> Result<(), RoomsError> {
        let pdu = event.pdu.as_received();
        let fetch =
            |id: &EventId| state.0.values().map(|known| &known.pdu).find(|known| known.event_id() == id).cloned();
        let verdict = auth::check_state_independent(self.rules, pdu, fetch)
            .and_then(|()| auth::check_state_dependent(self.rules, pdu, |kind, key| state.get(kind, key)));
        verdict.map_err(|error| RoomsError::forbidden(error.to_string()))
    }
}
