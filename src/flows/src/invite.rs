//! Inviting, with respect for what the invited want.

use rooms::{Membership, RoomsError};
use ruma::{RoomId, RoomVersionId, ServerName, UserId};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};
use store::View;

use crate::{Flows, FlowsError, profile::put_profile};

impl Flows {
    /// Invites a user to a room, with their profile if they are a local user.
    ///
    /// # Errors
    /// [`FlowsError::InviteBlocked`] if a local user wants no invites, [`FlowsError::Users`] if there is no such user (any more), and
    /// [`FlowsError::Rooms`] with [`RoomsError::NotJoined`] if the sender isn't in the room.
    pub async fn invite(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<(), FlowsError> {
        let view = self.inner.store.view().await?;
        let inviter = self.inner.rooms.membership(&view, sender, room).await?;
        // Strangers don't learn who wants no invites.
        if inviter.is_none_or(|row| row.membership != Membership::Join) {
            return Err(RoomsError::NotJoined.into());
        }
        self.check_invite(&view, target).await?;
        let mut content = self.profile_content(&view, target).await?;
        if let Some(reason) = reason {
            content.insert("reason".to_owned(), reason.into());
        }
        self.inner.rooms.invite(sender, room, target, Some(&to_raw_value(&content)?)).await?;
        Ok(())
    }

    /// Takes an invite of a local user by another server, with what comes with it of the room's state (server-server API, "Inviting to a
    /// room"). Gives the event with this server's signature.
    ///
    /// # Errors
    /// [`FlowsError::InviteBlocked`] and [`FlowsError::Users`] as [`Flows::invite`]; [`FlowsError::Rooms`] as [`Rooms::check_invite`](rooms::Rooms::check_invite) and
    /// [`Rooms::take_invite`](rooms::Rooms::take_invite).
    pub async fn receive_invite(
        &self,
        origin: &ServerName,
        room: &RoomId,
        version: &RoomVersionId,
        json: &RawValue,
        state: &[Box<RawValue>],
    ) -> Result<Box<RawValue>, FlowsError> {
        let invite = self.inner.rooms.check_invite(origin, room, version, json, state).await?;
        // After the signatures: who sends nothing right learns nothing of who is here.
        self.check_invite(&self.inner.store.view().await?, invite.target()).await?;
        Ok(self.inner.rooms.take_invite(&invite).await?)
    }

    /// What an invite says of who is invited: their profile, if they are a local user.
    pub(crate) async fn profile_content(&self, view: &View, target: &UserId) -> Result<Map<String, Value>, FlowsError> {
        let mut content = Map::new();
        if self.inner.rooms.is_local(target) {
            put_profile(&mut content, &self.inner.users.profile(view, target).await?);
        }
        Ok(content)
    }

    /// Fails if a local user can't be invited.
    ///
    /// Somebody who merely ignores the sender is invited all the same and doesn't see it: the sender must not learn of
    /// being ignored (client-server API, "Ignoring users").
    ///
    /// # Errors
    /// [`FlowsError::InviteBlocked`]; [`users::Error::UnknownUser`], [`users::Error::Deactivated`].
    pub(crate) async fn check_invite(&self, view: &View, target: &UserId) -> Result<(), FlowsError> {
        if !self.inner.rooms.is_local(target) {
            return Ok(());
        }
        self.inner.users.active_account(view, target).await?;
        match self.inner.users.blocks_invites(view, target).await? {
            true => Err(FlowsError::InviteBlocked),
            false => Ok(()),
        }
    }
}
