//! Events of other servers: from text that nobody has checked to a place in the room.
//!
//! Specification: server-server API, "Checks performed on receipt of a PDU", "Soft failure", "Rejection". In order: format and
//! signatures (`verify`), the events that authorise it (`authority`), the events before it (`gap`), the state before it by
//! resolution, authorisation by that state, and then in the room's turn (`merge`) by the current state. All that waits for other
//! servers or computes much happens before the turn is taken.

mod allowance;
mod authority;
mod gap;
mod history;
mod merge;
mod outcome;
mod verify;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use event::{Pdu, RoomVersionRules, auth};
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, ServerName, events::StateEventType};
use serde_json::value::RawValue;
use state_tree::{Entry, EventNum, Overlay, Root};
use store::{CommitError, Range, View};

pub(crate) use self::allowance::Allowances;
pub(crate) use self::merge::Prepared;
pub use self::outcome::Received;
use self::{
    allowance::{EVENT_BYTES_MAX, ROOM_BYTES_MAX},
    authority::ASKED_ELSEWHERE_MAX,
};
use crate::{
    Rooms, RoomsError,
    engine::{
        advance::Follows,
        append::{Extra, Own, Sent},
    },
    ports::{Reach, RemoteError, RemoteRooms},
    remote::handshake::{Entrance, ROOM_EVENTS_MAX, RoomState},
    state::source,
    tables::{BackwardExtremities, JoinedServers},
    types::{EventMeta, EventStatus, MEMBER, Membership, StoredEvent},
};

/// Whether the events between what we have and an event may be asked for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Gap {
    /// They may.
    Fill,
    /// They were: for what is still missing the state is asked for.
    Bridge,
}

/// Where an event goes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Place {
    /// To the head of the room.
    Head,
    /// Behind events that the room has already.
    History,
}

/// Questions that are asked of other servers for the sake of one event, keys aside.
const QUESTIONS_MAX: usize = 300;

/// How long an event that somebody waits for may take to be taken in, with all that has to be asked for it.
const TAKEN_IN_WITHIN: Duration = Duration::from_secs(60);

/// What all steps of taking one event in need to know.
struct Intake<'a> {
    rooms: &'a Rooms,
    room: &'a RoomId,
    rules: &'static RoomVersionRules,
    /// The server that is asked for what is missing.
    origin: &'a ServerName,
    reach: Reach,
    /// Questions that have been asked.
    questions: AtomicUsize,
    /// Those of them that others than `origin` were asked.
    elsewhere: Arc<AtomicUsize>,
    /// Bytes of events that were given beside the one to be taken in, and how many there may be.
    fetched_bytes: AtomicUsize,
    fetched_bytes_max: usize,
}

impl<'a> Intake<'a> {
    fn new(
        rooms: &'a Rooms,
        room: &'a RoomId,
        rules: &'static RoomVersionRules,
        origin: &'a ServerName,
        reach: Reach,
    ) -> Self {
        Self {
            rooms,
            room,
            rules,
            origin,
            reach,
            questions: AtomicUsize::new(0),
            elsewhere: Arc::default(),
            fetched_bytes: AtomicUsize::new(0),
            fetched_bytes_max: EVENT_BYTES_MAX,
        }
    }

    /// Other servers' rooms, to ask one question.
    ///
    /// Fails with [`RoomsError::NotAtHand`] if this attempt may ask nobody, and if it asked too much: an event for which there is no
    /// end of questions is not worth them.
    fn remote(&self) -> Result<&dyn RemoteRooms, RoomsError> {
        if self.reach == Reach::AtHand {
            return Err(RoomsError::NotAtHand);
        }
        if self.questions.fetch_add(1, Ordering::Relaxed) >= QUESTIONS_MAX {
            return Err(RemoteError::BadAnswer("too much would have to be asked".to_owned()).into());
        }
        Ok(&*self.rooms.inner.ports.remote)
    }

    /// Counts events that were given beside the one to be taken in. Fails with [`RoomsError::TooLarge`] if they are too many.
    fn count_told(&self, bytes: usize) -> Result<(), RoomsError> {
        match self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.fetched_bytes_max {
            true => Err(RoomsError::TooLarge("what is told for one event".to_owned())),
            false => Ok(()),
        }
    }

    /// Whether others than the server that an event came from may still be asked for its sake.
    fn may_ask_elsewhere(&self) -> Result<bool, RoomsError> {
        if self.reach == Reach::AtHand {
            return Err(RoomsError::NotAtHand);
        }
        Ok(self.elsewhere.fetch_add(1, Ordering::Relaxed) < ASKED_ELSEWHERE_MAX)
    }
}

impl Rooms {
    /// Takes in one event of a room that this server holds, asking `origin` for what is missing if `reach` lets it. `inbox` is the
    /// row to delete with it.
    pub(crate) async fn take_in(
        &self,
        origin: &ServerName,
        room: &RoomId,
        json: &RawValue,
        inbox: u64,
        reach: Reach,
    ) -> Received {
        self.try_take_in(origin, room, json, inbox, reach).await.unwrap_or_else(Received::from)
    }

    async fn try_take_in(
        &self,
        origin: &ServerName,
        room: &RoomId,
        json: &RawValue,
        inbox: u64,
        reach: Reach,
    ) -> Result<Received, RoomsError> {
        let rules = self.rules(&self.inner.store.view().await?, room).await?;
        let intake = Intake::new(self, room, rules, origin, reach);
        let pdu = match intake.verify_passed_on(json).await? {
            Ok(pdu) => pdu,
            Err(reason) => return Ok(Received::Dropped(reason)),
        };
        intake.take(pdu, Gap::Fill, Place::Head, Some(inbox)).await.map(Received::Stored)
    }

    /// As [`Rooms::take_in`], for an event that has been verified already.
    pub(crate) async fn take_in_verified(
        &self,
        origin: &ServerName,
        room: &RoomId,
        pdu: Pdu,
    ) -> Result<EventStatus, RoomsError> {
        let rules = self.rules(&self.inner.store.view().await?, room).await?;
        let intake = Intake::new(self, room, rules, origin, Reach::Network);
        let taken = tokio::time::timeout(TAKEN_IN_WITHIN, intake.take(pdu, Gap::Fill, Place::Head, None));
        taken.await.map_err(|_| RemoteError::NotReachable(origin.to_owned()))?
    }

    /// Places an event of one of this server's users that was built before it has its place. Fails with a conflict if an event that
    /// it follows was never written.
    pub(crate) async fn place_own(&self, room: &RoomId, own: Own, extra: Extra<'_>) -> Result<Sent, RoomsError> {
        self.wait_until_written(room, &own.pdu).await?;
        let rules = self.rules(&self.inner.store.view().await?, room).await?;
        let intake = Intake::new(self, room, rules, self.server_name(), Reach::AtHand);
        let event = intake.name_event(own.pdu.clone()).await?;
        let mut overlay = Overlay::new();
        let view = self.inner.store.view().await?;
        let before = intake.state_before(&view, &event, &mut overlay).await?.ok_or(CommitError::Conflict)?;
        let after = intake.apply(&view, before, &event, &mut overlay).await?;
        self.store_large(room, &mut overlay).await?;
        let prepared = Prepared {
            event,
            before,
            after,
            overlay,
            gap: Vec::new(),
            inbox: None,
            follows: Follows::Named,
            answers: own.answers,
            annotation: own.annotation,
        };
        let status = self.merge(room, &prepared, false, extra).await?;
        self.sent(status, &own.pdu).await
    }

    /// Waits while events that `pdu` names are in batches on their way to the store.
    async fn wait_until_written(&self, room: &RoomId, pdu: &Pdu) -> Result<(), RoomsError> {
        loop {
            let turn = self.turn(room).await?;
            if !pdu.prev_events().any(|id| turn.is_queued(id)) {
                return Ok(());
            }
            let answer = turn.next_answer();
            drop(turn);
            answer.wait().await;
        }
    }

    /// An event of `origin`, if its format, signatures and hash are right.
    pub(crate) async fn verify_for(
        &self,
        origin: &ServerName,
        room: &RoomId,
        json: &RawValue,
    ) -> Result<Pdu, RoomsError> {
        let rules = self.rules(&self.inner.store.view().await?, room).await?;
        let intake = Intake::new(self, room, rules, origin, Reach::Network);
        intake.verify(json).await?.map_err(RoomsError::BadEvent)
    }

    /// Keeps the events that tell of a room which this server enters, and finds the place of the join in it.
    pub(crate) async fn take_room_in(
        &self,
        origin: &ServerName,
        room: &RoomId,
        rules: &'static RoomVersionRules,
        answer: &RoomState,
    ) -> Result<Entrance, RoomsError> {
        let mut intake = Intake::new(self, room, rules, origin, Reach::Network);
        intake.fetched_bytes_max = ROOM_BYTES_MAX;
        let join = intake.verify(&answer.event).await?.map_err(RemoteError::BadAnswer)?;
        let is_ours = join.is_state(MEMBER, join.sender().as_str())
            && Membership::of(&join) == Membership::Join
            && self.is_local(join.sender());
        if !is_ours {
            return Err(RemoteError::BadAnswer("it is no join of a user of ours".to_owned()).into());
        }
        // One bad event among thousands is no reason to stay outside, nor is a server that nobody can ask for its keys any more.
        let state_events = intake.events_of(&answer.state, ROOM_EVENTS_MAX).await;
        let mut state: Vec<OwnedEventId> = state_events.keys().cloned().collect();
        state.sort();
        let mut all = intake.events_of(&answer.auth_chain, ROOM_EVENTS_MAX).await;
        all.extend(state_events);
        let authority = join.all_auth_events(rules);
        let wanted = state.iter().chain(&authority).cloned().collect();
        let lost = intake.fetch_and_keep(intake.not_held(&intake.view().await?, wanted).await?, all).await?;
        if let Some(id) = intake.not_held(&intake.view().await?, authority).await?.pop() {
            return Err(lost.reason_for(&id).into());
        }
        let event = intake.name_event(join).await?;
        let mut overlay = Overlay::new();
        let before = intake.state_of(&state, &mut overlay).await?;
        let view = intake.view().await?;
        intake.check_by_auth_events(&view, event.pdu.as_received()).await?.map_err(RemoteError::BadAnswer)?;
        intake
            .check_by_state(&view, event.pdu.as_received(), before, &overlay)
            .await?
            .map_err(RemoteError::BadAnswer)?;
        let after = intake.apply(&view, before, &event, &mut overlay).await?;
        self.store_nodes(room, &mut overlay).await?;
        let view = intake.view().await?;
        let create = self.state(&view, room, before).event("m.room.create", "").await?;
        let create = create.ok_or_else(|| RemoteError::BadAnswer("the state has no create event".to_owned()))?;
        let gap = intake.without_state(event.pdu.as_received()).await?;
        Ok(Entrance { event, before, after, create, gap })
    }

    /// At most `max` servers of a room beside this one, the one given first.
    pub(crate) async fn servers_to_ask(
        &self,
        view: &View,
        room: &RoomId,
        first: &ServerName,
        max: usize,
    ) -> Result<Vec<OwnedServerName>, RoomsError> {
        let mut servers = vec![first.to_owned()];
        // Two of those that are found may be this server and the first.
        let range = Range::<JoinedServers>::prefix(&(room,)).limit(max + 1);
        for ((_, server), _) in view.scan(range).await?.rows {
            let server = server.into_inner();
            if server != self.server_name() && server != first {
                servers.push(server);
            }
        }
        servers.truncate(max);
        Ok(servers)
    }
}

impl Intake<'_> {
    async fn view(&self) -> Result<View, RoomsError> {
        Ok(self.rooms.inner.store.view().await?)
    }

    /// Takes in a verified event.
    async fn take(&self, pdu: Pdu, gap: Gap, place: Place, inbox: Option<u64>) -> Result<EventStatus, RoomsError> {
        if let Some(status) = self.decided(pdu.event_id()).await? {
            return Ok(status);
        }
        self.fetch_authority(&pdu).await?;
        let by_own = self.check_by_auth_events(&self.view().await?, &pdu).await?;
        let filled = match self.fill_gap(&pdu, gap).await {
            Ok(filled) => filled,
            // It will be rejected anyway, with or without the events before it.
            Err(RoomsError::Remote(_)) if by_own.is_err() => gap::FilledGap::default(),
            Err(error) => return Err(error),
        };
        if let Some(status) = self.decided(pdu.event_id()).await? {
            return Ok(status);
        }
        let event = self.name_event(pdu).await?;
        let mut overlay = Overlay::new();
        let view = self.view().await?;
        let (known, follows) = match filled.before {
            Some(before) => {
                overlay = before.overlay;
                (Some(before.root), Follows::Nothing)
            }
            None => (self.state_before(&view, &event, &mut overlay).await?, Follows::Named),
        };
        let before = match known {
            Some(before) => before,
            None => {
                // Only one that fails by its own auth events comes here: its state stays unknown.
                let reason = by_own.err().unwrap_or_else(|| "the events before it are unknown".to_owned());
                return self.store_rejected(&event, (Root::EMPTY, follows), reason, Overlay::new(), inbox).await;
            }
        };
        let verdict = match by_own {
            Ok(()) => self.check_by_state(&view, event.pdu.as_received(), before, &overlay).await?,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = verdict {
            return self.store_rejected(&event, (before, follows), reason, overlay, inbox).await;
        }
        let after = self.apply(&view, before, &event, &mut overlay).await?;
        if place == Place::History || self.is_history(&view, &event).await? {
            let state_fetched = follows == Follows::Nothing;
            let kept = EventMeta { before, after, state_fetched, ..EventMeta::outlier(EventStatus::Accepted) };
            return self.store_behind(event, kept, overlay, inbox).await;
        }
        self.merge(Prepared {
            event,
            before,
            after,
            overlay,
            gap: filled.missing,
            inbox,
            follows,
            answers: None,
            annotation: None,
        })
        .await
    }

    /// The status of an event that was judged already.
    async fn decided(&self, event_id: &EventId) -> Result<Option<EventStatus>, RoomsError> {
        let view = self.view().await?;
        let Some(num) = self.rooms.num(&view, event_id).await? else { return Ok(None) };
        let meta = self.rooms.meta(&view, num).await?;
        Ok(meta.is_settled().then_some(meta.status))
    }

    /// Whether an event comes before others that the room has already.
    async fn is_history(&self, view: &View, event: &StoredEvent) -> Result<bool, RoomsError> {
        Ok(event.prev.is_empty() || view.contains::<BackwardExtremities>(&event.num).await?)
    }

    /// The state before an event: the resolution of the states after those before it. `None` if one of these is unknown.
    async fn state_before(
        &self,
        view: &View,
        event: &StoredEvent,
        overlay: &mut Overlay,
    ) -> Result<Option<Root>, RoomsError> {
        let mut roots = Vec::with_capacity(event.prev.len());
        for meta in self.rooms.metas(view, &event.prev).await? {
            if meta.after.is_empty() {
                return Ok(None);
            }
            roots.push(meta.after);
        }
        if roots.is_empty() {
            // Nothing comes before the create event; anything else fails by its auth events.
            return Ok(Some(Root::EMPTY));
        }
        let source = source(view, self.room);
        self.rooms.resolve(&source, &|_| None, self.rules, &roots, overlay).await.map(Some)
    }

    async fn apply(
        &self,
        view: &View,
        before: Root,
        event: &Arc<StoredEvent>,
        overlay: &mut Overlay,
    ) -> Result<Root, RoomsError> {
        let Some(state_key) = event.pdu.state_key() else { return Ok(before) };
        let entry = Entry { event: event.num, generation: event.generation };
        let change = [((event.pdu.event_type(), state_key), Some(entry))];
        let held = overlay.clone();
        let overlays = [&held];
        let source = state_tree::Source { overlays: &overlays, ..source(view, self.room) };
        Ok(self.rooms.inner.tree.apply(&source, before, &change, overlay).await?)
    }

    /// Authorisation by the event's own auth events. The inner error is why it is rejected.
    async fn check_by_auth_events(&self, view: &View, pdu: &Pdu) -> Result<Result<(), String>, RoomsError> {
        let mut events: Vec<Pdu> = Vec::new();
        for id in pdu.all_auth_events(self.rules) {
            let Some(num) = self.rooms.num(view, &id).await? else { continue };
            let Some(event) = self.rooms.event(view, num).await? else { continue };
            let rejected = matches!(self.rooms.meta(view, num).await?.status, EventStatus::Rejected(_));
            events.push(event.pdu.as_received().clone().with_rejected(rejected));
        }
        Ok(self.judged_by(pdu, &events))
    }

    /// Authorisation by the event's own auth events, which are given. The error is why it is rejected.
    fn judged_by(&self, pdu: &Pdu, events: &[Pdu]) -> Result<(), String> {
        let fetch = |id: &EventId| events.iter().find(|event| event.event_id() == id).cloned();
        let state = |kind: &StateEventType, key: &str| {
            let kind = kind.to_string();
            events.iter().find(|event| event.is_state(&kind, key)).cloned()
        };
        let verdict = auth::check_state_independent(self.rules, pdu, fetch)
            .and_then(|()| auth::check_state_dependent(self.rules, pdu, state));
        verdict.map_err(|error| format!("by its auth events: {error}"))
    }

    /// Authorisation by a state.
    async fn check_by_state(
        &self,
        view: &View,
        pdu: &Pdu,
        root: Root,
        overlay: &Overlay,
    ) -> Result<Result<(), String>, RoomsError> {
        let types = match auth::auth_types(pdu.kind(), pdu.sender(), pdu.state_key(), pdu.content(), self.rules) {
            Ok(types) => types,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let mut keys: Vec<(String, String)> = types.into_iter().map(|(kind, key)| (kind.to_string(), key)).collect();
        keys.push(("m.room.create".to_owned(), String::new()));
        let asked: Vec<(&str, &str)> = keys.iter().map(|(kind, key)| (&**kind, &**key)).collect();
        let overlays = [overlay];
        let source = state_tree::Source { overlays: &overlays, ..source(view, self.room) };
        let entries = self.rooms.inner.tree.get_many(&source, root, &asked).await?;
        let mut events = Vec::new();
        for entry in entries.into_iter().flatten() {
            let event = self.rooms.present(view, entry.event).await?;
            let meta = self.rooms.meta(view, entry.event).await?;
            events.push(self.rooms.shown_event(view, &event, &meta).await?.into_pdu());
        }
        let state = |kind: &StateEventType, key: &str| {
            let kind = kind.to_string();
            events.iter().find(|event| event.is_state(&kind, key)).cloned()
        };
        let verdict = auth::check_state_dependent(self.rules, pdu, state);
        Ok(verdict.map_err(|error| format!("by the state before it: {error}")))
    }

    /// Ids whose events aren't held in any form.
    async fn not_held(&self, view: &View, ids: Vec<OwnedEventId>) -> Result<Vec<OwnedEventId>, RoomsError> {
        let mut missing = Vec::new();
        let mut named = Vec::new();
        for id in ids {
            match self.rooms.num(view, &id).await? {
                Some(num) => named.push((id, num)),
                None => missing.push(id),
            }
        }
        let nums: Vec<EventNum> = named.iter().map(|(_, num)| *num).collect();
        for ((id, _), meta) in named.into_iter().zip(self.rooms.metas(view, &nums).await?) {
            if meta.status == EventStatus::Missing {
                missing.push(id);
            }
        }
        Ok(missing)
    }
}
