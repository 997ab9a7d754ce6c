//! What spans rooms and users: joining with one's profile, telling rooms about a changed profile, inviting those who
//! want to be invited, carrying settings into an upgraded room, leaving everything at deactivation.
//!
//! What takes long (telling a thousand rooms a new name) is written down as a job in the batch that causes it, and done
//! afterwards by one background task, step by step; after a restart it goes on where it was. Another follows the log for
//! rooms that close themselves to guests.

mod deactivate;
mod error;
mod guests;
mod invite;
mod join;
mod notifications;
mod profile;
mod read_markers;
mod send_state;
mod tables;
mod upgrade;
mod visibility;
mod work;

use std::sync::Arc;

use reading::Reading;
use rooms::Rooms;
use store::{Following, Store};
use users::Users;

pub use self::{error::FlowsError, read_markers::ReadMarkers, tables::TABLES, visibility::Acquaintances};

/// All flows. Cheap to clone.
#[derive(Clone)]
pub struct Flows {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    users: Users,
    rooms: Rooms,
    reading: Reading,
    jobs: Arc<work::Jobs>,
    guests: Following,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The background task sees that there is nothing left to work for.
        self.jobs.wake();
    }
}

impl Flows {
    /// Flows between the users and rooms of one store (opened with [`TABLES`] among others).
    ///
    /// Starts the background tasks, which end with the last clone, so it must be called inside a tokio runtime.
    pub fn new(store: Store, users: Users, reading: Reading) -> Self {
        let jobs = Arc::new(work::Jobs::new());
        let rooms = reading.rooms().clone();
        let guests = guests::Guests { store: store.clone(), users: users.clone(), rooms: rooms.clone() };
        let guests = store.run_follower(guests);
        let inner = Arc::new(Inner { store, users, rooms, reading, jobs: jobs.clone(), guests });
        tokio::spawn(work::run(Arc::downgrade(&inner), jobs));
        Self { inner }
    }

    /// Waits until what follows from everything published by now is done: for tests.
    pub async fn finish_jobs(&self) {
        let published = self.inner.store.published();
        if self.inner.guests.reached(published).await.is_err() {
            return;
        }
        self.inner.jobs.finished().await;
    }
}
