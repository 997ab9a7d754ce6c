//! Resolution of several states to one, at the cost of what differs.
//!
//! The algorithms are `event::resolve`'s. They want whole states and whole auth chains; here they are given the conflicted
//! keys, every key of the common state that authorising the full conflicted set reads, and the auth difference that the
//! state trees know how to find. Of the answer count the conflicted keys, where absence is an answer too, and those that no fork has;
//! the rest is what all forks have in common.
//!
//! No room's turn waits for a resolution: who needs one gives the turn back, has it made [ahead](Rooms::resolve_ahead), and
//! comes again. If the states to resolve are others by then, it is made once more.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet, btree_map},
    sync::Arc,
};

use event::{
    Pdu, ResolveError, RoomVersionRules, StateMap, auth,
    resolve::{EventIdSet, resolve},
};
use quick_cache::{Weighter, sync::Cache};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, events::StateEventType};
use state_tree::{
    AuthDiffError, AuthEdges, Conflict, Entry, EventEdges, EventNum, Overlay, OwnedStateKey, Root, Source,
    auth_difference,
};
use store::{Batch, View};

use crate::{
    Rooms, RoomsError,
    cpu::{Cpu, CpuShare},
    types::StoredEvent,
};

/// Full conflicted sets up to this size are resolved on the spot, larger ones on a thread of their own, a few at a time.
const INLINE_EVENTS_MAX: usize = 200;

/// How often the algorithm may ask for more events than were loaded beforehand.
const LOAD_ROUNDS_MAX: usize = 100;

/// Events of a full conflicted set, or of what authorises it, beyond which states are not resolved.
const CONFLICTED_EVENTS_MAX: usize = 200_000;

/// Events read before other tasks get their turn.
const READS_PER_TURN: usize = 256;

/// Nodes of state trees in one batch, in bytes.
const CHUNK_BYTES_MAX: usize = 512 * 1024;

/// How to get the resolution of several states from one of them: the one that needs the fewest changes.
struct Changes {
    base: Root,
    changes: Vec<(OwnedStateKey, Option<Entry>)>,
}

type Outcome = Arc<Changes>;

/// States to resolve outside of a room's turn, with what queued batches hold of them.
pub(crate) struct Fork {
    pub(crate) room: OwnedRoomId,
    pub(crate) rules: &'static RoomVersionRules,
    pub(crate) view: View,
    /// Each once, in order.
    pub(crate) roots: Vec<Root>,
    pub(crate) overlays: Vec<Arc<Overlay>>,
    pub(crate) events: HashMap<EventNum, Arc<StoredEvent>>,
}

/// Resolutions made for one operation, whose nodes are stored.
#[derive(Default)]
pub(crate) struct Ahead(Vec<(Vec<Root>, Root)>);

impl Ahead {
    pub(crate) fn get(&self, roots: &[Root]) -> Option<Root> {
        self.0.iter().find(|(forks, _)| forks == roots).map(|(_, resolved)| *resolved)
    }
}

/// What an outcome takes besides its changes, and each of these besides its key, in bytes.
const OUTCOME_OVERHEAD_BYTES: u64 = 100;

/// Weighs an outcome by its memory, in bytes.
#[derive(Clone)]
struct OutcomeWeight;

impl Weighter<Box<[Root]>, Outcome> for OutcomeWeight {
    fn weight(&self, roots: &Box<[Root]>, outcome: &Outcome) -> u64 {
        let key_bytes = |(key, _): &(OwnedStateKey, Option<Entry>)| key.event_type.len() + key.state_key.len();
        let keys: usize = outcome.changes.iter().map(key_bytes).sum();
        OUTCOME_OVERHEAD_BYTES * (1 + outcome.changes.len() as u64) + (keys + std::mem::size_of_val(&**roots)) as u64
    }
}

/// Outcomes by the set of roots. They are changes and not a root, because whether a root's nodes are stored is another question.
pub(crate) struct Resolutions {
    outcomes: Cache<Box<[Root]>, Outcome, OutcomeWeight>,
}

impl Resolutions {
    /// What is remembered takes about `cache_bytes` bytes.
    pub(crate) fn new(cache_bytes: u64) -> Self {
        let items = usize::try_from(cache_bytes / (4 * OUTCOME_OVERHEAD_BYTES)).unwrap_or(usize::MAX).max(16);
        Self { outcomes: Cache::with_weighter(items, cache_bytes, OutcomeWeight) }
    }
}

/// Events of batches that are queued and not published.
pub(crate) type Queued<'a> = &'a (dyn Fn(EventNum) -> Option<Arc<StoredEvent>> + Sync);

/// Where a resolution reads events.
struct Reader<'a> {
    rooms: &'a Rooms,
    source: &'a Source<'a>,
    queued: Queued<'a>,
}

impl Reader<'_> {
    async fn event(&self, num: EventNum) -> Result<Arc<StoredEvent>, RoomsError> {
        if let Some(event) = (self.queued)(num) {
            return Ok(event);
        }
        let event = self.rooms.event(self.source.view, num).await?;
        event.ok_or_else(|| RoomsError::corrupt(format!("event {} has no body", num.0)))
    }
}

impl AuthEdges for Reader<'_> {
    type Error = RoomsError;

    async fn edges(&self, events: &[EventNum]) -> Result<Vec<EventEdges>, RoomsError> {
        let mut edges = Vec::with_capacity(events.len());
        for num in events {
            let event = self.event(*num).await?;
            let key = event.pdu.state_key().map(|state_key| OwnedStateKey {
                event_type: event.pdu.event_type().into(),
                state_key: state_key.into(),
            });
            edges.push(EventEdges { generation: event.generation, auth: event.auth.clone(), key });
        }
        Ok(edges)
    }
}

impl From<AuthDiffError<RoomsError>> for RoomsError {
    fn from(error: AuthDiffError<RoomsError>) -> Self {
        match error {
            AuthDiffError::Store(error) => error.into(),
            AuthDiffError::Edges(error) => error,
            AuthDiffError::TooManyForks(count) => Self::TooLarge(format!("{count} states to resolve")),
            AuthDiffError::EdgesCount { .. } => Self::corrupt(error.to_string()),
        }
    }
}

/// What the algorithm is given.
struct Problem {
    rules: &'static RoomVersionRules,
    forks: Vec<StateMap>,
    auth_chains: Vec<EventIdSet>,
    subgraph: EventIdSet,
    events: HashMap<OwnedEventId, Pdu>,
}

impl Problem {
    /// Runs the algorithm. Also gives the ids that it asked for in vain.
    fn run(&self) -> (Result<StateMap, ResolveError>, HashSet<OwnedEventId>) {
        let missed = RefCell::new(HashSet::new());
        let fetch = |id: &EventId| {
            let event = self.events.get(id).cloned();
            if event.is_none() {
                missed.borrow_mut().insert(id.to_owned());
            }
            event
        };
        let subgraph = |_: &_| Some(self.subgraph.clone());
        let result = resolve(self.rules, &self.forks, self.auth_chains.clone(), fetch, subgraph);
        (result, missed.into_inner())
    }
}

impl Rooms {
    /// The resolution of the states with these roots. New nodes go into `overlay`; `source` must see those that it has already.
    pub(crate) async fn resolve(
        &self,
        source: &Source<'_>,
        queued: Queued<'_>,
        rules: &'static RoomVersionRules,
        roots: &[Root],
        overlay: &mut Overlay,
    ) -> Result<Root, RoomsError> {
        let mut forks = roots.to_vec();
        forks.sort_unstable();
        forks.dedup();
        let Some(first) = forks.first().copied() else { return Ok(Root::EMPTY) };
        if forks.len() == 1 {
            return Ok(first);
        }
        let outcome = match self.inner.resolutions.outcomes.get(&*forks) {
            Some(outcome) => outcome,
            None => {
                let reader = Reader { rooms: self, source, queued };
                let outcome = Arc::new(self.resolve_forks(&reader, rules, &forks).await?);
                self.inner.resolutions.outcomes.insert(forks.into(), outcome.clone());
                outcome
            }
        };
        let changes: Vec<_> = outcome.changes.iter().map(|(key, entry)| (key.as_key(), *entry)).collect();
        Ok(self.inner.tree.apply(source, outcome.base, &changes, overlay).await?)
    }

    /// Resolves states outside of any turn, stores the nodes of the outcome, and adds it to `ahead`.
    pub(crate) async fn resolve_ahead(&self, fork: Fork, ahead: &mut Ahead) -> Result<(), RoomsError> {
        let mut overlay = Overlay::new();
        let resolved = {
            let overlays: Vec<&Overlay> = fork.overlays.iter().map(|overlay| &**overlay).collect();
            let source = Source { room: &fork.room, view: &fork.view, overlays: &overlays };
            let queued = |num: EventNum| fork.events.get(&num).cloned();
            self.resolve(&source, &queued, fork.rules, &fork.roots, &mut overlay).await?
        };
        self.store_nodes(&fork.room, &mut overlay).await?;
        ahead.0.push((fork.roots, resolved));
        Ok(())
    }

    /// Stores nodes of a state before the batch that makes something point to it, in chunks: they may be too many for one batch. Until
    /// then nothing reaches them, and what is left of an operation that failed is [swept](state_tree::StateTree::sweep_page) with the rest.
    pub(crate) async fn store_nodes(&self, room: &RoomId, overlay: &mut Overlay) -> Result<(), RoomsError> {
        while overlay.bytes_left() > 0 {
            let mut chunk = Batch::new();
            overlay.write_chunk(&mut chunk, room, CHUNK_BYTES_MAX);
            chunk.relaxed();
            if let Err(error) = self.inner.store.commit(chunk).await {
                overlay.restart_chunks();
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn resolve_forks(
        &self,
        reader: &Reader<'_>,
        rules: &'static RoomVersionRules,
        forks: &[Root],
    ) -> Result<Changes, RoomsError> {
        let difference = auth_difference(&self.inner.tree, reader.source, forks, reader).await?;
        let mut conflicts = difference.conflicts;
        let size = conflicts.len() + difference.events.len();
        check_size(size)?;
        // Taken before the events are read, so that those of a few only are in memory.
        let mut share = if size > INLINE_EVENTS_MAX { Some(self.inner.config.cpu.share().await) } else { None };
        let mut full: BTreeMap<EventNum, Arc<StoredEvent>> = BTreeMap::new();
        let mut conflicted = Vec::new();
        let entries: Vec<Entry> = conflicts.iter().flat_map(|conflict| &conflict.entries).flatten().copied().collect();
        for (read, entry) in entries.into_iter().enumerate() {
            give_way(read).await;
            if let btree_map::Entry::Vacant(place) = full.entry(entry.event) {
                place.insert(reader.event(entry.event).await?);
                conflicted.push(entry.event);
            }
        }
        let mut in_difference = EventIdSet::new();
        for (read, reached) in difference.events.iter().enumerate() {
            give_way(read).await;
            let event = reader.event(reached.event).await?;
            in_difference.insert(event.pdu.owned_event_id());
            full.insert(reached.event, event);
        }
        let mut subgraph = EventIdSet::new();
        if rules.state_res.v2_rules().is_some_and(|v2| v2.consider_conflicted_state_subgraph) {
            for event in conflicted_subgraph(reader, &conflicted).await? {
                subgraph.insert(event.pdu.owned_event_id());
                full.insert(event.num, event);
            }
        }
        if share.is_none() && full.len() > INLINE_EVENTS_MAX {
            share = Some(self.inner.config.cpu.share().await);
        }
        let (states, common) = self.fork_states(reader, rules, forks, &conflicts, &full).await?;
        let events = load_authority(reader, common, &full).await?;
        let mut auth_chains = vec![EventIdSet::new(); forks.len()];
        // In the chain of one fork and not of the others: that is all the algorithm asks of a chain.
        auth_chains[0] = in_difference;
        let problem = Problem { rules, forks: states, auth_chains, subgraph, events };
        let resolved = self.run_resolution(reader, problem, share.as_ref()).await?;
        drop(share);
        let regained = self.regained(reader, forks, &conflicts, &resolved).await?;
        conflicts.extend(regained);
        changes_of(forks, &conflicts, &full, &resolved)
    }

    /// The keys that no fork has and the resolution does. All of the full conflicted set is replayed, not only what the forks have: an event that
    /// authorises others comes back to a key from which an earlier resolution took it (room version 2, "State resolution", "Algorithm").
    async fn regained(
        &self,
        reader: &Reader<'_>,
        forks: &[Root],
        conflicts: &[Conflict],
        resolved: &StateMap,
    ) -> Result<Vec<Conflict>, RoomsError> {
        let conflicted: HashSet<(&str, &str)> = conflicts.iter().map(|conflict| conflict.key.as_key()).collect();
        let keys: Vec<(String, &str)> = resolved.keys().map(|(kind, key)| (kind.to_string(), &**key)).collect();
        let mut asked: Vec<(&str, &str)> = keys.iter().map(|(kind, key)| (&**kind, *key)).collect();
        asked.retain(|key| !conflicted.contains(key));
        let entries = self.inner.tree.get_many(reader.source, forks[0], &asked).await?;
        let absent = asked.into_iter().zip(entries).filter(|(_, entry)| entry.is_none());
        Ok(absent.map(|(key, _)| Conflict { key: key.into(), entries: vec![None; forks.len()] }).collect())
    }

    /// The forks' states at the conflicted keys and at those that authorising the full conflicted set reads.
    async fn fork_states(
        &self,
        reader: &Reader<'_>,
        rules: &RoomVersionRules,
        forks: &[Root],
        conflicts: &[Conflict],
        full: &BTreeMap<EventNum, Arc<StoredEvent>>,
    ) -> Result<(Vec<StateMap>, Vec<Arc<StoredEvent>>), RoomsError> {
        let conflicted: HashSet<(&str, &str)> = conflicts.iter().map(|conflict| conflict.key.as_key()).collect();
        let mut keys: HashSet<(String, String)> = HashSet::new();
        for kind in ["m.room.create", "m.room.power_levels", "m.room.join_rules"] {
            keys.insert((kind.to_owned(), String::new()));
        }
        for event in full.values() {
            let pdu = event.pdu.as_received();
            let types = auth::auth_types(pdu.kind(), pdu.sender(), pdu.state_key(), pdu.content(), rules);
            // An event that nothing can authorise is refused by the algorithm without reading state.
            for (kind, state_key) in types.unwrap_or_default() {
                keys.insert((kind.to_string(), state_key));
            }
        }
        keys.retain(|(kind, state_key)| !conflicted.contains(&(&**kind, &**state_key)));
        let keys: Vec<(String, String)> = keys.into_iter().collect();
        let asked: Vec<(&str, &str)> = keys.iter().map(|(kind, state_key)| (&**kind, &**state_key)).collect();
        let mut common = StateMap::new();
        let mut common_events = Vec::new();
        let entries = self.inner.tree.get_many(reader.source, forks[0], &asked).await?;
        for ((kind, state_key), entry) in asked.into_iter().zip(entries) {
            let Some(entry) = entry else { continue };
            let event = reader.event(entry.event).await?;
            common.insert((StateEventType::from(kind), state_key.to_owned()), event.pdu.owned_event_id());
            common_events.push(event);
        }
        let mut states = vec![common; forks.len()];
        for conflict in conflicts {
            let (kind, state_key) = conflict.key.as_key();
            for (state, entry) in states.iter_mut().zip(&conflict.entries) {
                let Some(event) = entry.and_then(|entry| full.get(&entry.event)) else { continue };
                state.insert((StateEventType::from(kind), state_key.to_owned()), event.pdu.owned_event_id());
            }
        }
        Ok((states, common_events))
    }

    /// Runs the algorithm, loading what it turns out to need, on a thread of its own if it is large.
    async fn run_resolution(
        &self,
        reader: &Reader<'_>,
        mut problem: Problem,
        share: Option<&CpuShare>,
    ) -> Result<StateMap, RoomsError> {
        for _ in 0..LOAD_ROUNDS_MAX {
            let (result, missed);
            if let Some(share) = share {
                let ran = Cpu::run(share, move || {
                    let ran = problem.run();
                    (problem, ran)
                });
                (problem, (result, missed)) = ran.await.map_err(ResolveError::Failed)?;
            } else {
                (result, missed) = problem.run();
            }
            let mut found = false;
            for id in missed {
                if let Some(event) = self.event_by_id(reader.source.view, &id).await? {
                    problem.events.insert(id, event.pdu.as_received().clone());
                    found = true;
                }
            }
            if !found {
                return Ok(result?);
            }
        }
        Err(ResolveError::Failed("it needs ever more events".to_owned()).into())
    }
}

/// The events on a path of auth events from one conflicted event to another, these included.
async fn conflicted_subgraph(
    reader: &Reader<'_>,
    conflicted: &[EventNum],
) -> Result<Vec<Arc<StoredEvent>>, RoomsError> {
    let mut found: HashMap<EventNum, Arc<StoredEvent>> = HashMap::new();
    let mut lowest = u32::MAX;
    for num in conflicted {
        let event = reader.event(*num).await?;
        lowest = lowest.min(event.generation);
        found.insert(*num, event);
    }
    // Ancestors, no further down than the lowest conflicted event: below it no path can end.
    let mut open: Vec<EventNum> = conflicted.to_vec();
    while let Some(num) = open.pop() {
        let auth = found.get(&num).map(|event| event.auth.clone()).unwrap_or_default();
        for ancestor in auth.iter() {
            if found.contains_key(ancestor) {
                continue;
            }
            give_way(found.len()).await;
            let event = reader.event(*ancestor).await?;
            if event.generation >= lowest {
                check_size(found.len())?;
                found.insert(*ancestor, event);
                open.push(*ancestor);
            }
        }
    }
    // Of these, the ones from which a conflicted event can be reached: auth events always have lower generations.
    let mut order: Vec<Arc<StoredEvent>> = found.into_values().collect();
    order.sort_by_key(|event| event.generation);
    let mut reaching: HashSet<EventNum> = conflicted.iter().copied().collect();
    for event in &order {
        if event.auth.iter().any(|ancestor| reaching.contains(ancestor)) {
            reaching.insert(event.num);
        }
    }
    order.retain(|event| reaching.contains(&event.num));
    Ok(order)
}

/// The events that the algorithm reads: the full conflicted set, what authorises it, and the history of power levels.
async fn load_authority(
    reader: &Reader<'_>,
    common: Vec<Arc<StoredEvent>>,
    full: &BTreeMap<EventNum, Arc<StoredEvent>>,
) -> Result<HashMap<OwnedEventId, Pdu>, RoomsError> {
    let mut loaded: HashMap<EventNum, Arc<StoredEvent>> =
        full.iter().map(|(num, event)| (*num, event.clone())).collect();
    let mut open: Vec<EventNum> = full.values().flat_map(|event| event.auth.iter().copied()).collect();
    for event in common {
        if is_power_levels(&event) {
            open.extend(event.auth.iter());
        }
        loaded.insert(event.num, event);
    }
    while let Some(num) = open.pop() {
        if loaded.contains_key(&num) {
            continue;
        }
        give_way(loaded.len()).await;
        let event = reader.event(num).await?;
        if is_power_levels(&event) {
            open.extend(event.auth.iter());
        }
        check_size(loaded.len())?;
        loaded.insert(num, event);
    }
    Ok(loaded.into_values().map(|event| (event.pdu.owned_event_id(), event.pdu.as_received().clone())).collect())
}

fn check_size(events: usize) -> Result<(), RoomsError> {
    match events > CONFLICTED_EVENTS_MAX {
        true => Err(RoomsError::TooLarge(format!("{events} events to resolve"))),
        false => Ok(()),
    }
}

fn is_power_levels(event: &StoredEvent) -> bool {
    event.pdu.event_type() == "m.room.power_levels"
}

/// Lets other tasks run now and then: what is cached is read without any waiting.
async fn give_way(done: usize) {
    if done % READS_PER_TURN == READS_PER_TURN - 1 {
        tokio::task::yield_now().await;
    }
}

/// The changes to one of the forks that give the resolved state.
fn changes_of(
    forks: &[Root],
    conflicts: &[Conflict],
    full: &BTreeMap<EventNum, Arc<StoredEvent>>,
    resolved: &StateMap,
) -> Result<Changes, RoomsError> {
    let by_id: HashMap<OwnedEventId, &Arc<StoredEvent>> =
        full.values().map(|event| (event.pdu.owned_event_id(), event)).collect();
    let mut outcome = Vec::with_capacity(conflicts.len());
    let mut differing = vec![0_usize; forks.len()];
    for conflict in conflicts {
        let (kind, state_key) = conflict.key.as_key();
        let entry = match resolved.get(&(StateEventType::from(kind), state_key.to_owned())) {
            None => None,
            Some(id) => {
                let event = by_id.get(id).ok_or_else(|| {
                    RoomsError::corrupt(format!("state resolution chose {id}, which was not in conflict"))
                })?;
                Some(Entry { event: event.num, generation: event.generation })
            }
        };
        for (differing, has) in differing.iter_mut().zip(&conflict.entries) {
            *differing += usize::from(*has != entry);
        }
        outcome.push(entry);
    }
    let base = (0..forks.len()).min_by_key(|fork| differing[*fork]).unwrap_or(0);
    let mut changes = Vec::with_capacity(differing[base]);
    for (conflict, entry) in conflicts.iter().zip(outcome) {
        if conflict.entries[base] != entry {
            changes.push((conflict.key.clone(), entry));
        }
    }
    Ok(Changes { base: forks[base], changes })
}
