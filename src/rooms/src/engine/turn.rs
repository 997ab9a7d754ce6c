//! A room's turn: one batch that moves a room's head, built on the pending head and queued.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use event::{Pdu, RoomVersionRules};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId, events::StateEventType};
use serde_json::value::RawValue;
use state_tree::{Entry, EventNum, Overlay, Root, Source, StateChange};
use store::{Batch, CommitError, Pending, Position, Stamp, View};
use tokio::sync::OwnedMutexGuard;

use crate::{
    Rooms, RoomsError,
    engine::{
        extremities::Front,
        head::{NextAnswer, Outcome, PendingRoom, RoomSlot},
        resolve::{Ahead, Fork},
    },
    room::RoomInfo,
    rows::TxnKey,
    shown::Shown,
    tables::{Behind, EventNums, Heads, LastPositions, Metas},
    types::{EventMeta, EventStatus, MEMBER, RoomHead, StoredEvent},
};

/// Types of which every redaction leaves what the authorisation rules read.
const LEFT_WHOLE_FOR_AUTH: [&str; 2] = ["m.room.member", "m.room.join_rules"];

/// A state as the authorisation rules read it: the events at the keys that were loaded.
pub(crate) struct AuthState(pub(crate) HashMap<(StateEventType, String), Authority>);

/// A state event that others are judged by.
pub(crate) struct Authority {
    pub(crate) event: Arc<StoredEvent>,
    /// What counts of it.
    pub(crate) pdu: Pdu,
}

impl AuthState {
    /// The event at a key.
    pub(crate) fn get(&self, kind: &StateEventType, state_key: &str) -> Option<Pdu> {
        // The map's key is owned; these keys are short and few.
        self.0.get(&(kind.clone(), state_key.to_owned())).map(|authority| authority.pdu.clone())
    }
}

/// The exclusive right to build the next batch of a room. Dropping it without [`Turn::submit`] changes nothing.
pub(crate) struct Turn {
    pub(crate) rooms: Rooms,
    pub(crate) room: OwnedRoomId,
    pub(crate) info: RoomInfo,
    pub(crate) rules: &'static RoomVersionRules,
    /// Taken after the room's turn was: what it lacks of earlier batches is in `pending`.
    pub(crate) view: View,
    /// The head so far.
    pub(crate) head: RoomHead,
    pub(crate) batch: Batch,
    pub(crate) overlay: Overlay,
    pub(crate) last_stamp: Option<Stamp>,
    /// Who is joined no more.
    pub(crate) gone: Vec<OwnedUserId>,
    expected: Option<RoomHead>,
    batch_number: u64,
    slot: Arc<RoomSlot>,
    pending: OwnedMutexGuard<PendingRoom>,
    new_events: HashMap<EventNum, Arc<StoredEvent>>,
    new_nums: HashMap<OwnedEventId, EventNum>,
    /// Changed metas of events that were there before: as read, and as they shall be.
    metas: HashMap<EventNum, (Option<EventMeta>, EventMeta)>,
    pub(crate) servers: HashMap<OwnedServerName, u64>,
    pub(crate) sidelined: HashMap<EventNum, bool>,
    txn: Option<TxnKey>,
}

impl Rooms {
    /// Takes the turn of a room that this server holds.
    pub(crate) async fn turn(&self, room: &RoomId) -> Result<Turn, RoomsError> {
        let slot = self.inner.heads.slot(room);
        let pending = slot.lock().await;
        self.turn_in(room, slot, pending).await
    }

    /// As [`Rooms::turn`], once nothing is queued any more: the turn's view shows all of the room.
    pub(crate) async fn quiet_turn(&self, room: &RoomId) -> Result<Turn, RoomsError> {
        let slot = self.inner.heads.slot(room);
        let mut pending = slot.lock().await;
        // Nobody queues more while the turn is held.
        while !pending.all_settled() {
            slot.next_answer().wait().await;
            slot.settle(&mut pending);
        }
        self.turn_in(room, slot, pending).await
    }

    async fn turn_in(
        &self,
        room: &RoomId,
        slot: Arc<RoomSlot>,
        mut pending: OwnedMutexGuard<PendingRoom>,
    ) -> Result<Turn, RoomsError> {
        let view = self.inner.store.view().await?;
        let head = match &pending.head {
            Some(head) => head.clone(),
            None => self.head(&view, room).await?.ok_or(RoomsError::RoomNotFound)?,
        };
        let info = match &pending.info {
            Some(info) => info.clone(),
            // Written with the first head.
            None => self.info(&view, room).await?.ok_or(RoomsError::RoomNotFound)?,
        };
        pending.info.get_or_insert_with(|| info.clone());
        Turn::new(self, room, info, slot, pending, view, Some(head))
    }

    /// Takes the turn of a room that doesn't exist yet.
    ///
    /// Fails with [`CommitError::Conflict`] if it does, or is about to: others may be building on its head.
    pub(crate) async fn turn_of_new(&self, room: &RoomId, info: RoomInfo) -> Result<Turn, RoomsError> {
        let slot = self.inner.heads.slot(room);
        let pending = slot.lock().await;
        let view = self.inner.store.view().await?;
        if pending.head.is_some() || self.head(&view, room).await?.is_some() {
            return Err(CommitError::Conflict.into());
        }
        Turn::new(self, room, info, slot, pending, view, None)
    }
}

impl Turn {
    fn new(
        rooms: &Rooms,
        room: &RoomId,
        info: RoomInfo,
        slot: Arc<RoomSlot>,
        pending: OwnedMutexGuard<PendingRoom>,
        view: View,
        expected: Option<RoomHead>,
    ) -> Result<Self, RoomsError> {
        Ok(Self {
            rooms: rooms.clone(),
            room: room.to_owned(),
            rules: info.rules()?,
            info,
            view,
            head: expected.clone().unwrap_or_else(RoomHead::before_creation),
            batch: Batch::new(),
            overlay: Overlay::new(),
            last_stamp: None,
            gone: Vec::new(),
            expected,
            batch_number: pending.next_batch,
            slot,
            pending,
            new_events: HashMap::new(),
            new_nums: HashMap::new(),
            metas: HashMap::new(),
            servers: HashMap::new(),
            sidelined: HashMap::new(),
            txn: None,
        })
    }

    /// The nodes of this turn and of queued batches, to read the room's trees with.
    fn overlays(&self) -> Vec<&Overlay> {
        let mut overlays: Vec<&Overlay> = self.pending.overlays.iter().map(|(_, overlay)| &**overlay).collect();
        overlays.push(&self.overlay);
        overlays
    }

    /// The entries of a state at some keys.
    pub(crate) async fn entries(&self, root: Root, keys: &[(&str, &str)]) -> Result<Vec<Option<Entry>>, RoomsError> {
        let overlays = self.overlays();
        let source = Source { room: &self.room, view: &self.view, overlays: &overlays };
        Ok(self.rooms.inner.tree.get_many(&source, root, keys).await?)
    }

    /// The state event at a key.
    pub(crate) async fn state_event(
        &self,
        root: Root,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomsError> {
        match self.entries(root, &[(event_type, state_key)]).await?.pop().flatten() {
            Some(entry) => Ok(Some(self.event(entry.event).await?)),
            None => Ok(None),
        }
    }

    /// The state after changes to a state.
    pub(crate) async fn apply(
        &mut self,
        root: Root,
        changes: &[((&str, &str), Option<Entry>)],
    ) -> Result<Root, RoomsError> {
        let overlays: Vec<&Overlay> = self.pending.overlays.iter().map(|(_, overlay)| &**overlay).collect();
        let source = Source { room: &self.room, view: &self.view, overlays: &overlays };
        Ok(self.rooms.inner.tree.apply(&source, root, changes, &mut self.overlay).await?)
    }

    /// The first differences of two states, members last, and whether that is all.
    pub(crate) async fn diff(
        &self,
        old: Root,
        new: Root,
        limit: usize,
    ) -> Result<(Vec<StateChange>, bool), RoomsError> {
        let overlays = self.overlays();
        let source = Source { room: &self.room, view: &self.view, overlays: &overlays };
        let tree = &self.rooms.inner.tree;
        let page = tree.diff_page(&source, old, new, ("", ""), limit).await?;
        if page.next.is_none() {
            return Ok((page.changes, true));
        }
        Ok(tree.diff_type_last(&source, old, new, MEMBER, limit).await?)
    }

    /// The resolution of these states (each once, in order), if that is known without resolving any.
    pub(crate) fn resolved(&self, roots: &[Root], ahead: &Ahead) -> Option<Root> {
        match roots {
            [] => Some(Root::EMPTY),
            [root] => Some(*root),
            _ => ahead.get(roots),
        }
    }

    /// The resolution of the states of what the head shall become, if that is known without resolving any.
    pub(crate) fn resolved_front(&self, front: &Front, ahead: &Ahead) -> Option<Root> {
        let roots = front.roots();
        // While extremities are sidelined, the current state may owe something to states that count no more; what this server's
        // events follow may not.
        let reusable = self.head.sidelined.is_none() || front.sidelined.is_some();
        if reusable && roots == self.head.roots() {
            return Some(self.head.resolved);
        }
        self.resolved(&roots, ahead)
    }

    /// Resolves states within the turn. All senders to the room wait for that: only for who was overtaken too often.
    pub(crate) async fn resolve(&mut self, roots: &[Root]) -> Result<Root, RoomsError> {
        let mut overlay = self.overlay.clone();
        let resolved = {
            let overlays = self.overlays();
            let source = Source { room: &self.room, view: &self.view, overlays: &overlays };
            let queued = |num: EventNum| self.new_events.get(&num).or_else(|| self.pending.events.get(&num)).cloned();
            self.rooms.resolve(&source, &queued, self.rules, roots, &mut overlay).await?
        };
        self.overlay = overlay;
        Ok(resolved)
    }

    /// What is needed to resolve these states outside of the turn.
    pub(crate) fn fork(&self, roots: Vec<Root>) -> Fork {
        let mut overlays: Vec<Arc<Overlay>> =
            self.pending.overlays.iter().map(|(_, overlay)| overlay.clone()).collect();
        overlays.push(Arc::new(self.overlay.clone()));
        let mut events: HashMap<EventNum, Arc<StoredEvent>> =
            self.pending.events.iter().map(|(num, event)| (*num, event.clone())).collect();
        events.extend(self.new_events.iter().map(|(num, event)| (*num, event.clone())));
        Fork { room: self.room.clone(), rules: self.rules, view: self.view.clone(), roots, overlays, events }
    }

    /// A stored event, also one of a queued batch or of this turn.
    pub(crate) async fn event(&self, num: EventNum) -> Result<Arc<StoredEvent>, RoomsError> {
        if let Some(event) = self.new_events.get(&num).or_else(|| self.pending.events.get(&num)) {
            return Ok(event.clone());
        }
        let event = self.rooms.event(&self.view, num).await?;
        event.ok_or_else(|| RoomsError::corrupt(format!("event {} has no body", num.0)))
    }

    /// As [`Turn::event`]; `None` if only the event's id is known.
    pub(crate) async fn known_event(&self, num: EventNum) -> Result<Option<Arc<StoredEvent>>, RoomsError> {
        if let Some(event) = self.new_events.get(&num).or_else(|| self.pending.events.get(&num)) {
            return Ok(Some(event.clone()));
        }
        self.rooms.event(&self.view, num).await
    }

    /// Whether a queued batch, or this one, makes an extremity sidelined or no longer so; `None` if none touches it.
    pub(crate) fn pending_sidelined(&self, num: EventNum) -> Option<bool> {
        self.sidelined.get(&num).or_else(|| self.pending.sidelined.get(&num)).copied()
    }

    /// All extremities that queued batches sidelined.
    pub(crate) fn pending_sidelined_nums(&self) -> Vec<EventNum> {
        self.pending.sidelined.iter().map(|(num, _)| *num).collect()
    }

    /// Whether an event is in a queued batch that isn't published yet.
    pub(crate) fn is_queued(&self, event_id: &EventId) -> bool {
        self.pending.is_queued(event_id)
    }

    /// The number of an event id, given to it now if it was never mentioned.
    pub(crate) async fn num_or_new(&mut self, event_id: &EventId) -> Result<EventNum, RoomsError> {
        let known = self.new_nums.get(event_id).or_else(|| self.pending.nums.get(event_id));
        if let Some(num) = known {
            return Ok(*num);
        }
        if let Some(num) = self.rooms.num(&self.view, event_id).await? {
            return Ok(num);
        }
        let num = self.rooms.inner.events.next_num().await?;
        self.batch.expect::<EventNums>(&event_id, None);
        self.name(event_id, num);
        Ok(num)
    }

    /// Gives an event id a number that it doesn't have yet.
    pub(crate) fn name(&mut self, event_id: &EventId, num: EventNum) {
        self.batch.put::<EventNums>(&event_id, &num);
        self.new_nums.insert(event_id.to_owned(), num);
    }

    /// An event of this turn.
    pub(crate) fn add_event(&mut self, event: &Arc<StoredEvent>) {
        self.new_events.insert(event.num, event.clone());
        self.rooms.inner.events.remember(event);
    }

    /// The meta of an event of an earlier turn.
    pub(crate) async fn meta(&self, num: EventNum) -> Result<EventMeta, RoomsError> {
        if let Some((_, meta)) = self.metas.get(&num) {
            return Ok(meta.clone());
        }
        if let Some(meta) = self.pending.metas.get(&num) {
            return Ok(meta.clone());
        }
        self.rooms.meta(&self.view, num).await
    }

    /// Changes the meta of an event of an earlier turn, expecting that nobody else does meanwhile.
    pub(crate) async fn change_meta(
        &mut self,
        num: EventNum,
        change: impl FnOnce(&mut EventMeta),
    ) -> Result<(), RoomsError> {
        if let Some((_, meta)) = self.metas.get_mut(&num) {
            change(meta);
            return Ok(());
        }
        let read = match self.pending.metas.get(&num) {
            Some(meta) => Some(meta.clone()),
            None => self.view.get::<Metas>(&num).await?,
        };
        let mut meta = read.clone().unwrap_or_else(|| EventMeta::outlier(EventStatus::Missing));
        change(&mut meta);
        self.metas.insert(num, (read, meta));
        Ok(())
    }

    /// Number of joined members of a server in the state so far.
    pub(crate) async fn joined_of(&self, server: &ruma::ServerName) -> Result<u64, RoomsError> {
        if let Some(count) = self.servers.get(server).or_else(|| self.pending.servers.get(server)) {
            return Ok(*count);
        }
        let count = self.view.get::<crate::tables::JoinedServers>(&(&self.room, server)).await?;
        Ok(count.unwrap_or(0))
    }

    /// Says which transaction this turn answers, so that its repetition waits.
    pub(crate) fn answer(&mut self, txn: TxnKey) {
        self.txn = Some(txn);
    }

    /// Whether a queued batch answers this transaction.
    pub(crate) fn is_answered(&self, txn: &TxnKey) -> bool {
        self.pending.is_answered(txn)
    }

    /// What to wait for, after the turn was given back, before trying again.
    pub(crate) fn next_answer(&self) -> NextAnswer {
        self.slot.next_answer()
    }

    /// The events of `root` that authorise an event, the create event always among them.
    pub(crate) async fn auth_state(
        &self,
        root: Root,
        event: (&str, &UserId, Option<&str>, &RawValue),
    ) -> Result<AuthState, RoomsError> {
        let (event_type, sender, state_key, content) = event;
        let mut keys = event::auth::auth_types(&event_type.into(), sender, state_key, content, self.rules)?;
        let create = (StateEventType::RoomCreate, String::new());
        if !keys.contains(&create) {
            keys.push(create);
        }
        let names: Vec<String> = keys.iter().map(|(kind, _)| kind.to_string()).collect();
        let asked: Vec<(&str, &str)> =
            names.iter().zip(&keys).map(|(name, (_, state_key))| (&**name, &**state_key)).collect();
        let entries = self.entries(root, &asked).await?;
        let mut state = HashMap::with_capacity(keys.len());
        for (key, entry) in keys.into_iter().zip(entries) {
            let Some(entry) = entry else { continue };
            let event = self.event(entry.event).await?;
            let kind = event.pdu.event_type();
            let create = kind == "m.room.create" && self.rules.redaction.keep_room_create_content;
            let pdu = match create || LEFT_WHOLE_FOR_AUTH.contains(&kind) {
                true => event.pdu.as_received().clone(),
                false => self.shown(&event).await?.into_pdu(),
            };
            state.insert(key, Authority { event, pdu });
        }
        Ok(AuthState(state))
    }

    /// Queues the batch and gives the turn back. `relaxed`: the caller need not wait for the disk.
    pub(crate) async fn submit(mut self, relaxed: bool) -> Result<QueuedBatch, RoomsError> {
        self.head.version += 1;
        self.batch.expect::<Heads>(&self.room, self.expected.as_ref());
        self.batch.put::<Heads>(&self.room, &self.head);
        if let Some(stamp) = self.last_stamp {
            self.batch.put::<LastPositions>(&self.room, &Position::from(stamp));
        }
        match (self.expected.as_ref().is_some_and(RoomHead::is_behind), self.head.is_behind()) {
            (false, true) => self.batch.put::<Behind>(&self.room, &()),
            (true, false) => self.batch.delete::<Behind>(&self.room),
            (false, false) | (true, true) => {}
        }
        for (num, (read, meta)) in &self.metas {
            self.batch.expect::<Metas>(num, read.as_ref());
            self.batch.put::<Metas>(num, meta);
        }
        if self.overlay.bytes_left() + self.batch.bytes() > store::BATCH_BYTES_MAX / 2 {
            self.rooms.store_nodes(&self.room, &mut self.overlay).await?;
        }
        self.overlay.write(&mut self.batch, &self.room);
        if relaxed {
            self.batch.relaxed();
        }
        let answer = self.rooms.inner.store.submit(self.batch).await?;

        let batch_number = self.batch_number;
        let pending = &mut *self.pending;
        pending.head = Some(self.head);
        pending.next_batch = batch_number + 1;
        if !self.overlay.is_empty() {
            pending.overlays.push((batch_number, Arc::new(self.overlay)));
        }
        for (num, event) in self.new_events {
            pending.events.insert(batch_number, num, event);
        }
        for (event_id, num) in self.new_nums {
            pending.nums.insert(batch_number, event_id, num);
        }
        for (num, (_, meta)) in self.metas {
            pending.metas.insert(batch_number, num, meta);
        }
        for (server, count) in self.servers {
            pending.servers.insert(batch_number, server, count);
        }
        for (num, sidelined) in self.sidelined {
            pending.sidelined.insert(batch_number, num, sidelined);
        }
        if let Some(txn) = self.txn {
            pending.txns.insert(batch_number, txn, ());
        }
        let (rooms, room, gone) = (self.rooms, self.room, self.gone);
        Ok(QueuedBatch { batch_number, slot: self.slot, answer, reported: false, rooms, room, gone })
    }

    /// What counts of an event, also of one whose redaction is queued.
    pub(crate) async fn shown(&self, event: &StoredEvent) -> Result<Shown, RoomsError> {
        Shown::of(event, &self.meta(event.num).await?, self.rules)
    }
}

/// A queued batch: ends with the position of its last log entry.
#[must_use]
pub(crate) struct QueuedBatch {
    batch_number: u64,
    slot: Arc<RoomSlot>,
    answer: Pending,
    reported: bool,
    rooms: Rooms,
    room: OwnedRoomId,
    /// Who is joined no more once it is written.
    gone: Vec<OwnedUserId>,
}

impl QueuedBatch {
    /// Nobody types in a room that they aren't in.
    fn end_typing(&self) {
        for user in &self.gone {
            self.rooms.typing().stop(&self.room, user);
        }
    }
}

impl Future for QueuedBatch {
    type Output = Result<Position, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(result) = Pin::new(&mut self.answer).poll(context) else { return Poll::Pending };
        let failed = result.is_err();
        self.reported = true;
        if !failed {
            self.end_typing();
        }
        self.slot.report(Outcome { batch_number: self.batch_number, failed });
        Poll::Ready(result)
    }
}

impl Drop for QueuedBatch {
    fn drop(&mut self) {
        if !self.reported {
            self.end_typing();
            // Nobody will learn how it ended: the next turn reads the published head again, and builds once more if that was too early.
            self.slot.report(Outcome { batch_number: self.batch_number, failed: true });
        }
    }
}
