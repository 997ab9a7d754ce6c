//! The auth difference against the difference of whole auth chains, and what it costs.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use proptest::{collection, prelude::*, sample::Index};

use super::{
    super::{AuthDiffError, AuthEdges, EventEdges, FORKS_MAX, Overlay, OwnedStateKey, Reached, Root, auth_difference},
    Model, World, build, entry, run,
};
use crate::EventNum;

/// A room's state events.
#[derive(Default)]
struct Dag {
    events: BTreeMap<EventNum, EventEdges>,
    hide_keys: bool,
    asked: AtomicUsize,
}

impl Dag {
    fn add(&mut self, number: u64, key: (&str, &str), auth: &[u64]) {
        let auth: Arc<[EventNum]> = auth.iter().copied().map(EventNum).collect();
        let generation = auth.iter().map(|event| self.events[event].generation + 1).max().unwrap_or(0);
        self.events.insert(EventNum(number), EventEdges { generation, auth, key: Some(key.into()) });
    }

    fn put(&self, state: &mut Model, number: u64) {
        let edges = &self.events[&EventNum(number)];
        state.insert(edges.key.clone().unwrap(), entry(number, edges.generation));
    }

    /// The events of a state and everything that their auth events lead to.
    fn chain(&self, state: &Model) -> BTreeSet<EventNum> {
        let mut chain = BTreeSet::new();
        let mut ahead: Vec<EventNum> = state.values().map(|entry| entry.event).collect();
        while let Some(event) = ahead.pop() {
            if chain.insert(event) {
                ahead.extend(self.events[&event].auth.iter());
            }
        }
        chain
    }

    /// The auth difference without conflicted state events.
    fn difference(&self, states: &[Model]) -> Vec<Reached> {
        let mut masks: BTreeMap<EventNum, u64> = BTreeMap::new();
        for (fork, state) in states.iter().enumerate() {
            for event in self.chain(state) {
                *masks.entry(event).or_default() |= 1 << fork;
            }
        }
        let full = (1 << states.len()) - 1;
        for state in states {
            for (key, entry) in state {
                if states.iter().any(|other| other.get(key) != Some(entry)) {
                    masks.remove(&entry.event);
                }
            }
        }
        let partial = masks.into_iter().filter(|(_, mask)| *mask != full);
        partial.map(|(event, forks)| Reached { event, forks }).collect()
    }
}

impl AuthEdges for Dag {
    type Error = Infallible;

    async fn edges(&self, events: &[EventNum]) -> Result<Vec<EventEdges>, Infallible> {
        self.asked.fetch_add(events.len(), Ordering::Relaxed);
        let mut found = Vec::new();
        for event in events {
            let mut edges = self.events[event].clone();
            if self.hide_keys {
                edges.key = None;
            }
            found.push(edges);
        }
        Ok(found)
    }
}

/// One random event: its key, its auth events among those before it, and its number's place in a shuffle.
#[derive(Clone, Debug)]
struct Draft {
    key: u8,
    auth: Vec<Index>,
    place: u32,
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let draft = (0..60_u8, collection::vec(any::<Index>(), 0..4), any::<u32>());
    collection::vec(draft.prop_map(|(key, auth, place)| Draft { key, auth, place }), 1..160)
}

fn key_of(number: u8) -> (String, String) {
    let event_type = if number.is_multiple_of(6) { "m.room.power_levels" } else { "m.room.member" };
    (event_type.to_owned(), format!("@{number}:example.org"))
}

fn dag(drafts: &[Draft], hide_keys: bool) -> (Dag, Vec<u64>) {
    let mut numbers: Vec<u64> = (0..drafts.len() as u64).collect();
    numbers.sort_by_key(|number| drafts[*number as usize].place);
    let mut dag = Dag { hide_keys, ..Dag::default() };
    for (at, draft) in drafts.iter().enumerate() {
        let mut auth: Vec<u64> = Vec::new();
        for index in &draft.auth {
            if at > 0 {
                // Mostly events shortly before, sometimes any: deep graphs with short cuts.
                let near = at - 1 - index.index(at.min(5));
                let chosen = numbers[if index.index(4) == 0 { index.index(at) } else { near }];
                if !auth.contains(&chosen) {
                    auth.push(chosen);
                }
            }
        }
        let (event_type, state_key) = key_of(draft.key);
        dag.add(numbers[at], (&event_type, &state_key), &auth);
    }
    (dag, numbers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_difference_of_whole_chains(
        drafts in drafts(),
        base in collection::vec(any::<Index>(), 0..80),
        forks in collection::vec(collection::vec((any::<Index>(), 0..4_u8), 0..6), 1..6),
        hide_keys: bool,
    ) {
        let (dag, numbers) = dag(&drafts, hide_keys);
        let mut common = Model::new();
        for index in &base {
            dag.put(&mut common, *index.get(&numbers));
        }
        let mut states = Vec::new();
        for changes in &forks {
            let mut state = common.clone();
            for (index, what) in changes {
                let number = *index.get(&numbers);
                dag.put(&mut state, number);
                if *what == 0 {
                    state.remove(dag.events[&EventNum(number)].key.as_ref().unwrap());
                }
            }
            states.push(state);
        }
        let world = World::new();
        run(async {
            let mut overlay = Overlay::new();
            let roots: Vec<Root> = states.iter().map(|state| build(&world.tree, state, &mut overlay)).collect();
            let view = world.store.view().await.unwrap();
            let overlays = [&overlay];
            let source = super::Source { room: &world.room, view: &view, overlays: &overlays };
            let found = auth_difference(&world.tree, &source, &roots, &dag).await.unwrap();
            assert_eq!(found.events, dag.difference(&states));
            for conflict in &found.conflicts {
                let entries: Vec<_> = states.iter().map(|state| state.get(&conflict.key).copied()).collect();
                assert_eq!(conflict.entries, entries);
            }
            let keys: BTreeSet<&OwnedStateKey> = states.iter().flat_map(|state| state.keys()).collect();
            let alike = |key: &OwnedStateKey| states.iter().all(|state| state.get(key) == states[0].get(key));
            assert_eq!(found.conflicts.len(), keys.into_iter().filter(|key| !alike(key)).count());
        });
    }
}

const CREATE: u64 = 1;
const JOIN_RULES: u64 = 2;
const POWER: u64 = 10;
const MEMBERS: u64 = 1_000;

/// A room of many members with a history of power levels.
fn room(members: u64) -> (Dag, Model) {
    let mut dag = Dag::default();
    dag.add(CREATE, ("m.room.create", ""), &[]);
    dag.add(MEMBERS, ("m.room.member", "@0:example.org"), &[CREATE]);
    dag.add(POWER, ("m.room.power_levels", ""), &[CREATE, MEMBERS]);
    dag.add(JOIN_RULES, ("m.room.join_rules", ""), &[CREATE, MEMBERS, POWER]);
    for change in 1..50 {
        dag.add(POWER + change, ("m.room.power_levels", ""), &[CREATE, MEMBERS, POWER + change - 1]);
    }
    for member in 1..members {
        // Members came while different power levels held.
        let power = POWER + member % 50;
        let user = format!("@{member}:example.org");
        dag.add(MEMBERS + member, ("m.room.member", &user), &[CREATE, JOIN_RULES, power]);
    }
    let mut state = Model::new();
    for number in [CREATE, JOIN_RULES, POWER + 49] {
        dag.put(&mut state, number);
    }
    for member in 0..members {
        dag.put(&mut state, MEMBERS + member);
    }
    (dag, state)
}

#[test]
fn a_conflict_of_topics_costs_little() {
    let world = World::new();
    let (mut dag, state) = room(20_000);
    let mut forks = Vec::new();
    for (fork, number) in [(7, 900_001), (19_999, 900_002), (7, 900_003)] {
        dag.add(number, ("m.room.topic", ""), &[CREATE, POWER + 49, MEMBERS + fork]);
        let mut state = state.clone();
        dag.put(&mut state, number);
        forks.push(state);
    }
    run(async {
        let mut overlay = Overlay::new();
        let roots: Vec<Root> = forks.iter().map(|state| build(&world.tree, state, &mut overlay)).collect();
        let view = world.store.view().await.unwrap();
        let overlays = [&overlay];
        let source = super::Source { room: &world.room, view: &view, overlays: &overlays };
        let before = world.tree.node_reads().all;
        let found = auth_difference(&world.tree, &source, &roots, &dag).await.unwrap();
        let read = world.tree.node_reads().all - before;
        assert_eq!(found.events, dag.difference(&forks));
        assert!(found.events.is_empty());
        println!(
            "{} events walked, {} asked for, {read} nodes read",
            found.events_walked,
            dag.asked.load(Ordering::Relaxed)
        );
        assert!(found.events_walked < 40, "{} events walked", found.events_walked);
        assert!(read < 150, "{read} nodes read");
    });
}

/// A member joins on one side while another one leaves on the other, in a room whose members have changed their names
/// a different number of times, so that generations don't tell anything apart.
#[test]
fn a_conflict_of_members_costs_little() {
    let world = World::new();
    let (mut dag, mut state) = room(5_000);
    for member in 1..5_000 {
        let user = format!("@{member}:example.org");
        let mut previous = MEMBERS + member;
        for change in 0..member % 7 {
            let number = 1_000_000 + member * 10 + change;
            dag.add(number, ("m.room.member", &user), &[CREATE, JOIN_RULES, POWER + 49, previous]);
            dag.put(&mut state, number);
            previous = number;
        }
    }
    let leaver = state[&("m.room.member", "@3:example.org").into()].event.0;
    dag.add(900_001, ("m.room.member", "@new:example.org"), &[CREATE, JOIN_RULES, POWER + 49]);
    dag.add(900_002, ("m.room.member", "@3:example.org"), &[CREATE, POWER + 49, leaver]);
    let mut forks = vec![state.clone(), state];
    dag.put(&mut forks[0], 900_001);
    dag.put(&mut forks[1], 900_002);
    run(async {
        let mut overlay = Overlay::new();
        let roots: Vec<Root> = forks.iter().map(|state| build(&world.tree, state, &mut overlay)).collect();
        let view = world.store.view().await.unwrap();
        let overlays = [&overlay];
        let source = super::Source { room: &world.room, view: &view, overlays: &overlays };
        let before = world.tree.node_reads().all;
        let found = auth_difference(&world.tree, &source, &roots, &dag).await.unwrap();
        let read = world.tree.node_reads().all - before;
        assert_eq!(found.events, dag.difference(&forks));
        assert_eq!(found.conflicts.len(), 2);
        println!("{} events walked, {read} nodes read", found.events_walked);
        assert!(found.events_walked < 40, "{} events walked", found.events_walked);
        assert!(read < 100, "{read} nodes read");
    });
}

#[test]
fn a_conflict_of_power_levels_brings_their_chain() {
    let world = World::new();
    let (mut dag, state) = room(2_000);
    let mut forks = vec![state.clone(), state];
    for change in 0..5 {
        let previous = if change == 0 { POWER + 49 } else { 700_000 + change - 1 };
        dag.add(700_000 + change, ("m.room.power_levels", ""), &[CREATE, MEMBERS, previous]);
    }
    dag.put(&mut forks[1], 700_004);
    run(async {
        let mut overlay = Overlay::new();
        let roots: Vec<Root> = forks.iter().map(|state| build(&world.tree, state, &mut overlay)).collect();
        let view = world.store.view().await.unwrap();
        let overlays = [&overlay];
        let source = super::Source { room: &world.room, view: &view, overlays: &overlays };
        let found = auth_difference(&world.tree, &source, &roots, &dag).await.unwrap();
        assert_eq!(found.events, dag.difference(&forks));
        let only_second: Vec<u64> =
            found.events.iter().filter(|event| event.in_fork(1)).map(|event| event.event.0).collect();
        assert_eq!(only_second, [700_000, 700_001, 700_002, 700_003]);
        println!("{} events walked", found.events_walked);
        assert!(found.events_walked < 100);
    });
}

#[test]
fn equal_and_too_many_forks() {
    let world = World::new();
    let (dag, state) = room(100);
    run(async {
        let mut overlay = Overlay::new();
        let root = build(&world.tree, &state, &mut overlay);
        let view = world.store.view().await.unwrap();
        let overlays = [&overlay];
        let source = super::Source { room: &world.room, view: &view, overlays: &overlays };
        for forks in [vec![], vec![root], vec![root, root, root]] {
            let found = auth_difference(&world.tree, &source, &forks, &dag).await.unwrap();
            assert!(found.events.is_empty() && found.conflicts.is_empty());
        }
        let forks = vec![root; FORKS_MAX + 1];
        let refused = auth_difference(&world.tree, &source, &forks, &dag).await;
        assert!(matches!(refused, Err(AuthDiffError::TooManyForks(_))));
        let mut forks = vec![root; FORKS_MAX];
        forks[63] = Root::EMPTY;
        let found = auth_difference(&world.tree, &source, &forks, &dag).await.unwrap();
        // Power levels that were replaced are in the chain and not in the state.
        assert_eq!(found.conflicts.len(), state.len());
        assert_eq!(found.events.len(), dag.chain(&state).len() - state.len());
        assert!(found.events.iter().all(|event| event.in_fork(62) && !event.in_fork(63)));
    });
}

/// Callers run on threads that share tasks.
#[test]
fn futures_can_move_between_threads() {
    fn check(_: impl Future<Output: Sized> + Send) {}
    let world = World::new();
    let view = run(world.store.view()).unwrap();
    let source = world.source(&view, &[]);
    let tree = &world.tree;
    let mut overlay = Overlay::new();
    check(auth_difference(tree, &source, &[], &Dag::default()));
    check(tree.apply(&source, Root::EMPTY, &[(("a", "b"), None)], &mut overlay));
    check(tree.get_many(&source, Root::EMPTY, &[("a", "b")]));
    check(tree.visit_range(&source, Root::EMPTY, "a", |_, _| {}));
    check(tree.all_except_type(&source, Root::EMPTY, "a"));
    check(tree.diff_page(&source, Root::EMPTY, Root::EMPTY, ("", ""), 1));
}
