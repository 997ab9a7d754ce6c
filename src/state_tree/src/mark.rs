//! Finding the nodes of a room that nothing reaches any more: mark and sweep in bounded steps.
//!
//! When history is purged, roots go and leave nodes behind. A [`Marker`] walks everything below the roots that stay;
//! then [`StateTree::sweep_page`] removes, page by page, the room's nodes that were not reached.
//!
//! Names follow content, so a change to the room may make again a node that is about to be swept. While a page is
//! swept (from its view to its commit) nothing else may write nodes of the room, and the roots that came since the
//! marking, those of pending batches included, are added with [`Marker::add_roots`] and walked before. Nodes are also written ahead
//! of the batch that points to them (`Rooms::store_nodes`): what does so ends, or has its roots added, before a page is swept.

use std::collections::HashSet;

use store::{Batch, Range, StoreError};

use super::{Nodes, Root, Source, StateTree};

/// Nodes read together.
const MARK_BATCH_NODES_MAX: usize = 128;

/// The nodes below a set of roots, found in steps. Takes 16 bytes and some for each node.
#[derive(Clone, Default, Debug)]
pub struct Marker {
    reached: HashSet<Root>,
    ahead: Vec<Root>,
}

/// All nodes below a set of roots.
#[derive(Copy, Clone, Debug)]
pub struct Marked<'a>(&'a HashSet<Root>);

impl Marker {
    /// Starts from the roots that stay.
    pub fn new(roots: impl IntoIterator<Item = Root>) -> Self {
        let mut marker = Self::default();
        marker.add_roots(roots);
        marker
    }

    /// Adds roots; what lies below them and wasn't reached is walked by the next steps.
    pub fn add_roots(&mut self, roots: impl IntoIterator<Item = Root>) {
        for root in roots {
            if !root.is_empty() && self.reached.insert(root) {
                self.ahead.push(root);
            }
        }
    }

    /// What a sweep may go by: nothing before everything below the roots was reached.
    pub fn marked(&self) -> Option<Marked<'_>> {
        self.ahead.is_empty().then_some(Marked(&self.reached))
    }

    /// The number of nodes reached so far.
    pub fn len(&self) -> usize {
        self.reached.len()
    }

    /// Whether no node was reached.
    pub fn is_empty(&self) -> bool {
        self.reached.is_empty()
    }
}

impl StateTree {
    /// Walks on from what `marker` has reached, reading about `nodes_max` nodes; true when everything was reached.
    pub async fn mark(&self, src: &Source<'_>, marker: &mut Marker, nodes_max: usize) -> Result<bool, StoreError> {
        let mut read = 0;
        while read < nodes_max && !marker.ahead.is_empty() {
            let count = marker.ahead.len().min(MARK_BATCH_NODES_MAX);
            // Taken away only after they were read, so that a failed step can be repeated.
            let batch = marker.ahead[marker.ahead.len() - count..].to_vec();
            let nodes = self.load_many(src, &batch).await?;
            marker.ahead.truncate(marker.ahead.len() - count);
            read += count;
            for node in nodes {
                for index in 0..node.len() {
                    let Some(child) = node.child(index) else { break };
                    let is_new = marker.reached.insert(child.root);
                    // Leaves have nothing below them, so they are marked without being read.
                    if is_new && node.level() > 1 {
                        marker.ahead.push(child.root);
                    }
                }
            }
        }
        Ok(marker.ahead.is_empty())
    }

    /// Looks at up to `nodes_max` stored nodes of the room behind `after` and puts the removal of those that were not
    /// marked into `batch`. Gives the last one looked at, `None` at the end.
    pub async fn sweep_page(
        &self,
        src: &Source<'_>,
        marked: Marked<'_>,
        after: Option<Root>,
        nodes_max: usize,
        batch: &mut Batch,
    ) -> Result<Option<Root>, StoreError> {
        let mut range = Range::<Nodes>::prefix(&(src.room,)).limit(nodes_max);
        if let Some(after) = after {
            range = range.after(&(src.room, after));
        }
        let page = src.view.scan::<Nodes>(range).await?;
        let last = page.rows.last().map(|((_, root), _)| *root);
        for ((_, root), _) in page.rows {
            if !marked.0.contains(&root) {
                batch.delete::<Nodes>(&(src.room, root));
            }
        }
        Ok(last.filter(|_| page.next.is_some()))
    }
}
