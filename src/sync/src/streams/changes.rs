//! Where to look for what changed: from the inbox if the token is recent, otherwise from what the tables and the hub know.
//!
//! Either way the result may name more than changed, never less; what did change is read from the tables afterwards, so both
//! ways give the same answer.

use std::collections::BTreeMap;

use ::rooms::Membership;
use ruma::{DeviceId, OwnedRoomId, OwnedUserId, RoomId};
use store::Position;

use super::{Presence, Receipts, StreamId, StreamSet, Subject, Typing, memberships::Paths, span::Span, token::Token};
use crate::{
    SyncError,
    hub::Hub,
    inbox::{Inbox, Item},
    sequence::Sequence,
};

/// What may have changed in a room.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Hints {
    /// The room's number in the hub.
    pub(crate) number: u32,
    /// The user is known to be in the room at the end of the range, if their membership didn't change in it.
    pub(crate) joined: bool,
    /// Which streams may have news of it.
    pub(crate) streams: StreamSet,
    /// The client wants the whole state, changed or not.
    pub(crate) full: bool,
    /// The hub said nothing of the room: anything may have changed.
    pub(crate) unknown: bool,
}

impl Hints {
    /// Nothing was said about the room.
    pub(crate) const UNKNOWN: Self =
        Self { number: Item::ACCOUNT, joined: false, streams: StreamSet::NONE, full: false, unknown: true };

    /// Whether a stream may have news of it.
    pub(crate) fn has(&self, stream: StreamId) -> bool {
        self.streams.contains(stream)
    }
}

/// What may have changed for a user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changes {
    /// By room.
    pub(crate) rooms: BTreeMap<OwnedRoomId, Hints>,
    /// The streams that may have news, of rooms or else.
    pub(crate) streams: StreamSet,
    /// Users of whom there may be news, ascending.
    pub(crate) users: Vec<OwnedUserId>,
}

impl Changes {
    /// Whether a stream may have news.
    pub(crate) fn has(&self, stream: StreamId) -> bool {
        self.streams.contains(stream)
    }

    /// Notes that a stream may have news of a room, and gives what is known of it.
    pub(crate) fn add_room(&mut self, room: OwnedRoomId, number: u32, stream: StreamId) -> &mut Hints {
        self.streams.insert(stream);
        let hints = self.rooms.entry(room).or_default();
        hints.number = number;
        hints.streams.insert(stream);
        hints
    }
}

impl Changes {
    /// Every room of which anything may have to be said, in one order whatever the reason: also those that the user came into or left,
    /// and others.
    pub(crate) fn rooms_with<'c>(
        &'c self,
        paths: &'c Paths,
        others: impl Iterator<Item = &'c RoomId>,
    ) -> BTreeMap<&'c RoomId, Hints> {
        let mut rooms: BTreeMap<&RoomId, Hints> = BTreeMap::new();
        for (room, hints) in &self.rooms {
            rooms.insert(room, *hints);
        }
        let of_rooms = StreamSet::of_tables().and(StreamSet::about(Subject::Room));
        for room in paths.keys() {
            let hints = rooms.entry(room).or_insert(Hints::UNKNOWN);
            // What happened while the user was out of the room was not routed to them.
            hints.streams = hints.streams.or(of_rooms);
            hints.unknown = true;
        }
        for room in others {
            rooms.entry(room).or_insert(Hints::UNKNOWN);
        }
        rooms
    }
}

/// What an inbox lists for a token.
#[derive(Debug)]
pub(crate) struct Listed {
    /// The streams of which the last answer had no room for all.
    behind: StreamSet,
    /// By sequence; `None` where it doesn't reach back so far.
    items: [Option<Vec<Item>>; Sequence::ALL.len()],
}

impl Listed {
    /// Reads what an inbox lists of some streams for a device.
    pub(crate) fn new(inbox: &Inbox, device: &DeviceId, since: &Token, wanted: StreamSet) -> Self {
        let device = Item::device(device);
        let concerns = |item: &Item| {
            StreamId::of(item.kind).is_some_and(|stream| {
                wanted.contains(stream) && (stream.subject() != Subject::Device || item.subject == device)
            })
        };
        let shelves = inbox.shelves();
        let items = Sequence::ALL.map(|sequence| {
            if wanted.and(StreamSet::of(sequence)).is_empty() {
                return Some(Vec::new());
            }
            let items = shelves[sequence].since(since.seen(sequence)?)?;
            Some(items.filter(concerns).collect())
        });
        Self { behind: since.parts.behind(since.position).and(wanted), items }
    }

    /// Whether there is something that is to be answered at once, or that is not known.
    pub(crate) fn is_urgent(&self) -> bool {
        let urgent = |sequence: Sequence| match &self.items[sequence as usize] {
            Some(items) => items.iter().any(|item| item.kind.is_urgent),
            // It can wait whatever it is.
            None => sequence != Sequence::Presence,
        };
        !self.behind.is_empty() || Sequence::ALL.into_iter().any(urgent)
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.behind.is_empty() && self.items.iter().all(|items| items.as_ref().is_some_and(Vec::is_empty))
    }
}

impl Span<'_> {
    /// Everything: for a first sync.
    pub(crate) async fn all(&self) -> Result<Changes, SyncError> {
        let streams = StreamSet::of_tables().and(self.wanted);
        let mut changes = Changes { streams, ..Changes::default() };
        let of_rooms = streams.and(StreamSet::about(Subject::Room));
        self.add_joined(&mut changes, |_, hints| hints.streams = of_rooms).await?;
        Typing::add_active(self, &mut changes);
        Presence::add_around(self, &mut changes);
        Ok(changes)
    }

    /// What may have changed since a token.
    pub(crate) async fn since(&self, since: &Token, listed: Listed) -> Result<Changes, SyncError> {
        let mut changes = Changes { streams: listed.behind, ..Changes::default() };
        for (sequence, items) in Sequence::ALL.into_iter().zip(listed.items) {
            match (items, sequence) {
                (Some(items), Sequence::Log) => {
                    self.add_listed(&items, &mut changes);
                    Receipts::add_of_large_rooms(self, since.position, &mut changes);
                }
                (Some(items), _) => self.add_listed(&items, &mut changes),
                (None, Sequence::Log) => self.add_from_tables(since.position, &mut changes).await?,
                (None, Sequence::Typing) => Typing::add_unlisted(self, since, &mut changes).await?,
                (None, Sequence::Presence) => Presence::add_around(self, &mut changes),
            }
        }
        Ok(changes)
    }

    fn add_listed(&self, items: &[Item], changes: &mut Changes) {
        let residents = &self.inner.hub.residents;
        for item in items {
            let Some(stream) = StreamId::of(item.kind) else { continue };
            match stream.subject() {
                Subject::Account | Subject::Device => changes.streams.insert(stream),
                Subject::User => {
                    changes.streams.insert(stream);
                    changes.users.extend(residents.user_id(item.subject).cloned());
                }
                Subject::Room => {
                    let Some(room) = residents.room_id(item.subject) else { continue };
                    let hints = changes.add_room(room.clone(), item.subject, stream);
                    // It was routed to members, and to some who became it later.
                    hints.joined =
                        hints.joined || residents.is_joined(self.number, item.subject, self.reader.now()) == Some(true);
                }
            }
        }
        changes.users.sort_unstable();
    }

    /// What the tables say may have changed.
    async fn add_from_tables(&self, since: Position, changes: &mut Changes) -> Result<(), SyncError> {
        changes.streams = changes.streams.or(StreamSet::of_tables().and(self.wanted));
        let changed = |hub: &Hub, room| StreamSet::changed_in(hub, room, since).and(self.wanted);
        self.add_joined(changes, |hub, hints| hints.streams = changed(hub, hints.number)).await
    }

    /// Goes through the rooms that the user is in and keeps those of which `mark` says that something may have changed.
    pub(crate) async fn add_joined(
        &self,
        changes: &mut Changes,
        mark: impl Fn(&Hub, &mut Hints) + Send,
    ) -> Result<(), SyncError> {
        for (number, room) in self.joined().await? {
            let mut hints = Hints { number, joined: true, ..Hints::default() };
            mark(&self.inner.hub, &mut hints);
            if !hints.streams.is_empty() || hints.full {
                changes.streams = changes.streams.or(hints.streams);
                let known = changes.rooms.entry(room).or_default();
                hints.streams = hints.streams.or(known.streams);
                hints.full |= known.full;
                *known = hints;
            }
        }
        Ok(())
    }

    /// The rooms that the user is in at the end of the range. Read only if they may have come or gone since.
    async fn joined(&self) -> Result<Vec<(u32, OwnedRoomId)>, SyncError> {
        let (reader, residents) = (&self.reader, &self.inner.hub.residents);
        let mut joined = Vec::new();
        if let Some(numbers) = residents.rooms_of(self.number, reader.now()) {
            joined.extend(numbers.into_iter().filter_map(|room| Some((room, residents.room_id(room)?.clone()))));
            return Ok(joined);
        }
        for (room, row) in reader.rooms.memberships(reader.view, reader.viewer.user).await? {
            if row.membership == Membership::Join {
                joined.push((residents.room(&room), room));
            }
        }
        Ok(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::Numbers;

    /// Streams, in their order, of which an inbox lists something.
    fn listed(listed: &Listed) -> Vec<StreamId> {
        let items = listed.items.iter().flatten().flatten();
        let streams: Vec<StreamId> = items.filter_map(|item| StreamId::of(item.kind)).collect();
        StreamId::ALL.iter().copied().filter(|stream| streams.contains(stream)).collect()
    }

    #[test]
    fn an_inbox_lists_what_is_asked_for_and_concerns_the_device() {
        let (inbox, phone) = (Inbox::new(Numbers::default(), 0), <&DeviceId>::from("PHONE"));
        let since = Token::told(1, 7, None, &Numbers::default());
        assert!(Listed::new(&inbox, phone, &since, StreamSet::ALL).is_empty());
        for stream in StreamId::ALL {
            let subject = if stream.subject() == Subject::Device { Item::device(phone) } else { 1 };
            inbox.shelves()[stream.sequence()].push(subject, stream.relaxed(), 5);
        }
        let all = Listed::new(&inbox, phone, &since, StreamSet::ALL);
        assert_eq!(listed(&all), StreamId::ALL);
        assert!(!all.is_urgent() && !all.is_empty());
        let of_tablet = Listed::new(&inbox, "TABLET".into(), &since, StreamSet::ALL);
        assert_eq!(listed(&of_tablet).len(), StreamId::ALL.len() - 2);
        for stream in StreamId::ALL {
            let others = Listed::new(&inbox, phone, &since, StreamSet::ALL.without(*stream));
            assert!(!listed(&others).contains(stream) && listed(&others).len() == StreamId::ALL.len() - 1);
        }
        assert!(Listed::new(&inbox, phone, &since, StreamSet::NONE).is_empty());
        // Another run of the server tells nothing of what is volatile, unless nobody asks for it.
        let older = since.in_run(8);
        assert!(Listed::new(&inbox, phone, &older, StreamSet::ALL).is_urgent());
        let presence = StreamSet::of(Sequence::Presence);
        let unknown = Listed::new(&inbox, phone, &older, presence);
        assert!(!unknown.is_urgent() && !unknown.is_empty());
        let durable = StreamSet::of(Sequence::Log);
        assert!(!Listed::new(&inbox, phone, &older, durable).is_urgent());
    }

    #[test]
    fn what_an_answer_had_no_room_for_is_urgent_for_who_asks_for_it() {
        let (inbox, phone) = (Inbox::new(Numbers::default(), 0), <&DeviceId>::from("PHONE"));
        let mut since = Token::told(1, 7, None, &Numbers::of_log(Position::from_u64(10)));
        assert!(!Listed::new(&inbox, phone, &since, StreamSet::ALL).is_urgent());
        since.parts.to_device.up_to = Position::from_u64(9);
        assert!(Listed::new(&inbox, phone, &since, StreamSet::ALL).is_urgent());
        let others = StreamSet::ALL.without(StreamId::ToDevice);
        assert!(Listed::new(&inbox, phone, &since, others).is_empty());
    }
}
