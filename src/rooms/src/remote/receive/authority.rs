//! The events that authorise an event: fetched where they are missing, checked, kept as outliers.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use event::{Pdu, ReceivedPdu, RoomVersionRules};
use ruma::{EventId, OwnedEventId, RoomId};
use serde_json::value::RawValue;
use state_tree::EventNum;
use store::{BATCH_BYTES_MAX, Batch, CommitError, View};
use tokio::task::JoinSet;

use super::{
    Intake,
    verify::{AnswerEvents, CHECKED_AT_ONCE_MAX, Checked},
};
use crate::{
    RoomsError,
    engine::append::ATTEMPTS_MAX,
    events::put_body,
    ports::RemoteError,
    tables::{EventNums, Metas},
    types::{EventMeta, EventStatus, StoredEvent},
};

/// Events taken of one answer about what authorises an event.
const AUTH_EVENTS_MAX: usize = 2_000;

/// Events fetched one by one for one purpose. Whoever lacks more asks for many at once.
const FETCHED_SINGLY_MAX: usize = 100;

/// Events that are asked for one by one at the same time.
const FETCHED_AT_ONCE_MAX: usize = 5;

/// Servers that are asked for one event.
const SERVERS_ASKED_MAX: usize = 3;

/// Questions to others than the server that an event came from, so that nobody lets us flood them with questions.
pub(super) const ASKED_ELSEWHERE_MAX: usize = 10;

/// Outliers stored in one batch, beside its limit of bytes.
const OUTLIERS_AT_ONCE_MAX: usize = 200;

/// Events that were wanted and aren't held in the end.
#[derive(Default)]
pub(super) struct Lost {
    /// Those that no server that was asked gave.
    pub(super) not_given: usize,
    /// Why the last of all lost ones is.
    reason: Option<RemoteError>,
}

/// What came together of wanted events.
#[derive(Default)]
struct Gathered {
    right: HashMap<OwnedEventId, Pdu>,
    /// What authorises them, as far as it hasn't been looked for.
    authority: Vec<OwnedEventId>,
    lost: Lost,
}

impl Lost {
    /// Why an event that something depends on isn't held.
    pub(super) fn reason_for(self, id: &EventId) -> RemoteError {
        self.reason.unwrap_or_else(|| RemoteError::BadAnswer(format!("{id} isn't to be had")))
    }

    fn add(&mut self, id: &EventId, reason: RemoteError) {
        tracing::debug!(event.id = %id, "not had: {reason}");
        self.reason = Some(reason);
    }
}

impl Intake<'_> {
    /// Makes sure that the auth events of an event are held, and theirs.
    pub(super) async fn fetch_authority(&self, pdu: &Pdu) -> Result<(), RoomsError> {
        let missing = self.not_held(&self.view().await?, pdu.all_auth_events(self.rules)).await?;
        if missing.is_empty() {
            return Ok(());
        }
        // The whole chain in one answer, if the server gives it.
        let chain = self.remote()?.event_auth(self.origin, self.room, pdu.event_id()).await.unwrap_or_default();
        let answered = self.events_of(&chain, AUTH_EVENTS_MAX).await;
        let lost = self.fetch_and_keep(missing, answered).await?;
        match self.not_held(&self.view().await?, pdu.all_auth_events(self.rules)).await?.pop() {
            None => Ok(()),
            Some(id) => Err(lost.reason_for(&id).into()),
        }
    }

    /// Gets events and the events that authorise them, from an answer and else one by one, and keeps them as outliers. What can't
    /// be had or checked is left out, with all that it authorises; so is what an answer holds beside that.
    pub(super) async fn fetch_and_keep(
        &self,
        wanted: Vec<OwnedEventId>,
        answered: AnswerEvents<'_>,
    ) -> Result<Lost, RoomsError> {
        let view = self.view().await?;
        let mut gathered = Gathered::default();
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        let mut open = wanted;
        let mut singly = 0;
        loop {
            open.retain(|id| seen.insert(id.clone()));
            if open.is_empty() {
                break;
            }
            let (here, absent): (Vec<_>, Vec<_>) = open.drain(..).partition(|id| answered.contains_key(id));
            for ids in here.chunks(CHECKED_AT_ONCE_MAX) {
                let texts = ids.iter().filter_map(|id| answered.get(id));
                let received = texts.filter_map(|json| self.parse(json).ok()).collect();
                self.gather(received, &mut gathered).await?;
            }
            singly += absent.len();
            if singly > FETCHED_SINGLY_MAX {
                return Err(RemoteError::BadAnswer("too many events are missing".to_owned()).into());
            }
            let mut received = Vec::with_capacity(absent.len());
            for (id, answer) in self.fetch_singly(absent).await? {
                match answer {
                    Ok(event) => received.push(event),
                    Err(reason) => {
                        gathered.lost.not_given += 1;
                        gathered.lost.add(&id, reason);
                    }
                }
            }
            self.gather(received, &mut gathered).await?;
            let mut authority = std::mem::take(&mut gathered.authority);
            authority.retain(|id| !seen.contains(id));
            open = self.not_held(&view, authority).await?;
        }
        self.keep_outliers(&by_authority(gathered.right, self.rules)).await?;
        Ok(gathered.lost)
    }

    /// Checks events and sorts them into those that are right and those that are lost.
    async fn gather(&self, received: Vec<ReceivedPdu>, gathered: &mut Gathered) -> Result<(), RoomsError> {
        let ids: Vec<OwnedEventId> = received.iter().map(|event| event.unverified().owned_event_id()).collect();
        for (id, checked) in ids.into_iter().zip(self.verify_all(received).await?) {
            match checked {
                Checked::Right(pdu) | Checked::Altered(pdu) => {
                    self.count_told(pdu.json().get().len())?;
                    gathered.authority.extend(pdu.all_auth_events(self.rules));
                    gathered.right.insert(id, pdu);
                }
                Checked::Wrong(reason) => gathered.lost.add(&id, RemoteError::BadAnswer(reason)),
                Checked::Unknown(server) => gathered.lost.add(&id, RemoteError::NotReachable(server)),
            }
        }
        Ok(())
    }

    /// One event from another server, verified.
    pub(super) async fn fetch(&self, id: &EventId) -> Result<Pdu, RoomsError> {
        let Some((_, answer)) = self.fetch_singly(vec![id.to_owned()]).await?.pop() else {
            return Err(RemoteError::NotReachable(self.origin.to_owned()).into());
        };
        match self.verify_all(vec![answer?]).await?.pop() {
            Some(Checked::Right(pdu) | Checked::Altered(pdu)) => Ok(pdu),
            Some(Checked::Unknown(server)) => Err(RemoteError::NotReachable(server).into()),
            Some(Checked::Wrong(reason)) => Err(RemoteError::BadAnswer(reason).into()),
            None => Err(RemoteError::BadAnswer("no event".to_owned()).into()),
        }
    }

    /// Asks for events one by one, some at the same time, each at a few servers in turn.
    async fn fetch_singly(
        &self,
        ids: Vec<OwnedEventId>,
    ) -> Result<Vec<(OwnedEventId, Result<ReceivedPdu, RemoteError>)>, RoomsError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let view = self.view().await?;
        let servers = self.rooms.servers_to_ask(&view, self.room, self.origin, SERVERS_ASKED_MAX).await?;
        let mut answers = Vec::with_capacity(ids.len());
        let mut asking: JoinSet<(OwnedEventId, Result<ReceivedPdu, RemoteError>)> = JoinSet::new();
        for id in ids {
            if asking.len() >= FETCHED_AT_ONCE_MAX {
                answers.extend(asking.join_next().await.and_then(Result::ok));
            }
            self.remote()?;
            let (remote, room, rules) = (self.rooms.inner.ports.remote.clone(), self.room.to_owned(), self.rules);
            let (servers, elsewhere) = (servers.clone(), self.elsewhere.clone());
            asking.spawn(async move {
                let mut refusal = None;
                for (at, server) in servers.into_iter().enumerate() {
                    if at > 0 && elsewhere.fetch_add(1, Ordering::Relaxed) >= ASKED_ELSEWHERE_MAX {
                        break;
                    }
                    match remote.event(&server, &room, &id).await {
                        Ok(json) => match the_event(&json, &id, (&room, rules)) {
                            Ok(event) => return (id, Ok(event)),
                            Err(reason) => refusal = Some(RemoteError::BadAnswer(reason)),
                        },
                        Err(error) => refusal = Some(error),
                    }
                }
                let nobody = || RemoteError::BadAnswer("there is nobody to ask".to_owned());
                (id, Err(refusal.unwrap_or_else(nobody)))
            });
        }
        while let Some(answer) = asking.join_next().await {
            answers.extend(answer.ok());
        }
        // In an order that doesn't depend on who answers first.
        answers.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(answers)
    }

    /// Keeps events, each of which comes after those of them that authorise it, with what their auth events say of them. Those whose
    /// auth events aren't held are left out.
    async fn keep_outliers(&self, events: &[Pdu]) -> Result<(), RoomsError> {
        let mut rest = events;
        let mut attempts = 0;
        while !rest.is_empty() {
            match self.keep_some(rest).await {
                Ok(count) => {
                    rest = &rest[count..];
                    attempts = 0;
                }
                Err(RoomsError::Commit(CommitError::Conflict)) if attempts < ATTEMPTS_MAX => attempts += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Keeps as many as fit into one batch, and gives how many were dealt with.
    async fn keep_some(&self, events: &[Pdu]) -> Result<usize, RoomsError> {
        let view = self.view().await?;
        let mut batch = Batch::new();
        let mut names = Names { intake: self, view: &view, new: HashMap::new() };
        let mut fresh: HashMap<OwnedEventId, (Arc<StoredEvent>, bool)> = HashMap::new();
        let mut count = 0;
        for pdu in events.iter().take(OUTLIERS_AT_ONCE_MAX) {
            if batch.bytes() > BATCH_BYTES_MAX / 2 {
                break;
            }
            count += 1;
            let num = names.num_or_new(pdu.event_id(), &mut batch).await?;
            let read = view.get::<Metas>(&num).await?;
            if read.as_ref().is_some_and(|meta| meta.status != EventStatus::Missing) {
                continue;
            }
            let Some(authority) = self.authority_of(&view, pdu, &fresh).await? else { continue };
            let judges: Vec<Pdu> = authority.values().map(|(event, rejected)| judge(event, *rejected)).collect();
            let status = match self.judged_by(pdu, &judges) {
                Ok(()) => EventStatus::Outlier,
                Err(reason) => EventStatus::Rejected(reason),
            };
            let event = Arc::new(names.stored(pdu, num, &authority, &mut batch).await?);
            let mut meta = EventMeta::outlier(status.clone());
            meta.has_relations = read.as_ref().is_some_and(|meta| meta.has_relations);
            batch.expect::<Metas>(&num, read.as_ref());
            batch.put::<Metas>(&num, &meta);
            put_body(&mut batch, &event);
            fresh.insert(pdu.owned_event_id(), (event, matches!(status, EventStatus::Rejected(_))));
        }
        if !batch.is_empty() {
            let inner = &self.rooms.inner;
            inner.allowances.take(self.origin, batch.bytes(), inner.clock.now_ms())?;
            batch.relaxed();
            inner.store.commit(batch).await?;
        }
        for (event, _) in fresh.values() {
            self.rooms.inner.events.remember(event);
        }
        Ok(count)
    }

    /// The auth events of an event, each with whether it was rejected; `None` if one of them isn't held.
    async fn authority_of(
        &self,
        view: &View,
        pdu: &Pdu,
        fresh: &HashMap<OwnedEventId, (Arc<StoredEvent>, bool)>,
    ) -> Result<Option<HashMap<OwnedEventId, (Arc<StoredEvent>, bool)>>, RoomsError> {
        let mut authority = HashMap::new();
        for id in pdu.all_auth_events(self.rules) {
            let held = match fresh.get(&id) {
                Some(held) => held.clone(),
                None => {
                    let Some(event) = self.rooms.event_by_id(view, &id).await? else { return Ok(None) };
                    let status = self.rooms.meta(view, event.num).await?.status;
                    (event, matches!(status, EventStatus::Rejected(_)))
                }
            };
            authority.insert(id, held);
        }
        Ok(Some(authority))
    }

    /// The stored form of an event whose auth events are held: with numbers for it and for all that it names.
    pub(super) async fn name_event(&self, pdu: Pdu) -> Result<Arc<StoredEvent>, RoomsError> {
        let pdu = &pdu;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let mut names = Names { intake: self, view: &view, new: HashMap::new() };
            let num = names.num_or_new(pdu.event_id(), &mut batch).await?;
            let authority = self.authority_of(&view, pdu, &HashMap::new()).await?;
            let authority =
                authority.ok_or_else(|| RemoteError::BadAnswer("an event that authorises it is missing".to_owned()))?;
            let event = names.stored(pdu, num, &authority, &mut batch).await?;
            batch.relaxed();
            Ok((batch, Arc::new(event)))
        };
        self.rooms.inner.store.retry(decide).await
    }
}

/// Numbers of event ids, some of which a batch is about to give.
struct Names<'a> {
    intake: &'a Intake<'a>,
    view: &'a View,
    new: HashMap<OwnedEventId, EventNum>,
}

impl Names<'_> {
    async fn num_or_new(&mut self, id: &EventId, batch: &mut Batch) -> Result<EventNum, RoomsError> {
        if let Some(num) = self.new.get(id) {
            return Ok(*num);
        }
        let rooms = self.intake.rooms;
        if let Some(num) = rooms.num(self.view, id).await? {
            return Ok(num);
        }
        let num = rooms.inner.events.next_num().await?;
        batch.expect::<EventNums>(&id, None);
        batch.put::<EventNums>(&id, &num);
        self.new.insert(id.to_owned(), num);
        Ok(num)
    }

    /// The stored form of an event with this number.
    async fn stored(
        &mut self,
        pdu: &Pdu,
        num: EventNum,
        authority: &HashMap<OwnedEventId, (Arc<StoredEvent>, bool)>,
        batch: &mut Batch,
    ) -> Result<StoredEvent, RoomsError> {
        let mut prev = Vec::with_capacity(pdu.prev_events().len());
        for id in pdu.prev_events() {
            prev.push(self.num_or_new(id, batch).await?);
        }
        let mut auth = Vec::with_capacity(pdu.auth_events().len());
        let mut generation = 0;
        for (event, _) in pdu.auth_events().filter_map(|id| authority.get(id)) {
            generation = generation.max(event.generation.saturating_add(1));
            auth.push(event.num);
        }
        Ok(StoredEvent::new(num, pdu.clone(), auth, prev, generation))
    }
}

/// An auth event as the rules read it.
pub(super) fn judge(event: &StoredEvent, rejected: bool) -> Pdu {
    event.pdu.as_received().clone().with_rejected(rejected)
}

/// The event with this id, if that is what was answered.
fn the_event(
    json: &RawValue,
    id: &EventId,
    (room, rules): (&RoomId, &'static RoomVersionRules),
) -> Result<ReceivedPdu, String> {
    let event = ReceivedPdu::parse(json.get().as_bytes(), rules).map_err(|error| error.to_string())?;
    let pdu = event.unverified();
    match pdu.event_id() == id && pdu.room_id() == room {
        true => Ok(event),
        false => Err("another event than asked for".to_owned()),
    }
}

/// The ids that can be reached from `start` through what `back` says each leads back to, at most `max` of them, without those of
/// which it says nothing.
pub(super) fn reachable(
    start: impl IntoIterator<Item = OwnedEventId>,
    max: usize,
    back: impl Fn(&EventId) -> Option<Vec<OwnedEventId>>,
) -> HashSet<OwnedEventId> {
    let mut found = HashSet::new();
    let mut open: VecDeque<OwnedEventId> = start.into_iter().collect();
    while let Some(id) = open.pop_front() {
        if found.len() >= max {
            break;
        }
        if found.contains(&id) {
            continue;
        }
        if let Some(earlier) = back(&id) {
            found.insert(id);
            open.extend(earlier);
        }
    }
    found
}

/// Events in an order in which each comes after those of them that authorise it.
fn by_authority(events: HashMap<OwnedEventId, Pdu>, rules: &RoomVersionRules) -> Vec<Pdu> {
    sorted(events, |pdu| pdu.all_auth_events(rules))
}
/// Events in an order in which each comes after those of them that it leads back to. Events that lead back to themselves, which no
/// honest server sends, are left out.
pub(super) fn sorted(events: HashMap<OwnedEventId, Pdu>, back: impl Fn(&Pdu) -> Vec<OwnedEventId>) -> Vec<Pdu> {
    let mut ids: Vec<OwnedEventId> = events.keys().cloned().collect();
    ids.sort();
    let mut done: HashSet<OwnedEventId> = HashSet::new();
    let mut entered: HashSet<OwnedEventId> = HashSet::new();
    let mut order = Vec::with_capacity(events.len());
    for id in ids {
        let mut open = vec![(id, false)];
        while let Some((id, leave)) = open.pop() {
            let Some(pdu) = events.get(&id) else { continue };
            if leave {
                if done.insert(id) {
                    order.push(pdu.clone());
                }
                continue;
            }
            if !entered.insert(id.clone()) {
                continue;
            }
            open.push((id, true));
            for earlier in back(pdu) {
                if !entered.contains(&earlier) {
                    open.push((earlier, false));
                }
            }
        }
    }
    order
}
