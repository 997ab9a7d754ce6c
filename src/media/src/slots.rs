//! How much of one kind of work a user may have going on at the same time, so that one can't keep all the others waiting.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use crate::{Error, Result};

/// What each user has going on.
pub(crate) struct Slots {
    per_user_max: usize,
    /// Users without any are not in here.
    taken: Arc<Mutex<BTreeMap<OwnedUserId, usize>>>,
}

/// One of a user's slots, until it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Slot {
    user: OwnedUserId,
    taken: Arc<Mutex<BTreeMap<OwnedUserId, usize>>>,
}

impl Slots {
    pub(crate) fn new(per_user_max: usize) -> Self {
        Self { per_user_max, taken: Arc::default() }
    }

    /// # Errors
    /// [`Error::Busy`] if the user has taken all.
    pub(crate) fn take(&self, user: &UserId) -> Result<Slot> {
        let mut taken = self.taken.lock();
        let count = taken.entry(user.to_owned()).or_default();
        if *count >= self.per_user_max {
            return Err(Error::Busy);
        }
        *count += 1;
        Ok(Slot { user: user.to_owned(), taken: self.taken.clone() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        let left = taken.get(&self.user).map_or(0, |count| count.saturating_sub(1));
        match left {
            0 => drop(taken.remove(&self.user)),
            left => drop(taken.insert(self.user.clone(), left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn each_user_has_so_many() {
        let slots = Slots::new(2);
        let (alice, bob) = (user_id!("@alice:example.org"), user_id!("@bob:example.org"));
        let first = slots.take(alice).expect("free");
        let second = slots.take(alice).expect("free");
        assert!(matches!(slots.take(alice), Err(Error::Busy)));
        drop(slots.take(bob).expect("has his own"));
        drop(first);
        drop((second, slots.take(alice).expect("free again")));
        assert!(slots.taken.lock().is_empty());
    }
}
