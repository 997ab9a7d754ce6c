//! Where nodes begin: the only rule of the tree's shape, a function of the keys alone.
//!
//! A keyed hash gives each key a number. At level *n* a key starts a node if its number has enough leading zero bits,
//! with a chance of 1 in 32 at the leaves and 32 times less at each level above. What lies between two such keys is a
//! *run*. A run that would take more than [`NODE_BYTES_MAX`] is cut at the key with the smallest number, and the
//! parts likewise. Every cut depends only on the keys of its run, so equal sets of keys have equal trees, and a change
//! of keys concerns the runs that it falls into and no others.

use std::ops::Range;

use super::{ROOT_BYTES, Root, StateKey, node::Item};

/// Leading zero bits for each level: 1 key in 32 starts a leaf.
const LEVEL_BITS: u32 = 5;
/// A run that would take more bytes is cut. An upper bound of what a node takes, other than one of a few huge keys.
pub(super) const NODE_BYTES_MAX: usize = 4096;
/// Runs of so few items are never cut, so that each level has fewer nodes than the one below.
const NODE_ITEMS_MIN: usize = 4;
/// An upper bound of the bytes of a node beside its items.
const HEADER_BYTES: usize = 8;
/// An upper bound of the bytes of an item of a leaf beside its text: length, generation, event number.
const ENTRY_BYTES: usize = 2 + 5 + 10;
/// An upper bound of the bytes of a child beside its text: length, generation, root.
const CHILD_BYTES: usize = 2 + 5 + ROOT_BYTES;
/// An upper bound of the bytes of a run of one event type beside its text.
const TYPE_BYTES: usize = 2 + 2;

/// The keyed hashes that shape and name nodes.
pub(super) struct Layout {
    key_secret: [u8; 32],
    node_secret: [u8; 32],
}

impl Layout {
    /// Derives both keys from the database's secret.
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self {
            key_secret: blake3::derive_key("haima rooms snapshot 2026 key hash", secret),
            node_secret: blake3::derive_key("haima rooms snapshot 2026 node hash", secret),
        }
    }

    /// The name of a node with these bytes. Never [`Root::EMPTY`].
    pub(super) fn root(&self, bytes: &[u8]) -> Root {
        let hash = blake3::keyed_hash(&self.node_secret, bytes);
        let mut root = [0; ROOT_BYTES];
        root.copy_from_slice(&hash.as_bytes()[..ROOT_BYTES]);
        if root == Root::EMPTY.0 {
            root[0] = 1;
        }
        Root(root)
    }

    /// Whether `key` starts a node at `level`, whatever other keys there are.
    pub(super) fn starts_run(&self, key: StateKey<'_>, level: u8) -> bool {
        starts_run(self.key_hash(key), level)
    }

    /// Cuts the items of one or more whole runs of a level into nodes.
    pub(super) fn cut(&self, items: &[Item<'_>], level: u8) -> Vec<Range<usize>> {
        let hashes: Vec<u64> = items.iter().map(|item| self.key_hash(item.key)).collect();
        let mut nodes = Vec::new();
        let mut start = 0;
        for index in 1..=items.len() {
            if index == items.len() || starts_run(hashes[index], level) {
                cut_run(items, &hashes, start..index, level, &mut nodes);
                start = index;
            }
        }
        nodes
    }

    fn key_hash(&self, (event_type, state_key): StateKey<'_>) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key_secret);
        hasher.update(&(event_type.len() as u64).to_le_bytes());
        hasher.update(event_type.as_bytes());
        hasher.update(state_key.as_bytes());
        let hash = hasher.finalize();
        let mut number = [0; 8];
        number.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_be_bytes(number)
    }
}

fn starts_run(hash: u64, level: u8) -> bool {
    hash.leading_zeros() >= LEVEL_BITS * (u32::from(level) + 1)
}

/// Cuts one run until each part is small enough. Parts are taken from a stack, the first on top, so that they come in order.
fn cut_run(items: &[Item<'_>], hashes: &[u64], run: Range<usize>, level: u8, nodes: &mut Vec<Range<usize>>) {
    let mut parts = vec![run];
    while let Some(part) = parts.pop() {
        if part.len() <= NODE_ITEMS_MIN || weight(&items[part.clone()], level) <= NODE_BYTES_MAX {
            nodes.push(part);
            continue;
        }
        let mut pivot = part.start + 1;
        for index in part.start + 2..part.end {
            if hashes[index] < hashes[pivot] {
                pivot = index;
            }
        }
        parts.push(pivot..part.end);
        parts.push(part.start..pivot);
    }
}

/// An upper bound of the bytes of a node, from the keys alone.
fn weight(items: &[Item<'_>], level: u8) -> usize {
    let item_bytes = if level == 0 { ENTRY_BYTES } else { CHILD_BYTES };
    let mut bytes = HEADER_BYTES;
    let mut previous = None;
    for item in items {
        let (event_type, state_key) = item.key;
        if previous != Some(event_type) {
            bytes += TYPE_BYTES + event_type.len();
            previous = Some(event_type);
        }
        bytes += item_bytes + state_key.len();
    }
    bytes
}
