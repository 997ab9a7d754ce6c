//! A room that the user is in.

use std::collections::BTreeMap;

use reading::{ClientEvent, Count, MemberSummary, NewEvents};
use rooms::{EventNum, ROOM_RECEIPTS_MAX, Receipt, receipt_events};
use ruma::{OwnedUserId, RoomId};
use serde::Serialize;
use store::Position;

use super::{Answer, account::to_event};
use crate::{
    JoinedRoom, StateUpdate, Summary, SyncError, Timeline, UnreadCount,
    changes::Hints,
    large::LARGE_EVENTS,
    response::Events,
    room_view::{RequiredState, RoomNews, RoomView},
    slice::Slice,
    state::{MEMBER, Roots, StateDelta},
    tail::TailRange,
};

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

/// Timeline and state of a part of a room's history, as clients get them.
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
        self.tell(room, Roots { known, end }, (since, until), tail.as_ref(), true).await
    }

    /// Timeline and state of a part of a room's history, and what names the room if the user is joined at its end.
    pub(super) async fn tell(
        &self,
        room: &RoomId,
        roots: Roots,
        (since, until): (Option<Position>, Position),
        tail: Option<&TailRange>,
        is_joined: bool,
    ) -> Result<Told, SyncError> {
        let filter = &self.session.filter.room;
        let config = &self.session.inner.config;
        let wanted = filter.timeline.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let limit = wanted.unwrap_or(config.timeline_limit_default).min(config.timeline_limit_max);
        if limit > LARGE_EVENTS {
            self.session.large.begin().await?;
        }
        let (after, lazy) = (self.session.request.use_state_after, filter.state.lazy_load_members);
        let required = RequiredState { after, lazy };
        let timeline = &filter.timeline;
        let view = RoomView { room, roots, since, until, limit, timeline, tail, required, is_joined };
        let RoomNews { timeline: slice, state, summary, eventful } = view.read(&self.reader).await?;
        let summary = summary.map(|MemberSummary { heroes, joined, invited }| Summary { heroes, joined, invited });
        let state = Events { events: self.state(room, state, &slice, lazy, roots.known.is_none()).await? };
        let timeline = Timeline {
            events: self.timeline_events(room, &slice.events, slice.limited).await?,
            limited: slice.limited,
            prev_batch: Some(slice.start.to_string()),
        };
        let state = if after { StateUpdate::After(state) } else { StateUpdate::Before(state) };
        Ok(Told { timeline, state, summary, eventful })
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
        self.state_events(room, &nums).await
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
        let counted = self.reader.room(room).unread_counted_at()?;
        let hub = &self.session.inner.hub;
        let unmoved = hub.unmoved_since(self.session.number, hints.number)?;
        let tail = hub.tail(hints.number, counted, self.reader.now())?;
        (unmoved <= counted && !tail.holes).then_some((counted, tail))
    }

    async fn add_unread(&self, room: &RoomId, hints: Hints, update: &mut JoinedRoom) -> Result<(), SyncError> {
        let reader = self.reader.room(room);
        let unread = match self.news_since_counted(room, hints) {
            Some((since, tail)) => {
                let events = self.reader.tail_events(&tail).await?;
                let new = NewEvents { since, events: &events };
                reader.unread_with(&self.rules, new).await?
            }
            None => reader.unread(&self.rules).await?,
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
