//! Whose device lists changed, and when: what others must ask for anew.
//!
//! Each user has one row at the position of the last change that others see of their keys, whatever server they are
//! of, and whoever asks finds those of a range together. For ranges that ended before the last change, each user's last
//! [`DEVICE_LIST_CHANGES_KEPT`] are kept. Nothing is written for each room or each follower: who shares
//! a room with the user at the end of a range is for the reader to say.
//!
//! Specification: client-server API, "Tracking the device list for a user".

use ruma::{OwnedRoomId, OwnedUserId, UserId};
use store::{Batch, Position, Range, View};

use crate::{Change, Result, Users, log, rows::SignedUserKey, tables};

/// Changes of a user's keys of which it is known when they were.
pub const DEVICE_LIST_CHANGES_KEPT: usize = 32;

/// Notes that what others see of a local user's keys changed, in the batch that changes it.
pub(crate) async fn mark_changed(view: &View, batch: &mut Batch, user: &UserId) -> Result<()> {
    mark(view, batch, user, Change::DeviceKeys).await
}

/// Notes that `signer` signed the master key of `other`: a change of the keys of `other` that `signer` alone sees.
pub(crate) async fn mark_signed(view: &View, batch: &mut Batch, signer: &UserId, other: &UserId) -> Result<()> {
    let key = SignedUserKey { signer, other };
    let old = view.get::<tables::SignedUserPositions>(&key).await?;
    let change = Change::SignedUser { other: other.to_owned() };
    let position = Position::from(log(batch, signer, change));
    batch.expect::<tables::SignedUserPositions>(&key, old.as_ref());
    if let Some(old) = old {
        batch.delete::<tables::SignedUsers>(&(signer, old));
    }
    batch.put::<tables::SignedUserPositions>(&key, &position);
    batch.put::<tables::SignedUsers>(&(signer, position), other);
    Ok(())
}

/// Notes that a device without keys came, went or was renamed: a change that nobody but the user sees, on their other devices.
pub(crate) async fn mark_own(view: &View, batch: &mut Batch, user: &UserId) -> Result<()> {
    mark_signed(view, batch, user, user).await
}

/// Forgets whom a user signed: nobody is left who would be told.
pub(crate) fn prepare_delete_signed(batch: &mut Batch, signer: &UserId) {
    batch.delete_prefix::<tables::SignedUserPositions>(&(signer,));
    batch.delete_prefix::<tables::SignedUsers>(&(signer,));
}

async fn mark(view: &View, batch: &mut Batch, user: &UserId, change: Change) -> Result<()> {
    let old = view.get::<tables::DeviceListPositions>(&user).await?;
    let position = Position::from(log(batch, user, change));
    batch.expect::<tables::DeviceListPositions>(&user, old.as_ref());
    if let Some(old) = old {
        batch.delete::<tables::DeviceListChanges>(&old);
    }
    batch.put::<tables::DeviceListPositions>(&user, &position);
    batch.put::<tables::DeviceListChanges>(&position, &store::Text(user.to_owned()));
    let range = Range::<tables::DeviceListHistory>::prefix(&(user,)).limit(DEVICE_LIST_CHANGES_KEPT);
    let history = view.scan(range).await?.rows;
    if let Some(((_, oldest), ())) = history.first()
        && history.len() >= DEVICE_LIST_CHANGES_KEPT
    {
        batch.delete::<tables::DeviceListHistory>(&(user, *oldest));
    }
    batch.put::<tables::DeviceListHistory>(&(user, position), &());
    Ok(())
}

impl Users {
    /// Notes that the keys of a user of another server changed, who is joined to `rooms` together with users of this one. To be
    /// called as well when somebody is met again whose server had no reason to tell this one of changes meanwhile.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn prepare_remote_device_list(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        rooms: Vec<OwnedRoomId>,
    ) -> Result<()> {
        mark(view, batch, user, Change::RemoteDeviceKeys { rooms }).await
    }

    /// The users whose keys changed last after `since`, and where, in that order; at most `limit`.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn device_list_changes(
        &self,
        view: &View,
        since: Position,
        limit: usize,
    ) -> Result<Vec<(OwnedUserId, Position)>> {
        let range = Range::<tables::DeviceListChanges>::all().after(&(since,)).limit(limit);
        let rows = view.scan(range).await?.rows;
        Ok(rows.into_iter().map(|(position, user)| (user.into_inner(), position)).collect())
    }

    /// Whether the keys of a user, which changed after `until`, changed as well after `since` and up to `until`. So it is taken to be
    /// where more than [`DEVICE_LIST_CHANGES_KEPT`] changes later it is not known.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn device_list_changed_between(
        &self,
        view: &View,
        user: &UserId,
        since: Position,
        until: Position,
    ) -> Result<bool> {
        let history = view.scan_all(Range::<tables::DeviceListHistory>::prefix(&(user,))).await?;
        let is_known = history.len() < DEVICE_LIST_CHANGES_KEPT;
        let reaches_back = is_known || history.first().is_some_and(|((_, oldest), ())| *oldest <= until);
        Ok(!reaches_back || history.iter().any(|((_, position), ())| (since < *position) && (*position <= until)))
    }

    /// Where the keys of each of these users changed last; `None` for those of whom no change is known.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn device_list_positions(&self, view: &View, users: &[&UserId]) -> Result<Vec<Option<Position>>> {
        Ok(view.get_many::<tables::DeviceListPositions>(users).await?)
    }

    /// The users whose master keys `signer` signed last after `since` and up to `until`; `signer` among them also where a device
    /// of theirs without keys changed.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn users_signed_between(
        &self,
        view: &View,
        signer: &UserId,
        since: Position,
        until: Position,
    ) -> Result<Vec<OwnedUserId>> {
        let range = Range::<tables::SignedUsers>::prefix(&(signer,)).after(&(signer, since));
        let rows = view.scan_all(range.through(&(signer, until))).await?;
        Ok(rows.into_iter().map(|(_, other)| other.into_inner()).collect())
    }
}
