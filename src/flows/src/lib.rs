//! What spans rooms and users: joining with one's profile, telling rooms about a changed profile, inviting those who
//! want to be invited, carrying settings into an upgraded room, leaving everything at deactivation.
//!
//! What takes long (telling a thousand rooms a new name) is written down as a job in the batch that causes it, and done
//! afterwards by one background task, step by step; after a restart it goes on where it was.

mod deactivate;
mod error;
mod invite;
mod join;
mod profile;
mod read_markers;
mod tables;
mod upgrade;
mod visibility;
mod work;

use std::sync::Arc;

use rooms::Rooms;
use store::Store;
use users::Users;

pub use self::{error::FlowsError, read_markers::ReadMarkers, tables::TABLES};

/// How often a change is tried again when others change the same rows.
const COMMIT_ATTEMPTS_MAX: u32 = 10;

/// All flows. Cheap to clone.
#[derive(Clone)]
pub struct Flows {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    users: Users,
    rooms: Rooms,
    jobs: Arc<work::Jobs>,
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
    /// Starts the background task, which ends with the last clone, so it must be called inside a tokio runtime.
    pub fn new(store: Store, users: Users, rooms: Rooms) -> Self {
        let jobs = Arc::new(work::Jobs::new());
        let inner = Arc::new(Inner { store, users, rooms, jobs: jobs.clone() });
        tokio::spawn(work::run(Arc::downgrade(&inner), jobs));
        Self { inner }
    }

    /// Waits until the jobs that were written down by now are done: for tests and for an orderly end.
    pub async fn finish_jobs(&self) {
        self.inner.jobs.finished().await;
    }
}
