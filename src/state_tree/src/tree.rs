//! Reading trees: where nodes come from, look-ups of keys.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quick_cache::{Weighter, sync::Cache};
use store::StoreError;

use super::{Entry, Nodes, Root, Source, StateKey, corrupt, layout::Layout, node::Node};

/// What a node weighs on average, to size the cache's index.
const CACHED_NODE_BYTES: u64 = 3 * 1024;
/// What the cache itself needs for a node, in bytes.
const CACHE_OVERHEAD_BYTES: usize = 96;
/// Nodes read from the store at once.
const LOAD_BATCH_NODES_MAX: usize = 256;

/// Reads and writes the state trees of one database. Cheap to clone; clones share the node cache.
#[derive(Clone)]
pub struct StateTree {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) layout: Layout,
    pub(super) cache: Cache<Root, Arc<Node>, NodeWeight>,
    reads: AtomicU64,
    misses: AtomicU64,
}

/// How often nodes were read since the start, for metrics and tests.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct NodeReads {
    /// Nodes looked at, wherever they came from.
    pub all: u64,
    /// Of these, nodes that were asked of the store.
    pub from_store: u64,
}

/// Weighs a cached node by its memory, in bytes.
#[derive(Clone)]
pub(super) struct NodeWeight;

impl Weighter<Root, Arc<Node>> for NodeWeight {
    fn weight(&self, _: &Root, node: &Arc<Node>) -> u64 {
        (node.memory_bytes() + CACHE_OVERHEAD_BYTES) as u64
    }
}

impl StateTree {
    /// `secret` is the database's own and must never change: roots depend on it. The cache takes about `cache_bytes` bytes.
    pub fn new(secret: [u8; 32], cache_bytes: u64) -> Self {
        let estimated_nodes = usize::try_from(cache_bytes / CACHED_NODE_BYTES).unwrap_or(usize::MAX).max(16);
        Self {
            inner: Arc::new(Inner {
                layout: Layout::new(&secret),
                cache: Cache::with_weighter(estimated_nodes, cache_bytes, NodeWeight),
                reads: AtomicU64::new(0),
                misses: AtomicU64::new(0),
            }),
        }
    }

    /// How often nodes were read so far.
    pub fn node_reads(&self) -> NodeReads {
        NodeReads {
            all: self.inner.reads.load(Ordering::Relaxed),
            from_store: self.inner.misses.load(Ordering::Relaxed),
        }
    }

    /// The entry at one key.
    ///
    /// # Errors
    ///
    /// Like every method that reads nodes: if the store fails, or if a node below `root` is missing or corrupt.
    pub async fn get(
        &self,
        src: &Source<'_>,
        root: Root,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Entry>, StoreError> {
        if root.is_empty() {
            return Ok(None);
        }
        let key = (event_type, state_key);
        let mut node = self.load(src, root).await?;
        while let Some(child) = node.child(node.child_index(key)) {
            node = self.load_below(src, &node, child.root).await?;
        }
        Ok(node.find(key).and_then(|index| node.entry(index)))
    }

    /// The entries at several keys, in the order of `keys`. Reads each node once, and the nodes of one level together.
    pub async fn get_many(
        &self,
        src: &Source<'_>,
        root: Root,
        keys: &[StateKey<'_>],
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        let mut found = vec![None; keys.len()];
        if root.is_empty() || keys.is_empty() {
            return Ok(found);
        }
        let mut sorted: Vec<usize> = (0..keys.len()).collect();
        sorted.sort_by_key(|index| keys[*index]);
        // Nodes of one level, each with the keys (as a range of `sorted`) that are or would be below it.
        let mut wanted = vec![(self.load(src, root).await?, 0..sorted.len())];
        while !wanted.is_empty() {
            let mut roots = Vec::new();
            let mut ranges = Vec::new();
            let mut level = 0;
            for (node, range) in &wanted {
                level = node.level();
                let mut start = range.start;
                while start < range.end {
                    let index = node.child_index(keys[sorted[start]]);
                    let mut end = start + 1;
                    while end < range.end && node.child_index(keys[sorted[end]]) == index {
                        end += 1;
                    }
                    if let Some(child) = node.child(index) {
                        roots.push(child.root);
                        ranges.push(start..end);
                    } else {
                        for at in &sorted[start..end] {
                            found[*at] = node.find(keys[*at]).and_then(|index| node.entry(index));
                        }
                    }
                    start = end;
                }
            }
            let nodes = self.load_many(src, &roots).await?;
            if nodes.iter().any(|node| node.level() >= level) {
                return Err(corrupt("level of a state node"));
            }
            wanted = nodes.into_iter().zip(ranges).collect();
        }
        Ok(found)
    }

    /// The highest generation of any event in the state; `None` for the empty state.
    pub async fn highest_generation(&self, src: &Source<'_>, root: Root) -> Result<Option<u32>, StoreError> {
        if root.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.load(src, root).await?.highest()))
    }

    /// The node with this root, which must not be [`Root::EMPTY`].
    pub(super) async fn load(&self, src: &Source<'_>, root: Root) -> Result<Arc<Node>, StoreError> {
        if let Some(node) = self.at_hand(src, &root) {
            return Ok(node);
        }
        self.inner.misses.fetch_add(1, Ordering::Relaxed);
        let node = src.view.get::<Nodes>(&(src.room, root)).await?;
        Ok(self.keep(root, node.ok_or_else(|| corrupt("state node (it is missing)"))?))
    }

    /// A child of `parent`: as [`StateTree::load`], and it must stand one level lower (so every walk ends).
    pub(super) async fn load_below(
        &self,
        src: &Source<'_>,
        parent: &Node,
        root: Root,
    ) -> Result<Arc<Node>, StoreError> {
        let node = self.load(src, root).await?;
        if node.level() + 1 != parent.level() {
            return Err(corrupt("level of a state node"));
        }
        Ok(node)
    }

    /// Several nodes, in the order of `roots`; those that only the store has are read together.
    pub(super) async fn load_many(&self, src: &Source<'_>, roots: &[Root]) -> Result<Vec<Arc<Node>>, StoreError> {
        let mut nodes: Vec<Option<Arc<Node>>> = roots.iter().map(|root| self.at_hand(src, root)).collect();
        let missing: Vec<usize> = (0..roots.len()).filter(|index| nodes[*index].is_none()).collect();
        for part in missing.chunks(LOAD_BATCH_NODES_MAX) {
            self.inner.misses.fetch_add(part.len() as u64, Ordering::Relaxed);
            let keys: Vec<_> = part.iter().map(|index| (src.room, roots[*index])).collect();
            let read = src.view.get_many::<Nodes>(&keys).await?;
            for (index, node) in part.iter().zip(read) {
                nodes[*index] = node.map(|node| self.keep(roots[*index], node));
            }
        }
        let all: Option<Vec<Arc<Node>>> = nodes.into_iter().collect();
        all.ok_or_else(|| corrupt("state node (it is missing)"))
    }

    /// Makes a node; it is not in the store yet, but its content can't change, so the cache may have it.
    pub(super) fn keep(&self, root: Root, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        self.inner.cache.insert(root, node.clone());
        node
    }

    fn at_hand(&self, src: &Source<'_>, root: &Root) -> Option<Arc<Node>> {
        self.inner.reads.fetch_add(1, Ordering::Relaxed);
        for overlay in src.overlays.iter().rev() {
            if let Some(node) = overlay.get(root) {
                return Some(node.clone());
            }
        }
        self.inner.cache.get(root)
    }
}
