//! Deactivating an account: what it has is deleted at once, its rooms are left in the background.

use rooms::Membership;
use ruma::{OwnedRoomId, UserId};
use store::{Batch, View};
use tracing::warn;
use users::Erasure;

use crate::{Flows, FlowsError, Inner, tables::LeaveJobs};

/// Rooms left in one step of a job.
const ROOMS_PER_STEP: usize = 32;

impl Flows {
    /// Deactivates a local user's account for ever.
    ///
    /// # Errors
    /// [`users::Error::UnknownUser`].
    pub async fn deactivate(&self, user: &UserId, erasure: Erasure) -> Result<(), FlowsError> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            self.inner.users.prepare_deactivate(&view, &mut batch, user, erasure).await?;
            batch.put::<LeaveJobs>(&user, &());
            Ok::<_, FlowsError>((batch, ()))
        };
        self.inner.store.retry(decide).await?;
        // They may be in their rooms for a while yet.
        self.inner.rooms.typing().stop_everywhere(user);
        self.inner.jobs.wake();
        Ok(())
    }
}

impl Inner {
    /// Leaves a few more of a deactivated user's rooms.
    pub(crate) async fn leave_step(&self, user: &UserId) -> Result<(), FlowsError> {
        let view = self.store.view().await?;
        let mut left: Vec<OwnedRoomId> = Vec::new();
        for (room, row) in self.rooms.memberships(&view, user).await? {
            if matches!(row.membership, Membership::Join | Membership::Invite | Membership::Knock) {
                left.push(room);
            }
        }
        let is_last = left.len() <= ROOMS_PER_STEP;
        left.truncate(ROOMS_PER_STEP);
        let leaving = left.iter().map(|room| self.rooms.leave(user, room, None));
        let mut failed = 0;
        for (room, result) in left.iter().zip(futures_util::future::join_all(leaving).await) {
            if let Err(error) = result {
                warn!(%user, %room, %error, "a deactivated user can't leave a room");
                failed += 1;
            }
        }
        // Rooms that can't be left must not keep the job alive for ever.
        if is_last || failed == ROOMS_PER_STEP {
            let mut batch = Batch::new();
            batch.relaxed();
            batch.delete::<LeaveJobs>(&user);
            self.store.commit(batch).await?;
        }
        Ok(())
    }
}
