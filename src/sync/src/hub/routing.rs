//! Routing: into whose inboxes a change goes.
//!
//! What is volatile in a large room, or concerns all of its members, is not routed to each of them for each of them: a room with
//! everybody in it costs no more than its members.

use std::collections::HashSet;

use rooms::Membership;
use ruma::{DeviceId, OwnedDeviceId, OwnedRoomId, RoomId, UserId};
use store::Position;

use super::{RoomMove, RoomSlot, State, Touched, UserSlot};
use crate::{
    inbox::{Item, Kind},
    tail::{Advance, Tail},
};

/// Members of a large room for each second that its typing waits for more: so much of it is routed in a second, however many type.
const LATE_TYPING_MEMBERS_PER_SECOND: usize = 1_000;

/// Where in an inbox something is put.
#[derive(Copy, Clone)]
enum Shelved {
    Log,
    Typing,
    Presence,
}

/// Puts something (subject, kind, where it changed) into a user's inbox, if there is one: how many that are.
fn notify(user: &UserSlot, shelf: Shelved, (subject, kind, at): (u32, Kind, u64), touched: &mut Vec<Touched>) -> u64 {
    let Some(inbox) = &user.inbox else { return 0 };
    let mut shelves = inbox.shelves();
    let shelf = match shelf {
        Shelved::Log => &mut shelves.log,
        Shelved::Typing => &mut shelves.typing,
        Shelved::Presence => &mut shelves.presence,
    };
    shelf.push(subject, kind, at);
    drop(shelves);
    touched.push(Touched { inbox: inbox.clone(), urgent: kind.is_urgent() });
    1
}

impl State {
    /// Routes an advance of a room.
    pub(crate) fn advance(&mut self, change: &RoomMove<'_>, touched: &mut Vec<Touched>) {
        let RoomMove { position, event, local, new_root, .. } = *change;
        let room = self.room(change.room);
        let slot = &mut self.rooms[room as usize];
        let last = std::mem::replace(&mut slot.last, position);
        if change.old_root != new_root {
            slot.state_moved = Some(position);
        }
        if change.old_root.is_empty() {
            slot.encrypted = Some(false);
        }
        if change.encrypted.is_some() {
            slot.encrypted = change.encrypted;
            slot.encryption_moved = position;
        }
        // Nothing happened between the last advance and this one.
        let is_new = slot.tail.is_none();
        let tail = slot.tail.get_or_insert_with(|| Tail::new(last, change.old_root));
        tail.push(Advance { position, event, local, root: new_root });
        slot.has_advanced = true;
        if is_new {
            self.tailed.push_back(room);
            self.forget_tails();
        }
        // Those who leave hear of it as members, those who come as well.
        for member in change.members {
            let user = self.user(&member.user);
            self.users[user as usize].moved = position;
            if member.new == Membership::Join {
                self.join(change.room, &member.user);
            } else {
                self.leave(room, user);
            }
            self.notify_user(user, room, Kind::Membership, position, touched);
        }
        self.notify_room(room, Kind::Room, position, touched);
    }

    /// Routes a change of a user's membership that no advance told.
    pub(crate) fn membership(&mut self, room: &RoomId, user: &UserId, position: Position, touched: &mut Vec<Touched>) {
        let (room, user) = (self.room(room), self.user(user));
        self.users[user as usize].moved = position;
        self.notify_user(user, room, Kind::Membership, position, touched);
    }

    /// Routes a receipt: to everybody in the room, or to its owner alone if it is private or the room large. Of those in a large
    /// room others are told when there is something else to tell ([`State::large_rooms_with_receipts`]).
    pub(crate) fn receipt(
        &mut self,
        room: &RoomId,
        user: &UserId,
        private: bool,
        position: Position,
        touched: &mut Vec<Touched>,
    ) {
        let room = self.room(room);
        let slot = &mut self.rooms[room as usize];
        slot.receipts.1 = position;
        if let Some(user) = self.user_numbers.get(user).copied() {
            self.notify_user(user, room, Kind::OwnReceipt, position, touched);
        }
        if !private && !self.is_large(room) {
            self.notify_room(room, Kind::Receipt, position, touched);
        }
    }

    /// Routes a change of a user's account data.
    pub(crate) fn account_data(&mut self, user: &UserId, position: Position, touched: &mut Vec<Touched>) {
        let user = self.user(user);
        self.notify_user(user, Item::ACCOUNT, Kind::AccountData, position, touched);
    }

    /// Routes messages to devices of a user.
    pub(crate) fn messages_to_devices(
        &mut self,
        user: &UserId,
        devices: &[OwnedDeviceId],
        position: Position,
        touched: &mut Vec<Touched>,
    ) {
        let Some(user) = self.user_numbers.get(user).copied() else {
            return;
        };
        for device in devices {
            self.notify_user(user, Item::device(device), Kind::ToDevice, position, touched);
        }
    }

    /// Routes a change of a local user's keys to them and to everybody who may have to hear of it.
    pub(crate) fn device_keys(&mut self, user: &UserId, position: Position, touched: &mut Vec<Touched>) {
        let user = self.user(user);
        self.notify_user(user, Item::ACCOUNT, Kind::OwnDeviceList, position, touched);
        for other in self.sharers(user, |room| self.tells_keys(room)) {
            self.notify_user(other, Item::ACCOUNT, Kind::DeviceLists, position, touched);
        }
    }

    /// Routes a change of the keys of a user of another server, who is in these rooms.
    pub(crate) fn remote_device_keys(&mut self, rooms: &[OwnedRoomId], position: Position, touched: &mut Vec<Touched>) {
        let mut told = HashSet::new();
        for room in rooms.iter().filter_map(|room| self.room_number(room)) {
            let slot = &self.rooms[room as usize];
            if self.tells_keys(slot) {
                told.extend(slot.members.iter().copied());
            }
        }
        for user in told {
            self.notify_user(user, Item::ACCOUNT, Kind::DeviceLists, position, touched);
        }
    }

    fn is_large_slot(&self, room: &RoomSlot) -> bool {
        room.members.len() > self.large_room_members
    }

    /// Whether those in a room may have to hear of each other's keys.
    fn tells_keys(&self, room: &RoomSlot) -> bool {
        !self.is_large_slot(room) || room.encrypted != Some(false)
    }

    /// Whether a room has so many members that what is volatile in it is not told to each at once.
    pub(crate) fn is_large(&self, room: u32) -> bool {
        self.rooms.get(room as usize).is_some_and(|room| self.is_large_slot(room))
    }

    /// Routes to a user that one of their devices signed somebody's keys.
    pub(crate) fn signed_user(&mut self, user: &UserId, position: Position, touched: &mut Vec<Touched>) {
        let user = self.user(user);
        self.notify_user(user, Item::ACCOUNT, Kind::OwnDeviceList, position, touched);
    }

    /// Routes a change of how many one-time keys a device has.
    pub(crate) fn one_time_keys(
        &mut self,
        user: &UserId,
        device: &DeviceId,
        position: Position,
        touched: &mut Vec<Touched>,
    ) {
        let user = self.user(user);
        self.notify_user(user, Item::device(device), Kind::OneTimeKeys, position, touched);
    }

    fn notify_user(&mut self, user: u32, subject: u32, kind: Kind, position: Position, touched: &mut Vec<Touched>) {
        self.routed_count += notify(&self.users[user as usize], Shelved::Log, (subject, kind, position.get()), touched);
    }

    fn notify_room(&mut self, room: u32, kind: Kind, position: Position, touched: &mut Vec<Touched>) {
        let item = (room, kind, position.get());
        for user in &self.rooms[room as usize].members {
            self.routed_count += notify(&self.users[*user as usize], Shelved::Log, item, touched);
        }
    }

    /// Routes a change of who is typing in a room; `active` if there still is anybody. That of a large room waits for more, until
    /// the room is announced again ([`State::late_typing`]).
    pub(crate) fn typing(&mut self, room: &RoomId, active: bool, sequence: u64, touched: &mut Vec<Touched>) {
        let room = self.room(room);
        if active {
            self.typing.insert(room);
        } else {
            self.typing.remove(&room);
        }
        let waits = self.late_typing.get(&room).is_none_or(|seconds| *seconds > 0);
        if self.is_large(room) && waits {
            let seconds = self.rooms[room as usize].members.len().div_ceil(LATE_TYPING_MEMBERS_PER_SECOND);
            self.late_typing.entry(room).or_insert(seconds);
            return;
        }
        let kind = if self.late_typing.remove(&room).is_some() { Kind::LateTyping } else { Kind::Typing };
        for user in &self.rooms[room as usize].members {
            let item = (room, kind, sequence);
            self.routed_count += notify(&self.users[*user as usize], Shelved::Typing, item, touched);
        }
    }

    /// To be called every second: the large rooms whose typing is to be announced once more, to be routed now.
    pub(crate) fn late_typing(&mut self) -> Vec<OwnedRoomId> {
        let mut due = Vec::new();
        for (room, seconds) in &mut self.late_typing {
            *seconds = seconds.saturating_sub(1);
            if *seconds == 0 {
                due.push(self.rooms[*room as usize].id.clone());
            }
        }
        due
    }

    /// Routes a change of a local user's presence to everybody who sees it.
    pub(crate) fn presence(&mut self, user: &UserId, sequence: u64, touched: &mut Vec<Touched>) {
        let Some(subject) = self.user_numbers.get(user).copied() else {
            return;
        };
        for other in self.presence_around(subject) {
            let slot = &self.users[other as usize];
            if slot.inbox.as_ref().is_some_and(|inbox| inbox.wants_presence()) {
                self.routed_count += notify(slot, Shelved::Presence, (subject, Kind::Presence, sequence), touched);
            }
        }
    }

    /// Numbers of the local users whose presence a user sees, and who see theirs: the user, and those who share a room with them
    /// that isn't large. Ascending.
    pub(crate) fn presence_around(&self, user: u32) -> Vec<u32> {
        let mut around = self.sharers(user, |room| !self.is_large_slot(room));
        if let Err(at) = around.binary_search(&user) {
            around.insert(at, user);
        }
        around
    }

    /// Numbers of the other local users who share a room that counts with a user, ascending.
    fn sharers(&self, user: u32, counts: impl Fn(&RoomSlot) -> bool) -> Vec<u32> {
        let mut seen = vec![false; self.users.len()];
        let mut sharers = Vec::new();
        seen[user as usize] = true;
        for room in &self.users[user as usize].rooms {
            let room = &self.rooms[*room as usize];
            if !counts(room) {
                continue;
            }
            for member in &room.members {
                if !std::mem::replace(&mut seen[*member as usize], true) {
                    sharers.push(*member);
                }
            }
        }
        sharers.sort_unstable();
        sharers
    }
}
