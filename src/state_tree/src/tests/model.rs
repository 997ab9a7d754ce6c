//! The tree against a plain map: one root for one map however it came about, and every reader.

use std::collections::BTreeSet;

use proptest::{collection, prelude::*, sample::Index};

use super::{
    super::{Entry, Overlay, OwnedStateKey, Root, StateChange, StateKey},
    Model, World, build, entry, run,
};

/// Keys that a state is made of: few types, state keys of very different lengths.
const KEYS: u32 = 4_000;
const TYPES: [&str; 5] = ["", "a", "m.room.member", "m.room.member.x", "z"];

#[derive(Clone, Debug)]
struct Change {
    key: u32,
    value: Option<u8>,
}

fn key(number: u32, long: bool) -> OwnedStateKey {
    let event_type = if number.is_multiple_of(7) { TYPES[number as usize % TYPES.len()] } else { "m.room.member" };
    let pad = if long { "x".repeat(200 + (number % 50) as usize) } else { "x".repeat((number % 11) as usize) };
    (event_type, format!("@{number}{pad}:example.org").as_str()).into()
}

fn changes(sizes: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Change>> {
    let change = (0..KEYS, prop_oneof![3 => any::<u8>().prop_map(Some), 1 => Just(None)]);
    collection::vec(change.prop_map(|(key, value)| Change { key, value }), sizes)
}

fn owned(changes: &[Change], long: bool) -> Vec<(OwnedStateKey, Option<Entry>)> {
    let value = |change: &Change| {
        let value = u64::from(change.value?);
        Some(entry(value * 1_000_003 + u64::from(change.key), (value % 16) as u32))
    };
    changes.iter().map(|change| (key(change.key, long), value(change))).collect()
}

fn as_borrowed(changes: &[(OwnedStateKey, Option<Entry>)]) -> Vec<(StateKey<'_>, Option<Entry>)> {
    changes.iter().map(|(key, value)| (key.as_key(), *value)).collect()
}

fn apply_to_model(model: &mut Model, changes: &[(OwnedStateKey, Option<Entry>)]) {
    for (key, value) in changes {
        match value {
            Some(value) => model.insert(key.clone(), *value),
            None => model.remove(key),
        };
    }
}

fn model_diff(old: &Model, new: &Model) -> Vec<StateChange> {
    let keys: BTreeSet<&OwnedStateKey> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for key in keys {
        let (old, new) = (old.get(key).copied(), new.get(key).copied());
        if old != new {
            changes.push(StateChange { key: key.clone(), old, new });
        }
    }
    changes
}

/// Two states: one built in steps, and what further changes make of it.
async fn two_states(
    world: &World,
    steps: &[Vec<Change>],
    more: &[Change],
    long: bool,
) -> ((Root, Model), (Root, Model)) {
    let view = world.store.view().await.unwrap();
    let mut overlay = Overlay::new();
    let mut model = Model::new();
    let mut root = Root::EMPTY;
    for step in steps {
        let step = owned(step, long);
        apply_to_model(&mut model, &step);
        root = world.tree.apply(&world.source(&view, &[]), root, &as_borrowed(&step), &mut overlay).await.unwrap();
    }
    let more = owned(more, long);
    let mut model_after = model.clone();
    apply_to_model(&mut model_after, &more);
    // The second change builds on nodes that are not committed yet.
    let mut overlay_after = Overlay::new();
    let source = world.source(&view, &[]);
    let overlays = [&overlay];
    let source = super::Source { overlays: &overlays, ..source };
    let after = world.tree.apply(&source, root, &as_borrowed(&more), &mut overlay_after).await.unwrap();
    world.commit(&overlay).await;
    world.commit(&overlay_after).await;
    ((root, model), (after, model_after))
}

async fn check_reads(world: &World, root: Root, model: &Model) {
    let view = world.store.view().await.unwrap();
    let source = world.source(&view, &[]);
    let tree = world.cold();
    let whole: Vec<(OwnedStateKey, Entry)> = model.iter().map(|(key, entry)| (key.clone(), *entry)).collect();
    assert_eq!(tree.all(&source, root).await.unwrap(), whole);
    let tree = world.cold();
    let mut asked: Vec<OwnedStateKey> = model.keys().take(300).cloned().collect();
    asked.extend((0..KEYS).step_by(57).map(|number| key(number, false)));
    asked.reverse();
    let keys: Vec<StateKey<'_>> = asked.iter().map(OwnedStateKey::as_key).collect();
    let expected: Vec<Option<Entry>> = asked.iter().map(|key| model.get(key).copied()).collect();
    assert_eq!(tree.get_many(&source, root, &keys).await.unwrap(), expected);
    for (key, expected) in keys.iter().zip(expected) {
        assert_eq!(tree.get(&source, root, key.0, key.1).await.unwrap(), expected);
    }
    for event_type in TYPES.into_iter().chain(["m.room.membe", "zz"]) {
        let of_type: Vec<(Box<str>, Entry)> = model
            .iter()
            .filter(|(key, _)| &*key.event_type == event_type)
            .map(|(key, entry)| (key.state_key.clone(), *entry))
            .collect();
        assert_eq!(world.cold().range(&source, root, event_type).await.unwrap(), of_type);
        let rest: Vec<_> = whole.iter().filter(|(key, _)| &*key.event_type != event_type).cloned().collect();
        assert_eq!(tree.all_except_type(&source, root, event_type).await.unwrap(), rest);
        let mut paged = Vec::new();
        let mut start: Box<str> = "".into();
        loop {
            let page = tree.range_page(&source, root, event_type, &start, 37).await.unwrap();
            assert!(page.entries.len() <= 37);
            paged.extend(page.entries);
            let Some(next) = page.next else { break };
            start = next;
        }
        assert_eq!(paged, of_type);
    }
    let highest = model.values().map(|entry| entry.generation).max();
    assert_eq!(tree.highest_generation(&source, root).await.unwrap(), highest);
}

async fn check_diffs(world: &World, old: &(Root, Model), new: &(Root, Model)) {
    let view = world.store.view().await.unwrap();
    let source = world.source(&view, &[]);
    let tree = world.cold();
    let expected = model_diff(&old.1, &new.1);
    assert_eq!(tree.diff(&source, old.0, new.0).await.unwrap(), expected);
    assert_eq!(tree.diff(&source, new.0, old.0).await.unwrap(), model_diff(&new.1, &old.1));
    for event_type in TYPES {
        let of_type: Vec<_> = expected.iter().filter(|change| &*change.key.event_type == event_type).cloned().collect();
        assert_eq!(tree.diff_type(&source, old.0, new.0, event_type).await.unwrap(), of_type);
    }
    let mut paged = Vec::new();
    let mut start: OwnedStateKey = ("", "").into();
    loop {
        let page = tree.diff_page(&source, old.0, new.0, start.as_key(), 29).await.unwrap();
        paged.extend(page.changes);
        let Some(next) = page.next else { break };
        start = next;
    }
    assert_eq!(paged, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Steps of changes, one change of them all, and a build of the result give one root; and all readers agree with the map.
    #[test]
    fn one_map_one_root(
        first in changes(0..3_000),
        steps in collection::vec(changes(0..40), 0..12),
        more in changes(0..60),
        long: bool,
    ) {
        let world = World::new();
        run(async {
            let mut all_steps = vec![first];
            all_steps.extend(steps);
            let (before, after) = two_states(&world, &all_steps, &more, long).await;
            let view = world.store.view().await.unwrap();
            for (root, model) in [&before, &after] {
                assert_eq!(build(&world.cold(), model, &mut Overlay::new()), *root);
                check_reads(&world, *root, model).await;
            }
            let mut at_once = all_steps.concat();
            at_once.extend(more.iter().cloned());
            let at_once = owned(&at_once, long);
            let source = world.source(&view, &[]);
            let tree = world.cold();
            let root = tree.apply(&source, Root::EMPTY, &as_borrowed(&at_once), &mut Overlay::new()).await.unwrap();
            assert_eq!(root, after.0);
            check_diffs(&world, &before, &after).await;
            check_diffs(&world, &(Root::EMPTY, Model::new()), &after).await;
        });
    }

    /// Going back to a map gives its root again, one change at a time and in another order.
    #[test]
    fn changes_undone_leave_nothing(first in changes(0..400), more in changes(1..40), order: Vec<Index>, long: bool) {
        let world = World::new();
        run(async {
            let ((root, model), (after, model_after)) = two_states(&world, &[first], &more, long).await;
            let view = world.store.view().await.unwrap();
            let mut back: Vec<_> = model_diff(&model, &model_after);
            for (index, other) in order.iter().enumerate() {
                if !back.is_empty() {
                    let (at, other) = (index % back.len(), other.index(back.len()));
                    back.swap(at, other);
                }
            }
            let mut overlay = Overlay::new();
            let mut current = after;
            for change in &back {
                let source = world.source(&view, &[]);
                let undo = [(change.key.as_key(), change.old)];
                current = world.tree.apply(&source, current, &undo, &mut overlay).await.unwrap();
            }
            assert_eq!(current, root);
            assert_eq!(root == after, model == model_after);
        });
    }
}

#[test]
fn emptied_states_are_empty() {
    let world = World::new();
    run(async {
        let view = world.store.view().await.unwrap();
        let source = world.source(&view, &[]);
        let mut overlay = Overlay::new();
        let added: Vec<_> = (0..500).map(|number| (key(number, number % 3 == 0), Some(entry(1, 1)))).collect();
        let root = world.tree.apply(&source, Root::EMPTY, &as_borrowed(&added), &mut overlay).await.unwrap();
        let removed: Vec<_> = added.iter().map(|(key, _)| (key.as_key(), None)).collect();
        assert!(!root.is_empty());
        assert_eq!(world.tree.apply(&source, root, &removed, &mut overlay).await.unwrap(), Root::EMPTY);
        assert_eq!(world.tree.apply(&source, Root::EMPTY, &removed, &mut overlay).await.unwrap(), Root::EMPTY);
        assert_eq!(world.tree.build(&[], &mut overlay).unwrap(), Root::EMPTY);
        assert_eq!(world.tree.apply(&source, root, &[], &mut overlay).await.unwrap(), root);
        let same: Vec<_> = as_borrowed(&added);
        let mut unused = Overlay::new();
        let overlays = [&overlay];
        let source = super::Source { overlays: &overlays, ..source };
        assert_eq!(world.tree.apply(&source, root, &same, &mut unused).await.unwrap(), root);
        assert!(unused.is_empty());
    });
}

#[test]
fn another_secret_gives_another_root() {
    let model = super::big_room(10);
    let one = build(&super::StateTree::new([1; 32], 1024), &model, &mut Overlay::new());
    let two = build(&super::StateTree::new([2; 32], 1024), &model, &mut Overlay::new());
    assert_ne!(one, two);
}

#[test]
fn missing_nodes_are_an_error() {
    let world = World::new();
    run(async {
        let mut overlay = Overlay::new();
        let root = build(&world.tree, &super::big_room(2_000), &mut overlay);
        let view = world.store.view().await.unwrap();
        let source = world.source(&view, &[]);
        let tree = world.cold();
        assert!(tree.get(&source, root, "m.room.name", "").await.is_err());
        assert!(tree.all(&source, root).await.is_err());
        assert!(tree.diff(&source, root, Root::EMPTY).await.is_err());
        let mut unused = Overlay::new();
        let change = [(("m.room.name", ""), None)];
        assert!(tree.apply(&source, root, &change, &mut unused).await.is_err());
        assert!(unused.is_empty());
    });
}

#[test]
fn sweeping_leaves_what_is_reachable() {
    let world = World::new();
    run(async {
        let mut overlay = Overlay::new();
        let model = super::big_room(3_000);
        let old = build(&world.tree, &model, &mut overlay);
        let view = world.store.view().await.unwrap();
        let source = world.source(&view, &[]);
        let change = [(("m.room.name", ""), Some(entry(9_999_999, 9)))];
        let new = world.tree.apply(&source, old, &change, &mut overlay).await.unwrap();
        world.commit(&overlay).await;

        let view = world.store.view().await.unwrap();
        let source = world.source(&view, &[]);
        let mut marker = super::super::Marker::new([new, Root::EMPTY]);
        assert!(marker.marked().is_none());
        while !world.cold().mark(&source, &mut marker, 10).await.unwrap() {}
        assert!(marker.len() < overlay.len());
        let mut after = None;
        loop {
            let mut batch = store::Batch::new();
            let marked = marker.marked().unwrap();
            after = world.tree.sweep_page(&source, marked, after, 25, &mut batch).await.unwrap();
            world.store.commit(batch).await.unwrap();
            if after.is_none() {
                break;
            }
        }
        let view = world.store.view().await.unwrap();
        let source = world.source(&view, &[]);
        let rows = view.scan_all::<super::Nodes>(store::Range::prefix(&(&world.room,))).await.unwrap();
        assert_eq!(rows.len(), marker.len());
        assert_eq!(world.cold().all(&source, new).await.unwrap().len(), model.len());
        assert!(world.cold().all(&source, old).await.is_err());
    });
}
