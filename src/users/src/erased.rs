//! Users who asked, when they deactivated their account, that their messages be hidden from those who don't see them yet.
//!
//! Specification: client-server API, "Account deactivation".

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use ruma::OwnedUserId;
use store::{Held, Position, Range, Text};

use crate::{Result, Users, tables::Erased};

/// What an erased user takes in memory besides the id.
const USER_BYTES: usize = 48;

/// All of them, read again after each deactivation. Who sent an event is asked for each that is shown, so none can be given up.
pub(crate) struct ErasedCache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where they may have changed last.
    changed: Position,
    users: Option<Arc<HashSet<OwnedUserId>>>,
    held: Held,
}

impl ErasedCache {
    /// Nothing is known yet; what will be counts as held.
    pub(crate) fn new(held: Held) -> Self {
        Self { state: Mutex::new(State { held, ..State::default() }) }
    }

    /// Somebody was deactivated at `position`, or nobody knows. Views may not show it yet.
    pub(crate) fn changed(&self, position: Position) {
        let mut state = self.state.lock();
        state.changed = position;
        state.users = None;
        state.held.set(0);
    }
}

impl Users {
    /// Whose messages are to be hidden from those who joined a room after they were sent. A new one counts as soon as
    /// views show them.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn erased_users(&self) -> Result<Arc<HashSet<OwnedUserId>>> {
        if let Some(users) = &self.inner.erased.state.lock().users {
            return Ok(users.clone());
        }
        let view = self.inner.store.view().await?;
        let mut users = HashSet::new();
        let mut next = Some(Range::<Erased>::all());
        while let Some(range) = next {
            let page = view.scan(range).await?;
            users.extend(page.rows.into_iter().map(|(Text(user), ())| user));
            next = page.next;
        }
        let users = Arc::new(users);
        let mut state = self.inner.erased.state.lock();
        if state.changed <= view.position() {
            state.users = Some(users.clone());
            state.held.set(users.iter().map(|user| user.as_str().len() + USER_BYTES).sum());
        }
        Ok(users)
    }
}
