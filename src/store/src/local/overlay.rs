//! What the earlier batches of a group write, before it is on the disk.

use std::collections::HashMap;

use crate::{
    batch::{Batch, Expectation, WriteOp},
    error::{CommitError, EngineError},
    local::disk::{DiskSnapshot, Reach, Tier},
    table::Family,
};

/// The writes of a group so far, newest first to be found.
#[derive(Default)]
pub(crate) struct Overlay<'a> {
    keys: HashMap<(Family, &'a [u8]), Option<&'a [u8]>>,
    /// Deleted ranges; `keys` holds what was written after them.
    deleted: Vec<(Family, &'a [u8], &'a [u8])>,
}

impl<'a> Overlay<'a> {
    /// Adds the writes of a batch.
    pub(crate) fn add(&mut self, batch: &'a Batch) {
        for op in batch.ops() {
            match op {
                WriteOp::Put { family, key, value } => {
                    self.keys.insert((family, key), Some(value));
                }
                WriteOp::Delete { family, key } => {
                    self.keys.insert((family, key), None);
                }
                WriteOp::DeleteRange { family, from, to } => {
                    let covered = |key: &(Family, &[u8])| key.0 == family && key.1 >= from && key.1 < to;
                    self.keys.retain(|key, _| !covered(key));
                    self.deleted.push((family, from, to));
                }
            }
        }
    }

    /// Whether everything that `batch` expects holds on top of `snapshot`.
    pub(crate) fn check(&self, batch: &Batch, snapshot: &dyn DiskSnapshot) -> Result<(), CommitError> {
        for expectation in batch.expectations() {
            let holds = match self.find(&expectation) {
                Some(value) => value == expectation.value,
                None => stored_holds(&expectation, snapshot)
                    .map_err(|error| CommitError::Failed(error.to_string().into()))?,
            };
            if !holds {
                return Err(CommitError::Conflict);
            }
        }
        Ok(())
    }

    /// The value that the group gives to the key, or `None` if it doesn't touch it.
    fn find(&self, expectation: &Expectation<'_>) -> Option<Option<&'a [u8]>> {
        let Expectation { family, key, .. } = *expectation;
        if self.keys.is_empty() && self.deleted.is_empty() {
            return None;
        }
        if let Some(value) = self.keys.get(&(family, key)) {
            return Some(*value);
        }
        let covers = |range: &(Family, &[u8], &[u8])| range.0 == family && key >= range.1 && key < range.2;
        self.deleted.iter().any(covers).then_some(None)
    }
}

fn stored_holds(expectation: &Expectation<'_>, snapshot: &dyn DiskSnapshot) -> Result<bool, EngineError> {
    let mut holds = false;
    let reach = snapshot.get(expectation.family, expectation.key, Tier::Disk, &mut |value| {
        holds = value == expectation.value;
    })?;
    match reach {
        Reach::Complete => Ok(holds),
        Reach::NotCached => Err(EngineError::Failed("a read of the disk stopped".to_owned())),
    }
}
