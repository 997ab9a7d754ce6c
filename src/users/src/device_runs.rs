//! Devices that are deleted together.

use ruma::{OwnedDeviceId, UserId};
use store::{Batch, Encode, Prefix, Range, Table, View};

use crate::{Result, tables};

/// Devices that are deleted in one step of a batch.
const RUN_DEVICES_MAX: usize = 100;

/// Neighbours in the order of device ids, with no other device of the user between them: a table's rows of a run are deleted at
/// once, so that also all devices but a few can be deleted in one batch.
pub(crate) struct Run {
    /// At least one, and [`RUN_DEVICES_MAX`] at most.
    pub(crate) ids: Vec<OwnedDeviceId>,
    /// The device after the last.
    before: Option<OwnedDeviceId>,
}

/// The devices of a user that are selected.
pub(crate) async fn runs_of(view: &View, user: &UserId, selects: impl Fn(&str) -> bool) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for ((_, id), _) in view.scan_all(Range::<tables::Devices>::prefix(&(user,))).await? {
        let is_selected = selects(&id);
        let id = OwnedDeviceId::from(id);
        match runs.last_mut().filter(|run| run.before.is_none()) {
            Some(run) if is_selected && run.ids.len() < RUN_DEVICES_MAX => run.ids.push(id),
            open => {
                if let Some(run) = open {
                    run.before = Some(id.clone());
                }
                if is_selected {
                    runs.push(Run { ids: vec![id], before: None });
                }
            }
        }
    }
    Ok(runs)
}

impl Run {
    /// Deletes the rows of these devices in a table that has one for each.
    pub(crate) fn delete_rows<'a, T: Table>(&'a self, batch: &mut Batch, user: &'a UserId)
    where
        (&'a UserId, &'a str): Prefix<T::Key> + Encode<T::Key>,
        for<'u> (&'u str,): Prefix<T::Key>,
    {
        match &self.ids[..] {
            [id] => batch.delete::<T>(&(user, id.as_str())),
            _ => self.delete_below::<T>(batch, user),
        }
    }

    /// Deletes all rows of these devices in a table that has several for each.
    pub(crate) fn delete_below<'a, T: Table>(&'a self, batch: &mut Batch, user: &'a UserId)
    where
        (&'a UserId, &'a str): Prefix<T::Key>,
        for<'u> (&'u str,): Prefix<T::Key>,
    {
        match (&self.ids[..], &self.before) {
            ([], _) => {}
            ([id], _) => batch.delete_prefix::<T>(&(user, id.as_str())),
            ([from, ..], Some(before)) => batch.delete_between::<T>(&(user, from.as_str()), &(user, before.as_str())),
            // The least text that sorts after the user's name.
            ([from, ..], None) => {
                batch.delete_between::<T>(&(user, from.as_str()), &(format!("{user}\0").as_str(),));
            }
        }
    }
}
