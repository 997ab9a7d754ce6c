//! Nodes and their bytes: what was written is read back, and no bytes make the reader panic.

use proptest::{collection, prelude::*};

use crate::{
    Entry, EventNum, Root,
    node::{self, Child, Item, ItemValue},
};

fn keys() -> impl Strategy<Value = Vec<(String, String)>> {
    let key = ("(m\\.room\\.(name|member)|海马|)", "(@[a-z]{0,12}|\\PC{0,6})");
    collection::btree_set(key, 1..40).prop_map(|keys| keys.into_iter().collect())
}

fn items<'a>(keys: &'a [(String, String)], seed: u64, level: u8) -> Vec<Item<'a>> {
    let mut items = Vec::new();
    for (index, (event_type, state_key)) in keys.iter().enumerate() {
        let number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(index as u32);
        let value = if level == 0 {
            ItemValue::Entry(Entry { event: EventNum(number), generation: number as u32 })
        } else {
            let mut root = [0; 16];
            root[..8].copy_from_slice(&number.to_le_bytes());
            ItemValue::Child(Child { root: Root(root), highest: number as u32 })
        };
        items.push(Item { key: (event_type, state_key), value });
    }
    items
}

proptest! {
    #[test]
    fn what_is_written_is_read(keys in keys(), seed: u64, level in 0..4_u8) {
        let items = items(&keys, seed, level);
        let bytes = node::encode(level, &items);
        let node = node::decode(&bytes).unwrap();
        prop_assert_eq!(node.level(), level);
        prop_assert_eq!(node.len(), items.len());
        prop_assert_eq!(node.encoded_bytes(), bytes.len());
        for (index, item) in items.iter().enumerate() {
            prop_assert_eq!(node.key(index), item.key);
            prop_assert_eq!(node.value(index), item.value);
            prop_assert_eq!(node.find(item.key), Some(index));
            prop_assert_eq!(node.child_index(item.key), index);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in collection::vec(any::<u8>(), 0..200)) {
        let _ = node::decode(&bytes);
    }

    #[test]
    fn damaged_nodes_are_read_or_refused(
        keys in keys(),
        seed: u64,
        level in 0..3_u8,
        at: prop::sample::Index,
        to: u8,
        cut: prop::sample::Index,
    ) {
        let mut bytes = node::encode(level, &items(&keys, seed, level));
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(node) = node::decode(&bytes) {
            for index in 0..node.len() {
                let _ = node.item(index);
            }
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(node::decode(&bytes).is_err());
    }
}

#[test]
fn keys_out_of_order_are_refused() {
    let value = ItemValue::Entry(Entry { event: EventNum(1), generation: 0 });
    for keys in [[("b", ""), ("a", "")], [("a", "x"), ("a", "x")]] {
        let items = keys.map(|key| Item { key, value });
        assert!(node::decode(&node::encode(0, &items)).is_err());
    }
    assert!(node::decode(&node::encode(0, &[])).is_err());
}
