//! Tests of the state tree.

mod auth;
mod cost;
mod model;
mod nodes;

use std::{collections::BTreeMap, future::Future};

use ruma::{OwnedRoomId, RoomId};
use store::{Batch, Store, TableInfo, View};

use super::{Entry, Nodes, Overlay, OwnedStateKey, Root, Source, StateKey, StateTree};
use crate::EventNum;

const SECRET: [u8; 32] = [7; 32];
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// What a state should be.
type Model = BTreeMap<OwnedStateKey, Entry>;

/// A store with one room.
struct World {
    store: Store,
    room: OwnedRoomId,
    tree: StateTree,
}

impl World {
    fn new() -> Self {
        Self {
            store: run(Store::in_memory(&[&[TableInfo::of::<Nodes>()]])).unwrap(),
            room: RoomId::parse("!room:example.org").unwrap(),
            tree: StateTree::new(SECRET, CACHE_BYTES),
        }
    }

    async fn commit(&self, overlay: &Overlay) {
        let mut overlay = overlay.clone();
        let mut done = overlay.is_empty();
        while !done {
            let mut batch = Batch::new();
            done = overlay.write_chunk(&mut batch, &self.room, 64 * 1024);
            self.store.commit(batch).await.unwrap();
        }
    }

    /// A tree that has nothing cached.
    fn cold(&self) -> StateTree {
        StateTree::new(SECRET, CACHE_BYTES)
    }

    fn source<'a>(&'a self, view: &'a View, overlays: &'a [&'a Overlay]) -> Source<'a> {
        Source { room: &self.room, view, overlays }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn entry(event: u64, generation: u32) -> Entry {
    Entry { event: EventNum(event), generation }
}

fn borrowed(model: &Model) -> Vec<(StateKey<'_>, Entry)> {
    model.iter().map(|(key, entry)| (key.as_key(), *entry)).collect()
}

fn build(tree: &StateTree, model: &Model, overlay: &mut Overlay) -> Root {
    tree.build(&borrowed(model), overlay).unwrap()
}

/// A room with this many members and the usual few other events.
fn big_room(members: u64) -> Model {
    let mut model = Model::new();
    for (index, event_type) in
        ["m.room.create", "m.room.join_rules", "m.room.name", "m.room.power_levels", "m.room.topic"].iter().enumerate()
    {
        model.insert((*event_type, "").into(), entry(index as u64 + 1, index as u32));
    }
    for index in 0..members {
        let user = format!("@user{index}:server{}.example.org", index % 97);
        model.insert(("m.room.member", user.as_str()).into(), entry(1_000 + index, 4 + (index % 5) as u32));
    }
    model
}
