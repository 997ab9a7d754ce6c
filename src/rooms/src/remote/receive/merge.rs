//! The last steps, in the room's turn: authorisation by the current state, and the new head.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use event::{PolicyServer, auth};
use ruma::OwnedEventId;
use state_tree::{EventNum, Overlay, Root};
use store::{Batch, CommitError, View};

use super::Intake;
use crate::{
    Rooms, RoomsError,
    engine::{
        advance::{Follows, Placed},
        annotations::Annotation,
        append::{ATTEMPTS_MAX, Extra, nothing},
        extremities::Front,
        resolve::Ahead,
        turn::Turn,
    },
    events::put_body,
    rows::TxnKey,
    tables::{Inbox, Metas},
    types::{EventMeta, EventStatus, Extremity, StoredEvent},
};

/// Nodes of the states around an event that go into its batch, in bytes.
const NODES_WITH_EVENT_BYTES_MAX: usize = 128 * 1024;

/// Soft-failed and rejected events that are followed back to find what a new event comes after.
const FOLLOWED_BACK_MAX: usize = 1_000;

/// How often what a merge needs resolved is resolved outside of the room's turn, while others change the room, before it is done
/// within.
const RESOLVED_AHEAD_MAX: usize = 6;

/// An event with its place in the graph, ready for the room's turn.
pub(crate) struct Prepared {
    pub(crate) event: Arc<StoredEvent>,
    pub(crate) before: Root,
    pub(crate) after: Root,
    /// The nodes of the two states that may not be stored yet.
    pub(crate) overlay: Overlay,
    /// Events before it that are missing, of which at most the state is known.
    pub(crate) gap: Vec<OwnedEventId>,
    /// The inbox row that it came from.
    pub(crate) inbox: Option<u64>,
    pub(crate) follows: Follows,
    /// The client's transaction that it answers.
    pub(crate) answers: Option<TxnKey>,
    /// What it annotates, if it is one of our users' that does.
    pub(crate) annotation: Option<Annotation>,
}

/// What the turn makes of a prepared event.
enum Verdict {
    Known(EventStatus),
    SoftFailed(String),
    Accepted,
}

impl Intake<'_> {
    /// Gives an authorised event its place.
    pub(super) async fn merge(&self, mut prepared: Prepared) -> Result<EventStatus, RoomsError> {
        self.rooms.store_large(self.room, &mut prepared.overlay).await?;
        let relaxed = prepared.inbox.is_some();
        self.rooms.merge(self.room, &prepared, relaxed, &nothing).await
    }

    /// Keeps an event that was rejected, so that it is known when it is met again.
    pub(super) async fn store_rejected(
        &self,
        event: &Arc<StoredEvent>,
        (before, follows): (Root, Follows),
        reason: String,
        mut overlay: Overlay,
        inbox: Option<u64>,
    ) -> Result<EventStatus, RoomsError> {
        tracing::info!(room.id = %self.room, event.id = %event.pdu.event_id(), "rejected {reason}");
        let status = EventStatus::Rejected(reason);
        let state_fetched = follows == Follows::Nothing;
        self.rooms.store_large(self.room, &mut overlay).await?;
        let (status, overlay) = (&status, &overlay);
        let decide = |view: View| async move {
            let read = view.get::<Metas>(&event.num).await?;
            if let Some(meta) = &read
                && meta.is_settled()
                && (before.is_empty() || !meta.after.is_empty())
            {
                return Ok((Batch::new(), meta.status.clone()));
            }
            let mut meta = EventMeta { before, after: before, state_fetched, ..EventMeta::outlier(status.clone()) };
            if let Some(read) = &read {
                (meta.redacted_by, meta.has_relations) = (read.redacted_by, read.has_relations);
            }
            let mut batch = Batch::new();
            batch.expect::<Metas>(&event.num, read.as_ref());
            batch.put::<Metas>(&event.num, &meta);
            put_body(&mut batch, event);
            overlay.write(&mut batch, self.room);
            if let Some(sequence) = inbox {
                batch.delete::<Inbox>(&(self.room, sequence));
            }
            batch.relaxed();
            Ok((batch, status.clone()))
        };
        self.rooms.inner.store.retry(decide).await
    }
}

impl Rooms {
    /// Gives an event that passed authorisation by the state before it its place in the room.
    pub(crate) async fn merge(
        &self,
        room: &ruma::RoomId,
        prepared: &Prepared,
        relaxed: bool,
        extra: Extra<'_>,
    ) -> Result<EventStatus, RoomsError> {
        let mut ahead = Ahead::default();
        for attempt in 0..ATTEMPTS_MAX {
            let mut turn = self.turn(room).await?;
            turn.overlay = prepared.overlay.clone();
            let status = match turn.judge(prepared).await? {
                Verdict::Known(status) => return Ok(status),
                Verdict::SoftFailed(reason) => {
                    tracing::info!(room.id = %room, event.id = %prepared.event.pdu.event_id(), "soft-failed {reason}");
                    turn.keep_soft_failed(prepared).await?;
                    EventStatus::SoftFailed
                }
                Verdict::Accepted => {
                    let front = turn.front_of(prepared).await?;
                    let roots = front.roots();
                    let resolved = match turn.resolved_front(&front, &ahead) {
                        Some(resolved) => resolved,
                        None if attempt < RESOLVED_AHEAD_MAX => {
                            let fork = turn.fork(roots);
                            drop(turn);
                            self.resolve_ahead(fork, &mut ahead).await?;
                            continue;
                        }
                        None => turn.resolve(&roots).await?,
                    };
                    turn.merge(prepared, front, resolved).await?;
                    extra(&mut turn.batch);
                    EventStatus::Accepted
                }
            };
            if let Some(sequence) = prepared.inbox {
                turn.batch.delete::<Inbox>(&(room, sequence));
            }
            match self.write(turn, relaxed).await {
                Ok(_) => return Ok(status),
                Err(RoomsError::Commit(CommitError::Conflict)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(RoomsError::Busy)
    }

    /// Stores nodes ahead of the batch that points to them if they are too many to go with it.
    pub(super) async fn store_large(&self, room: &ruma::RoomId, overlay: &mut Overlay) -> Result<(), RoomsError> {
        if overlay.bytes_left() > NODES_WITH_EVENT_BYTES_MAX {
            self.store_nodes(room, overlay).await?;
            *overlay = Overlay::new();
        }
        Ok(())
    }
}

impl Turn {
    async fn judge(&self, prepared: &Prepared) -> Result<Verdict, RoomsError> {
        let event = &prepared.event;
        let meta = self.meta(event.num).await?;
        if meta.is_settled() {
            return Ok(Verdict::Known(meta.status));
        }
        if prepared.before != self.head.resolved {
            let pdu = event.pdu.as_received();
            let key = (pdu.event_type(), pdu.sender(), pdu.state_key(), pdu.content());
            let current = self.auth_state(self.head.resolved, key).await?;
            let verdict = auth::check_state_dependent(self.rules, pdu, |kind, key| current.get(kind, key));
            if let Err(error) = verdict {
                return Ok(Verdict::SoftFailed(format!("by the current state: {error}")));
            }
        }
        if let Some(reason) = self.policy_refusal(event).await? {
            return Ok(Verdict::SoftFailed(reason));
        }
        Ok(Verdict::Accepted)
    }

    /// Why the room's policy server doesn't recommend the event, if the room has one.
    async fn policy_refusal(&self, event: &StoredEvent) -> Result<Option<String>, RoomsError> {
        let Some(policy) = self.policy_server().await? else { return Ok(None) };
        if PolicyServer::exempts(event.pdu.as_received()) {
            return Ok(None);
        }
        Ok(policy
            .verify(event.pdu.as_received(), self.rules)
            .err()
            .map(|error| format!("by the policy server: {error}")))
    }

    /// The policy server that the room uses now: named by its state, and joined.
    pub(crate) async fn policy_server(&self) -> Result<Option<PolicyServer>, RoomsError> {
        let Some(event) = self.state_event(self.head.resolved, "m.room.policy", "").await? else { return Ok(None) };
        let Some(policy) = PolicyServer::of(&*self.shown(&event).await?) else { return Ok(None) };
        Ok((self.joined_of(policy.server_name()).await? > 0).then_some(policy))
    }

    async fn keep_soft_failed(&mut self, prepared: &Prepared) -> Result<(), RoomsError> {
        let event = &prepared.event;
        let redacted_by = self.redaction_of(event).await?;
        self.add_event(event);
        put_body(&mut self.batch, event);
        self.change_meta(event.num, |meta| {
            meta.status = EventStatus::SoftFailed;
            (meta.before, meta.after) = (prepared.before, prepared.after);
            meta.redacted_by = redacted_by;
            meta.state_fetched = prepared.follows == Follows::Nothing;
        })
        .await
    }

    /// What the extremities become with the event.
    async fn front_of(&mut self, prepared: &Prepared) -> Result<Front, RoomsError> {
        let event = &prepared.event;
        // The resolution reads it already.
        self.add_event(event);
        let behind = match prepared.follows {
            Follows::Named => self.behind(event).await?,
            Follows::Nothing => HashSet::new(),
        };
        self.front_after(Extremity::of(event, prepared.after), &behind).await
    }

    async fn merge(&mut self, prepared: &Prepared, front: Front, resolved: Root) -> Result<(), RoomsError> {
        let event = prepared.event.clone();
        let num = event.num;
        if let Some(annotation) = &prepared.annotation {
            self.claim_annotation(annotation, event.pdu.sender()).await?;
            self.store_annotation(annotation, event.pdu.sender(), num);
        }
        let had = self.view.get::<Metas>(&num).await?;
        let redacted_by = self.redaction_of(&event).await?;
        let placed = Placed {
            event,
            before: prepared.before,
            after: prepared.after,
            had: Some(had),
            redacted_by,
            gap: prepared.gap.clone(),
            follows: prepared.follows,
        };
        self.place(&placed, front, resolved).await?;
        if let Some(txn) = &prepared.answers {
            self.store_answer(txn, num).await?;
        }
        Ok(())
    }

    /// What a new event comes after: its prev events, and through those that no event may name (soft-failed, rejected) what these come
    /// after, as far as the state after them owes something to it.
    pub(crate) async fn behind(&self, event: &StoredEvent) -> Result<HashSet<EventNum>, RoomsError> {
        let mut behind: HashSet<EventNum> = event.prev.iter().copied().collect();
        let mut open: VecDeque<EventNum> = event.prev.iter().copied().collect();
        while let Some(num) = open.pop_front() {
            if behind.len() > FOLLOWED_BACK_MAX {
                break;
            }
            let meta = self.meta(num).await?;
            let passes_on = match meta.status {
                EventStatus::SoftFailed | EventStatus::Rejected(_) => !meta.state_fetched,
                EventStatus::Missing | EventStatus::Outlier | EventStatus::Accepted => false,
            };
            if !passes_on {
                continue;
            }
            for earlier in self.event(num).await?.prev.iter() {
                if behind.insert(*earlier) {
                    open.push_back(*earlier);
                }
            }
        }
        Ok(behind)
    }
}
