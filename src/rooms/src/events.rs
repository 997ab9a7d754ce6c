//! Events by number and by id: what never changes about them, cached, and what may change.

use std::{collections::HashSet, sync::Arc};

use event::Pdu;
use quick_cache::{Weighter, sync::Cache};
use ruma::{EventId, OwnedEventId};
use serde_json::value::RawValue;
use state_tree::EventNum;
use store::{Batch, Counter, Decode, DecodeError, Encode, EncodeValue, Reader, Text, Value, View, Writer};

use crate::{
    Rooms, RoomsError,
    tables::{Bodies, Edges, EventNums, Metas},
    types::{EventMeta, EventStatus, StoredEvent},
};

/// The version byte that starts every stored body.
const CODING: u8 = 1;

/// What a cached event weighs beside its JSON, in bytes: the parsed fields and the cache's own.
const EVENT_OVERHEAD_BYTES: u64 = 700;

/// What an entry of the id cache weighs, in bytes.
const ID_BYTES: u64 = 160;

/// A share of the cache budget for the numbers of event ids: one part in this many.
const ID_CACHE_SHARE: u64 = 8;

/// Edges read at once.
const EDGES_AT_ONCE_MAX: usize = 1_000;

/// A stored event body: the numbers of the events it names, and its JSON as received.
#[derive(Clone, Debug)]
pub struct Body {
    /// Its id.
    pub(crate) event_id: OwnedEventId,
    /// Numbers of its auth events.
    pub(crate) auth: Vec<EventNum>,
    /// Numbers of its prev events.
    pub(crate) prev: Vec<EventNum>,
    /// 1 + the highest generation of its auth events; 0 without any.
    pub(crate) generation: u32,
    /// Canonical JSON.
    pub(crate) json: String,
}

impl Body {
    /// The stored form of an event.
    pub(crate) fn of(event: &StoredEvent) -> Self {
        Self {
            event_id: event.pdu.owned_event_id(),
            auth: event.auth.to_vec(),
            prev: event.prev.to_vec(),
            generation: event.generation,
            json: event.pdu.as_received().json().get().to_owned(),
        }
    }

    fn into_event(self, num: EventNum) -> Result<StoredEvent, RoomsError> {
        let json = RawValue::from_string(self.json)
            .map_err(|error| RoomsError::corrupt(format!("body of {}: {error}", self.event_id)))?;
        let pdu = Pdu::from_stored(self.event_id, json)?;
        Ok(StoredEvent::new(num, pdu, self.auth, self.prev, self.generation))
    }
}

/// What is read of a state event to follow what authorises what, without its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edge {
    /// Its id.
    pub(crate) event_id: OwnedEventId,
    /// Numbers of its auth events.
    pub(crate) auth: Vec<EventNum>,
}

/// Writes what never changes about an event.
pub(crate) fn put_body(batch: &mut Batch, event: &StoredEvent) {
    batch.put::<Bodies>(&event.num, &Body::of(event));
    if event.pdu.state_key().is_some() {
        let edge = Edge { event_id: event.pdu.owned_event_id(), auth: event.auth.to_vec() };
        batch.put::<Edges>(&event.num, &edge);
    }
}

impl EncodeValue<Edge> for Edge {
    fn encode_value(&self, w: &mut Writer) {
        Encode::<u8>::encode(&CODING, w);
        encode_nums(&self.auth, w);
        Encode::<Text<OwnedEventId>>::encode(&self.event_id, w);
    }
}

impl Value for Edge {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(bytes);
        match u8::decode(r)? {
            CODING => {}
            stored if stored > CODING => return Err(DecodeError::Newer { stored, known: CODING }),
            _ => return Err(DecodeError::Invalid("edges of an event")),
        }
        let auth = decode_nums(r)?;
        let event_id = Text::<OwnedEventId>::decode(r)?.into_inner();
        r.finish()?;
        Ok(Self { event_id, auth })
    }
}

fn encode_nums(nums: &[EventNum], w: &mut Writer) {
    // The format of an event bounds both lists far below this.
    Encode::<u16>::encode(&u16::try_from(nums.len()).unwrap_or(u16::MAX), w);
    for num in nums.iter().take(usize::from(u16::MAX)) {
        Encode::<EventNum>::encode(num, w);
    }
}

fn decode_nums(r: &mut Reader<'_>) -> Result<Vec<EventNum>, DecodeError> {
    let count = u16::decode(r)?;
    let mut nums = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        nums.push(EventNum::decode(r)?);
    }
    Ok(nums)
}

impl EncodeValue<Body> for Body {
    fn encode_value(&self, w: &mut Writer) {
        Encode::<u8>::encode(&CODING, w);
        Encode::<u32>::encode(&self.generation, w);
        encode_nums(&self.auth, w);
        encode_nums(&self.prev, w);
        Encode::<Text<OwnedEventId>>::encode(&self.event_id, w);
        w.raw(self.json.as_bytes());
    }
}

impl Value for Body {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(bytes);
        match u8::decode(r)? {
            CODING => {}
            stored if stored > CODING => return Err(DecodeError::Newer { stored, known: CODING }),
            _ => return Err(DecodeError::Invalid("event body")),
        }
        let generation = u32::decode(r)?;
        let auth = decode_nums(r)?;
        let prev = decode_nums(r)?;
        let event_id = Text::<OwnedEventId>::decode(r)?.into_inner();
        let json = std::str::from_utf8(r.rest()).map_err(|_| DecodeError::Invalid("event JSON"))?;
        Ok(Self { event_id, auth, prev, generation, json: json.to_owned() })
    }
}

#[derive(Clone)]
struct EventWeight;

impl Weighter<EventNum, Arc<StoredEvent>> for EventWeight {
    fn weight(&self, _: &EventNum, event: &Arc<StoredEvent>) -> u64 {
        // The JSON is held whole, and its content once more.
        2 * event.pdu.as_received().json().get().len() as u64 + EVENT_OVERHEAD_BYTES
    }
}

#[derive(Clone)]
struct IdWeight;

impl Weighter<OwnedEventId, EventNum> for IdWeight {
    fn weight(&self, _: &OwnedEventId, _: &EventNum) -> u64 {
        ID_BYTES
    }
}

/// The caches of events. Neither a body nor the number of an id ever changes, so nothing is ever taken out but for space.
pub(crate) struct EventStore {
    bodies: Cache<EventNum, Arc<StoredEvent>, EventWeight>,
    nums: Cache<OwnedEventId, EventNum, IdWeight>,
    counter: Counter,
}

impl EventStore {
    pub(crate) fn new(counter: Counter, cache_bytes: u64) -> Self {
        let id_bytes = cache_bytes / ID_CACHE_SHARE;
        let body_bytes = cache_bytes - id_bytes;
        let items = |bytes: u64, each: u64| usize::try_from(bytes / each).unwrap_or(usize::MAX).max(16);
        Self {
            bodies: Cache::with_weighter(items(body_bytes, 4 * EVENT_OVERHEAD_BYTES), body_bytes, EventWeight),
            nums: Cache::with_weighter(items(id_bytes, ID_BYTES), id_bytes, IdWeight),
            counter,
        }
    }

    /// A number that no event has.
    pub(crate) async fn next_num(&self) -> Result<EventNum, RoomsError> {
        Ok(EventNum(self.counter.next().await?))
    }

    /// Puts an event into the cache. Right even before its batch is committed: a number is never given twice.
    pub(crate) fn remember(&self, event: &Arc<StoredEvent>) {
        self.bodies.insert(event.num, event.clone());
    }
}

impl Rooms {
    /// The number of an event id that was mentioned or stored, if any.
    pub async fn num(&self, view: &View, event_id: &EventId) -> Result<Option<EventNum>, RoomsError> {
        if let Some(num) = self.inner.events.nums.get(event_id) {
            return Ok(Some(num));
        }
        let num = view.get::<EventNums>(&event_id).await?;
        if let Some(num) = num {
            // Read from a published view, so it is certain.
            self.inner.events.nums.insert(event_id.to_owned(), num);
        }
        Ok(num)
    }

    /// An event's body, if it is stored.
    pub async fn event(&self, view: &View, num: EventNum) -> Result<Option<Arc<StoredEvent>>, RoomsError> {
        if let Some(event) = self.inner.events.bodies.get(&num) {
            return Ok(Some(event));
        }
        let Some(body) = view.get::<Bodies>(&num).await? else { return Ok(None) };
        let event = Arc::new(body.into_event(num)?);
        self.inner.events.remember(&event);
        Ok(Some(event))
    }

    /// The bodies of many events, in the order asked; `None` for those that aren't stored.
    pub async fn events(&self, view: &View, nums: &[EventNum]) -> Result<Vec<Option<Arc<StoredEvent>>>, RoomsError> {
        let mut found: Vec<_> = nums.iter().map(|num| self.inner.events.bodies.get(num)).collect();
        let absent: Vec<usize> = (0..nums.len()).filter(|at| found[*at].is_none()).collect();
        if absent.is_empty() {
            return Ok(found);
        }
        let keys: Vec<EventNum> = absent.iter().map(|at| nums[*at]).collect();
        let bodies = view.get_many::<Bodies>(&keys).await?;
        for (at, body) in absent.into_iter().zip(bodies) {
            let Some(body) = body else { continue };
            let event = Arc::new(body.into_event(nums[at])?);
            self.inner.events.remember(&event);
            found[at] = Some(event);
        }
        Ok(found)
    }

    /// The ids of state events, and the events that authorise them, directly or not, each once. Reads no bodies of state events.
    pub(crate) async fn ids_and_chain(
        &self,
        view: &View,
        nums: &[EventNum],
    ) -> Result<(Vec<OwnedEventId>, Vec<(EventNum, OwnedEventId)>), RoomsError> {
        let mut seen: HashSet<EventNum> = HashSet::new();
        let mut open = Vec::new();
        let mut ids = Vec::with_capacity(nums.len());
        for edge in self.edges(view, nums).await? {
            open.extend(edge.auth.into_iter().filter(|num| seen.insert(*num)));
            ids.push(edge.event_id);
        }
        let mut chain = Vec::new();
        while !open.is_empty() {
            let wave = std::mem::take(&mut open);
            for (num, edge) in wave.iter().zip(self.edges(view, &wave).await?) {
                open.extend(edge.auth.into_iter().filter(|num| seen.insert(*num)));
                chain.push((*num, edge.event_id));
            }
        }
        Ok((ids, chain))
    }

    async fn edges(&self, view: &View, nums: &[EventNum]) -> Result<Vec<Edge>, RoomsError> {
        let mut edges = Vec::with_capacity(nums.len());
        for nums in nums.chunks(EDGES_AT_ONCE_MAX) {
            for (num, edge) in nums.iter().zip(view.get_many::<Edges>(nums).await?) {
                edges.push(match edge {
                    Some(edge) => edge,
                    // Not a state event: it may be asked about all the same.
                    None => {
                        let event = self.present(view, *num).await?;
                        Edge { event_id: event.pdu.owned_event_id(), auth: event.auth.to_vec() }
                    }
                });
            }
        }
        Ok(edges)
    }

    /// A stored event by its id.
    pub async fn event_by_id(&self, view: &View, event_id: &EventId) -> Result<Option<Arc<StoredEvent>>, RoomsError> {
        match self.num(view, event_id).await? {
            Some(num) => self.event(view, num).await,
            None => Ok(None),
        }
    }

    /// What may change about an event; one that isn't stored is [`EventStatus::Missing`].
    pub async fn meta(&self, view: &View, num: EventNum) -> Result<EventMeta, RoomsError> {
        let stored = view.get::<Metas>(&num).await?;
        Ok(stored.unwrap_or_else(|| EventMeta::outlier(EventStatus::Missing)))
    }

    /// The metas of many events, in the order asked.
    pub async fn metas(&self, view: &View, nums: &[EventNum]) -> Result<Vec<EventMeta>, RoomsError> {
        let stored = view.get_many::<Metas>(nums).await?;
        Ok(stored.into_iter().map(|meta| meta.unwrap_or_else(|| EventMeta::outlier(EventStatus::Missing))).collect())
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;
    use testkit::{ManualClock, SeededRandom};

    use super::*;
    use crate::{Config, CreateRoom, Ports, TABLES};

    async fn rooms(store: &store::Store) -> Rooms {
        let (clock, random) = (Arc::new(ManualClock::default()), Arc::new(SeededRandom::new(store.boot_id())));
        let config = Config::new(owned_server_name!("here"));
        Rooms::open(config, store.clone(), clock, random, Ports::no_federation()).await.unwrap()
    }

    #[tokio::test]
    async fn ids_and_chains_of_state_are_read_without_bodies() {
        let store = store::Store::in_memory(&[TABLES]).await.unwrap();
        let made = rooms(&store).await;
        let creator = ruma::owned_user_id!("@alice:here");
        let room = made.create(&CreateRoom::new(creator)).await.unwrap();
        let view = store.view().await.unwrap();
        let root = made.head(&view, &room).await.unwrap().unwrap().root;
        let state = made.state(&view, &room, root).events().await.unwrap();
        let nums: Vec<EventNum> = state.iter().map(|event| event.num).collect();
        let mut batch = Batch::new();
        for num in &nums {
            batch.delete::<Bodies>(num);
        }
        store.commit(batch).await.unwrap();
        // Another one, which has nothing in memory.
        let cold = rooms(&store).await;
        let view = store.view().await.unwrap();
        assert!(cold.event(&view, nums[0]).await.unwrap().is_none());
        let (ids, chain) = cold.ids_and_chain(&view, &nums).await.unwrap();
        let expected: Vec<OwnedEventId> = state.iter().map(|event| event.pdu.owned_event_id()).collect();
        assert_eq!(ids, expected);
        assert!(!chain.is_empty() && chain.iter().all(|(_, id)| expected.contains(id)));
    }
}
