//! Reading parts of a state in order.

use std::sync::Arc;

use store::StoreError;

use super::{Entry, OwnedStateKey, Root, Source, StateKey, StateTree, corrupt, node::Node};

/// Children of one node that are read from the store together.
const PREFETCH_NODES_MAX: usize = 64;
/// Entries that a leaf is expected to have at least, to judge how many leaves a limited read needs.
const LEAF_ENTRIES_EXPECTED: usize = 16;
/// Leaves read before other tasks get their turn.
const LEAVES_PER_TURN: usize = 256;

/// A part of the keys: from `from`, and before `before` if that is given.
#[derive(Copy, Clone, Debug)]
pub(super) struct Span<'a> {
    pub from: StateKey<'a>,
    pub before: Option<StateKey<'a>>,
}

impl Span<'_> {
    /// All keys.
    pub(super) const ALL: Span<'static> = Span { from: ("", ""), before: None };

    pub(super) fn contains(&self, key: StateKey<'_>) -> bool {
        key >= self.from && self.before.is_none_or(|before| key < before)
    }

    /// Whether the child at `index` may hold keys of the span.
    pub(super) fn meets(&self, node: &Node, index: usize) -> bool {
        let starts_too_late = self.before.is_some_and(|before| node.key(index) >= before);
        let ends_too_early = index + 1 < node.len() && node.key(index + 1) <= self.from;
        !starts_too_late && !ends_too_early
    }
}

/// The smallest event type above `event_type`.
pub(super) fn type_after(event_type: &str) -> String {
    format!("{event_type}\0")
}

/// Some of the entries of one event type.
#[derive(Clone, Debug)]
pub struct RangePage {
    /// State keys with their entries, in order.
    pub entries: Vec<(Box<str>, Entry)>,
    /// Where the next page starts; `None` if this was the last.
    pub next: Option<Box<str>>,
}

/// A node that a walk has still to enter.
enum Ahead {
    Unread(Root),
    Read(Arc<Node>),
}

impl StateTree {
    /// All state keys of one event type, with their entries, in order.
    pub async fn range(
        &self,
        src: &Source<'_>,
        root: Root,
        event_type: &str,
    ) -> Result<Vec<(Box<str>, Entry)>, StoreError> {
        Ok(self.range_page(src, root, event_type, "", usize::MAX).await?.entries)
    }

    /// At most `limit` state keys of one event type, from the state key `start` on. Reads what the page needs.
    pub async fn range_page(
        &self,
        src: &Source<'_>,
        root: Root,
        event_type: &str,
        start: &str,
        limit: usize,
    ) -> Result<RangePage, StoreError> {
        let after = type_after(event_type);
        let span = Span { from: (event_type, start), before: Some((&after, "")) };
        let mut entries: Vec<(Box<str>, Entry)> = Vec::new();
        let mut collect = |(_, state_key): StateKey<'_>, entry| entries.push((state_key.into(), entry));
        self.walk(src, root, span, limit.saturating_add(1), &mut collect).await?;
        let next = if entries.len() > limit { entries.pop().map(|(key, _)| key) } else { None };
        Ok(RangePage { entries, next })
    }

    /// Hands every state key of one event type to `visit`, in order, without copying it.
    pub async fn visit_range(
        &self,
        src: &Source<'_>,
        root: Root,
        event_type: &str,
        mut visit: impl FnMut(&str, Entry) + Send,
    ) -> Result<(), StoreError> {
        let after = type_after(event_type);
        let span = Span { from: (event_type, ""), before: Some((&after, "")) };
        let mut each = |(_, state_key): StateKey<'_>, entry| visit(state_key, entry);
        self.walk(src, root, span, usize::MAX, &mut each).await
    }

    /// The whole state, in order.
    pub async fn all(&self, src: &Source<'_>, root: Root) -> Result<Vec<(OwnedStateKey, Entry)>, StoreError> {
        let mut entries = Vec::new();
        let mut collect = |key: StateKey<'_>, entry| entries.push((key.into(), entry));
        self.walk(src, root, Span::ALL, usize::MAX, &mut collect).await?;
        Ok(entries)
    }

    /// The state without one event type (all but members, say), in order. Doesn't read the nodes that hold only that type.
    pub async fn all_except_type(
        &self,
        src: &Source<'_>,
        root: Root,
        event_type: &str,
    ) -> Result<Vec<(OwnedStateKey, Entry)>, StoreError> {
        let after = type_after(event_type);
        let mut entries = Vec::new();
        let mut collect = |key: StateKey<'_>, entry| entries.push((key.into(), entry));
        let before = Span { from: ("", ""), before: Some((event_type, "")) };
        self.walk(src, root, before, usize::MAX, &mut collect).await?;
        let behind = Span { from: (&after, ""), before: None };
        self.walk(src, root, behind, usize::MAX, &mut collect).await?;
        Ok(entries)
    }

    /// Hands at most `limit` entries of the span to `visit`, in order.
    async fn walk(
        &self,
        src: &Source<'_>,
        root: Root,
        span: Span<'_>,
        limit: usize,
        visit: &mut (impl FnMut(StateKey<'_>, Entry) + Send),
    ) -> Result<(), StoreError> {
        let mut left = limit;
        let mut leaves = 0_usize;
        // What lies ahead, the nearest on top.
        let mut ahead = Vec::new();
        if !root.is_empty() {
            ahead.push((u8::MAX, Ahead::Unread(root)));
        }
        while let Some((parent_level, next)) = ahead.pop() {
            let node = match next {
                Ahead::Unread(root) => self.load(src, root).await?,
                Ahead::Read(node) => node,
            };
            if node.level() >= parent_level {
                return Err(corrupt("level of a state node"));
            }
            if node.level() > 0 {
                self.enter(src, &node, span, left, &mut ahead).await?;
                continue;
            }
            for index in node.lower_bound(span.from)..node.len() {
                let Some(entry) = node.entry(index) else { continue };
                if left == 0 || !span.contains(node.key(index)) {
                    return Ok(());
                }
                visit(node.key(index), entry);
                left -= 1;
            }
            if left == 0 {
                return Ok(());
            }
            leaves += 1;
            if leaves.is_multiple_of(LEAVES_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Puts the children of an inner node on top of what lies ahead; leaves that will be needed are read together.
    async fn enter(
        &self,
        src: &Source<'_>,
        node: &Node,
        span: Span<'_>,
        left: usize,
        ahead: &mut Vec<(u8, Ahead)>,
    ) -> Result<(), StoreError> {
        let mut roots = Vec::new();
        for index in 0..node.len() {
            if let Some(child) = node.child(index).filter(|_| span.meets(node, index)) {
                roots.push(child.root);
            }
        }
        let leaves = if node.level() == 1 { left / LEAF_ENTRIES_EXPECTED + 1 } else { 1 };
        let prefetch = roots.len().min(PREFETCH_NODES_MAX).min(leaves);
        let read = self.load_many(src, &roots[..prefetch]).await?;
        ahead.extend(roots[prefetch..].iter().rev().map(|root| (node.level(), Ahead::Unread(*root))));
        ahead.extend(read.into_iter().rev().map(|child| (node.level(), Ahead::Read(child))));
        Ok(())
    }
}
