//! Users who asked, when they deactivated their account, that their messages be hidden from those who don't see them yet.
//!
//! Specification: client-server API, "Account deactivation".

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use ruma::OwnedUserId;
use store::{Held, Range, Text};

use crate::{Result, Users, tables::Erased};

/// What an erased user takes in memory besides the id.
const USER_BYTES: usize = 48;

/// All of them, read again after each deactivation. Who sent an event is asked for each that is shown, so none can be given up.
pub(crate) struct ErasedCache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts what may have changed the users.
    generation: u64,
    users: Option<Arc<HashSet<OwnedUserId>>>,
    held: Held,
}

impl ErasedCache {
    /// Nothing is known yet; what will be counts as held.
    pub(crate) fn new(held: Held) -> Self {
        Self { state: Mutex::new(State { held, ..State::default() }) }
    }

    /// Somebody was deactivated, or nobody knows.
    pub(crate) fn changed(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.users = None;
        state.held.set(0);
    }
}

impl Users {
    /// Whose messages are to be hidden from those who joined a room after they were sent. A new one counts once the
    /// log has been followed that far.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn erased_users(&self) -> Result<Arc<HashSet<OwnedUserId>>> {
        let generation = {
            let state = self.inner.erased.state.lock();
            if let Some(users) = &state.users {
                return Ok(users.clone());
            }
            state.generation
        };
        // Taken after the generation was read, so it has every change that the generation counts.
        let view = self.inner.store.view();
        let mut users = HashSet::new();
        let mut next = Some(Range::<Erased>::all());
        while let Some(range) = next {
            let page = view.scan(range).await?;
            users.extend(page.rows.into_iter().map(|(Text(user), ())| user));
            next = page.next;
        }
        let users = Arc::new(users);
        let mut state = self.inner.erased.state.lock();
        if state.generation == generation {
            state.users = Some(users.clone());
            state.held.set(users.iter().map(|user| user.as_str().len() + USER_BYTES).sum());
        }
        Ok(users)
    }
}
