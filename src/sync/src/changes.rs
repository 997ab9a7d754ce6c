//! Where to look for what changed: from the inbox if the token is recent, otherwise from what the tables and the hub know.
//!
//! Either way the result may name more than changed, never less; what did change is read from the tables afterwards, so both
//! ways give the same answer.

use std::collections::BTreeMap;

use rooms::{Membership, Rooms};
use ruma::{DeviceId, OwnedRoomId, OwnedUserId, UserId};
use store::Position;

use crate::{
    SyncError,
    hub::{Hub, Published},
    inbox::{Inbox, Item, Kind, Shelf},
    token::{Token, typing_bit},
};

/// What may have changed in a room.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Hints {
    /// The room's number in the hub.
    pub(crate) number: u32,
    /// The user is known to be in the room at the end of the range, if their membership didn't change in it.
    pub(crate) joined: bool,
    /// Timeline or state.
    pub(crate) timeline: bool,
    /// Receipts.
    pub(crate) receipts: bool,
    /// Who is typing.
    pub(crate) typing: bool,
    /// The client wants the whole state, changed or not.
    pub(crate) full: bool,
    /// The hub said nothing of the room: anything may have changed.
    pub(crate) unknown: bool,
}

impl Hints {
    /// Nothing was said about the room.
    pub(crate) const UNKNOWN: Self = Self {
        number: Item::ACCOUNT,
        joined: false,
        timeline: false,
        receipts: false,
        typing: false,
        full: false,
        unknown: true,
    };
}

/// What may have changed for a user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changes {
    /// By room.
    pub(crate) rooms: BTreeMap<OwnedRoomId, Hints>,
    /// The user's memberships.
    pub(crate) memberships: bool,
    /// Account data.
    pub(crate) account_data: bool,
    /// Users whose presence changed.
    pub(crate) presence: Vec<OwnedUserId>,
    /// Messages to the device.
    pub(crate) to_device: bool,
    /// Keys of the user or of others around them.
    pub(crate) device_lists: bool,
    /// The number of the device's one-time keys.
    pub(crate) one_time_keys: bool,
}

/// What an inbox lists for a token; `None` where it doesn't reach back so far.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Messages to the device wait that the last answer had no room for.
    to_device_left: bool,
    log: Option<Vec<Item>>,
    typing: Option<Vec<Item>>,
    presence: Option<Vec<Item>>,
}

impl Listed {
    /// Reads an inbox for a device. Volatile sequences mean nothing to a token of another run of the server; presence is
    /// passed over if nobody wants it.
    pub(crate) fn new(inbox: &Inbox, device: &DeviceId, since: &Token, boot: u64, presence: bool) -> Self {
        let subject = Item::device(device);
        let of_device = |item: &Item| matches!(item.kind, Kind::ToDevice | Kind::OneTimeKeys);
        let concerns = |item: &Item| !of_device(item) || item.subject == subject;
        let list = |shelf: &Shelf, since| Some(shelf.since(since)?.filter(concerns).collect::<Vec<_>>());
        let shelves = inbox.shelves();
        let same_run = since.boot == boot;
        let listed_presence = match (presence, same_run) {
            (false, _) => Some(Vec::new()),
            (true, false) => None,
            (true, true) => list(&shelves.presence, since.presence),
        };
        Self {
            to_device_left: since.to_device < since.position.get(),
            log: list(&shelves.log, since.position.get()),
            typing: same_run.then(|| list(&shelves.typing, since.typing)).flatten(),
            presence: listed_presence,
        }
    }

    /// Whether there is something that is to be answered at once, or that is not known.
    pub(crate) fn is_urgent(&self) -> bool {
        let urgent = |items: &Option<Vec<Item>>| {
            items.as_ref().is_none_or(|items| items.iter().any(|item| item.kind.is_urgent()))
        };
        self.to_device_left || urgent(&self.log) || urgent(&self.typing)
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        let empty = |items: &Option<Vec<Item>>| items.as_ref().is_some_and(Vec::is_empty);
        !self.to_device_left && empty(&self.log) && empty(&self.typing) && empty(&self.presence)
    }
}

/// For whom and from where changes are looked for.
pub(crate) struct Search<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) rooms: &'a Rooms,
    pub(crate) published: &'a Published,
    pub(crate) user: &'a UserId,
    pub(crate) number: u32,
    pub(crate) boot: u64,
    /// Whether presence is wanted.
    pub(crate) presence: bool,
}

impl Search<'_> {
    /// Everything: for a first sync.
    pub(crate) async fn all(&self) -> Result<Changes, SyncError> {
        let mut changes = Changes {
            memberships: true,
            account_data: true,
            to_device: true,
            device_lists: true,
            ..Changes::default()
        };
        self.add_joined(&mut changes, |_, hints| {
            hints.timeline = true;
            hints.receipts = true;
        })
        .await?;
        self.add_active_typing(&mut changes);
        self.add_all_presence(&mut changes);
        Ok(changes)
    }

    /// What may have changed since a token.
    pub(crate) async fn since(&self, since: &Token, listed: Listed) -> Result<Changes, SyncError> {
        let mut changes = Changes { to_device: listed.to_device_left, ..Changes::default() };
        match listed.log {
            Some(items) => {
                self.add_listed(&items, &mut changes);
                self.add_large_receipts(since.position, &mut changes);
            }
            None => self.add_from_tables(since.position, &mut changes).await?,
        }
        match listed.typing {
            Some(items) => self.add_listed(&items, &mut changes),
            None => self.add_unlisted_typing(since, &mut changes).await?,
        }
        match listed.presence {
            Some(items) => {
                let users = items.iter().filter_map(|item| self.hub.residents.user_id(item.subject));
                changes.presence = users.cloned().collect();
                changes.presence.sort_unstable();
            }
            None => self.add_all_presence(&mut changes),
        }
        Ok(changes)
    }

    fn add_listed(&self, items: &[Item], changes: &mut Changes) {
        let now = self.published.view.position();
        for item in items {
            match item.kind {
                Kind::AccountData => {
                    changes.account_data = true;
                    continue;
                }
                Kind::ToDevice => {
                    changes.to_device = true;
                    continue;
                }
                Kind::DeviceLists | Kind::OwnDeviceList => {
                    changes.device_lists = true;
                    continue;
                }
                Kind::OneTimeKeys => {
                    changes.one_time_keys = true;
                    continue;
                }
                _ => {}
            }
            let Some(room) = self.hub.residents.room_id(item.subject) else { continue };
            let hints = changes.rooms.entry(room.to_owned()).or_default();
            hints.number = item.subject;
            match item.kind {
                Kind::Room => hints.timeline = true,
                Kind::Receipt | Kind::OwnReceipt => hints.receipts = true,
                Kind::Typing | Kind::LateTyping => hints.typing = true,
                Kind::Membership => changes.memberships = true,
                Kind::AccountData
                | Kind::Presence
                | Kind::ToDevice
                | Kind::DeviceLists
                | Kind::OwnDeviceList
                | Kind::OneTimeKeys => {}
            }
            // These are routed to members, and to some who became it later.
            hints.joined |= matches!(item.kind, Kind::Room | Kind::Receipt)
                && self.hub.residents.is_joined(self.number, item.subject, now) == Some(true);
        }
    }

    fn add_large_receipts(&self, since: Position, changes: &mut Changes) {
        for number in self.hub.large_rooms_with_receipts(self.number, since) {
            if let Some(room) = self.hub.residents.room_id(number) {
                let hints = changes.rooms.entry(room.to_owned()).or_default();
                hints.number = number;
                hints.receipts = true;
            }
        }
    }

    /// What the tables say may have changed.
    pub(crate) async fn add_from_tables(&self, since: Position, changes: &mut Changes) -> Result<(), SyncError> {
        changes.memberships = true;
        changes.account_data = true;
        changes.to_device = true;
        changes.device_lists = true;
        self.add_joined(changes, |hub, hints| {
            hints.timeline = hub.advanced_since(hints.number, since);
            hints.receipts = hub.receipts_since(hints.number, since);
        })
        .await
    }

    async fn add_unlisted_typing(&self, since: &Token, changes: &mut Changes) -> Result<(), SyncError> {
        if since.boot == self.boot {
            // More changed than the inbox holds: look at each room.
            let typing = self.rooms.typing();
            return self
                .add_joined(changes, |hub, hints| {
                    let room = hub.residents.room_id(hints.number);
                    hints.typing = room.is_some_and(|room| typing.changed_at(room) > since.typing);
                })
                .await;
        }
        if since.typing_shown != 0 {
            // The client may show somebody as typing of whom this run of the server knows nothing.
            return self
                .add_joined(changes, |hub, hints| {
                    let room = hub.residents.room_id(hints.number);
                    hints.typing = room.is_some_and(|room| {
                        typing_bit(room) & since.typing_shown != 0 || self.rooms.typing().changed_at(room) > 0
                    });
                })
                .await;
        }
        self.add_active_typing(changes);
        Ok(())
    }

    /// Goes through the rooms that the user is in and keeps those of which `mark` says that something may have changed.
    pub(crate) async fn add_joined(
        &self,
        changes: &mut Changes,
        mark: impl Fn(&Hub, &mut Hints) + Send,
    ) -> Result<(), SyncError> {
        let joined = self.joined().await?;
        for (number, room) in joined {
            let mut hints = Hints { number, joined: true, ..Hints::default() };
            mark(self.hub, &mut hints);
            let Hints { timeline, receipts, typing, full, .. } = hints;
            if timeline || receipts || typing || full {
                let known = changes.rooms.entry(room).or_default();
                *known = Hints {
                    number,
                    joined: true,
                    timeline: known.timeline | timeline,
                    receipts: known.receipts | receipts,
                    typing: known.typing | typing,
                    full: known.full | full,
                    unknown: false,
                };
            }
        }
        Ok(())
    }

    /// The rooms that the user is in at the end of the range. Read only if they may have come or gone since.
    async fn joined(&self) -> Result<Vec<(u32, OwnedRoomId)>, SyncError> {
        let (view, residents) = (&self.published.view, &self.hub.residents);
        let mut joined = Vec::new();
        if let Some(numbers) = residents.rooms_of(self.number, view.position()) {
            joined.extend(numbers.into_iter().filter_map(|room| Some((room, residents.room_id(room)?.clone()))));
            return Ok(joined);
        }
        for (room, row) in self.rooms.memberships(view, self.user).await? {
            if row.membership == Membership::Join {
                joined.push((residents.room(&room), room));
            }
        }
        Ok(joined)
    }

    fn add_active_typing(&self, changes: &mut Changes) {
        for number in self.hub.typing_in(self.number) {
            if let Some(room) = self.hub.residents.room_id(number) {
                let hints = changes.rooms.entry(room.to_owned()).or_default();
                hints.number = number;
                hints.typing = true;
            }
        }
    }

    fn add_all_presence(&self, changes: &mut Changes) {
        if !self.presence {
            return;
        }
        for number in self.hub.presence_around(self.number) {
            changes.presence.extend(self.hub.residents.user_id(number).cloned());
        }
        changes.presence.sort_unstable();
    }
}
