//! One node of a state tree: what it holds in memory, and its bytes.
//!
//! A leaf (level 0) holds keys with their entries. An inner node of level *n* holds, for each child of level *n* - 1,
//! the child's first key, its root and the highest generation in it. Keys ascend strictly.
//!
//! The bytes are: format, level, number of items; for each run of keys with one event type the length of the run and
//! of the type, then for each key its length, the generation, and the event number or the child's root; at the end
//! all text, each run's type followed by its keys. Numbers are LEB128 varints.

use store::{DecodeError, EncodeValue, Value, Writer};

use super::{Entry, ROOT_BYTES, Root, StateKey};
use crate::EventNum;

/// The first byte of a node.
const FORMAT: u8 = 1;
/// The highest level that a node may have. Far above what any tree reaches: it only bounds what is believed of stored bytes.
pub(super) const LEVEL_MAX: u8 = 63;
/// The fewest bytes that an item takes: length of the key, generation, event number.
const ITEM_BYTES_MIN: usize = 3;

/// One item of a node, borrowed: what nodes are made of.
#[derive(Copy, Clone, Debug)]
pub(super) struct Item<'a> {
    /// The key; of a child its first key.
    pub key: StateKey<'a>,
    /// What is there.
    pub value: ItemValue,
}

/// What a node holds at a key.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) enum ItemValue {
    /// In leaves: an entry of the state.
    Entry(Entry),
    /// In inner nodes: a child.
    Child(Child),
}

/// A reference to a node from the one above.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) struct Child {
    /// The child's hash.
    pub root: Root,
    /// The highest generation in it.
    pub highest: u32,
}

impl ItemValue {
    /// The entry's generation, or the highest below the child.
    fn generation(&self) -> u32 {
        match self {
            Self::Entry(entry) => entry.generation,
            Self::Child(child) => child.highest,
        }
    }
}

/// Where in the node's text a key is, and its generation.
#[derive(Copy, Clone, Debug)]
struct Slot {
    type_at: u32,
    type_len: u32,
    key_at: u32,
    key_len: u32,
    generation: u32,
}

/// What stands at the keys.
#[derive(Debug)]
enum Payload {
    Events(Box<[EventNum]>),
    Roots(Box<[Root]>),
}

/// A node, immutable.
#[derive(Debug)]
pub struct Node {
    level: u8,
    highest: u32,
    encoded_bytes: u32,
    text: Box<str>,
    slots: Box<[Slot]>,
    payload: Payload,
}

impl Node {
    /// 0 for leaves, 1 for what holds leaves, and so on.
    pub(super) fn level(&self) -> u8 {
        self.level
    }

    /// The number of entries or children, at least 1.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The highest generation in and below this node.
    pub(super) fn highest(&self) -> u32 {
        self.highest
    }

    /// The size of the stored form in bytes.
    pub(super) fn encoded_bytes(&self) -> usize {
        self.encoded_bytes as usize
    }

    /// What the node takes in memory, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let payload = match &self.payload {
            Payload::Events(events) => size_of_val(&events[..]),
            Payload::Roots(roots) => size_of_val(&roots[..]),
        };
        size_of::<Self>() + self.text.len() + size_of_val(&self.slots[..]) + payload
    }

    /// The key at `index`, which must be below [`Node::len`].
    pub(super) fn key(&self, index: usize) -> StateKey<'_> {
        let slot = &self.slots[index];
        (self.text_at(slot.type_at, slot.type_len), self.text_at(slot.key_at, slot.key_len))
    }

    /// The value at `index`, which must be below [`Node::len`].
    pub(super) fn value(&self, index: usize) -> ItemValue {
        let generation = self.slots[index].generation;
        match &self.payload {
            Payload::Events(events) => ItemValue::Entry(Entry { event: events[index], generation }),
            Payload::Roots(roots) => ItemValue::Child(Child { root: roots[index], highest: generation }),
        }
    }

    /// The entry at `index` of a leaf.
    pub(super) fn entry(&self, index: usize) -> Option<Entry> {
        match self.value(index) {
            ItemValue::Entry(entry) => Some(entry),
            ItemValue::Child(_) => None,
        }
    }

    /// The child at `index` of an inner node.
    pub(super) fn child(&self, index: usize) -> Option<Child> {
        match self.value(index) {
            ItemValue::Child(child) => Some(child),
            ItemValue::Entry(_) => None,
        }
    }

    /// The item at `index`.
    pub(super) fn item(&self, index: usize) -> Item<'_> {
        Item { key: self.key(index), value: self.value(index) }
    }

    /// The first index in `from..` whose key is not below `key`; [`Node::len`] if there is none.
    pub(super) fn lower_bound(&self, key: StateKey<'_>) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The index of `key`, if it is one of the node's own keys.
    pub(super) fn find(&self, key: StateKey<'_>) -> Option<usize> {
        let index = self.lower_bound(key);
        (index < self.len() && self.key(index) == key).then_some(index)
    }

    /// The index of the child in which `key` is or would be: the last that starts at or before it, else the first.
    pub(super) fn child_index(&self, key: StateKey<'_>) -> usize {
        let index = self.lower_bound(key);
        if index < self.len() && self.key(index) == key { index } else { index.saturating_sub(1) }
    }

    fn text_at(&self, at: u32, len: u32) -> &str {
        &self.text[at as usize..at as usize + len as usize]
    }
}

impl EncodeValue<Node> for Node {
    fn encode_value(&self, w: &mut Writer) {
        let items: Vec<Item<'_>> = (0..self.len()).map(|index| self.item(index)).collect();
        w.raw(&encode(self.level, &items));
    }
}

impl Value for Node {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }
}

/// The bytes of a node of this level with these items.
pub(super) fn encode(level: u8, items: &[Item<'_>]) -> Vec<u8> {
    let mut out = vec![FORMAT, level];
    let mut text = Vec::new();
    put_varint(&mut out, items.len() as u64);
    for run in items.chunk_by(|left, right| left.key.0 == right.key.0) {
        let event_type = run[0].key.0;
        put_varint(&mut out, run.len() as u64);
        put_varint(&mut out, event_type.len() as u64);
        text.extend_from_slice(event_type.as_bytes());
        for item in run {
            put_varint(&mut out, item.key.1.len() as u64);
            put_varint(&mut out, u64::from(item.value.generation()));
            match item.value {
                ItemValue::Entry(entry) => put_varint(&mut out, entry.event.0),
                ItemValue::Child(child) => out.extend_from_slice(&child.root.0),
            }
            text.extend_from_slice(item.key.1.as_bytes());
        }
    }
    out.extend_from_slice(&text);
    out
}

/// Reads what [`encode`] wrote. Any other bytes give an error.
pub(super) fn decode(bytes: &[u8]) -> Result<Node, DecodeError> {
    let encoded_bytes = u32::try_from(bytes.len()).map_err(|_| invalid("state node size"))?;
    let mut parts = Parts { rest: bytes };
    if parts.byte()? != FORMAT {
        return Err(invalid("state node format"));
    }
    let level = parts.byte()?;
    if level > LEVEL_MAX {
        return Err(invalid("state node level"));
    }
    let count = parts.length()?;
    if count == 0 || count > bytes.len() / ITEM_BYTES_MIN {
        return Err(invalid("number of items in a state node"));
    }
    let mut slots = Vec::with_capacity(count);
    let mut events = Vec::with_capacity(if level == 0 { count } else { 0 });
    let mut roots = Vec::with_capacity(if level == 0 { 0 } else { count });
    let mut text_len = 0_u32;
    while slots.len() < count {
        let run = parts.length()?;
        if run == 0 || run > count - slots.len() {
            return Err(invalid("run in a state node"));
        }
        let (type_at, type_len) = parts.text(&mut text_len)?;
        for _ in 0..run {
            let (key_at, key_len) = parts.text(&mut text_len)?;
            let generation = u32::try_from(parts.varint()?).map_err(|_| invalid("generation"))?;
            slots.push(Slot { type_at, type_len, key_at, key_len, generation });
            match level {
                0 => events.push(EventNum(parts.varint()?)),
                _ => roots.push(parts.root()?),
            }
        }
    }
    if parts.rest.len() != text_len as usize {
        return Err(invalid("text length in a state node"));
    }
    let text: Box<str> = str::from_utf8(parts.rest).map_err(|_| invalid("text in a state node"))?.into();
    let highest = slots.iter().map(|slot| slot.generation).max().unwrap_or(0);
    let payload = if level == 0 { Payload::Events(events.into()) } else { Payload::Roots(roots.into()) };
    let node = Node { level, highest, encoded_bytes, text, slots: slots.into(), payload };
    check_keys(&node)?;
    Ok(node)
}

/// Checks that the slots cut the text between characters, and that the keys ascend.
fn check_keys(node: &Node) -> Result<(), DecodeError> {
    for slot in &node.slots {
        for (at, len) in [(slot.type_at, slot.type_len), (slot.key_at, slot.key_len)] {
            let range = at as usize..at as usize + len as usize;
            if node.text.get(range).is_none() {
                return Err(invalid("key in a state node"));
            }
        }
    }
    for index in 1..node.len() {
        if node.key(index - 1) >= node.key(index) {
            return Err(invalid("order of keys in a state node"));
        }
    }
    Ok(())
}

/// Takes parts from the front of a node's bytes.
struct Parts<'a> {
    rest: &'a [u8],
}

impl Parts<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return Err(invalid("varint"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(invalid("varint"))
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.varint()?).map_err(|_| invalid("length"))
    }

    /// The length of the next piece of text: gives its place and moves `end` behind it.
    fn text(&mut self, end: &mut u32) -> Result<(u32, u32), DecodeError> {
        let at = *end;
        let len = u32::try_from(self.varint()?).map_err(|_| invalid("length"))?;
        *end = at.checked_add(len).ok_or_else(|| invalid("length"))?;
        Ok((at, len))
    }

    fn root(&mut self) -> Result<Root, DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<ROOT_BYTES>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(Root(*head))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn invalid(what: &'static str) -> DecodeError {
    DecodeError::Invalid(what)
}
