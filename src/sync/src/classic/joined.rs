//! A room that the user is in.

use std::collections::{BTreeMap, BTreeSet};

use reading::{ClientEvent, Count, MemberSummary, NewEvents, Viewer};
use rooms::{EventNum, ROOM_RECEIPTS_MAX, Receipt, TimelineIndex, receipt_events};
use ruma::{OwnedUserId, RoomId};
use serde::Serialize;
use state_tree::Root;
use store::Position;

use super::{Answer, account::to_event};
use crate::{
    JoinedRoom, StateUpdate, Summary, SyncError, Timeline, UnreadCount,
    changes::Hints,
    large::LARGE_EVENTS,
    reader::Reader,
    response::Events,
    slice::{Slice, SliceRange},
    state::{MEMBER, Roots, StateDelta},
    tail::TailRange,
};

/// Types of state events that the name of a room depends on.
const NAMING_TYPES: [&str; 3] = [MEMBER, "m.room.name", "m.room.canonical_alias"];

/// Receipts of others that are told in an answer about a large room: the newest.
const RECEIPTS_IN_LARGE_ROOM_MAX: usize = 50;

/// Users that are told to type in a large room: nobody reads a longer list.
const TYPING_IN_LARGE_ROOM_MAX: usize = 10;

#[derive(Serialize)]
struct TypingEvent {
    content: TypingContent,
    #[serde(rename = "type")]
    event_type: &'static str,
}

#[derive(Serialize)]
struct TypingContent {
    user_ids: Vec<OwnedUserId>,
}

/// A part of a room's history, as a client is to be told it.
#[derive(Copy, Clone)]
pub(super) struct Stretch<'a> {
    pub(super) room: &'a RoomId,
    /// The start of the timeline; `None` for all there is.
    pub(super) since: Option<Position>,
    /// The end.
    pub(super) until: Position,
    pub(super) roots: Roots,
    pub(super) tail: Option<&'a TailRange>,
}

/// Timeline and state of a stretch.
pub(super) struct Told {
    pub(super) timeline: Timeline,
    pub(super) state: StateUpdate,
    pub(super) summary: Option<Summary>,
    /// Whether anything happened in the timeline that the user may see, shown or not.
    pub(super) eventful: bool,
}

impl Answer<'_> {
    /// What to say about a room that the user is in.
    pub(super) async fn joined(
        &self,
        room: &RoomId,
        hints: Hints,
        fresh: bool,
        account_data: Vec<ClientEvent>,
    ) -> Result<JoinedRoom, SyncError> {
        let since = self.since.filter(|_| !fresh);
        let mut update = JoinedRoom::default();
        let mut eventful = false;
        if since.is_none() || hints.timeline || hints.full {
            let told = self.joined_stretch(room, hints, since).await?;
            eventful = told.eventful;
            update.timeline = told.timeline;
            update.state = told.state;
            update.summary = told.summary;
        } else if self.session.request.use_state_after {
            update.state = StateUpdate::After(Events::default());
        }
        let receipts = self.receipts(room, hints, since).await?;
        let own_moved = receipts.iter().any(|receipt| receipt.user == self.reader.viewer.user);
        self.add_ephemeral(room, hints, &receipts, &mut update)?;
        update.account_data.events = match (fresh, self.since) {
            (true, Some(_)) => self.room_account_data(room).await?,
            _ => account_data,
        };
        if since.is_none() || eventful || own_moved {
            self.add_unread(room, hints, &mut update).await?;
        }
        Ok(update)
    }

    async fn joined_stretch(&self, room: &RoomId, hints: Hints, since: Option<Position>) -> Result<Told, SyncError> {
        let until = self.reader.now();
        let hub = &self.session.inner.hub;
        let tail = since.and_then(|since| hub.tail(hints.number, since, until));
        let end = match &tail {
            Some(tail) => tail.after,
            None => self.reader.root_now(room).await?,
        };
        let known = match (since, &tail) {
            _ if hints.full => None,
            (None, _) => None,
            (Some(_), Some(tail)) => Some(tail.before),
            (Some(since), None) => Some(self.reader.root_at(room, since).await?),
        };
        let roots = Roots { known, end };
        let stretch = Stretch { room, since, until, roots, tail: tail.as_ref() };
        self.tell(stretch, true).await
    }

    /// Timeline and state of a stretch of a room's history, and what names the room if the user is joined at its end.
    pub(super) async fn tell(&self, stretch: Stretch<'_>, is_joined: bool) -> Result<Told, SyncError> {
        let Stretch { room, since, until, roots, tail } = stretch;
        let filter = &self.session.filter.room;
        let config = &self.session.inner.config;
        let wanted = filter.timeline.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let limit = wanted.unwrap_or(config.timeline_limit_default).min(config.timeline_limit_max);
        if limit > LARGE_EVENTS {
            self.session.large.begin().await?;
        }
        let range = SliceRange { room, since, until, limit, filter: &filter.timeline, tail };
        let viewer = Viewer { joined_in: is_joined.then_some(roots.end), ..self.reader.viewer };
        let mut slice = Reader { viewer, ..self.reader }.slice(range).await?;
        let after = self.session.request.use_state_after;
        if !after {
            self.reader.cut_misleading(room, &mut slice, roots.end).await?;
        }
        let summary = match is_joined && self.names_change(&stretch, &slice).await? {
            true => Some(self.summary(room, roots.end).await?),
            false => None,
        };
        let lazy = self.lazy_members(&slice, roots, summary.as_ref());
        let mut delta = match after {
            true => self.reader.state_after(room, roots, lazy.as_ref()).await?,
            false => self.reader.state_before(room, roots, &slice, lazy.as_ref()).await?,
        };
        if let (Some(since), Some(_)) = (since, roots.known)
            && (slice.limited || (slice.redacts && slice.thinned))
        {
            // The client may not be shown the redactions themselves.
            let mut redacted = self.reader.redacted_state(room, (since, until), roots.end, &slice).await?;
            redacted.retain(|num| !delta.changed.contains(num) && !delta.members.contains(num));
            delta.changed.extend(redacted);
        }
        let state = Events { events: self.state(room, delta, &slice, lazy.is_some(), roots.known.is_none()).await? };
        let eventful = slice.eventful && (slice.thinned || slice.redacts || !slice.events.is_empty());
        let timeline = Timeline {
            events: self.timeline_events(&slice.events, slice.limited).await?,
            limited: slice.limited,
            prev_batch: Some(slice.start.to_string()),
        };
        let state = if after { StateUpdate::After(state) } else { StateUpdate::Before(state) };
        Ok(Told { timeline, state, summary, eventful })
    }

    /// Whether what a room is called may have changed.
    async fn names_change(&self, stretch: &Stretch<'_>, slice: &Slice) -> Result<bool, SyncError> {
        let Stretch { room, since, roots, .. } = *stretch;
        let (Some(known), Some(since)) = (roots.known, since) else { return Ok(true) };
        let changes = self.reader.diff(room, known, roots.end).await?;
        if changes.iter().any(|change| NAMING_TYPES.contains(&&*change.key.event_type)) {
            return Ok(true);
        }
        // A redaction leaves the state as it is and takes the name.
        Ok((slice.redacts || slice.limited) && self.name_redacted_since(room, roots.end, since).await?)
    }

    /// Whether what names the room in a state was redacted after a position.
    async fn name_redacted_since(&self, room: &RoomId, root: Root, since: Position) -> Result<bool, SyncError> {
        let Reader { rooms, view, .. } = &self.reader;
        let keys = [("m.room.name", ""), ("m.room.canonical_alias", "")];
        let entries = rooms.tree().get_many(&self.reader.source(room), root, &keys).await?;
        for entry in entries.into_iter().flatten() {
            let Some(redaction) = rooms.meta(view, entry.event).await?.redacted_by else { continue };
            let index = rooms.meta(view, redaction).await?.index;
            if index.is_some_and(|index| index > TimelineIndex::after_position(since)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn summary(&self, room: &RoomId, root: Root) -> Result<Summary, SyncError> {
        let (reading, view, user) = (self.reader.reading, self.reader.view, self.reader.viewer.user);
        let MemberSummary { heroes, joined, invited } = reading.member_summary(view, user, room, root).await?;
        Ok(Summary { heroes, joined, invited })
    }

    /// The members that lazy loading has to tell, if it is wanted: senders, who the room is named after, and the user themselves
    /// where everything is told.
    fn lazy_members(&self, slice: &Slice, roots: Roots, summary: Option<&Summary>) -> Option<BTreeSet<OwnedUserId>> {
        if !self.session.filter.room.state.lazy_load_members {
            return None;
        }
        let mut members: BTreeSet<OwnedUserId> = BTreeSet::new();
        for seen in &slice.events {
            members.insert(seen.event.pdu.sender().to_owned());
        }
        if let Some(heroes) = summary.and_then(|summary| summary.heroes.as_ref()) {
            members.extend(heroes.iter().cloned());
        }
        if roots.known.is_none() {
            members.insert(self.reader.viewer.user.to_owned());
        }
        Some(members)
    }

    /// Formats state, leaving out members that the device has, if it loads them lazily. `anew`: the client starts with nothing
    /// in this room, whatever it was told before.
    async fn state(
        &self,
        room: &RoomId,
        delta: StateDelta,
        slice: &Slice,
        lazy: bool,
        anew: bool,
    ) -> Result<Vec<ClientEvent>, SyncError> {
        let filter = &self.session.filter.room.state;
        if !filter.wants_room(room) {
            return Ok(Vec::new());
        }
        let StateDelta { changed: mut nums, mut members } = delta;
        if lazy && !filter.include_redundant_members {
            self.drop_redundant(room, anew, &mut members);
            // What the client gets in other ways it has as well.
            let mut sent: Vec<EventNum> = Vec::new();
            for seen in &slice.events {
                if seen.event.pdu.event_type() == MEMBER {
                    sent.push(seen.event.num);
                }
            }
            self.drop_redundant(room, anew, &mut sent);
        }
        nums.extend(members);
        self.state_events(&nums).await
    }

    fn drop_redundant(&self, room: &RoomId, anew: bool, members: &mut Vec<EventNum>) {
        let request = &self.session.request;
        let device = (request.user, request.device);
        let since = self.since.filter(|_| !anew);
        self.session.inner.sent_members.keep_new(device, room, since, self.reader.now(), members);
    }

    async fn receipts(&self, room: &RoomId, hints: Hints, since: Option<Position>) -> Result<Vec<Receipt>, SyncError> {
        let (rooms, view, user) = (self.reader.rooms, self.reader.view, self.reader.viewer.user);
        let now = self.reader.now();
        let Some(since) = since else {
            return Ok(self.unignored(rooms.receipts(view, user, room).await?));
        };
        if !hints.receipts {
            return Ok(Vec::new());
        }
        let is_large = self.session.inner.hub.is_large(hints.number);
        let others_max = if is_large { RECEIPTS_IN_LARGE_ROOM_MAX } else { ROOM_RECEIPTS_MAX - 1 };
        let Some(mut moved) = rooms.receipts_since(view, user, room, (since, now), others_max + 1).await? else {
            self.session.inner.hub.receipts_quiet(hints.number, since, now);
            return Ok(Vec::new());
        };
        if moved.len() > others_max {
            // The newest come first, and the user's own may be older.
            moved.retain(|receipt| receipt.user != user);
            moved.truncate(others_max);
            let own = rooms.receipts_of(view, user, room).await?;
            moved.extend(own.into_iter().filter(|receipt| since < receipt.position && receipt.position <= now));
        }
        Ok(self.unignored(moved))
    }

    /// The receipts of those whom the user doesn't ignore.
    fn unignored(&self, mut receipts: Vec<Receipt>) -> Vec<Receipt> {
        receipts.retain(|receipt| !self.reader.viewer.ignored.contains(&receipt.user));
        receipts
    }

    /// Adds receipts, and who is typing. That nobody is any more is for those who may believe that somebody is.
    fn add_ephemeral(
        &self,
        room: &RoomId,
        hints: Hints,
        receipts: &[Receipt],
        update: &mut JoinedRoom,
    ) -> Result<(), SyncError> {
        let filter = &self.session.filter.room;
        let events = &mut update.ephemeral.events;
        if !receipts.is_empty() && filter.wants_ephemeral(room, "m.receipt") {
            events.extend(receipt_events(receipts)?.into_iter().map(ClientEvent::from));
        }
        if (hints.typing || hints.unknown) && filter.wants_ephemeral(room, "m.typing") {
            let mut user_ids = self.reader.rooms.typing().users(room);
            user_ids.retain(|user| !self.reader.viewer.ignored.contains(user));
            if self.session.inner.hub.is_large(hints.number) {
                user_ids.truncate(TYPING_IN_LARGE_ROOM_MAX);
            }
            update.shows_typing = !user_ids.is_empty();
            if update.shows_typing || (hints.typing && self.typing_shown) {
                let content = TypingContent { user_ids };
                events.push(to_event(&TypingEvent { content, event_type: "m.typing" })?);
            }
        }
        Ok(())
    }

    /// What happened since unread events were last counted, if that is all in memory and the user didn't read in between.
    fn news_since_counted(&self, room: &RoomId, hints: Hints) -> Option<(Position, TailRange)> {
        let counted = self.reader.reading.unread_counted_at(self.reader.viewer.user, room)?;
        let hub = &self.session.inner.hub;
        let unmoved = hub.unmoved_since(self.session.number, hints.number)?;
        let tail = hub.tail(hints.number, counted, self.reader.now())?;
        (unmoved <= counted && !tail.holes).then_some((counted, tail))
    }

    async fn add_unread(&self, room: &RoomId, hints: Hints, update: &mut JoinedRoom) -> Result<(), SyncError> {
        let Reader { reading, view, viewer, .. } = &self.reader;
        let unread = match self.news_since_counted(room, hints) {
            Some((since, tail)) => {
                let events = self.reader.tail_events(&tail).await?;
                let new = NewEvents { since, events: &events };
                reading.unread_with(view, viewer, room, &self.rules, new).await?
            }
            None => reading.unread(view, viewer, room, &self.rules).await?,
        };
        if !self.session.filter.room.timeline.unread_thread_notifications {
            update.unread_notifications = Some(unread_count(unread.total()));
            return Ok(());
        }
        update.unread_notifications = Some(unread_count(unread.main));
        let mut threads = BTreeMap::new();
        for (root, count) in unread.threads {
            threads.insert(root, unread_count(count));
        }
        update.unread_thread_notifications = threads;
        Ok(())
    }
}

fn unread_count(count: Count) -> UnreadCount {
    UnreadCount { highlight_count: count.highlights, notification_count: count.notifications }
}
