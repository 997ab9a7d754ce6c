//! New nodes on their way to the store.

use std::{collections::HashMap, sync::Arc};

use ruma::RoomId;
use store::Batch;

use super::{Nodes, Root, node::Node};

/// Nodes that changes to trees have made. They can be read from here (through [`Source`](super::Source)) before, while
/// and after they are written, so that a change can build on one whose batch is still on its way.
#[derive(Clone, Default, Debug)]
pub struct Overlay {
    nodes: HashMap<Root, Arc<Node>>,
    order: Vec<Root>,
    chunked: usize,
    chunked_bytes: usize,
    bytes: usize,
}

/// What a node's key takes beside its stored form, in bytes: the room's id and the root.
const KEY_BYTES: usize = 300;

impl Overlay {
    /// An overlay without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was made.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The size of the stored form of all nodes, in bytes, without their keys.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// About the size of what [`Overlay::write`] would put into a batch, in bytes.
    pub fn bytes_left(&self) -> usize {
        self.bytes - self.chunked_bytes + (self.order.len() - self.chunked) * KEY_BYTES
    }

    /// Puts all nodes that [`Overlay::write_chunk`] has not handed out into `batch`. May be repeated when a batch has to be built again.
    pub fn write(&self, batch: &mut Batch, room: &RoomId) {
        for root in &self.order[self.chunked..] {
            self.put(batch, room, *root);
        }
    }

    /// Puts nodes into `batch` until it holds `bytes_max` bytes or more, and remembers how far it came; true when
    /// nothing is left. For states too big for one batch: their roots may be stored only with or after the last chunk.
    pub fn write_chunk(&mut self, batch: &mut Batch, room: &RoomId, bytes_max: usize) -> bool {
        while self.chunked < self.order.len() && batch.bytes() < bytes_max {
            let root = self.order[self.chunked];
            self.put(batch, room, root);
            self.chunked += 1;
            self.chunked_bytes += self.nodes.get(&root).map_or(0, |node| node.encoded_bytes());
        }
        self.chunked == self.order.len()
    }

    /// Forgets which chunks were handed out, for when their batches failed.
    pub fn restart_chunks(&mut self) {
        self.chunked = 0;
        self.chunked_bytes = 0;
    }

    pub(super) fn get(&self, root: &Root) -> Option<&Arc<Node>> {
        self.nodes.get(root)
    }

    pub(super) fn insert(&mut self, root: Root, node: Arc<Node>) {
        let bytes = node.encoded_bytes();
        if self.nodes.insert(root, node).is_none() {
            self.order.push(root);
            self.bytes += bytes;
        }
    }

    /// The nodes, in the order in which they were made.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.order.iter().filter_map(|root| self.nodes.get(root))
    }

    fn put(&self, batch: &mut Batch, room: &RoomId, root: Root) {
        if let Some(node) = self.nodes.get(&root) {
            batch.put::<Nodes>(&(room, root), &**node);
        }
    }
}
