//! The events that authorise an event: fetched where they are missing, checked, kept as outliers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use event::{Pdu, RoomVersionRules};
use ruma::{EventId, OwnedEventId};
use store::{Batch, CommitError, View};

use super::Intake;
use crate::{
    RoomsError,
    append::ATTEMPTS_MAX,
    events::Body,
    ports::RemoteError,
    tables::{Bodies, EventNums, Metas},
    types::{EventMeta, EventNum, EventStatus, StoredEvent},
};

/// Events fetched, one by one, to authorise one event.
const AUTH_EVENTS_FETCHED_MAX: usize = 500;

impl Intake<'_> {
    /// Makes sure that the auth events of an event are held, and theirs.
    pub(super) async fn fetch_authority(&self, pdu: &Pdu) -> Result<(), RoomsError> {
        let missing = self.not_held(&self.view(), pdu.all_auth_events(self.rules)).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let mut fetched: HashMap<OwnedEventId, Pdu> = HashMap::new();
        let remote = &self.rooms.inner.ports.remote;
        // The whole chain in one answer, if the server gives it.
        if let Ok(chain) = remote.event_auth(self.origin, self.room, pdu.event_id()).await {
            for json in chain.iter().take(AUTH_EVENTS_FETCHED_MAX) {
                if let Ok(event) = self.verify(json).await? {
                    fetched.insert(event.owned_event_id(), event);
                }
            }
        }
        self.fetch_and_keep(missing, fetched, AUTH_EVENTS_FETCHED_MAX).await
    }

    /// Fetches events and the events that authorise them until nothing is missing, and keeps them as outliers.
    pub(super) async fn fetch_and_keep(
        &self,
        wanted: Vec<OwnedEventId>,
        mut fetched: HashMap<OwnedEventId, Pdu>,
        asked_max: usize,
    ) -> Result<(), RoomsError> {
        let view = self.view();
        let mut needed: HashMap<OwnedEventId, Pdu> = HashMap::new();
        let mut open = wanted;
        let mut asked = 0;
        while let Some(id) = open.pop() {
            if needed.contains_key(&id) {
                continue;
            }
            let pdu = match fetched.remove(&id) {
                Some(pdu) => pdu,
                None => {
                    asked += 1;
                    if asked > asked_max {
                        return Err(RemoteError::BadAnswer("too many events are missing".to_owned()).into());
                    }
                    self.fetch(&id).await?
                }
            };
            open.extend(self.not_held(&view, pdu.all_auth_events(self.rules)).await?);
            needed.insert(id, pdu);
        }
        for pdu in by_authority(needed, self.rules) {
            self.keep_outlier(pdu).await?;
        }
        Ok(())
    }

    /// One event from another server, verified.
    pub(super) async fn fetch(&self, id: &EventId) -> Result<Pdu, RoomsError> {
        let mut refusal = None;
        for server in self.rooms.servers_to_ask(&self.view(), self.room, self.origin).await?.iter().take(3) {
            match self.rooms.inner.ports.remote.event(server, self.room, id).await {
                Ok(json) => match self.verify(&json).await? {
                    Ok(pdu) if pdu.event_id() == id => return Ok(pdu),
                    Ok(_) => refusal = Some(RemoteError::BadAnswer("another event than asked for".to_owned())),
                    Err(reason) => refusal = Some(RemoteError::BadAnswer(reason)),
                },
                Err(error) => refusal = Some(error),
            }
        }
        Err(refusal.unwrap_or_else(|| RemoteError::NotReachable(self.origin.to_owned())).into())
    }

    /// Keeps an event whose auth events are held, with what they say of it.
    pub(super) async fn keep_outlier(&self, pdu: Pdu) -> Result<Arc<StoredEvent>, RoomsError> {
        let verdict = self.check_by_auth_events(&self.view(), &pdu).await?;
        let status = match verdict {
            Ok(()) => EventStatus::Outlier,
            Err(reason) => EventStatus::Rejected(reason),
        };
        let event = self.name_event(pdu).await?;
        for _ in 0..ATTEMPTS_MAX {
            let read = self.view().get::<Metas>(&event.num).await?;
            if read.as_ref().is_some_and(|meta| meta.status != EventStatus::Missing) {
                return Ok(event);
            }
            let mut meta = EventMeta::outlier(status.clone());
            meta.has_relations = read.as_ref().is_some_and(|meta| meta.has_relations);
            let mut batch = Batch::new();
            batch.expect::<Metas>(&event.num, read.as_ref());
            batch.put::<Metas>(&event.num, &meta);
            batch.put::<Bodies>(&event.num, &Body::of(&event));
            batch.relaxed();
            match self.rooms.inner.store.commit(batch).await {
                Ok(_) => {
                    self.rooms.inner.events.remember(&event);
                    return Ok(event);
                }
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RoomsError::Busy)
    }

    /// The stored form of an event whose auth events are held: with numbers for it and for all that it names.
    pub(super) async fn name_event(&self, pdu: Pdu) -> Result<Arc<StoredEvent>, RoomsError> {
        for _ in 0..ATTEMPTS_MAX {
            let view = self.view();
            let mut batch = Batch::new();
            let num = self.num_or_new(&view, pdu.event_id(), &mut batch).await?;
            let mut prev = Vec::new();
            for id in pdu.prev_events() {
                prev.push(self.num_or_new(&view, id, &mut batch).await?);
            }
            let mut auth = Vec::new();
            let mut generation = 0;
            for id in pdu.auth_events() {
                let event = self.rooms.event_by_id(&view, id).await?;
                let event = event.ok_or_else(|| RemoteError::BadAnswer(format!("auth event {id} is missing")))?;
                generation = generation.max(event.generation.saturating_add(1));
                auth.push(event.num);
            }
            if !batch.is_empty() {
                batch.relaxed();
                match self.rooms.inner.store.commit(batch).await {
                    Ok(_) => {}
                    Err(CommitError::Conflict) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(Arc::new(StoredEvent::new(num, pdu, auth, prev, generation)));
        }
        Err(RoomsError::Busy)
    }

    async fn num_or_new(&self, view: &View, id: &EventId, batch: &mut Batch) -> Result<EventNum, RoomsError> {
        if let Some(num) = self.rooms.num(view, id).await? {
            return Ok(num);
        }
        let num = self.rooms.inner.events.next_num().await?;
        batch.expect::<EventNums>(&id, None);
        batch.put::<EventNums>(&id, &num);
        Ok(num)
    }
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
