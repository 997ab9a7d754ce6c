//! A room that the user is in.

use std::{collections::BTreeMap, sync::Arc};

use reading::{ClientEvent, Count, MemberSummary, TimelineToken};
use rooms::{EventNum, Receipt, receipt_events};
use ruma::RoomId;

use super::{
    Answer,
    response::{Events, JoinedRoom, StateUpdate, Summary, Timeline, UnreadCount},
};
use crate::{
    SyncError,
    large::LARGE_EVENTS,
    memo::{NewsKey, SharedNews},
    reader::SeenEvent,
    room_view::{RequiredState, RoomNews, RoomRange, RoomView},
    slice::Slice,
    state::{MEMBER, StateDelta},
    streams::{AccountData, Receipts, StreamId, Typing, changes::Hints},
};

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
        let since = self.span.since_position().filter(|_| !fresh);
        let mut update = JoinedRoom::default();
        let mut eventful = false;
        if since.is_none() || hints.has(StreamId::Rooms) || hints.full {
            let range = RoomRange::up_to_now(&self.span, room, hints, since).await?;
            let told = self.tell(room, &range, Some(hints.number)).await?;
            eventful = told.eventful;
            update.timeline = told.timeline;
            update.state = told.state;
            update.summary = told.summary;
        } else if self.wishes.use_state_after {
            update.state = StateUpdate::After(Events::default());
        }
        let receipts = Receipts::read(&self.span, room, hints, since).await?;
        let own_moved = receipts.iter().any(|receipt| receipt.user == self.span.reader.viewer.user);
        self.add_ephemeral(room, hints, &receipts, &mut update)?;
        update.account_data.events = match (fresh, self.span.since) {
            (true, Some(_)) => self.room_account_data(room).await?,
            _ => account_data,
        };
        if since.is_none() || eventful || own_moved {
            self.add_unread(room, hints, &mut update).await?;
        }
        Ok(update)
    }

    /// Timeline and state of a part of a room's history, and what names the room if the user is joined at its end. `number` is the room's.
    pub(super) async fn tell(&self, room: &RoomId, range: &RoomRange, number: Option<u32>) -> Result<Told, SyncError> {
        let memo = self.span.reader.memo;
        let key = number.and_then(|number| self.news_key(number, range));
        let now_ms = self.span.inner.clock.now_ms();
        if let Some(news) = key.and_then(|key| memo.news(key, now_ms)) {
            let state = StateDelta { changed: Vec::new(), members: news.members };
            let state = self.state(room, state, &[], false).await?;
            let (timeline, eventful) = (timeline(news.timeline, false, news.start), news.eventful);
            return Ok(Told { timeline, state: self.state_update(state), summary: None, eventful });
        }
        let filter = &self.wishes.filter.room;
        let config = &self.span.inner.config;
        let wanted = filter.timeline.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let limit = wanted.unwrap_or(config.timeline_limit_default).min(config.timeline_limit_max);
        if limit > LARGE_EVENTS {
            self.large.begin().await?;
        }
        let (after, lazy) = (self.wishes.use_state_after, filter.state.lazy_load_members);
        let required = RequiredState { after, lazy };
        let view = RoomView { room, range, limit, timeline: &filter.timeline, required };
        let news = view.read(&self.span.reader).await?;
        let key = key.filter(|_| news.is_shared());
        let RoomNews { timeline: Slice { events, limited, start, .. }, state, summary, eventful } = news;
        let summary = summary.map(|MemberSummary { heroes, joined, invited }| Summary { heroes, joined, invited });
        let form = self.wishes.filter.form();
        let formatted = self.span.reader.timeline_events(room, &events, limited, form).await?;
        if let Some(key) = key {
            let (_form, members) = (self.wishes.filter.clone(), state.members.clone());
            memo.keep_news(
                key,
                SharedNews { _form, at_ms: now_ms, timeline: formatted.clone(), start, members, eventful },
            );
        }
        let state = self.state(room, state, &events, range.is_anew()).await?;
        Ok(Told { timeline: timeline(formatted, limited, start), state: self.state_update(state), summary, eventful })
    }

    /// What names the news of a room among those that others are told as well.
    fn news_key(&self, room: u32, range: &RoomRange) -> Option<NewsKey> {
        if !self.span.reader.viewer.ignored.is_empty() {
            return None;
        }
        let first = range.shared(self.span.number)?;
        let form = Arc::as_ptr(&self.wishes.filter).addr();
        Some(NewsKey { room, first, after: self.wishes.use_state_after, form })
    }

    fn state_update(&self, events: Vec<ClientEvent>) -> StateUpdate {
        let events = Events { events };
        if self.wishes.use_state_after { StateUpdate::After(events) } else { StateUpdate::Before(events) }
    }

    /// Formats state, leaving out members that the device has, if it loads them lazily. `anew`: the client starts with nothing
    /// in this room, whatever it was told before.
    async fn state(
        &self,
        room: &RoomId,
        delta: StateDelta,
        timeline: &[SeenEvent],
        anew: bool,
    ) -> Result<Vec<ClientEvent>, SyncError> {
        let filter = &self.wishes.filter.room.state;
        if !filter.wants_room(room) {
            return Ok(Vec::new());
        }
        let StateDelta { changed: mut nums, mut members } = delta;
        if filter.lazy_load_members && !filter.include_redundant_members {
            self.drop_redundant(room, anew, &mut members);
            // What the client gets in other ways it has as well.
            let mut sent: Vec<EventNum> = Vec::new();
            for seen in timeline {
                if seen.event.pdu.event_type() == MEMBER {
                    sent.push(seen.event.num);
                }
            }
            self.drop_redundant(room, anew, &mut sent);
        }
        nums.extend(members);
        if nums.is_empty() {
            return Ok(Vec::new());
        }
        self.span.reader.state_events(room, &nums, filter, self.wishes.filter.form()).await
    }

    fn drop_redundant(&self, room: &RoomId, anew: bool, members: &mut Vec<EventNum>) {
        let span = &self.span;
        let device = (span.reader.viewer.user, span.device);
        let since = span.since_position().filter(|_| !anew);
        span.inner.sent_members.keep_new(device, room, since, span.reader.now(), members);
    }

    /// Adds receipts, and who is typing.
    fn add_ephemeral(
        &self,
        room: &RoomId,
        hints: Hints,
        receipts: &[Receipt],
        update: &mut JoinedRoom,
    ) -> Result<(), SyncError> {
        let filter = &self.wishes.filter.room;
        let events = &mut update.ephemeral.events;
        if !receipts.is_empty() && filter.wants_ephemeral(room, "m.receipt") {
            events.extend(receipt_events(receipts)?.into_iter().map(ClientEvent::from));
        }
        if filter.wants_ephemeral(room, "m.typing")
            && let Some(typing) = Typing::read(&self.span, room, hints)
        {
            update.shows_typing = !typing.is_empty();
            events.push(Typing::event(&typing)?);
        }
        Ok(())
    }

    /// All account data of a room that the client sees for the first time, though this is not its first sync.
    async fn room_account_data(&self, room: &RoomId) -> Result<Vec<ClientEvent>, SyncError> {
        let mut events = Vec::new();
        for row in AccountData::read_of_room(&self.span, room).await? {
            if self.wishes.filter.wants_account_data(&row) {
                events.push(AccountData::event(&row)?);
            }
        }
        Ok(events)
    }

    async fn add_unread(&self, room: &RoomId, hints: Hints, update: &mut JoinedRoom) -> Result<(), SyncError> {
        let unread = self.span.unread(room, hints.number, &self.wishes.rules).await?;
        if !self.wishes.filter.room.timeline.unread_thread_notifications {
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

fn timeline(events: Vec<ClientEvent>, limited: bool, start: TimelineToken) -> Timeline {
    Timeline { events, limited, prev_batch: Some(start.to_string()) }
}

fn unread_count(count: Count) -> UnreadCount {
    UnreadCount { highlight_count: count.highlights, notification_count: count.notifications }
}
