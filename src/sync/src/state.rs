//! The state that a sync tells a client: what differs between what the client has and what the room is.
//!
//! In the classic form a client applies `state` and then the timeline's state events, and must end up with the room's state.
//! Timelines of forks don't add up to the resolved state by themselves, so the timeline is cut where it would mislead, and what
//! it lacks is put into `state`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rooms::EventNum;
use ruma::{OwnedUserId, RoomId};
use state_tree::{Entry, OwnedStateKey, Root, Source, StateChange};
use store::Position;

use crate::{SyncError, reader::Reader, slice::Slice};

/// The type of member events.
pub(crate) const MEMBER: &str = "m.room.member";

/// What of a room's state the client has and is to have.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Roots {
    /// What the client has; `None` if it is to be told everything.
    pub(crate) known: Option<Root>,
    /// The state at the end of the range.
    pub(crate) end: Root,
}

/// State events to tell a client.
#[derive(Debug, Default)]
pub(crate) struct StateDelta {
    /// Those that it must get.
    pub(crate) changed: Vec<EventNum>,
    /// Members that lazy loading asks for, unless the client has them.
    pub(crate) members: Vec<EventNum>,
}

/// The members to tell besides those that changed; `None` to tell all.
pub(crate) type LazyMembers<'a> = Option<&'a BTreeSet<OwnedUserId>>;

type Delta = BTreeMap<OwnedStateKey, EventNum>;

impl Reader<'_> {
    pub(crate) fn source<'s>(&'s self, room: &'s RoomId) -> Source<'s> {
        Source { room, view: self.view, overlays: &[] }
    }

    /// What differs between two states.
    pub(crate) async fn diff(&self, room: &RoomId, old: Root, new: Root) -> Result<Vec<StateChange>, SyncError> {
        if old == new {
            return Ok(Vec::new());
        }
        Ok(self.rooms.tree().diff(&self.source(room), old, new).await?)
    }

    /// Drops events from the start of a timeline until its state events lead to the state at the end of the range, not to one
    /// that a fork had.
    pub(crate) async fn cut_misleading(&self, room: &RoomId, slice: &mut Slice, end: Root) -> Result<(), SyncError> {
        let mut last: HashMap<(&str, &str), usize> = HashMap::new();
        for (at, seen) in slice.events.iter().enumerate() {
            let pdu = &seen.event.pdu;
            if let Some(state_key) = pdu.state_key() {
                last.insert((pdu.event_type(), state_key), at);
            }
        }
        if last.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = last.keys().copied().collect();
        let entries = self.rooms.tree().get_many(&self.source(room), end, &keys).await?;
        let mut cut = 0;
        for (key, entry) in keys.iter().zip(entries) {
            let at = last[key];
            if entry.is_none_or(|entry| entry.event != slice.events[at].event.num) {
                cut = cut.max(at + 1);
            }
        }
        if cut > 0 {
            slice.cut(cut);
        }
        Ok(())
    }

    /// The state for a client that applies the timeline to it.
    pub(crate) async fn state_before(
        &self,
        room: &RoomId,
        roots: Roots,
        slice: &Slice,
        lazy: LazyMembers<'_>,
    ) -> Result<StateDelta, SyncError> {
        let start = match (slice.events.first(), roots.known) {
            // Nothing lies between what the client knows and the timeline, or `fix` below would say it.
            (Some(_), Some(known)) if !slice.limited => known,
            (Some(first), _) => self.root_before(room, first).await?,
            (None, _) => roots.end,
        };
        let mut delta = self.base(room, roots.known, start, lazy).await?;
        let mut in_timeline: HashMap<(&str, &str), EventNum> = HashMap::new();
        for seen in &slice.events {
            let pdu = &seen.event.pdu;
            if let Some(state_key) = pdu.state_key() {
                in_timeline.insert((pdu.event_type(), state_key), seen.event.num);
            }
        }
        // What the timeline leaves out of the way from its start to the end of the range.
        for change in self.diff(room, start, roots.end).await? {
            if in_timeline.contains_key(&change.key.as_key()) {
                continue;
            }
            match change.new {
                Some(entry) if roots.known.is_some() || wants_key(lazy, &change.key) => {
                    delta.insert(change.key, entry.event);
                }
                Some(_) => {}
                None => {
                    delta.remove(&change.key);
                }
            }
        }
        let members = match (lazy, roots.known) {
            (Some(users), Some(_)) => self.members(room, start, users, &delta).await?,
            _ => Vec::new(),
        };
        Ok(split(delta, members, lazy.is_some() && roots.known.is_none()))
    }

    /// Events of the state `end` that the client has and that were redacted in a range, so that it has to be told them again.
    pub(crate) async fn redacted_state(
        &self,
        room: &RoomId,
        (since, until): (Position, Position),
        end: Root,
        slice: &Slice,
    ) -> Result<Vec<EventNum>, SyncError> {
        let nums = self.rooms.state_redacted(self.view, room, since, until).await?;
        let mut told = Vec::new();
        for event in self.rooms.events(self.view, &nums).await?.into_iter().flatten() {
            let Some(state_key) = event.pdu.state_key() else { continue };
            let entry = self.rooms.tree().get(&self.source(room), end, event.pdu.event_type(), state_key).await?;
            let shown = slice.events.iter().any(|seen| seen.event.num == event.num);
            if !shown && entry.is_some_and(|entry| entry.event == event.num) {
                told.push(event.num);
            }
        }
        Ok(told)
    }

    /// The state for a client that does not apply the timeline (`use_state_after`).
    pub(crate) async fn state_after(
        &self,
        room: &RoomId,
        roots: Roots,
        lazy: LazyMembers<'_>,
    ) -> Result<StateDelta, SyncError> {
        let delta = self.base(room, roots.known, roots.end, lazy).await?;
        let members = match (lazy, roots.known) {
            (Some(users), Some(_)) => self.members(room, roots.end, users, &delta).await?,
            _ => Vec::new(),
        };
        Ok(split(delta, members, lazy.is_some() && roots.known.is_none()))
    }

    /// What leads from what the client knows to a state.
    async fn base(
        &self,
        room: &RoomId,
        known: Option<Root>,
        to: Root,
        lazy: LazyMembers<'_>,
    ) -> Result<Delta, SyncError> {
        let mut delta = Delta::new();
        if let Some(known) = known {
            for change in self.diff(room, known, to).await? {
                // A key that is gone can't be told; the client keeps what it had.
                if let Some(entry) = change.new {
                    delta.insert(change.key, entry.event);
                }
            }
            return Ok(delta);
        }
        let source = self.source(room);
        let tree = self.rooms.tree();
        let entries = match lazy {
            None => tree.all(&source, to).await?,
            Some(_) => tree.all_except_type(&source, to, MEMBER).await?,
        };
        for (key, entry) in entries {
            delta.insert(key, entry.event);
        }
        if let Some(users) = lazy {
            for (user, entry) in self.member_entries(room, to, users).await? {
                let key = OwnedStateKey { event_type: MEMBER.into(), state_key: user.as_str().into() };
                delta.insert(key, entry.event);
            }
        }
        Ok(delta)
    }

    async fn member_entries<'u>(
        &self,
        room: &RoomId,
        root: Root,
        users: &'u BTreeSet<OwnedUserId>,
    ) -> Result<Vec<(&'u OwnedUserId, Entry)>, SyncError> {
        let keys: Vec<_> = users.iter().map(|user| (MEMBER, user.as_str())).collect();
        let entries = self.rooms.tree().get_many(&self.source(room), root, &keys).await?;
        let found = users.iter().zip(entries).filter_map(|(user, entry)| Some((user, entry?)));
        Ok(found.collect())
    }

    /// The member events of users that `delta` doesn't hold.
    async fn members(
        &self,
        room: &RoomId,
        root: Root,
        users: &BTreeSet<OwnedUserId>,
        delta: &Delta,
    ) -> Result<Vec<EventNum>, SyncError> {
        let mut members = Vec::new();
        for (user, entry) in self.member_entries(room, root, users).await? {
            let key = OwnedStateKey { event_type: MEMBER.into(), state_key: user.as_str().into() };
            if !delta.contains_key(&key) {
                members.push(entry.event);
            }
        }
        Ok(members)
    }
}

/// Whether a client that is told everything gets this key.
fn wants_key(lazy: LazyMembers<'_>, key: &OwnedStateKey) -> bool {
    let Some(users) = lazy else { return true };
    &*key.event_type != MEMBER || users.iter().any(|user| user.as_str() == &*key.state_key)
}

/// In a full lazy answer all members are there because lazy loading asked for them.
fn split(delta: Delta, mut members: Vec<EventNum>, members_are_lazy: bool) -> StateDelta {
    let mut changed = Vec::with_capacity(delta.len());
    for (key, event) in delta {
        if members_are_lazy && &*key.event_type == MEMBER {
            members.push(event);
        } else {
            changed.push(event);
        }
    }
    StateDelta { changed, members }
}
