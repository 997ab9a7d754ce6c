//! Ids with numbers, and what is known of each.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use boxcar::Vec as AppendVec;
use parking_lot::RwLock;

/// What an id takes on the heap.
const ID_BYTES: usize = 48;

/// Ids with the numbers that they got, from 0 up, each with a value. Nothing is ever taken out.
pub(super) struct Names<I, V> {
    numbers: RwLock<HashMap<I, u32>>,
    slots: AppendVec<(I, V)>,
}

impl<I: Clone + Eq + Hash, V: Default> Names<I, V> {
    pub(super) fn new() -> Self {
        Self { numbers: RwLock::default(), slots: AppendVec::new() }
    }

    /// The number of an id, if it has one.
    pub(super) fn known<B: ?Sized + Eq + Hash>(&self, id: &B) -> Option<u32>
    where
        I: Borrow<B>,
    {
        self.numbers.read().get(id).copied()
    }

    /// The number of an id, given if it has none yet.
    pub(super) fn number<B: ?Sized + Eq + Hash + ToOwned<Owned = I>>(&self, id: &B) -> u32
    where
        I: Borrow<B>,
    {
        if let Some(number) = self.known(id) {
            return number;
        }
        let mut numbers = self.numbers.write();
        if let Some(number) = numbers.get(id) {
            return *number;
        }
        let owned = id.to_owned();
        let number = self.slots.push((owned.clone(), V::default()));
        // There is no memory for more ids than that.
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        numbers.insert(owned, number);
        number
    }

    /// The id with a number, if it was given.
    pub(super) fn id(&self, number: u32) -> Option<&I> {
        self.slots.get(number as usize).map(|(id, _)| id)
    }

    /// What is known of the id with a number, if it was given.
    pub(super) fn slot(&self, number: u32) -> Option<&V> {
        self.slots.get(number as usize).map(|(_, value)| value)
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.slots.count()).unwrap_or(u32::MAX)
    }

    /// What all takes in memory, about, without what the values have on the heap.
    pub(super) fn bytes(&self) -> usize {
        self.slots.count() * (ID_BYTES + size_of::<(I, V)>() + 2 * size_of::<(I, u32)>())
    }
}
