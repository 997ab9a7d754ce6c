//! Routing: putting changes into the inboxes of those whom they concern.
//!
//! What is volatile in a large room, or concerns all of its members, is not routed to each of them for each of them: a room with
//! everybody in it costs no more than its members.

use std::sync::{Arc, atomic::Ordering};

use store::Position;

use super::{Hub, RoomMove, Wakeup};
use crate::{
    inbox::{Inbox, Kind},
    sequence::Sequence,
    tail::Tail,
};

/// Routes changes, and notes whom they concern.
pub(crate) struct Router<'h> {
    pub(crate) hub: &'h Hub,
    wakeups: Vec<Wakeup>,
    /// Members of the room that is routed.
    members: Vec<u32>,
}

impl<'h> Router<'h> {
    pub(crate) fn new(hub: &'h Hub) -> Self {
        Self { hub, wakeups: Vec::new(), members: Vec::new() }
    }

    /// The inboxes that something was put into since this was last asked.
    pub(crate) fn wakeups(&mut self) -> std::vec::Drain<'_, Wakeup> {
        self.wakeups.drain(..)
    }

    /// Notes an advance of a room.
    pub(crate) fn advance(&mut self, change: RoomMove) {
        let RoomMove { room, advance, old_root, encrypted } = change;
        let position = advance.position;
        let hub = self.hub;
        let is_new = hub.rooms.with(room, |slot| {
            let last = std::mem::replace(&mut slot.last, position);
            if old_root != advance.root {
                slot.state_moved = Some(position);
            }
            if old_root.is_empty() {
                slot.encrypted = Some(false);
            }
            if encrypted.is_some() {
                slot.encrypted = encrypted;
                slot.encryption_moved = position;
            }
            // Nothing happened between the last advance and this one.
            let is_new = slot.tail.is_none();
            let tail = slot.tail.get_or_insert_with(|| Box::new(Tail::new(last, old_root)));
            tail.push(advance);
            slot.has_advanced = true;
            is_new
        });
        if is_new {
            hub.keep_tail(room);
        }
    }

    /// Notes that the number of a room's members changed.
    pub(crate) fn members_counted(&self, room: u32) {
        let mut large = self.hub.large.lock();
        if self.hub.is_large(room) {
            large.insert(room);
        } else {
            large.remove(&room);
        }
    }

    /// Notes that a receipt of a room moved.
    pub(crate) fn receipt_moved(&self, room: u32, position: Position) {
        self.hub.rooms.with(room, |slot| slot.receipts.last = position);
    }

    /// Routes a change in the log to a user.
    pub(crate) fn tell_user(&mut self, user: u32, subject: u32, kind: Kind, position: Position) {
        self.put(user, Sequence::Log, subject, kind, position.get());
    }

    /// Routes a change of a room in the log to the users in it, those who have just left included.
    pub(crate) fn tell_room(&mut self, room: u32, kind: Kind, position: Position) {
        let mut members = std::mem::take(&mut self.members);
        self.hub.residents.members_since(room, position, &mut members);
        for user in members.drain(..) {
            self.put(user, Sequence::Log, room, kind, position.get());
        }
        self.members = members;
    }

    /// Routes a volatile change of a room to the users in it now.
    pub(crate) fn tell_members(&mut self, room: u32, kind: Kind, (sequence, number): (Sequence, u64)) {
        let mut members = std::mem::take(&mut self.members);
        self.hub.residents.each_member(room, |user| members.push(user));
        for user in members.drain(..) {
            self.put(user, sequence, room, kind, number);
        }
        self.members = members;
    }

    /// Notes that inboxes list nothing of a sequence before a number: whoever waits looks elsewhere.
    pub(crate) fn reset(&mut self, sequence: Sequence, number: u64) {
        for inbox in self.hub.inboxes() {
            inbox.shelves()[sequence].reset(number);
            self.wakeups.push(Wakeup { inbox, urgent: true });
        }
    }

    /// Puts something into a user's inbox, if there is one.
    pub(crate) fn put(&mut self, user: u32, sequence: Sequence, subject: u32, kind: Kind, at: u64) {
        let inbox: Option<Arc<Inbox>> = self.hub.inboxes.known(user, |slot| slot.clone()).flatten();
        let Some(inbox) = inbox else { return };
        if sequence == Sequence::Presence && !inbox.wants_presence() {
            return;
        }
        inbox.shelves()[sequence].push(subject, kind, at);
        self.hub.routed_count.fetch_add(1, Ordering::Relaxed);
        self.wakeups.push(Wakeup { inbox, urgent: kind.is_urgent });
    }
}

impl Hub {
    /// Numbers of the local users whose presence a user sees, and who see theirs: the user, and those who share a room with them
    /// that isn't large. Ascending.
    pub(crate) fn presence_around(&self, user: u32) -> Vec<u32> {
        self.with_sharers(user, |room| !self.is_large(room))
    }

    /// Numbers of a user and of the other local users who share a room that counts with them, ascending.
    pub(crate) fn with_sharers(&self, user: u32, counts: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut sharers = vec![user];
        for room in self.residents.rooms_now(user) {
            if counts(room) {
                self.residents.each_member(room, |member| sharers.push(member));
            }
        }
        sharers.sort_unstable();
        sharers.dedup();
        sharers
    }
}
