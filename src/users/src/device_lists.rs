//! Who is told that somebody's keys changed.

use ruma::UserId;
use store::Batch;

use crate::{Change, log};

/// Notes in the log that what others see of `user`'s keys changed.
pub(crate) fn mark_changed(batch: &mut Batch, user: &UserId) {
    log(batch, user, Change::DeviceKeys);
}

/// Notes in the log that `signer` signed the master key of `other`: what `signer` alone sees.
pub(crate) fn mark_signed(batch: &mut Batch, signer: &UserId, other: &UserId) {
    log(batch, signer, Change::SignedUser { other: other.to_owned() });
}
