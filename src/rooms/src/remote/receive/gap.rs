//! The events before an event: asked for where they are missing, and replaced by a state where they can't be had.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use event::Pdu;
use ruma::{EventId, OwnedEventId};
use state_tree::{Entry, Overlay, Root, StateKey};
use store::{Batch, View};

use super::{
    Gap, Intake, Place,
    authority::{reachable, sorted},
    outcome::unless_store_failed,
};
use crate::{
    RoomsError,
    events::put_body,
    ports::{MissingEvents, RemoteError, StateEvents},
    state::source,
    tables::{BackwardExtremities, Inbox, Metas},
    types::{EventMeta, EventStatus, StoredEvent},
};

/// Events asked for at once between what we have and a new event.
const GAP_EVENTS_MAX: usize = 50;

/// Events before an event that are kept one by one, each with the state before it.
const UNPLACED_MAX: usize = 5;

/// State events of a room that are fetched for the end of a gap.
const STATE_EVENTS_MAX: usize = 200_000;

/// Events of a state that are asked for one by one; if more are missing, all of it is asked for at once.
const FETCHED_SINGLY_MAX: usize = 20;

/// Events of a fetched state that may be missing, beside a tenth of it.
const LOST_MAX: usize = 10;

/// Events read at once.
const READ_AT_ONCE_MAX: usize = 1_000;

/// What became of a gap before an event.
#[derive(Default)]
pub(super) struct FilledGap {
    /// Events before it of which at most the state is known: between them and what the room has otherwise, events may be missing.
    pub(super) missing: Vec<OwnedEventId>,
    /// The state before the event, where it was fetched and doesn't follow from the events before it.
    pub(super) before: Option<Before>,
}

/// A state before an event.
pub(super) struct Before {
    pub(super) root: Root,
    /// Nodes of it, as far as they may not be stored yet.
    pub(super) overlay: Overlay,
    /// Whether it was fetched from another server.
    pub(super) fetched: bool,
}

impl Before {
    /// A state that follows from the events before it.
    pub(super) fn computed(root: Root, overlay: Overlay) -> Self {
        Self { root, overlay, fetched: false }
    }
}

impl Intake<'_> {
    /// Makes sure that the state after each event before `pdu` is known, or else the state before `pdu`.
    pub(super) async fn fill_gap(&self, pdu: &Pdu, gap: Gap) -> Result<FilledGap, RoomsError> {
        let mut missing = self.without_state(pdu).await?;
        if missing.is_empty() {
            return Ok(FilledGap::default());
        }
        if gap == Gap::Fill {
            self.ask_for_missing(pdu).await?;
            missing = self.without_state(pdu).await?;
        }
        if missing.len() > UNPLACED_MAX {
            // One question for what comes before it instead of many for each of those.
            let before = self.told_state(pdu.event_id()).await?;
            return Ok(FilledGap { missing, before: Some(before) });
        }
        for id in &missing {
            let error = match self.bridge(id).await {
                Ok(()) => continue,
                Err(error @ RoomsError::Remote(_)) => error,
                Err(error) => return Err(error),
            };
            // The other server may have a gap there itself, and know only what it was told for the event after it.
            return match self.told_state(pdu.event_id()).await {
                Ok(before) => Ok(FilledGap { missing, before: Some(before) }),
                Err(RoomsError::Remote(_)) => Err(error),
                Err(error) => Err(error),
            };
        }
        Ok(FilledGap { missing, before: None })
    }

    /// The events before `pdu` after which the state isn't known.
    pub(super) async fn without_state(&self, pdu: &Pdu) -> Result<Vec<OwnedEventId>, RoomsError> {
        let view = self.view().await?;
        let mut missing = Vec::new();
        for id in pdu.prev_events() {
            let known = match self.rooms.num(&view, id).await? {
                Some(num) => self.rooms.meta(&view, num).await?.has_state(),
                None => false,
            };
            if !known {
                missing.push(id.to_owned());
            }
        }
        Ok(missing)
    }

    /// Asks for the events between what we have and `pdu`, and takes in what comes, the earliest first.
    async fn ask_for_missing(&self, pdu: &Pdu) -> Result<(), RoomsError> {
        let head = self.rooms.head(&self.view().await?, self.room).await?.ok_or(RoomsError::RoomNotFound)?;
        let request = MissingEvents {
            earliest: head.extremities.iter().map(|extremity| extremity.event_id.clone()).collect(),
            latest: vec![pdu.owned_event_id()],
            limit: GAP_EVENTS_MAX,
            min_depth: 0,
        };
        let Ok(answer) = self.remote()?.missing_events(self.origin, self.room, request).await else {
            // The state may be had all the same.
            return Ok(());
        };
        let mut answered = self.parse_all(&answer, GAP_EVENTS_MAX);
        answered.remove(pdu.event_id());
        // Nothing is checked, and no server asked for its keys, for what doesn't lead to the event.
        let prev = |pdu: &Pdu| pdu.prev_events().map(ToOwned::to_owned).collect::<Vec<_>>();
        let leading = reachable(prev(pdu), GAP_EVENTS_MAX, |id| answered.get(id).map(|event| prev(event.unverified())));
        answered.retain(|id, _| leading.contains(id));
        let checked = self.verify_all(answered.into_values().collect()).await?;
        let events = self.right_ones(self.made_whole(checked).await?);
        let history = self.history_of(&events).await?;
        for event in sorted(events, prev) {
            let id = event.owned_event_id();
            let place = if history.contains(&id) { Place::History } else { Place::Head };
            match Box::pin(self.take(event, Gap::Bridge, place, None)).await {
                Ok(_) => {}
                // What follows it gets its state by request.
                Err(error) => {
                    let outcome = unless_store_failed(error)?;
                    tracing::debug!(room.id = %self.room, event.id = %id, "left out: {outcome:?}");
                }
            }
        }
        Ok(())
    }

    /// Those of the events that come before events which the room has: what fills a gap, and all that this leads back to.
    async fn history_of(&self, events: &HashMap<OwnedEventId, Pdu>) -> Result<HashSet<OwnedEventId>, RoomsError> {
        let view = self.view().await?;
        let mut open = Vec::new();
        for id in events.keys() {
            if let Some(num) = self.rooms.num(&view, id).await?
                && view.contains::<BackwardExtremities>(&num).await?
            {
                open.push(id.clone());
            }
        }
        let mut history = HashSet::new();
        while let Some(id) = open.pop() {
            let Some(pdu) = events.get(&id) else { continue };
            if history.insert(id) {
                open.extend(pdu.prev_events().map(ToOwned::to_owned));
            }
        }
        Ok(history)
    }

    /// Learns the state before an event from another server, and keeps the event with it but without a place in the timeline.
    pub(super) async fn bridge(&self, id: &EventId) -> Result<(), RoomsError> {
        let before = self.told_state(id).await?;
        let pdu = match self.rooms.event_by_id(&self.view().await?, id).await? {
            Some(event) => event.pdu.as_received().clone(),
            None => {
                let pdu = self.fetch(id).await?;
                self.fetch_authority(&pdu).await?;
                pdu
            }
        };
        self.keep_unplaced(pdu, before).await
    }

    /// The state before an event as another server tells it, of events that are held afterwards.
    async fn told_state(&self, id: &EventId) -> Result<Before, RoomsError> {
        let ids = self.remote()?.state_ids(self.origin, self.room, id).await?;
        if ids.state.len() > STATE_EVENTS_MAX || ids.auth_chain.len() > STATE_EVENTS_MAX {
            return Err(RemoteError::BadAnswer("a state is too large".to_owned()).into());
        }
        let all: Vec<OwnedEventId> = ids.state.iter().chain(&ids.auth_chain).cloned().collect();
        let missing = self.not_held(&self.view().await?, all).await?;
        let mut events = StateEvents::default();
        if missing.len() > FETCHED_SINGLY_MAX
            && let Ok(answer) = self.remote()?.state(self.origin, self.room, id).await
        {
            events = answer;
        }
        let mut answered = self.events_of(&events.auth_chain, STATE_EVENTS_MAX).await;
        answered.extend(self.events_of(&events.state, STATE_EVENTS_MAX).await);
        let lost = self.fetch_and_keep(missing, answered).await?;
        if lost.not_given > LOST_MAX + ids.state.len() / 10 {
            return Err(RemoteError::BadAnswer("too much of a state isn't to be had".to_owned()).into());
        }
        let mut overlay = Overlay::new();
        let root = self.state_of(&ids.state, &mut overlay).await?;
        self.rooms.store_nodes(self.room, &mut overlay).await?;
        self.check_create(root).await?;
        Ok(Before { root, overlay, fetched: true })
    }

    /// A state that doesn't hold the room's create event is none of this room, whoever tells it.
    async fn check_create(&self, root: Root) -> Result<(), RoomsError> {
        let view = self.view().await?;
        let entry = self.rooms.inner.tree.get(&source(&view, self.room), root, "m.room.create", "").await?;
        let create = self.rooms.info(&view, self.room).await?.map(|info| info.create);
        match entry.map(|entry| entry.event) == create {
            true => Ok(()),
            false => Err(RemoteError::BadAnswer("a state is without the room's create event".to_owned()).into()),
        }
    }

    /// The tree of a state given by ids of events that are held.
    pub(super) async fn state_of(&self, ids: &[OwnedEventId], overlay: &mut Overlay) -> Result<Root, RoomsError> {
        let view = self.view().await?;
        let mut events = Vec::with_capacity(ids.len());
        for ids in ids.chunks(READ_AT_ONCE_MAX) {
            let mut nums = Vec::with_capacity(ids.len());
            for id in ids {
                nums.extend(self.rooms.num(&view, id).await?);
            }
            let stored = self.rooms.events(&view, &nums).await?;
            for (event, meta) in stored.into_iter().zip(self.rooms.metas(&view, &nums).await?) {
                // What we reject is in no state of ours, whatever another server says.
                if let Some(event) = event
                    && event.pdu.state_key().is_some()
                    && event.pdu.room_id() == self.room
                    && !matches!(meta.status, EventStatus::Rejected(_))
                {
                    events.push(event);
                }
            }
        }
        let mut entries: Vec<(StateKey<'_>, Option<Entry>)> = Vec::with_capacity(events.len());
        for event in &events {
            let key = (event.pdu.event_type(), event.pdu.state_key().unwrap_or_default());
            entries.push((key, Some(Entry { event: event.num, generation: event.generation })));
        }
        Ok(self.rooms.inner.tree.apply(&source(&view, self.room), Root::EMPTY, &entries, overlay).await?)
    }

    /// Keeps an event without a place in the timeline, judged by the state before it.
    pub(super) async fn keep_unplaced(&self, pdu: Pdu, before: Before) -> Result<(), RoomsError> {
        let Before { root: before, mut overlay, fetched } = before;
        let event = self.name_event(pdu).await?;
        let view = self.view().await?;
        let by_own = self.check_by_auth_events(&view, event.pdu.as_received()).await?;
        let verdict = match by_own {
            Ok(()) => self.check_by_state(&view, event.pdu.as_received(), before, &overlay).await?,
            Err(reason) => Err(reason),
        };
        let (status, after) = match verdict {
            Ok(()) => (EventStatus::Accepted, self.apply(&view, before, &event, &mut overlay).await?),
            Err(reason) => (EventStatus::Rejected(reason), before),
        };
        let kept = EventMeta { before, after, state_fetched: fetched, ..EventMeta::outlier(status) };
        self.store_behind(event, kept, overlay, None).await?;
        Ok(())
    }

    /// Keeps an event behind those that the room has: with its state, without touching the head or the timeline. What is known of
    /// it already stays, unless that one's state was fetched and this one's wasn't, or it was rejected by a fetched state.
    pub(super) async fn store_behind(
        &self,
        event: Arc<StoredEvent>,
        kept: EventMeta,
        mut overlay: Overlay,
        inbox: Option<u64>,
    ) -> Result<EventStatus, RoomsError> {
        self.rooms.store_nodes(self.room, &mut overlay).await?;
        let (event, kept) = (&event, &kept);
        let decide = |view: View| async move {
            let read = view.get::<Metas>(&event.num).await?;
            if let Some(meta) = &read
                && !meta.after.is_empty()
                && (meta.is_settled() || (kept.state_fetched && meta.has_state()))
            {
                return Ok((Batch::new(), (meta.status.clone(), false)));
            }
            let mut meta = kept.clone();
            if let Some(read) = &read {
                (meta.redacted_by, meta.has_relations) = (read.redacted_by, read.has_relations);
            }
            let mut batch = Batch::new();
            batch.expect::<Metas>(&event.num, read.as_ref());
            batch.put::<Metas>(&event.num, &meta);
            put_body(&mut batch, event);
            batch.delete::<BackwardExtremities>(&event.num);
            if let Some(sequence) = inbox {
                batch.delete::<Inbox>(&(self.room, sequence));
            }
            batch.relaxed();
            Ok::<_, RoomsError>((batch, (kept.status.clone(), true)))
        };
        let (status, is_new) = self.rooms.inner.store.retry(decide).await?;
        if is_new {
            self.rooms.inner.events.remember(event);
        }
        Ok(status)
    }
}
