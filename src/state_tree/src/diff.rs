//! Comparing states by walking only where their trees differ.
//!
//! Both trees are taken apart from the left. What lies next in each is a node not yet entered, known by its first key
//! and level, or an entry. Where both have the same node it is skipped. Otherwise the one that starts earlier is
//! entered, or of two with one first key the higher, or both; so a node that both trees have is never entered.

use std::{collections::BTreeMap, sync::Arc};

use store::StoreError;

use super::{
    Entry, OwnedStateKey, Root, Source, StateKey, StateTree,
    node::{ItemValue, Node},
    scan::{Span, type_after},
};

/// Nodes entered before other tasks get their turn.
const STEPS_PER_TURN: usize = 1024;

/// A key at which two states differ.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct StateChange {
    /// The key.
    pub key: OwnedStateKey,
    /// What the first state has there.
    pub old: Option<Entry>,
    /// What the second state has there.
    pub new: Option<Entry>,
}

/// Some of the differences of two states.
#[derive(Clone, Debug)]
pub struct DiffPage {
    /// Differences in the order of their keys.
    pub changes: Vec<StateChange>,
    /// Where the next page starts; `None` if this was the last.
    pub next: Option<OwnedStateKey>,
}

/// A key at which several states are not all alike.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Conflict {
    /// The key.
    pub key: OwnedStateKey,
    /// What each state has there, in the order of the roots.
    pub entries: Vec<Option<Entry>>,
}

impl StateTree {
    /// Every key at which state `a` (old) and state `b` (new) differ, in order.
    pub async fn diff(&self, src: &Source<'_>, a: Root, b: Root) -> Result<Vec<StateChange>, StoreError> {
        Ok(self.diff_span(src, a, b, Span::ALL, usize::MAX).await?.changes)
    }

    /// As [`StateTree::diff`], for the keys of one event type only.
    pub async fn diff_type(
        &self,
        src: &Source<'_>,
        a: Root,
        b: Root,
        event_type: &str,
    ) -> Result<Vec<StateChange>, StoreError> {
        let after = type_after(event_type);
        let span = Span { from: (event_type, ""), before: Some((&after, "")) };
        Ok(self.diff_span(src, a, b, span, usize::MAX).await?.changes)
    }

    /// At most `limit` differences, those of one event type after all others, and whether there are no more.
    pub async fn diff_type_last(
        &self,
        src: &Source<'_>,
        a: Root,
        b: Root,
        event_type: &str,
        limit: usize,
    ) -> Result<(Vec<StateChange>, bool), StoreError> {
        let after = type_after(event_type);
        let of_type = Span { from: (event_type, ""), before: Some((&after, "")) };
        let below = Span { from: ("", ""), before: Some((event_type, "")) };
        let above = Span { from: (&after, ""), before: None };
        let mut changes = Vec::new();
        for span in [below, above, of_type] {
            let page = self.diff_span(src, a, b, span, limit - changes.len()).await?;
            changes.extend(page.changes);
            if page.next.is_some() {
                return Ok((changes, false));
            }
        }
        Ok((changes, true))
    }

    /// At most `limit` differences, from the key `start` on (`("", "")` for the first page).
    pub async fn diff_page(
        &self,
        src: &Source<'_>,
        a: Root,
        b: Root,
        start: StateKey<'_>,
        limit: usize,
    ) -> Result<DiffPage, StoreError> {
        self.diff_span(src, a, b, Span { from: start, before: None }, limit).await
    }

    /// The keys at which not all of `roots` have the same event, absence included, in order, with what each has.
    pub async fn conflicts(&self, src: &Source<'_>, roots: &[Root]) -> Result<Vec<Conflict>, StoreError> {
        let Some((first, others)) = roots.split_first() else {
            return Ok(Vec::new());
        };
        let mut differing: BTreeMap<OwnedStateKey, Option<Entry>> = BTreeMap::new();
        for (index, other) in others.iter().enumerate() {
            if other != first && !others[..index].contains(other) {
                for change in self.diff(src, *first, *other).await? {
                    differing.insert(change.key, change.old);
                }
            }
        }
        let keys: Vec<StateKey<'_>> = differing.keys().map(OwnedStateKey::as_key).collect();
        let mut columns = Vec::new();
        for other in others {
            columns.push(self.get_many(src, *other, &keys).await?);
        }
        let mut conflicts = Vec::with_capacity(differing.len());
        for (row, (key, old)) in differing.iter().enumerate() {
            let mut entries = vec![*old];
            entries.extend(columns.iter().map(|column| column[row]));
            conflicts.push(Conflict { key: key.clone(), entries });
        }
        Ok(conflicts)
    }

    async fn diff_span(
        &self,
        src: &Source<'_>,
        a: Root,
        b: Root,
        span: Span<'_>,
        limit: usize,
    ) -> Result<DiffPage, StoreError> {
        let mut page = DiffPage { changes: Vec::new(), next: None };
        if a == b {
            return Ok(page);
        }
        let mut left = Side::start(self, src, a, span).await?;
        let mut right = Side::start(self, src, b, span).await?;
        let mut steps = 0_usize;
        while let Some(step) = next_step(left.head(), right.head()) {
            match step {
                Step::Skip => {
                    left.skip();
                    right.skip();
                }
                Step::Enter { in_left, in_right } => {
                    if in_left {
                        left.enter(self, src).await?;
                    }
                    if in_right {
                        right.enter(self, src).await?;
                    }
                }
                Step::Differ(change) => {
                    if page.changes.len() == limit {
                        page.next = Some(change.key);
                        return Ok(page);
                    }
                    if change.old.is_some() {
                        left.skip();
                    }
                    if change.new.is_some() {
                        right.skip();
                    }
                    page.changes.push(change);
                }
            }
            steps += 1;
            if steps.is_multiple_of(STEPS_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        Ok(page)
    }
}

/// What lies next in a tree.
struct Head<'a> {
    key: StateKey<'a>,
    /// The level of the node or entry, plus one: 0 for an entry.
    height: u8,
    value: ItemValue,
}

enum Step {
    /// Both sides have the same thing.
    Skip,
    /// Nodes that have to be taken apart.
    Enter { in_left: bool, in_right: bool },
    /// A key at which the states differ; the sides that have an entry there go past it.
    Differ(StateChange),
}

/// Decides what to do with what lies next on both sides; `None` when both are at their end.
fn next_step(left: Option<Head<'_>>, right: Option<Head<'_>>) -> Option<Step> {
    let step = match (left, right) {
        (None, None) => return None,
        (Some(left), None) => only(&left, true),
        (None, Some(right)) => only(&right, false),
        (Some(left), Some(right)) if left.key < right.key => only(&left, true),
        (Some(left), Some(right)) if left.key > right.key => only(&right, false),
        (Some(left), Some(right)) => match (left.value, right.value) {
            (old, new) if left.height == right.height && old == new => Step::Skip,
            (ItemValue::Entry(old), ItemValue::Entry(new)) => {
                Step::Differ(StateChange { key: left.key.into(), old: Some(old), new: Some(new) })
            }
            _ => Step::Enter { in_left: left.height >= right.height, in_right: right.height >= left.height },
        },
    };
    Some(step)
}

/// What lies next on one side comes before everything on the other.
fn only(head: &Head<'_>, in_left: bool) -> Step {
    match head.value {
        ItemValue::Child(_) => Step::Enter { in_left, in_right: !in_left },
        ItemValue::Entry(entry) => {
            let (old, new) = if in_left { (Some(entry), None) } else { (None, Some(entry)) };
            Step::Differ(StateChange { key: head.key.into(), old, new })
        }
    }
}

/// One of the trees: nodes entered, each with the index of what lies next in it, the deepest last.
struct Side<'a> {
    span: Span<'a>,
    path: Vec<(Arc<Node>, usize)>,
}

impl<'a> Side<'a> {
    /// The topmost node has no reference from above, so it is entered at once (which costs one node).
    async fn start(tree: &StateTree, src: &Source<'_>, root: Root, span: Span<'a>) -> Result<Self, StoreError> {
        let mut side = Self { span, path: Vec::new() };
        if !root.is_empty() {
            let node = tree.load(src, root).await?;
            side.push(node);
        }
        Ok(side)
    }

    fn head(&self) -> Option<Head<'_>> {
        let (node, index) = self.path.last()?;
        Some(Head { key: node.key(*index), height: node.level(), value: node.value(*index) })
    }

    /// Goes past what lies next.
    fn skip(&mut self) {
        if let Some((_, index)) = self.path.last_mut() {
            *index += 1;
        }
        self.settle();
    }

    /// Takes apart the node that lies next.
    async fn enter(&mut self, tree: &StateTree, src: &Source<'_>) -> Result<(), StoreError> {
        let Some((parent, index)) = self.path.last_mut() else { return Ok(()) };
        let Some(child) = parent.child(*index) else { return Ok(()) };
        let node = tree.load_below(src, parent, child.root).await?;
        *index += 1;
        self.push(node);
        Ok(())
    }

    fn push(&mut self, node: Arc<Node>) {
        let index = if node.level() == 0 { node.lower_bound(self.span.from) } else { 0 };
        self.path.push((node, index));
        self.settle();
    }

    /// Goes past what is outside the span, and out of nodes that are at their end.
    fn settle(&mut self) {
        while let Some((node, index)) = self.path.last_mut() {
            while *index < node.len() && node.level() > 0 && !self.span.meets(node, *index) {
                *index += 1;
            }
            let outside = *index < node.len() && node.level() == 0 && !self.span.contains(node.key(*index));
            if *index < node.len() && !outside {
                return;
            }
            self.path.pop();
        }
    }
}
