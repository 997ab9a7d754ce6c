//! What the readers keep in memory.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use ruma::{OwnedRoomId, RoomId};

use crate::{format::FormatCache, summary::HeroCache, unread::TallyCache};

/// Rooms for which other servers are asked for history at one time.
const FILLING_ROOMS_MAX: usize = 50;

/// The caches of the readers: of what can't change, and of tallies that say how far they go.
pub(crate) struct Reads {
    pub(crate) formats: FormatCache,
    pub(crate) heroes: HeroCache,
    pub(crate) tallies: TallyCache,
    /// Rooms for which history is being asked for.
    filling: Mutex<HashSet<OwnedRoomId>>,
    /// Rooms that are being upgraded in several batches.
    upgrading: Mutex<HashSet<OwnedRoomId>>,
}

/// The right to upgrade a room in several batches.
pub(crate) struct Upgrading<'a> {
    reads: &'a Reads,
    room: OwnedRoomId,
}

impl Drop for Upgrading<'_> {
    fn drop(&mut self) {
        self.reads.upgrading.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.room);
    }
}

/// The right to ask for a room's history; one at a time has it.
pub(crate) struct Filling<'a> {
    reads: &'a Reads,
    room: OwnedRoomId,
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.reads.filling.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.room);
    }
}

impl Reads {
    /// What is kept takes about `cache_bytes` bytes.
    pub(crate) fn new(cache_bytes: u64) -> Self {
        let sixth = cache_bytes / 6;
        Self {
            formats: FormatCache::new(3 * sixth),
            heroes: HeroCache::new(sixth),
            tallies: TallyCache::new(2 * sixth),
            filling: Mutex::default(),
            upgrading: Mutex::default(),
        }
    }

    /// Begins to upgrade a room, unless somebody does already.
    pub(crate) fn start_upgrade(&self, room: &RoomId) -> Option<Upgrading<'_>> {
        let mut upgrading = self.upgrading.lock().unwrap_or_else(PoisonError::into_inner);
        upgrading.insert(room.to_owned()).then(|| Upgrading { reads: self, room: room.to_owned() })
    }

    /// Begins to ask for a room's history, unless somebody does already or too many rooms are at it.
    pub(crate) fn start_filling(&self, room: &RoomId) -> Option<Filling<'_>> {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if filling.len() >= FILLING_ROOMS_MAX || !filling.insert(room.to_owned()) {
            return None;
        }
        Some(Filling { reads: self, room: room.to_owned() })
    }
}
