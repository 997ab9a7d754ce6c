//! A user's profile in the rooms that they are in.
//!
//! Specification: client-server API, "Events on Change of Profile Information".

use rooms::RoomsError;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};
use store::{Batch, CommitError, View};
use tracing::{debug, warn};
use users::{Profile, ProfileChange};

use crate::{
    Flows, FlowsError, Inner,
    tables::{ProfileJob, ProfileJobs},
};

/// Rooms told in one step of a job.
const ROOMS_PER_STEP: usize = 32;

impl Flows {
    /// Changes a local user's profile. Display name and avatar reach their rooms in the background.
    ///
    /// # Errors
    /// As [`users::Users::change_profile`].
    pub async fn change_profile(&self, user: &UserId, change: &ProfileChange) -> Result<(), FlowsError> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let delta = self.inner.users.prepare_profile_change(&view, &mut batch, user, change).await?;
            if delta.concerns_rooms() {
                let old = view.get::<ProfileJobs>(&user).await?;
                let version = old.as_ref().map_or(0, |job| job.version) + 1;
                batch.expect::<ProfileJobs>(&user, old.as_ref());
                batch.put::<ProfileJobs>(&user, &ProfileJob { version, last: "" });
            }
            Ok::<_, FlowsError>((batch, ()))
        };
        self.inner.store.retry(decide).await?;
        self.inner.jobs.wake();
        Ok(())
    }

    /// The content of a local user's own member event: their profile, and a reason.
    ///
    /// # Errors
    /// Fails only if the store does.
    pub async fn member_content(
        &self,
        view: &View,
        user: &UserId,
        reason: Option<&str>,
    ) -> Result<Box<RawValue>, FlowsError> {
        own_content(&self.inner.users.profile(view, user).await?, reason)
    }

    /// Tells a room about a profile that changed while the user came in with what it was before: the job of that change need
    /// not have seen them there.
    pub(crate) async fn catch_up(&self, user: &UserId, room: &RoomId, had: &Profile) {
        let told = async {
            let now = self.inner.users.profile(&self.inner.store.view().await?, user).await?;
            match (now.display_name(), now.avatar_url()) == (had.display_name(), had.avatar_url()) {
                true => Ok(()),
                false => self.inner.tell_room(user, room, &now).await,
            }
        };
        // They are in the room all the same.
        if let Err::<(), FlowsError>(error) = told.await {
            warn!(%user, %room, %error, "can't tell a room about a profile that changed meanwhile");
        }
    }
}

/// The content of a user's own member event.
pub(crate) fn own_content(profile: &Profile, reason: Option<&str>) -> Result<Box<RawValue>, FlowsError> {
    let mut content = Map::new();
    put_profile(&mut content, profile);
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), reason.into());
    }
    Ok(to_raw_value(&content)?)
}

/// Display name and avatar as a member event has them.
pub(crate) fn put_profile(content: &mut Map<String, Value>, profile: &Profile) {
    let fields = [("displayname", profile.display_name()), ("avatar_url", profile.avatar_url())];
    for (name, value) in fields {
        match value {
            Some(value) => content.insert(name.to_owned(), value.into()),
            None => content.remove(name),
        };
    }
}

impl Inner {
    /// Tells a few more of a user's rooms about their profile, and notes how far it came.
    pub(crate) async fn profile_step(&self, user: &UserId) -> Result<(), FlowsError> {
        let view = self.store.view().await?;
        let Some(job) = view.get::<ProfileJobs>(&user).await? else { return Ok(()) };
        let mut rooms = self.rooms.joined_rooms(&view, user).await?;
        rooms.sort_unstable();
        let begin = rooms.partition_point(|room| *room.as_str() <= *job.last);
        let step: Vec<OwnedRoomId> = rooms[begin..].iter().take(ROOMS_PER_STEP).cloned().collect();
        let profile = self.users.profile(&view, user).await?;
        // Together, so that they share one flush to disk.
        let told = step.iter().map(|room| self.tell_room(user, room, &profile));
        for told in futures_util::future::join_all(told).await {
            told?;
        }
        let mut batch = Batch::new();
        batch.relaxed();
        batch.expect::<ProfileJobs>(&user, Some(&job));
        match step.last() {
            Some(last) if step.len() == ROOMS_PER_STEP => {
                batch.put::<ProfileJobs>(&user, &ProfileJob { version: job.version, last });
            }
            _ => batch.delete::<ProfileJobs>(&user),
        }
        match self.store.commit(batch).await {
            // A newer change has written the job anew; it begins from the first room.
            Ok(_) | Err(CommitError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells one room. Fails where trying again can succeed: a change must not get lost.
    async fn tell_room(&self, user: &UserId, room: &RoomId, profile: &Profile) -> Result<(), FlowsError> {
        let told = self.rooms.update_member(user, room, |content| {
            // Why the user once joined is not why their name changes.
            content.remove("reason");
            put_profile(content, profile);
        });
        match told.await {
            Ok(_) => Ok(()),
            Err(
                error @ (RoomsError::Store(_)
                | RoomsError::Busy
                | RoomsError::Commit(CommitError::Conflict | CommitError::Failed(_) | CommitError::Closed)),
            ) => Err(error.into()),
            // The room is so and stays so, and its members know the user by the name that they had.
            Err(RoomsError::Forbidden(reason)) => {
                debug!(%user, %room, reason, "a room refuses a changed profile");
                Ok(())
            }
            Err(error) => {
                warn!(%user, %room, %error, "can't tell a room about a changed profile");
                Ok(())
            }
        }
    }
}
