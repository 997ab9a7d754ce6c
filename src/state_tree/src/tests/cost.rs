//! What changes and comparisons cost: bytes written and nodes read, in big rooms and with hostile keys.

use std::collections::BTreeSet;

use super::{
    super::{Overlay, OwnedStateKey, layout::NODE_BYTES_MAX, node::Node},
    Model, Root, StateKey, World, big_room, build, entry, run,
};

/// What one changed path of a room of 100,000 members may take, keys of the store included, in bytes.
const CHANGE_BYTES_MAX: usize = 20 * 1024;
/// Nodes from the top to an entry of such a room.
const HEIGHT_MAX: u64 = 6;

fn written(overlay: &Overlay) -> usize {
    overlay.bytes() + overlay.len() * ("!room:example.org".len() + 1 + size_of::<Root>())
}

fn nodes_of(overlay: &Overlay) -> impl Iterator<Item = &Node> {
    overlay.nodes().map(|node| &**node)
}

#[test]
fn a_change_in_a_room_of_100_000_members_is_small() {
    let world = World::new();
    run(async {
        let model = big_room(100_000);
        let mut base = Overlay::new();
        let root = build(&world.tree, &model, &mut base);
        let sizes: Vec<usize> = nodes_of(&base).map(Node::encoded_bytes).collect();
        assert!(sizes.iter().all(|size| *size <= NODE_BYTES_MAX));
        let items: usize = nodes_of(&base).map(Node::len).sum();
        let average = items / sizes.len();
        assert!((16..=48).contains(&average), "{average} items to a node");

        let view = world.store.view().await.unwrap();
        let overlays = [&base];
        let source = super::Source { room: &world.room, view: &view, overlays: &overlays };
        let mut worst = 0;
        let mut sum = 0;
        let mut most_nodes = 0;
        let rounds = 300;
        for round in 0..rounds {
            // In turn: a member changes, a member joins, the topic changes, a state is taken back.
            let number = round * 331;
            let known = format!("@user{number}:server{}.example.org", number % 97);
            let new = format!("@newcomer{number}:elsewhere.example.com");
            let event = Some(entry(10_000_000 + number, 7));
            let change = match round % 4 {
                0 => (("m.room.member", known.as_str()), event),
                1 => (("m.room.member", new.as_str()), event),
                2 => (("m.room.topic", ""), event),
                _ => (("m.room.member", known.as_str()), None),
            };
            let mut overlay = Overlay::new();
            let before = world.tree.node_reads().all;
            world.tree.apply(&source, root, &[change], &mut overlay).await.unwrap();
            let read = world.tree.node_reads().all - before;
            assert!(read <= 20 * HEIGHT_MAX, "{read} nodes read");
            worst = worst.max(written(&overlay));
            most_nodes = most_nodes.max(overlay.len());
            sum += written(&overlay);
        }
        println!(
            "{} nodes, {average} items each; a change: {} bytes, at most {worst} in {most_nodes} nodes",
            sizes.len(),
            sum / rounds as usize
        );
        assert!(worst < CHANGE_BYTES_MAX, "{worst} bytes written");
        assert!(sum / (rounds as usize) < CHANGE_BYTES_MAX / 2);
    });
}

#[test]
fn a_look_up_reads_one_path() {
    let world = World::new();
    run(async {
        let model = big_room(50_000);
        let mut base = Overlay::new();
        let root = build(&world.tree, &model, &mut base);
        let view = world.store.view().await.unwrap();
        let overlays = [&base];
        let source = super::Source { room: &world.room, view: &view, overlays: &overlays };
        for key in model.keys().step_by(997) {
            let before = world.tree.node_reads().all;
            world.tree.get(&source, root, &key.event_type, &key.state_key).await.unwrap().unwrap();
            assert!(world.tree.node_reads().all - before <= HEIGHT_MAX);
        }
        let before = world.tree.node_reads().all;
        assert_eq!(world.tree.all_except_type(&source, root, "m.room.member").await.unwrap().len(), 5);
        let read = world.tree.node_reads().all - before;
        assert!(read <= 4 * HEIGHT_MAX, "{read} nodes read for all but members");
    });
}

#[test]
fn a_comparison_reads_what_differs() {
    let world = World::new();
    run(async {
        let model = big_room(50_000);
        let mut overlay = Overlay::new();
        let root = build(&world.tree, &model, &mut overlay);
        let view = world.store.view().await.unwrap();
        let keys: Vec<OwnedStateKey> = model.keys().cloned().collect();
        for count in [1_usize, 3, 10, 100] {
            let source = world.source(&view, &[]);
            let mut changes: Vec<(StateKey<'_>, _)> = Vec::new();
            for (index, key) in keys.iter().step_by(keys.len() / count).take(count).enumerate() {
                changes.push((key.as_key(), if index % 3 == 2 { None } else { Some(entry(77_000_000, 3)) }));
            }
            let other = world.tree.apply(&source, root, &changes, &mut overlay).await.unwrap();
            let overlays = [&overlay];
            let source = super::Source { overlays: &overlays, ..source };
            let before = world.tree.node_reads().all;
            assert_eq!(world.tree.diff(&source, root, other).await.unwrap().len(), changes.len());
            let read = world.tree.node_reads().all - before;
            assert!(read <= 3 * HEIGHT_MAX * count as u64, "{read} nodes read for {count} changes");
        }
    });
}

/// State keys and types of the greatest length, alike but for their ends, so that nothing is shared and all runs are long.
fn hostile(count: u32) -> Model {
    let mut model = Model::new();
    for number in 0..count {
        let event_type = format!("{}{:06}", "t".repeat(249), number % 1_000);
        let state_key = format!("{}{number:06}", "k".repeat(249));
        model.insert((event_type.as_str(), state_key.as_str()).into(), entry(u64::MAX - u64::from(number), u32::MAX));
    }
    model
}

#[test]
fn hostile_keys_do_not_make_big_nodes() {
    let world = World::new();
    run(async {
        let model = hostile(6_000);
        let mut overlay = Overlay::new();
        let root = build(&world.tree, &model, &mut overlay);
        assert!(nodes_of(&overlay).all(|node| node.encoded_bytes() <= NODE_BYTES_MAX));
        let levels: BTreeSet<u8> = nodes_of(&overlay).map(Node::level).collect();
        assert!(levels.len() <= 16, "{} levels", levels.len());
        let view = world.store.view().await.unwrap();
        let overlays = [&overlay];
        let source = super::Source { room: &world.room, view: &view, overlays: &overlays };
        let mut worst = 0;
        for (index, (key, _)) in model.iter().step_by(97).enumerate() {
            let mut made = Overlay::new();
            let value = (index % 2 == 0).then(|| entry(5, 5));
            world.tree.apply(&source, root, &[(key.as_key(), value)], &mut made).await.unwrap();
            assert!(nodes_of(&made).all(|node| node.encoded_bytes() <= NODE_BYTES_MAX));
            worst = worst.max(written(&made));
        }
        println!("{} levels; a change: at most {worst} bytes", levels.len());
        assert!(worst <= 4 * CHANGE_BYTES_MAX, "{worst} bytes written");
    });
}
