//! The auth difference of several states: what state resolution replays beside the conflicted events.
//!
//! The full auth chain of a state is taken as its events and everything that their auth events lead to. The auth
//! difference is what is in the chain of some fork and not of every fork (room versions 2 and later, "State
//! resolution", "Auth difference"). It is only ever used together with the conflicted state events ("Full conflicted
//! set"), so those are left out of the answer: most of what would have to be read to place them needn't be.
//!
//! Walking whole chains would cost the room. Instead each event found gets a mask of the forks whose chain it is in.
//! The walk starts from the conflicted events, each with the forks that have it, and hands masks on to auth events, the
//! highest generation first. An event whose mask is full can only fill those of its ancestors, so it is followed no further
//! than events with partial masks go down. What all forks have in common has the full mask. Of it are looked up the
//! entries at the keys of events found, which settles most of them; then, while partial masks are left, the common tree is
//! opened from its highest generation on, and only where it reaches above them. Masks only grow, so the order of
//! the walk decides its cost and never its result.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet},
    error::Error,
    future::Future,
    sync::Arc,
};

use store::StoreError;

use super::{
    Conflict, OwnedStateKey, Root, Source, StateKey, StateTree,
    node::{Item, ItemValue},
};
use crate::EventNum;

/// Forks compared at most: one bit of a mask each.
pub const FORKS_MAX: usize = 64;
/// Nodes of the common tree opened together at most.
const OPEN_NODES_MAX: usize = 64;
/// Steps of the walk before other tasks get their turn.
const STEPS_PER_TURN: usize = 256;

/// What the walk has to know of an event. It never changes.
#[derive(Clone, Debug)]
pub struct EventEdges {
    /// 1 + the highest generation of the auth events, 0 without any.
    pub generation: u32,
    /// The auth events.
    pub auth: Arc<[EventNum]>,
    /// The event's type and state key. Without it the result is the same, but more of the common tree has to be read.
    pub key: Option<OwnedStateKey>,
}

/// Looks up events by number.
pub trait AuthEdges: Sync {
    /// What goes wrong with a look-up.
    type Error: Error + Send;

    /// The edges of each of `events`, in their order. An event that is not held is an error.
    fn edges(&self, events: &[EventNum]) -> impl Future<Output = Result<Vec<EventEdges>, Self::Error>> + Send;
}

/// Why there is no auth difference.
#[derive(Debug, thiserror::Error)]
pub enum AuthDiffError<E> {
    /// More forks than [`FORKS_MAX`].
    #[error("{0} forks are too many to compare")]
    TooManyForks(usize),
    /// Reading a state failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Looking up events failed.
    #[error("looking up auth events failed: {0}")]
    Edges(E),
    /// A look-up answered for more or fewer events than it was asked for.
    #[error("a look-up of {asked} events gave {given}")]
    EdgesCount {
        /// Events asked for.
        asked: usize,
        /// Events answered.
        given: usize,
    },
}

/// An event that is in the auth chains of some forks and not of all, and in conflict in none.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub struct Reached {
    /// The event.
    pub event: EventNum,
    /// Bit *i* is set if the event is in the full auth chain of fork *i*.
    pub forks: u64,
}

impl Reached {
    /// Whether the event is in the full auth chain of the fork with this index.
    pub fn in_fork(&self, fork: usize) -> bool {
        fork < FORKS_MAX && self.forks & (1 << fork) != 0
    }
}

/// How forked states differ.
#[derive(Clone, Debug, Default)]
pub struct AuthDifference {
    /// The conflicted keys with what each fork has there.
    pub conflicts: Vec<Conflict>,
    /// The auth difference without the events in [`AuthDifference::conflicts`], by event number. With them it is the
    /// full conflicted set of room version 2.
    pub events: Vec<Reached>,
    /// The number of events that the walk has looked at, for metrics.
    pub events_walked: usize,
}

/// Compares forked states: their conflicts, and the difference of their full auth chains.
///
/// # Errors
///
/// If there are too many forks, or a state or an event can't be read.
pub async fn auth_difference<L: AuthEdges>(
    tree: &StateTree,
    src: &Source<'_>,
    forks: &[Root],
    lookup: &L,
) -> Result<AuthDifference, AuthDiffError<L::Error>> {
    if forks.len() > FORKS_MAX {
        return Err(AuthDiffError::TooManyForks(forks.len()));
    }
    let conflicts = tree.conflicts(src, forks).await?;
    let (Some(first), false) = (forks.first(), conflicts.is_empty()) else {
        return Ok(AuthDifference::default());
    };
    let mut walk = Walk {
        tree,
        src,
        lookup,
        common: *first,
        full: u64::MAX >> (FORKS_MAX - forks.len()),
        found: HashMap::new(),
        pending_partial: BTreeSet::new(),
        pending_full: BTreeSet::new(),
        partial: BTreeMap::new(),
        settled: HashSet::new(),
        closed: BinaryHeap::new(),
        conflicted: conflicts.iter().map(|conflict| conflict.key.as_key()).collect(),
    };
    for conflict in &conflicts {
        for (fork, entry) in conflict.entries.iter().enumerate() {
            if let Some(entry) = entry {
                walk.meet(entry.event, entry.generation, 1 << fork, Place::Conflict);
            }
        }
    }
    if let Some(highest) = tree.highest_generation(src, *first).await? {
        walk.closed.push((highest, *first));
    }
    walk.run().await?;
    let full = walk.full;
    let events_walked = walk.found.len();
    let mut events: Vec<Reached> = walk
        .found
        .into_iter()
        .filter(|(_, found)| found.mask != full && found.place != Place::Conflict)
        .map(|(event, found)| Reached { event, forks: found.mask })
        .collect();
    events.sort_unstable();
    Ok(AuthDifference { conflicts, events, events_walked })
}

/// Where an event was met.
#[derive(Copy, Clone, Eq, PartialEq)]
enum Place {
    /// At a conflicted key of some fork. Nobody asks whether its mask is full, so nothing is opened for its sake.
    Conflict,
    /// In the common state, or behind an auth event.
    Elsewhere,
}

/// An event that the walk has met.
struct Found {
    place: Place,
    generation: u32,
    /// The forks known to have it in their chain.
    mask: u64,
    /// The least generation of a full event that may still reach this one: a strict descendant, or, as long as we can't
    /// tell whether it is itself part of the common state, this event.
    reached_from: u32,
    auth: Option<Arc<[EventNum]>>,
}

struct Walk<'a, L> {
    tree: &'a StateTree,
    src: &'a Source<'a>,
    lookup: &'a L,
    /// A state that has everything that is common to all forks (beside what is conflicted).
    common: Root,
    full: u64,
    found: HashMap<EventNum, Found>,
    /// Events whose mask has grown since it was handed on and is not full, by generation.
    pending_partial: BTreeSet<(u32, EventNum)>,
    /// The same for full masks.
    pending_full: BTreeSet<(u32, EventNum)>,
    /// How many events with partial masks, other than conflicted ones, have this [`Found::reached_from`].
    partial: BTreeMap<u32, usize>,
    /// Keys whose entry in the common state has been met.
    settled: HashSet<OwnedStateKey>,
    /// Parts of the common tree not opened yet, by their highest generation.
    closed: BinaryHeap<(u32, Root)>,
    conflicted: HashSet<StateKey<'a>>,
}

impl<L: AuthEdges> Walk<'_, L> {
    async fn run(&mut self) -> Result<(), AuthDiffError<L::Error>> {
        let mut open_nodes = 1;
        let mut steps = 0_usize;
        loop {
            // Full events and parts of the common tree below this generation can't fill any mask that matters.
            let floor = self.partial.first_key_value().map(|(floor, _)| *floor);
            let batch = self.take_pending(floor);
            if !batch.is_empty() {
                self.hand_on(&batch).await?;
            } else if let Some(floor) = floor
                && self.closed.peek().is_some_and(|(highest, _)| *highest >= floor)
            {
                self.open(floor, open_nodes).await?;
                open_nodes = (open_nodes * 2).min(OPEN_NODES_MAX);
            } else {
                return Ok(());
            }
            steps += 1;
            if steps.is_multiple_of(STEPS_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The events to hand on next: those of the highest generation that has any, full ones only where they matter.
    fn take_pending(&mut self, floor: Option<u32>) -> Vec<EventNum> {
        let partial = self.pending_partial.last().map(|(generation, _)| *generation);
        let full = self.pending_full.last().map(|(generation, _)| *generation);
        let full = full.filter(|generation| floor.is_some_and(|floor| *generation >= floor));
        let Some(highest) = partial.max(full) else {
            return Vec::new();
        };
        let first = (highest, EventNum(0));
        let mut batch = self.pending_partial.split_off(&first);
        if full == Some(highest) {
            batch.append(&mut self.pending_full.split_off(&first));
        }
        batch.into_iter().map(|(_, event)| event).collect()
    }

    /// Hands the masks of `batch` on to the auth events.
    async fn hand_on(&mut self, batch: &[EventNum]) -> Result<(), AuthDiffError<L::Error>> {
        let unknown: Vec<EventNum> = batch
            .iter()
            .filter(|event| self.found.get(event).is_some_and(|found| found.auth.is_none()))
            .copied()
            .collect();
        for (event, edges) in unknown.iter().zip(self.edges(&unknown).await?) {
            if let Some(found) = self.found.get_mut(event) {
                found.auth = Some(edges.auth);
            }
        }
        // In order, so that equal walks ask for the same look-ups.
        let mut new: BTreeMap<EventNum, u64> = BTreeMap::new();
        for event in batch {
            let Some(found) = self.found.get(event) else { continue };
            let (mask, auth) = (found.mask, found.auth.clone());
            for ancestor in auth.iter().flat_map(|auth| auth.iter()) {
                if self.found.contains_key(ancestor) {
                    self.grow(*ancestor, mask);
                } else {
                    *new.entry(*ancestor).or_default() |= mask;
                }
            }
        }
        self.meet_ancestors(new).await
    }

    /// Meets events that were reached for the first time, and the common entries at the keys of those not yet full.
    async fn meet_ancestors(&mut self, new: BTreeMap<EventNum, u64>) -> Result<(), AuthDiffError<L::Error>> {
        let events: Vec<EventNum> = new.keys().copied().collect();
        let mut keys = Vec::new();
        for ((event, mask), edges) in new.into_iter().zip(self.edges(&events).await?) {
            let reached_from = edges.generation.saturating_add(u32::from(edges.key.is_some()));
            let (generation, auth) = (edges.generation, Some(edges.auth));
            let found = Found { place: Place::Elsewhere, generation, mask: 0, reached_from, auth };
            self.insert(event, found, mask);
            let Some(key) = edges.key.filter(|_| mask != self.full) else { continue };
            if !self.conflicted.contains(&key.as_key()) && self.settled.insert(key.clone()) {
                keys.push(key);
            }
        }
        let keys: Vec<StateKey<'_>> = keys.iter().map(OwnedStateKey::as_key).collect();
        for entry in self.tree.get_many(self.src, self.common, &keys).await?.into_iter().flatten() {
            self.meet(entry.event, entry.generation, self.full, Place::Elsewhere);
        }
        Ok(())
    }

    /// Opens up to `nodes_max` parts of the common tree that may hold events of generation `floor` or above.
    async fn open(&mut self, floor: u32, nodes_max: usize) -> Result<(), AuthDiffError<L::Error>> {
        let mut roots = Vec::new();
        while let Some((highest, root)) = self.closed.peek().copied() {
            if highest < floor || roots.len() == nodes_max {
                break;
            }
            self.closed.pop();
            roots.push(root);
        }
        for node in self.tree.load_many(self.src, &roots).await? {
            for index in 0..node.len() {
                let Item { key, value } = node.item(index);
                match value {
                    ItemValue::Child(child) => self.closed.push((child.highest, child.root)),
                    ItemValue::Entry(_) if self.conflicted.contains(&key) => {}
                    ItemValue::Entry(entry) => self.meet(entry.event, entry.generation, self.full, Place::Elsewhere),
                }
            }
        }
        Ok(())
    }

    /// Meets an event of a state. All forks that have it in their state are known, so only descendants can add to its mask.
    fn meet(&mut self, event: EventNum, generation: u32, mask: u64, place: Place) {
        if self.found.contains_key(&event) {
            self.grow(event, mask);
        } else {
            let reached_from = generation.saturating_add(1);
            self.insert(event, Found { place, generation, mask: 0, reached_from, auth: None }, mask);
        }
    }

    fn insert(&mut self, event: EventNum, found: Found, mask: u64) {
        if found.place == Place::Elsewhere {
            *self.partial.entry(found.reached_from).or_default() += 1;
        }
        self.found.insert(event, found);
        self.grow(event, mask);
    }

    /// Adds forks to the mask of an event that was met before.
    fn grow(&mut self, event: EventNum, mask: u64) {
        let Some(found) = self.found.get_mut(&event) else { return };
        if found.mask | mask == found.mask {
            return;
        }
        found.mask |= mask;
        let pending = (found.generation, event);
        if found.mask != self.full {
            self.pending_partial.insert(pending);
            return;
        }
        self.pending_partial.remove(&pending);
        self.pending_full.insert(pending);
        if found.place == Place::Elsewhere
            && let Some(count) = self.partial.get_mut(&found.reached_from)
        {
            *count -= 1;
            if *count == 0 {
                self.partial.remove(&found.reached_from);
            }
        }
    }

    async fn edges(&self, events: &[EventNum]) -> Result<Vec<EventEdges>, AuthDiffError<L::Error>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let edges = self.lookup.edges(events).await.map_err(AuthDiffError::Edges)?;
        if edges.len() != events.len() {
            return Err(AuthDiffError::EdgesCount { asked: events.len(), given: edges.len() });
        }
        Ok(edges)
    }
}
