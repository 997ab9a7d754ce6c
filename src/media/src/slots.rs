//! How much of one kind of work a user may have going on at the same time, so that one can't keep all the others waiting.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::{Error, Result};

/// What each user has going on, by name.
pub(crate) struct Slots {
    per_user_max: usize,
    users: Arc<Mutex<Users>>,
}

/// Users without any slot are not in here.
type Users = BTreeMap<String, Taken>;

#[derive(Default)]
struct Taken {
    count: usize,
    turn: Arc<Turn<()>>,
}

/// One of a user's slots, until it is dropped.
#[must_use]
pub(crate) struct Slot {
    user: String,
    turn: Arc<Turn<()>>,
    users: Arc<Mutex<Users>>,
}

impl Slots {
    pub(crate) fn new(per_user_max: usize) -> Self {
        Self { per_user_max, users: Arc::default() }
    }

    /// # Errors
    /// [`Error::Busy`] if the user has taken all.
    pub(crate) fn take(&self, user: &str) -> Result<Slot> {
        let mut users = self.users.lock();
        let taken = users.entry(user.to_owned()).or_default();
        if taken.count >= self.per_user_max {
            return Err(Error::Busy);
        }
        taken.count += 1;
        Ok(Slot { user: user.to_owned(), turn: taken.turn.clone(), users: self.users.clone() })
    }
}

impl Slot {
    /// Waits until none of the user's other slots has the turn.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut users = self.users.lock();
        let Some(taken) = users.get_mut(&self.user) else { return };
        taken.count = taken.count.saturating_sub(1);
        if taken.count == 0 {
            users.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn each_user_has_so_many() {
        let slots = Slots::new(2);
        let first = slots.take("alice").expect("free");
        let second = slots.take("alice").expect("free");
        assert!(matches!(slots.take("alice"), Err(Error::Busy)));
        drop(slots.take("bob").expect("has his own"));
        drop(first);
        drop((second, slots.take("alice").expect("free again")));
        assert!(slots.users.lock().is_empty());
    }

    #[test]
    fn each_user_has_one_turn_at_a_time() {
        let slots = Slots::new(2);
        let [first, second] = [(); 2].map(|()| slots.take("alice").expect("free"));
        let turn = first.turn().now_or_never().expect("nobody else");
        assert!(second.turn().now_or_never().is_none());
        assert!(slots.take("bob").expect("free").turn().now_or_never().is_some());
        drop(turn);
        assert!(second.turn().now_or_never().is_some());
    }
}
