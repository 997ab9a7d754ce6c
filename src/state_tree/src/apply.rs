//! Changing trees, and building them whole.
//!
//! Each level of a tree is itself an ordered map, cut into nodes: the leaves cut the state, and the nodes of level
//! *n* + 1 cut the map from the first keys of the nodes of level *n* to their roots. So a change goes up level by
//! level: the runs that changed keys fall into are cut again, and what that does to the nodes is the change of the
//! level above.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use store::StoreError;

use super::{
    Entry, Overlay, OwnedStateKey, Root, Source, StateKey, StateTree, corrupt,
    node::{self, Child, Item, ItemValue, LEVEL_MAX, Node},
};

/// Runs cut again before other tasks get their turn.
const WINDOWS_PER_TURN: usize = 64;

/// A change of one level's map.
type LevelChange<'a> = (StateKey<'a>, Option<ItemValue>);
/// What the change of one level does to the map above.
type ChangesAbove = BTreeMap<OwnedStateKey, Option<ItemValue>>;
/// Nodes made by one change.
type Created = BTreeMap<Root, Arc<Node>>;

impl StateTree {
    /// The state `root` with `changes` made: `Some` sets a key, `None` removes it. Of several changes of one key the
    /// last counts. New nodes go into `overlay`; nodes are also read from it, so a chain of changes may share one.
    ///
    /// The root depends on the resulting map alone.
    ///
    /// # Errors
    ///
    /// If the store fails, or a node that must be read is missing or corrupt; `overlay` is then as before.
    pub async fn apply(
        &self,
        src: &Source<'_>,
        root: Root,
        changes: &[(StateKey<'_>, Option<Entry>)],
        overlay: &mut Overlay,
    ) -> Result<Root, StoreError> {
        let changes = last_of_each(changes);
        let mut created = Created::new();
        let new_root = if root.is_empty() {
            let items: Vec<Item<'_>> = changes.iter().filter_map(|(key, value)| item(*key, *value)).collect();
            let nodes = self.make_nodes(&items, 0, &mut created)?;
            self.raise(nodes, 0, &mut created)?
        } else {
            let mut overlays = src.overlays.to_vec();
            overlays.push(overlay);
            let src = Source { room: src.room, view: src.view, overlays: &overlays };
            let change = Change { tree: self, src: &src, root, top: self.load(&src, root).await? };
            change.apply(changes, &mut created).await?
        };
        for (root, node) in created {
            overlay.insert(root, node);
        }
        Ok(new_root)
    }

    /// The root of a whole state; of several entries with one key the last counts. The same root as any sequence of
    /// changes that ends in this state. Takes a moment for states of many thousands of entries and does no input or
    /// output: call it where that is no harm.
    ///
    /// # Errors
    ///
    /// None in practice; an inconsistency of the tree's own making.
    pub fn build(&self, entries: &[(StateKey<'_>, Entry)], overlay: &mut Overlay) -> Result<Root, StoreError> {
        let changes: Vec<_> = entries.iter().map(|(key, entry)| (*key, Some(*entry))).collect();
        let items: Vec<Item<'_>> =
            last_of_each(&changes).into_iter().filter_map(|(key, value)| item(key, value)).collect();
        let mut created = Created::new();
        let nodes = self.make_nodes(&items, 0, &mut created)?;
        let root = self.raise(nodes, 0, &mut created)?;
        for (root, node) in created {
            overlay.insert(root, node);
        }
        Ok(root)
    }

    /// The root above `nodes`, which are all nodes of `level`.
    fn raise(
        &self,
        mut nodes: Vec<(OwnedStateKey, Child)>,
        mut level: u8,
        created: &mut Created,
    ) -> Result<Root, StoreError> {
        while nodes.len() > 1 {
            level += 1;
            if level > LEVEL_MAX {
                return Err(corrupt("height of a state tree"));
            }
            let items: Vec<Item<'_>> =
                nodes.iter().map(|(key, child)| Item { key: key.as_key(), value: ItemValue::Child(*child) }).collect();
            nodes = self.make_nodes(&items, level, created)?;
        }
        Ok(nodes.first().map_or(Root::EMPTY, |(_, child)| child.root))
    }

    /// Cuts whole runs of a level into nodes, and gives each node's first key.
    fn make_nodes(
        &self,
        items: &[Item<'_>],
        level: u8,
        created: &mut Created,
    ) -> Result<Vec<(OwnedStateKey, Child)>, StoreError> {
        let mut nodes = Vec::new();
        for range in self.inner.layout.cut(items, level) {
            nodes.push(self.make_node(&items[range], level, created)?);
        }
        Ok(nodes)
    }

    fn make_node(
        &self,
        items: &[Item<'_>],
        level: u8,
        created: &mut Created,
    ) -> Result<(OwnedStateKey, Child), StoreError> {
        let bytes = node::encode(level, items);
        let root = self.inner.layout.root(&bytes);
        let node = node::decode(&bytes).map_err(|_| corrupt("state node (just made)"))?;
        let child = Child { root, highest: node.highest() };
        let first = node.key(0).into();
        created.insert(root, self.keep(root, node));
        Ok((first, child))
    }
}

/// One call of [`StateTree::apply`] on a state that is not empty.
struct Change<'a> {
    tree: &'a StateTree,
    src: &'a Source<'a>,
    root: Root,
    top: Arc<Node>,
}

/// Nodes of one level beside each other that are cut again together, and the changes that fall into them.
struct Window {
    nodes: VecDeque<(Root, Arc<Node>)>,
    changes: Range<usize>,
    /// The changes replace values only, so the node (there is one) keeps its bounds.
    same_keys: bool,
}

impl Change<'_> {
    async fn apply(
        &self,
        changes: Vec<(StateKey<'_>, Option<Entry>)>,
        created: &mut Created,
    ) -> Result<Root, StoreError> {
        let changes: Vec<LevelChange<'_>> =
            changes.into_iter().map(|(key, entry)| (key, entry.map(ItemValue::Entry))).collect();
        let mut above = self.apply_level(0, &changes, created).await?;
        for level in 1..=self.top.level() {
            let changes: Vec<LevelChange<'_>> = above.iter().map(|(key, value)| (key.as_key(), *value)).collect();
            let next = self.apply_level(level, &changes, created).await?;
            above = next;
        }
        if above.is_empty() {
            return Ok(self.root);
        }
        // What was the topmost level may have any number of nodes now.
        let old = Child { root: self.root, highest: self.top.highest() };
        above.entry(self.top.key(0).into()).or_insert(Some(ItemValue::Child(old)));
        let mut nodes = Vec::new();
        for (key, value) in above {
            if let Some(ItemValue::Child(child)) = value {
                nodes.push((key, child));
            }
        }
        let root = self.tree.raise(nodes, self.top.level(), created)?;
        self.lower(root, created).await
    }

    /// Takes away topmost nodes that have only one child.
    async fn lower(&self, mut root: Root, created: &mut Created) -> Result<Root, StoreError> {
        while !root.is_empty() {
            let node = match created.get(&root) {
                Some(node) => node.clone(),
                None => self.tree.load(self.src, root).await?,
            };
            let Some(child) = node.child(0) else { break };
            if node.len() > 1 {
                break;
            }
            created.remove(&root);
            root = child.root;
        }
        Ok(root)
    }

    /// Makes `changes` (in order, one for each key) to the map of `level`.
    async fn apply_level(
        &self,
        level: u8,
        changes: &[LevelChange<'_>],
        created: &mut Created,
    ) -> Result<ChangesAbove, StoreError> {
        let mut above = ChangesAbove::new();
        let mut done = 0;
        let mut windows = 0_usize;
        while done < changes.len() {
            let window = self.window(level, changes, done).await?;
            self.recut(level, &window, &changes[window.changes.clone()], created, &mut above)?;
            done = window.changes.end;
            windows += 1;
            if windows.is_multiple_of(WINDOWS_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        Ok(above)
    }

    /// The nodes that the change at `first` (and those after it) concerns.
    async fn window(&self, level: u8, changes: &[LevelChange<'_>], first: usize) -> Result<Window, StoreError> {
        let layout = &self.tree.inner.layout;
        let mut right = Cursor::seek(self, level, changes[first].0).await?;
        let mut nodes = VecDeque::from([(right.root, right.node.clone())]);
        let end = right.changes_end(changes);
        let same_keys =
            changes[first..end].iter().all(|(key, value)| value.is_some() && right.node.find(*key).is_some());
        if same_keys {
            return Ok(Window { nodes, changes: first..end, same_keys });
        }
        let stays = |key: StateKey<'_>| {
            let change = changes.binary_search_by_key(&key, |change| change.0);
            change.map_or(true, |index| changes[index].1.is_some())
        };
        let mut left = right.clone();
        while !(layout.starts_run(left.node.key(0), level) && stays(left.node.key(0))) {
            if !left.step_left(self).await? {
                break;
            }
            nodes.push_front((left.root, left.node.clone()));
        }
        while let Some(next) = right.next_key() {
            if layout.starts_run(next, level) && stays(next) {
                break;
            }
            right.step_right(self).await?;
            nodes.push_back((right.root, right.node.clone()));
        }
        // A node to the left may have had changes of its own that kept its keys; they are made again with the rest.
        let start = if left.has_previous() { changes.partition_point(|change| change.0 < left.node.key(0)) } else { 0 };
        Ok(Window { nodes, changes: start..right.changes_end(changes), same_keys })
    }

    /// Makes the changes of one window and notes what becomes of its nodes.
    fn recut(
        &self,
        level: u8,
        window: &Window,
        changes: &[LevelChange<'_>],
        created: &mut Created,
        above: &mut ChangesAbove,
    ) -> Result<(), StoreError> {
        let items = merge(&window.nodes, changes);
        let made = if window.same_keys {
            vec![self.tree.make_node(&items, level, created)?]
        } else {
            self.tree.make_nodes(&items, level, created)?
        };
        let mut fates = ChangesAbove::new();
        for (_, node) in &window.nodes {
            fates.insert(node.key(0).into(), None);
        }
        for (key, child) in made {
            fates.insert(key, Some(ItemValue::Child(child)));
        }
        for (root, node) in &window.nodes {
            let key = node.key(0).into();
            if let Some(Some(ItemValue::Child(child))) = fates.get(&key)
                && child.root == *root
            {
                fates.remove(&key);
                above.remove(&key);
                created.remove(root);
            }
        }
        for (key, fate) in fates {
            let before = above.insert(key, fate);
            if let Some(Some(ItemValue::Child(child))) = before
                && before != Some(fate)
            {
                created.remove(&child.root);
            }
        }
        Ok(())
    }
}

/// A node of one level, and the way to it from the top.
#[derive(Clone)]
struct Cursor {
    path: Vec<(Arc<Node>, usize)>,
    root: Root,
    node: Arc<Node>,
}

impl Cursor {
    /// At the node in which `key` is or would be.
    async fn seek(change: &Change<'_>, level: u8, key: StateKey<'_>) -> Result<Self, StoreError> {
        let mut cursor = Self { path: Vec::new(), root: change.root, node: change.top.clone() };
        cursor.descend(change, level, |node| node.child_index(key)).await?;
        Ok(cursor)
    }

    async fn descend(
        &mut self,
        change: &Change<'_>,
        level: u8,
        choose: impl Fn(&Node) -> usize,
    ) -> Result<(), StoreError> {
        while self.node.level() > level {
            let index = choose(&self.node);
            let Some(child) = self.node.child(index) else {
                return Err(corrupt("level of a state node"));
            };
            let below = change.tree.load_below(change.src, &self.node, child.root).await?;
            self.path.push((std::mem::replace(&mut self.node, below), index));
            self.root = child.root;
        }
        Ok(())
    }

    /// The first key of the next node of this level.
    fn next_key(&self) -> Option<StateKey<'_>> {
        let (node, index) = self.path.iter().rev().find(|(node, index)| index + 1 < node.len())?;
        Some(node.key(index + 1))
    }

    /// The number of changes before the next node.
    fn changes_end(&self, changes: &[LevelChange<'_>]) -> usize {
        match self.next_key() {
            Some(next) => changes.partition_point(|change| change.0 < next),
            None => changes.len(),
        }
    }

    fn has_previous(&self) -> bool {
        self.path.iter().any(|(_, index)| *index > 0)
    }

    async fn step_right(&mut self, change: &Change<'_>) -> Result<bool, StoreError> {
        let Some(depth) = self.path.iter().rposition(|(node, index)| index + 1 < node.len()) else {
            return Ok(false);
        };
        let index = self.path[depth].1 + 1;
        self.turn(change, depth, index, |_| 0).await
    }

    async fn step_left(&mut self, change: &Change<'_>) -> Result<bool, StoreError> {
        let Some(depth) = self.path.iter().rposition(|(_, index)| *index > 0) else {
            return Ok(false);
        };
        let index = self.path[depth].1 - 1;
        self.turn(change, depth, index, |node| node.len() - 1).await
    }

    /// Goes back up to `depth`, and down through the child at `index` there and the chosen ones below.
    async fn turn(
        &mut self,
        change: &Change<'_>,
        depth: usize,
        index: usize,
        choose: impl Fn(&Node) -> usize,
    ) -> Result<bool, StoreError> {
        let level = self.node.level();
        let parent = self.path[depth].0.clone();
        self.path.truncate(depth);
        self.node = parent;
        let turning = self.node.level();
        self.descend(change, level, |node| if node.level() == turning { index } else { choose(node) }).await?;
        Ok(true)
    }
}

/// The items of neighbouring nodes with changes made.
fn merge<'a>(nodes: &'a VecDeque<(Root, Arc<Node>)>, changes: &[LevelChange<'a>]) -> Vec<Item<'a>> {
    let mut merged = Vec::new();
    let mut rest = changes.iter().peekable();
    for (_, node) in nodes {
        for index in 0..node.len() {
            let old = node.item(index);
            while let Some((key, value)) = rest.next_if(|change| change.0 < old.key) {
                merged.extend(value.map(|value| Item { key: *key, value }));
            }
            match rest.next_if(|change| change.0 == old.key) {
                Some((key, value)) => merged.extend(value.map(|value| Item { key: *key, value })),
                None => merged.push(old),
            }
        }
    }
    for (key, value) in rest {
        merged.extend(value.map(|value| Item { key: *key, value }));
    }
    merged
}

/// Orders changes by key; of several of one key the last stays.
fn last_of_each<'a>(changes: &[(StateKey<'a>, Option<Entry>)]) -> Vec<(StateKey<'a>, Option<Entry>)> {
    let mut sorted: Vec<(StateKey<'a>, Option<Entry>)> = changes.to_vec();
    sorted.sort_by_key(|change| change.0);
    sorted.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = later.1;
        }
        same
    });
    sorted
}

fn item(key: StateKey<'_>, entry: Option<Entry>) -> Option<Item<'_>> {
    Some(Item { key, value: ItemValue::Entry(entry?) })
}
