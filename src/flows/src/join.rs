//! Joining and knocking with one's profile.

use rooms::{CreateRoom, Membership, UpgradeRoom};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId};
use serde::Deserialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use store::View;
use tracing::warn;

use crate::{Flows, FlowsError, profile::own_content};

/// The state event that says whether guests may join.
pub(crate) const GUEST_ACCESS: &str = "m.room.guest_access";

#[derive(Deserialize)]
struct GuestAccess {
    guest_access: String,
}

/// Whether the content of an `m.room.guest_access` lets guests in.
pub(crate) fn lets_guests_in(content: &RawValue) -> bool {
    let access = serde_json::from_str::<GuestAccess>(content.get());
    access.is_ok_and(|access| access.guest_access == "can_join")
}

impl Flows {
    /// Joins a local user to a room; settings of the room that it replaces come along. Who is there already stays as they
    /// are.
    ///
    /// # Errors
    /// [`FlowsError::GuestForbidden`] for a guest whom the room doesn't let in, [`FlowsError::Rooms`].
    pub async fn join(&self, user: &UserId, room: &RoomId, reason: Option<&str>) -> Result<(), FlowsError> {
        let view = self.inner.store.view().await?;
        self.check_guest_access(&view, user, room).await?;
        let before = self.inner.rooms.membership(&view, user, room).await?;
        if before.is_some_and(|row| row.membership == Membership::Join) {
            // Nothing to do; the name that somebody has in this room alone stays.
            return Ok(());
        }
        let profile = self.inner.users.profile(&view, user).await?;
        self.inner.rooms.join(user, room, Some(&own_content(&profile, reason)?)).await?;
        self.catch_up(user, room, &profile).await;
        self.carry_settings(user, room).await;
        Ok(())
    }

    /// Takes a local user out of a room, or declines an invite.
    ///
    /// # Errors
    /// [`FlowsError::Rooms`].
    pub async fn leave(&self, user: &UserId, room: &RoomId, reason: Option<&str>) -> Result<(), FlowsError> {
        let content = reason.map(|reason| to_raw_value(&json!({ "reason": reason }))).transpose()?;
        Ok(self.inner.rooms.leave(user, room, content.as_deref()).await?)
    }

    /// Asks for an invite to a room.
    ///
    /// # Errors
    /// [`FlowsError::Rooms`].
    pub async fn knock(&self, user: &UserId, room: &RoomId, reason: Option<&str>) -> Result<(), FlowsError> {
        let content = self.member_content(&self.inner.store.view().await?, user, reason).await?;
        self.inner.rooms.knock(user, room, Some(&content)).await?;
        Ok(())
    }

    /// Makes a room with the creator's profile.
    ///
    /// # Errors
    /// As [`Flows::invite`] for each of the invited, [`FlowsError::Rooms`].
    pub async fn create_room(&self, mut request: CreateRoom) -> Result<OwnedRoomId, FlowsError> {
        let view = self.inner.store.view().await?;
        for invitee in &mut request.invites {
            self.check_invite(&view, &invitee.user).await?;
            invitee.content = Some(to_raw_value(&self.profile_content(&view, &invitee.user).await?)?);
        }
        let profile = self.inner.users.profile(&view, &request.creator).await?;
        request.member_content = Some(own_content(&profile, None)?);
        let room = self.inner.rooms.create(&request).await?;
        self.catch_up(&request.creator, &room, &profile).await;
        Ok(room)
    }

    /// Replaces a room by a new one of another version, and carries the upgrading user's settings over.
    ///
    /// # Errors
    /// [`FlowsError::Rooms`].
    pub async fn upgrade_room(
        &self,
        user: &UserId,
        room: &RoomId,
        version: RoomVersionId,
        additional_creators: Vec<OwnedUserId>,
    ) -> Result<OwnedRoomId, FlowsError> {
        let profile = self.inner.users.profile(&self.inner.store.view().await?, user).await?;
        let member_content = Some(own_content(&profile, None)?);
        let request = UpgradeRoom { user: user.to_owned(), version, additional_creators, member_content };
        let new = self.inner.rooms.upgrade(room, &request).await?;
        self.catch_up(user, &new, &profile).await;
        self.carry_settings(user, &new).await;
        Ok(new)
    }

    /// Forgets a room that the user has left, with what they stored about it.
    ///
    /// # Errors
    /// [`FlowsError::Rooms`], [`FlowsError::Contended`].
    pub async fn forget(&self, user: &UserId, room: &RoomId) -> Result<(), FlowsError> {
        // Forgetting again changes nothing, so a failure in between is mended by trying again.
        self.inner.rooms.forget(user, room).await?;
        self.forget_account_data(user, room).await
    }

    /// Fails for a guest whom the room doesn't let in.
    ///
    /// # Errors
    /// [`FlowsError::GuestForbidden`].
    pub(crate) async fn check_guest_access(&self, view: &View, user: &UserId, room: &RoomId) -> Result<(), FlowsError> {
        if !self.inner.users.is_guest(view, user).await? {
            return Ok(());
        }
        let event = self.inner.rooms.current_state(view, room).await?.shown(GUEST_ACCESS, "").await?;
        if event.is_some_and(|event| lets_guests_in(event.content())) {
            return Ok(());
        }
        Err(FlowsError::GuestForbidden)
    }

    /// Carries tags, push rules and the mark of a direct chat over from the room that this one replaces.
    async fn carry_settings(&self, user: &UserId, room: &RoomId) {
        // The join stands; settings can be set by hand.
        if let Err(error) = self.try_carry_settings(user, room).await {
            warn!(%user, %room, %error, "can't carry settings into an upgraded room");
        }
    }
}
