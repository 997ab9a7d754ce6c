//! Routing: putting changes into the inboxes of those whom they concern.
//!
//! What is volatile in a large room, or concerns all of its members, is not routed to each of them for each of them: a room with
//! everybody in it costs no more than its members.

use std::sync::{Arc, atomic::Ordering};

use rooms::Membership;
use ruma::{OwnedRoomId, RoomId};
use store::Position;

use super::{Hub, RoomMove, Wakeup};
use crate::{
    inbox::{Inbox, Kind},
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

    /// Notes an advance of a room, and routes it to those in it.
    pub(crate) fn advance(&mut self, change: &RoomMove<'_>) {
        let RoomMove { position, event, local, old_root, new_root, .. } = *change;
        let (hub, room) = (self.hub, self.hub.residents.room(change.room));
        let is_new = hub.rooms.with(room, |slot| {
            let last = std::mem::replace(&mut slot.last, position);
            if old_root != new_root {
                slot.state_moved = Some(position);
            }
            if old_root.is_empty() {
                slot.encrypted = Some(false);
            }
            if change.encrypted.is_some() {
                slot.encrypted = change.encrypted;
                slot.encryption_moved = position;
            }
            // Nothing happened between the last advance and this one.
            let is_new = slot.tail.is_none();
            let tail = slot.tail.get_or_insert_with(|| Box::new(Tail::new(last, old_root)));
            tail.push(Advance { position, event, local, root: new_root });
            slot.has_advanced = true;
            is_new
        });
        if is_new {
            hub.keep_tail(room);
        }
        // Those who leave hear of it as members, those who come as well.
        for member in change.members {
            let user = hub.residents.user(&member.user);
            self.tell_user(user, room, Kind::Membership, position);
        }
        let counts = |membership| membership == Membership::Join;
        if change.members.iter().any(|member| counts(member.old) != counts(member.new)) {
            let mut large = hub.large.lock();
            if hub.is_large(room) {
                large.insert(room)
            } else {
                large.remove(&room)
            };
        }
        self.tell_room(room, Kind::Room, position);
    }

    /// Notes that a receipt of a room moved.
    pub(crate) fn receipt_moved(&self, room: u32, position: Position) {
        self.hub.rooms.with(room, |slot| slot.receipts.last = position);
    }

    /// Routes a change to a user.
    pub(crate) fn tell_user(&mut self, user: u32, subject: u32, kind: Kind, position: Position) {
        self.put(user, Shelved::Log, subject, kind, position.get());
    }

    /// Routes a change of a room to the users in it.
    pub(crate) fn tell_room(&mut self, room: u32, kind: Kind, position: Position) {
        let mut members = std::mem::take(&mut self.members);
        self.hub.residents.members_since(room, position, &mut members);
        for user in members.drain(..) {
            self.put(user, Shelved::Log, room, kind, position.get());
        }
        self.members = members;
    }

    /// Puts something into a user's inbox, if there is one.
    fn put(&mut self, user: u32, shelf: Shelved, subject: u32, kind: Kind, at: u64) {
        let inbox: Option<Arc<Inbox>> = self.hub.inboxes.known(user, |slot| slot.clone()).flatten();
        let Some(inbox) = inbox else { return };
        if matches!(shelf, Shelved::Presence) && !inbox.wants_presence() {
            return;
        }
        let mut shelves = inbox.shelves();
        let shelf = match shelf {
            Shelved::Log => &mut shelves.log,
            Shelved::Typing => &mut shelves.typing,
            Shelved::Presence => &mut shelves.presence,
        };
        shelf.push(subject, kind, at);
        drop(shelves);
        self.hub.routed_count.fetch_add(1, Ordering::Relaxed);
        self.wakeups.push(Wakeup { inbox, urgent: kind.is_urgent() });
    }

    /// Routes a change of who is typing in a room; `active` if there still is anybody. That of a large room waits for more, until
    /// the room is announced again ([`Hub::late_typing`]).
    pub(crate) fn typing(&mut self, room: &RoomId, active: bool, sequence: u64) {
        let (hub, room) = (self.hub, self.hub.residents.room(room));
        let is_large = hub.is_large(room);
        let kind = {
            let mut typing = hub.typing.lock();
            if active {
                typing.active.insert(room)
            } else {
                typing.active.remove(&room)
            };
            let waits = typing.late.get(&room).is_none_or(|seconds| *seconds > 0);
            if is_large && waits {
                let seconds = hub.residents.member_count(room).div_ceil(LATE_TYPING_MEMBERS_PER_SECOND);
                typing.late.entry(room).or_insert(seconds);
                return;
            }
            if typing.late.remove(&room).is_some() { Kind::LateTyping } else { Kind::Typing }
        };
        let mut members = std::mem::take(&mut self.members);
        hub.residents.each_member(room, |user| members.push(user));
        for user in members.drain(..) {
            self.put(user, Shelved::Typing, room, kind, sequence);
        }
        self.members = members;
    }

    /// Routes a change of a local user's presence to everybody who sees it.
    pub(crate) fn presence(&mut self, user: u32, sequence: u64) {
        for other in self.hub.presence_around(user) {
            self.put(other, Shelved::Presence, user, Kind::Presence, sequence);
        }
    }
}

impl Hub {
    /// Whether those in a room may have to hear of each other's keys.
    pub(crate) fn tells_keys(&self, room: u32) -> bool {
        !self.is_large(room) || self.rooms.known(room, |slot| slot.encrypted).flatten() != Some(false)
    }

    /// To be called every second: the large rooms whose typing is to be announced once more, to be routed now.
    pub(crate) fn late_typing(&self) -> Vec<OwnedRoomId> {
        let mut due = Vec::new();
        for (room, seconds) in &mut self.typing.lock().late {
            *seconds = seconds.saturating_sub(1);
            if *seconds == 0 {
                due.extend(self.residents.room_id(*room).cloned());
            }
        }
        due
    }

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
