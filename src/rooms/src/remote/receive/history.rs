//! Gaps in the timeline: the events in them are asked for when a reader comes to one.
//!
//! Specification: server-server API, "Backfilling and retrieving missing events". Such events pass the same checks
//! as any other, but they move no head: they only get their place among the events that clients page through,
//! just before the event after the gap, or before the room's first event.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use event::Pdu;
use ruma::{EventId, OwnedEventId, RoomId};
use state_tree::{EventNum, Overlay, Root};
use store::{CommitError, Json, Position};

use super::{Intake, authority::sorted, gap::Before, outcome::unless_store_failed};
use crate::{
    Rooms, RoomsError,
    engine::turn::Turn,
    ports::Reach,
    tables::{Gaps, Timeline},
    timeline::{Direction, Gap, TimelineRange},
    types::{EventStatus, TimelineIndex},
};

/// Events asked for at once.
const HISTORY_EVENTS_MAX: usize = 100;

/// Servers that are asked for one gap.
const SERVERS_ASKED_MAX: usize = 3;

/// How long one server may take to fill a gap, with all that has to be asked for it.
const FILLED_WITHIN: Duration = Duration::from_secs(10);

/// States that are asked for to place the events of one answer.
const STATES_ASKED_MAX: usize = 5;

/// How often the events are placed again because another change was faster.
const ATTEMPTS_MAX: usize = 4;

impl Rooms {
    /// Asks other servers for the events in a gap, and puts those that pass into the timeline. Says whether the
    /// timeline changed.
    ///
    /// That nobody answers is no error: the gap stays.
    pub async fn backfill(&self, room: &RoomId, gap: &Gap) -> Result<bool, RoomsError> {
        let Some(_filling) = self.inner.filling.start(room) else { return Ok(false) };
        let view = self.inner.store.view().await?;
        let rules = self.rules(&view, room).await?;
        let range =
            TimelineRange { after: gap.index.predecessor(), before: None, direction: Direction::Forward, limit: 1 };
        let page = self.timeline(&view, room, range).await?;
        let Some((_, after)) = page.events.first() else { return Ok(false) };
        let after = self.present(&view, *after).await?;
        let sender = after.pdu.sender().server_name();
        let servers = self.servers_to_ask(&view, room, sender, SERVERS_ASKED_MAX + 1).await?;
        let others = servers.iter().filter(|server| *server != self.server_name());
        for server in others.take(SERVERS_ASKED_MAX) {
            let intake = Intake::new(self, room, rules, server, Reach::Network);
            match tokio::time::timeout(FILLED_WITHIN, intake.fill_from(gap)).await {
                Ok(Ok(true)) => return Ok(true),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    let outcome = unless_store_failed(error)?;
                    tracing::info!(room.id = %room, %server, "history not had: {outcome:?}");
                }
                Err(_) => tracing::info!(room.id = %room, %server, "history not had in time"),
            }
        }
        Ok(false)
    }
}

impl Intake<'_> {
    async fn fill_from(&self, gap: &Gap) -> Result<bool, RoomsError> {
        let answer = self.remote()?.backfill(self.origin, self.room, &gap.missing, HISTORY_EVENTS_MAX).await?;
        let mut answered = self.parse_all(&answer, HISTORY_EVENTS_MAX);
        let unverified = answered.iter().map(|(id, event)| (id.clone(), event.unverified().clone())).collect();
        let leading = self.leading_to(gap, unverified).await?;
        let ids: Vec<OwnedEventId> = leading.iter().map(Pdu::owned_event_id).collect();
        let not_held: HashSet<OwnedEventId> = self.not_held(&self.view().await?, ids).await?.into_iter().collect();
        // Nothing is checked, and no server asked for its keys, for what doesn't lead to the gap.
        answered.retain(|id, _| not_held.contains(id));
        let mut right = self.right_ones(self.verify_all(answered.into_values().collect()).await?);
        // What lies behind an event that can't be checked is history all the same.
        let mut history = Vec::with_capacity(leading.len());
        for pdu in leading {
            match not_held.contains(pdu.event_id()) {
                true => history.extend(right.remove(pdu.event_id())),
                false => history.push(pdu),
            }
        }
        let mut states_asked = 0;
        for pdu in &history {
            match self.keep_history(pdu, &mut states_asked).await {
                Ok(()) => {}
                Err(error) => {
                    let outcome = unless_store_failed(error)?;
                    tracing::info!(room.id = %self.room, event.id = %pdu.event_id(), "history not kept: {outcome:?}");
                }
            }
        }
        for _ in 0..ATTEMPTS_MAX {
            match self.place_history(gap, &history).await {
                Err(RoomsError::Commit(CommitError::Conflict)) => {}
                other => return other,
            }
        }
        Err(RoomsError::Busy)
    }

    /// The events of an answer that lead to the gap's end and aren't in the timeline yet, the earliest first. What
    /// is held already needn't be in the answer.
    async fn leading_to(&self, gap: &Gap, mut fetched: HashMap<OwnedEventId, Pdu>) -> Result<Vec<Pdu>, RoomsError> {
        let view = self.view().await?;
        let mut open = gap.missing.clone();
        let mut found: HashMap<OwnedEventId, Pdu> = HashMap::new();
        while let Some(id) = open.pop() {
            if found.contains_key(&id) || found.len() >= HISTORY_EVENTS_MAX {
                continue;
            }
            let held = self.rooms.event_by_id(&view, &id).await?;
            if let Some(held) = &held
                && self.rooms.meta(&view, held.num).await?.index.is_some()
            {
                continue;
            }
            let Some(pdu) = held.map(|event| event.pdu.as_received().clone()).or_else(|| fetched.remove(&id)) else {
                continue;
            };
            if pdu.room_id() != self.room {
                continue;
            }
            open.extend(pdu.prev_events().map(EventId::to_owned));
            found.insert(id, pdu);
        }
        Ok(sorted(found, |pdu| pdu.prev_events().map(EventId::to_owned).collect()))
    }

    /// Learns the states around an event and keeps it with them, accepted or rejected, without a place.
    async fn keep_history(&self, pdu: &Pdu, states_asked: &mut usize) -> Result<(), RoomsError> {
        let view = self.view().await?;
        if let Some(num) = self.rooms.num(&view, pdu.event_id()).await?
            && !self.rooms.meta(&view, num).await?.after.is_empty()
        {
            return Ok(());
        }
        self.fetch_authority(pdu).await?;
        if pdu.is_state("m.room.create", "") && pdu.prev_events().len() == 0 {
            return self.keep_unplaced(pdu.clone(), Before::computed(Root::EMPTY, Overlay::new())).await;
        }
        if !self.without_state(pdu).await?.is_empty() {
            if *states_asked >= STATES_ASKED_MAX {
                return Ok(());
            }
            *states_asked += 1;
            return self.bridge(pdu.event_id()).await;
        }
        let event = self.name_event(pdu.clone()).await?;
        let mut overlay = Overlay::new();
        match self.state_before(&self.view().await?, &event, &mut overlay).await? {
            Some(before) => self.keep_unplaced(pdu.clone(), Before::computed(before, overlay)).await,
            None => Ok(()),
        }
    }

    /// Gives the accepted ones of these events, which come earliest first, their places in the timeline.
    async fn place_history(&self, gap: &Gap, history: &[Pdu]) -> Result<bool, RoomsError> {
        let mut turn = self.rooms.turn(self.room).await?;
        let key = (self.room, gap.index);
        let row = turn.view.get::<Gaps>(&key).await?;
        if row.is_none_or(|row| row.0 != gap.missing) {
            // Another reader was here first.
            return Ok(true);
        }
        let mut places = Places::before(&turn, gap.index).await?;
        let mut placed: HashMap<OwnedEventId, TimelineIndex> = HashMap::new();
        for pdu in history.iter().rev() {
            let Some(num) = self.rooms.num(&turn.view, pdu.event_id()).await? else { continue };
            let meta = turn.meta(num).await?;
            if meta.status == EventStatus::Accepted && meta.index.is_none() {
                let index = places.next();
                turn.place_in_history(num, index).await?;
                placed.insert(pdu.owned_event_id(), index);
            }
        }
        if placed.is_empty() {
            return Ok(false);
        }
        let known: HashMap<&EventId, &Pdu> = history.iter().map(|pdu| (pdu.event_id(), pdu)).collect();
        turn.batch.expect::<Gaps>(&key, Some(&Json(gap.missing.clone())));
        turn.note_gap(gap.index, self.still_missing(&turn, &gap.missing, &known, &placed).await?);
        for (id, index) in &placed {
            let Some(pdu) = known.get(&**id) else { continue };
            let prev: Vec<OwnedEventId> = pdu.prev_events().map(EventId::to_owned).collect();
            let missing = self.still_missing(&turn, &prev, &known, &placed).await?;
            if !missing.is_empty() {
                turn.note_gap(*index, missing);
            }
        }
        turn.submit(false).await?.await?;
        Ok(true)
    }

    /// Which of these events have no place, through those that are kept but not shown.
    async fn still_missing(
        &self,
        turn: &Turn,
        events: &[OwnedEventId],
        known: &HashMap<&EventId, &Pdu>,
        placed: &HashMap<OwnedEventId, TimelineIndex>,
    ) -> Result<Vec<OwnedEventId>, RoomsError> {
        let mut missing = Vec::new();
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        let mut open = events.to_vec();
        while let Some(id) = open.pop() {
            if placed.contains_key(&id) || !seen.insert(id.clone()) {
                continue;
            }
            let status = match self.rooms.num(&turn.view, &id).await? {
                Some(num) => {
                    let meta = turn.meta(num).await?;
                    if meta.index.is_some() {
                        continue;
                    }
                    meta.status
                }
                None => EventStatus::Missing,
            };
            match (status, known.get(&*id)) {
                (EventStatus::Rejected(_) | EventStatus::SoftFailed, Some(pdu)) => {
                    open.extend(pdu.prev_events().map(EventId::to_owned));
                }
                _ => missing.push(id),
            }
        }
        missing.sort();
        Ok(missing)
    }
}

/// The free places before an event, the nearest first.
enum Places {
    /// Between two events.
    Between(TimelineIndex),
    /// Before the first one.
    Before(u64),
}

impl Places {
    async fn before(turn: &Turn, index: TimelineIndex) -> Result<Self, RoomsError> {
        let range = TimelineRange { after: None, before: Some(index), direction: Direction::Backward, limit: 1 };
        let page = turn.rooms.timeline(&turn.view, &turn.room, range).await?;
        Ok(match (page.events.is_empty(), index.era) {
            (false, _) => Self::Between(index),
            (true, 0) => Self::Before(index.major.get()),
            (true, _) => Self::Before(TimelineIndex::HISTORY_START),
        })
    }

    fn next(&mut self) -> TimelineIndex {
        match self {
            Self::Between(last) => {
                // Half of all numbers lie below a live event's, more than any gap has events.
                *last = TimelineIndex { minor: last.minor.saturating_sub(1), ..*last };
                *last
            }
            Self::Before(major) => {
                *major = major.saturating_sub(1);
                let major = Position::from_u64(*major);
                TimelineIndex { era: 0, major, minor: TimelineIndex::LIVE_MINOR }
            }
        }
    }
}

impl Turn {
    async fn place_in_history(&mut self, num: EventNum, index: TimelineIndex) -> Result<(), RoomsError> {
        let event = self.rooms.present(&self.view, num).await?;
        let meta = self.meta(num).await?;
        let redacted_by = self.redaction_of(&event).await?;
        self.change_meta(num, |meta| {
            meta.index = Some(index);
            meta.redacted_by = redacted_by;
        })
        .await?;
        self.batch.put::<Timeline>(&(&self.room, index), &num);
        self.index(&event, index, redacted_by).await?;
        self.redact_target(&event, meta.before).await
    }

    /// Notes what is missing before an event, or that nothing is.
    fn note_gap(&mut self, index: TimelineIndex, missing: Vec<OwnedEventId>) {
        let key = (&self.room, index);
        if missing.is_empty() {
            self.batch.delete::<Gaps>(&key);
        } else {
            self.batch.put::<Gaps>(&key, &Json(missing));
        }
    }
}
