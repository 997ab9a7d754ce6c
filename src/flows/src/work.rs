//! The background task that does the jobs.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::OwnedUserId;
use store::{Range, Table, Text};
use tokio::sync::watch;
use tracing::error;

use crate::{
    FlowsError, Inner,
    tables::{LeaveJobs, ProfileJobs},
};

/// Users looked at in one round.
const USERS_PER_ROUND: usize = 256;
/// Users whose jobs go on at the same time.
const USERS_AT_ONCE: usize = 8;
/// Pause after a round that failed, in milliseconds.
const RETRY_MS: u64 = 5_000;

/// Tells the background task of jobs, and others when it is done.
pub(crate) struct Jobs {
    /// Counts the jobs written down; 1 stands for those of an earlier process.
    wanted: watch::Sender<u64>,
    /// The value of `wanted` at which the task last found nothing to do.
    done: watch::Sender<u64>,
}

impl Jobs {
    pub(crate) fn new() -> Self {
        Self { wanted: watch::Sender::new(1), done: watch::Sender::new(0) }
    }

    /// Says that a job was written down.
    pub(crate) fn wake(&self) {
        self.wanted.send_modify(|wanted| *wanted += 1);
    }

    /// Waits until all jobs written down by now are done.
    pub(crate) async fn finished(&self) {
        let wanted = *self.wanted.borrow();
        let mut done = self.done.subscribe();
        while *done.borrow_and_update() < wanted {
            // The sender lives as long as we do.
            if done.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Does jobs until the flows are dropped.
pub(crate) async fn run(flows: Weak<Inner>, jobs: Arc<Jobs>) {
    let mut wanted = jobs.wanted.subscribe();
    loop {
        let now = *wanted.borrow_and_update();
        let Some(inner) = flows.upgrade() else { return };
        let done = round(&inner).await;
        drop(inner);
        match done {
            Ok(0) => {
                jobs.done.send_replace(now);
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(failed) => {
                error!(error = %failed, "background jobs failed");
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            }
        }
    }
}

/// One step of every job. Gives their number.
async fn round(inner: &Inner) -> Result<usize, FlowsError> {
    let profiles = users_with::<ProfileJobs>(inner).await?;
    let leaves = users_with::<LeaveJobs>(inner).await?;
    let jobs = profiles.len() + leaves.len();
    let profiles = stream::iter(profiles).map(|user| async move { inner.profile_step(&user).await });
    let mut profiles = profiles.buffer_unordered(USERS_AT_ONCE);
    while let Some(done) = profiles.next().await {
        done?;
    }
    for user in leaves {
        inner.leave_step(&user).await?;
    }
    Ok(jobs)
}

async fn users_with<T>(inner: &Inner) -> Result<Vec<OwnedUserId>, FlowsError>
where
    T: Table<Key = Text<OwnedUserId>>,
{
    let page = inner.store.view().scan(Range::<T>::all().limit(USERS_PER_ROUND)).await?;
    Ok(page.into_iter().map(|(Text(user), _)| user).collect())
}
