//! State events that a user sets.

use rooms::{Membership, NewState, SendOptions, Sender, Sent};
use ruma::RoomId;

use crate::{Flows, FlowsError};

impl Flows {
    /// Sets a state event. An invite or a join that comes as one is held to what holds for any other.
    ///
    /// # Errors
    /// For an invite as [`Flows::invite`], for a guest's join as [`Flows::join`]; [`FlowsError::Rooms`].
    pub async fn send_state(
        &self,
        sender: &Sender<'_>,
        room: &RoomId,
        state: NewState<'_>,
        options: SendOptions,
    ) -> Result<Sent, FlowsError> {
        match state.membership() {
            Some((target, Membership::Join)) if target == sender.user => {
                self.check_guest_access(&self.inner.store.view().await?, target, room).await?;
            }
            Some((target, Membership::Invite)) => self.check_invite(&self.inner.store.view().await?, target).await?,
            Some((_, Membership::Join | Membership::Leave | Membership::Knock | Membership::Ban)) | None => {}
        }
        Ok(self.inner.rooms.send_state(sender, room, state, options).await?)
    }
}
