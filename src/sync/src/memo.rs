//! What was read through a published view, kept for the others who are told the same.
//!
//! A message to a room wakes all its members at once, and they all read from the same view. What it says of an event that may
//! change is read by the first of them only. A memo ends with its view, so it can't be out of date.

use std::collections::HashMap;

use parking_lot::Mutex;
use rooms::{EventMeta, EventNum};

/// Events that one memo holds; of more, only the first are kept.
const EVENTS_MAX: usize = 4_096;

/// See the module.
#[derive(Default)]
pub(crate) struct Memo {
    metas: Mutex<HashMap<EventNum, EventMeta>>,
}

impl Memo {
    /// The metas of these events, if all are known.
    pub(crate) fn metas(&self, nums: &[EventNum]) -> Option<Vec<EventMeta>> {
        let known = self.metas.lock();
        nums.iter().map(|num| known.get(num).cloned()).collect()
    }

    /// Keeps what the view said.
    pub(crate) fn keep(&self, nums: &[EventNum], metas: &[EventMeta]) {
        let mut known = self.metas.lock();
        for (num, meta) in nums.iter().zip(metas) {
            if known.len() < EVENTS_MAX {
                known.insert(*num, meta.clone());
            }
        }
    }
}
