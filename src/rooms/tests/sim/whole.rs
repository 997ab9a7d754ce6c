//! Resolution by the book: on whole states and whole auth chains, to compare with what the servers found at the cost of what differs.

use std::collections::{BTreeMap, HashMap};

use event::{
    Pdu, StateMap,
    resolve::{EventIdSet, auth_chain, conflicted_subgraph, resolve},
};
use rooms::{EventStatus, Root};
use ruma::{EventId, OwnedEventId, RoomId, events::StateEventType};
use store::View;

use crate::world::World;

/// Checks the state before every event of a server that has several different states before it; gives how many there were.
pub async fn check(seed: u64, world: &World, room: &RoomId, events: impl Iterator<Item = &OwnedEventId>) -> usize {
    let view = world.view().await;
    if world.rooms.head(&view, room).await.expect("a read").is_none() {
        // It never came in.
        return 0;
    }
    let mut checked = 0;
    for id in events {
        let Some(event) = world.rooms.event_by_id(&view, id).await.expect("a read") else { continue };
        let meta = world.rooms.meta(&view, event.num).await.expect("a read");
        if meta.state_fetched
            || meta.before.is_empty()
            || matches!(meta.status, EventStatus::Missing | EventStatus::Outlier)
        {
            continue;
        }
        let prevs = world.rooms.metas(&view, &event.prev).await.expect("a read");
        if prevs.iter().any(|prev| meta.index.is_some() && prev.index > meta.index) {
            // Only the state after that one was known when this came, as somebody told it.
            continue;
        }
        let mut roots: Vec<Root> = prevs.into_iter().map(|prev| prev.after).collect();
        roots.sort();
        roots.dedup();
        // One that is empty: this is where the server entered the room.
        if roots.len() < 2 || roots[0].is_empty() {
            continue;
        }
        check_resolution(seed, world, room, roots, (&format!("before {id}"), meta.before)).await;
        checked += 1;
    }
    checked
}

/// Checks that a state of a server is what several states of it resolve to.
pub async fn check_resolution(
    seed: u64,
    world: &World,
    room: &RoomId,
    roots: Vec<Root>,
    (when, resolved): (&str, Root),
) {
    let view = world.view().await;
    let rules = world.rooms.rules(&view, room).await.expect("rules");
    let mut forks = Vec::new();
    for root in roots {
        forks.push(whole_state(world, &view, room, root).await);
    }
    let events = all_events(world, &view, &forks).await;
    let fetch = |id: &EventId| events.get(id).cloned();
    let mut chains = Vec::new();
    for fork in &forks {
        // An event of the state itself is in its chain as well, see `snapshot::auth_difference`.
        let mut chain = auth_chain(fork.values(), fetch).expect("a chain");
        for id in fork.values() {
            chain.insert(id.clone());
        }
        chains.push(chain);
    }
    let subgraph = |conflicted: &_| conflicted_subgraph(conflicted, fetch).ok();
    let expected = resolve(rules, &forks, chains.clone(), fetch, subgraph).expect("resolved");
    let found = whole_state(world, &view, room, resolved).await;
    let sorted = |state: &StateMap| -> BTreeMap<String, OwnedEventId> {
        state.iter().map(|(key, id)| (format!("{key:?}"), id.clone())).collect()
    };
    if sorted(&expected) != sorted(&found) {
        let problem = problem(world, &forks, &chains, &events).await;
        let outcome = [&expected, &found].map(|state| differing(state, &[expected.clone(), found.clone()]));
        panic!("seed {seed}: the state of {} {when}\n{problem}by the book, found: {outcome:#?}", world.name);
    }
}

/// The entries of a state at which it differs from one of some states.
fn differing(state: &StateMap, states: &[StateMap]) -> BTreeMap<String, OwnedEventId> {
    let alone = state.iter().filter(|(key, id)| states.iter().any(|other| other.get(key) != Some(id)));
    alone.map(|(key, id)| (format!("{key:?}"), id.clone())).collect()
}

/// What was to resolve: how the states differ, and the events that are not in all auth chains.
async fn problem(
    world: &World,
    forks: &[StateMap],
    chains: &[EventIdSet],
    events: &HashMap<OwnedEventId, Pdu>,
) -> String {
    let mut text = String::new();
    for fork in forks {
        text += &format!("a fork: {:#?}\n", differing(fork, forks));
    }
    for (id, pdu) in events {
        let within: Vec<usize> = (0..chains.len()).filter(|fork| chains[*fork].contains(id)).collect();
        if within.len() == chains.len() {
            continue;
        }
        let stored = world.rooms.event_by_id(&world.view().await, id).await.expect("a read").expect("an event");
        let status = world.status(id).await;
        text += &format!("{id} in {within:?}, generation {}, {status:?}: {}\n", stored.generation, pdu.json().get());
    }
    text
}

async fn whole_state(world: &World, view: &View, room: &RoomId, root: Root) -> StateMap {
    let events = world.rooms.state(view, room, root).events().await.expect("a state");
    let key = |pdu: &Pdu| {
        let kind = StateEventType::from(pdu.event_type().to_owned());
        (kind, pdu.state_key().unwrap_or_default().to_owned())
    };
    events.iter().map(|event| (key(event.pdu.as_received()), event.pdu.owned_event_id())).collect()
}

/// The events of some states, and all that authorise them.
async fn all_events(world: &World, view: &View, states: &[StateMap]) -> HashMap<OwnedEventId, Pdu> {
    let mut events = HashMap::new();
    let mut open: Vec<OwnedEventId> = states.iter().flat_map(|state| state.values().cloned()).collect();
    while let Some(id) = open.pop() {
        if events.contains_key(&id) {
            continue;
        }
        let event = world.rooms.event_by_id(view, &id).await.expect("a read").expect("an event of a state");
        open.extend(event.pdu.auth_events().map(EventId::to_owned));
        events.insert(id, event.pdu.as_received().clone());
    }
    events
}
