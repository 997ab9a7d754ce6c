//! Rooms with which only one task of this process may be at something.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use ruma::{OwnedRoomId, RoomId};

/// The rooms that somebody is at, of which there may be a given number.
pub(crate) struct Busy {
    rooms: Mutex<HashSet<OwnedRoomId>>,
    rooms_max: usize,
}

/// The right to be at a room, until it is dropped.
pub(crate) struct Turn<'a> {
    busy: &'a Busy,
    room: OwnedRoomId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.busy.rooms.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.room);
    }
}

impl Busy {
    pub(crate) fn new(rooms_max: usize) -> Self {
        Self { rooms: Mutex::default(), rooms_max }
    }

    /// Begins with a room, unless somebody is at it already or too many rooms are.
    pub(crate) fn start(&self, room: &RoomId) -> Option<Turn<'_>> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.len() >= self.rooms_max || !rooms.insert(room.to_owned()) {
            return None;
        }
        Some(Turn { busy: self, room: room.to_owned() })
    }
}
