//! Classic `/sync`: what streams and rooms have to tell, in the shape of its answer.
//!
//! Specification: client-server API, "Syncing".

mod filter;
mod joined;
mod left;
mod response;
mod rooms;

use std::{collections::HashMap, sync::Arc};

use event::push::PushRules;
use reading::{ClientEvent, Viewer};
use ruma::{DeviceId, OwnedRoomId, UserId};
use store::Position;
use users::PresenceState;

pub(crate) use self::filter::ParsedFilters;
use self::rooms::Item;
pub use self::{
    filter::{EventFormat, FILTER_BYTES_MAX, Filter, RoomFilter},
    response::{
        Events, InvitedRoom, JoinedRoom, KnockedRoom, LeftRoom, RoomUpdates, StateUpdate, Summary, SyncResponse,
        Timeline, UnreadCount,
    },
};
use crate::{
    Inner, Sync, SyncError,
    hub::Published,
    large::{Given, LARGE_BYTES, LargeAnswer},
    poll::{Asks, Fold, Poll, Told},
    reader::Reader,
    streams::{
        AccountData, DeviceLists, KeyCounts, Memberships, Presence, StreamId, StreamSet, ToDevice,
        changes::Changes,
        device_lists::Around,
        span::Span,
        token::Token,
        typing::{TypingNow, bit},
    },
};

/// A request for `/sync`, with the parameters as the specification has them.
#[derive(Copy, Clone, Debug)]
pub struct SyncRequest<'a> {
    /// Who asks.
    pub user: &'a UserId,
    /// With which device.
    pub device: &'a DeviceId,
    /// The token of the last answer; `None` for a first sync.
    pub since: Option<&'a str>,
    /// A filter's id or its JSON.
    pub filter: Option<&'a str>,
    /// Whether to return the whole state of rooms, at once.
    pub full_state: bool,
    /// How present the user is while this device syncs.
    pub set_presence: PresenceState,
    /// How long to wait for news, in milliseconds.
    pub timeout_ms: u64,
    /// Whether the client wants the state at the end of timelines instead of that at their start.
    pub use_state_after: bool,
}

impl Sync {
    /// Answers a request, waiting for news up to its timeout if there are none. Dropping the future ends the wait.
    ///
    /// A token of before a restore of the database is answered like a first sync.
    ///
    /// # Errors
    ///
    /// [`SyncError::BadToken`], [`SyncError::BadFilter`], [`SyncError::UnknownFilter`]; otherwise fails only if the store does.
    pub async fn classic(&self, request: SyncRequest<'_>) -> Result<SyncResponse, SyncError> {
        self.classic_with(request, &Given).await
    }

    /// As [`Sync::classic`], with leave for an answer that is large.
    ///
    /// # Errors
    ///
    /// As [`Sync::classic`], and [`SyncError::Busy`].
    pub async fn classic_with(
        &self,
        request: SyncRequest<'_>,
        large: &dyn LargeAnswer,
    ) -> Result<SyncResponse, SyncError> {
        let SyncRequest { user, device, set_presence, timeout_ms, full_state, .. } = request;
        let inner = &self.inner;
        let mut since = inner.since(request.since)?;
        let filter = match request.filter {
            None => inner.filters.all(),
            Some(json) if json.trim_start().starts_with('{') => inner.filters.parse(json)?,
            // Boxed, so that a waiting request is small.
            Some(id) => Box::pin(inner.stored_filter(user, id)).await?,
        };
        if let Some(since) = &since {
            let up_to = since.parts.to_device.up_to;
            inner.users.acknowledge_to_device(user, device, up_to).await?;
        }
        let wanted = match filter.wants_presence() {
            true => StreamSet::ALL,
            false => StreamSet::ALL.without(StreamId::Presence),
        };
        let poll = Poll::begin(inner, Asks { user, device, set_presence, timeout_ms, wanted }, large).await;
        poll.answer(&Classic { request: &request, filter }, &mut since, full_state).await
    }
}

impl Inner {
    async fn stored_filter(&self, user: &UserId, id: &str) -> Result<Arc<Filter>, SyncError> {
        let stored = self.users.filter(&self.store.view().await?, user, id).await?;
        self.filters.parse(stored.ok_or(SyncError::UnknownFilter)?.get())
    }
}

/// A request for news in the form of `/sync`.
struct Classic<'a> {
    request: &'a SyncRequest<'a>,
    filter: Arc<Filter>,
}

impl Fold for Classic<'_> {
    type Answer = SyncResponse;

    async fn tell(
        &self,
        poll: &Poll<'_>,
        since: Option<&Token>,
        at_once: bool,
    ) -> Result<Told<SyncResponse>, SyncError> {
        if since.is_none() || self.request.full_state {
            // It tells of every room.
            poll.large.begin().await?;
        }
        let published = poll.inner.hub.published();
        let Published { view, memo, numbers } = &*published;
        let Inner { rooms, reading, users, .. } = &**poll.inner;
        let (user, device) = (self.request.user, self.request.device);
        let ignored = users.ignored_users(view, user).await?;
        let typing = TypingNow::new(poll.inner, poll.number, &ignored, numbers);
        let erased = users.erased_users().await?;
        let viewer = Viewer { user, device: Some(device), ignored: &ignored, erased: &erased, joined_in: None };
        let reader = Reader { rooms, reading, view, memo, viewer };
        let (number, since, wanted) = (poll.number, since.copied(), poll.asks.wanted);
        let span = Span { inner: poll.inner, reader, device, number, since, wanted };
        let rules = users.compiled_push_rules(view, user).await?;
        let answer = Answer { span, wishes: &self.wishes(rules), large: poll.large };
        let (mut response, token) = answer.build(poll, typing, &published).await?;
        if !at_once && since.is_some() && response.is_empty() {
            return Ok(Told::Nothing(token));
        }
        response.next_batch = token.to_string();
        let counts = KeyCounts::read(&span, &poll.inbox).await?;
        response.device_one_time_keys_count = counts.one_time;
        response.device_unused_fallback_key_types = counts.unused_fallbacks;
        Ok(Told::News(response))
    }
}

impl Classic<'_> {
    fn wishes(&self, rules: Arc<PushRules>) -> Wishes {
        let SyncRequest { since, full_state, use_state_after, .. } = *self.request;
        Wishes { filter: self.filter.clone(), full_state, use_state_after, has_token: since.is_some(), rules }
    }
}

/// What a client wants to be told, and how.
#[derive(Clone)]
struct Wishes {
    filter: Arc<Filter>,
    full_state: bool,
    use_state_after: bool,
    /// It shows a token, be it of before a restore.
    has_token: bool,
    /// By which its unread events are counted.
    rules: Arc<PushRules>,
}

/// One answer in the making.
struct Answer<'a> {
    span: Span<'a>,
    wishes: &'a Wishes,
    large: &'a dyn LargeAnswer,
}

impl Answer<'_> {
    /// All but the numbers of keys, and the token that the client has seen everything up to with it.
    async fn build(
        &self,
        poll: &Poll<'_>,
        typing: TypingNow,
        published: &Published,
    ) -> Result<(SyncResponse, Token), SyncError> {
        let (span, store) = (&self.span, &self.span.inner.store);
        let since = span.since.as_ref();
        let mut changes = match since {
            None => span.all().await?,
            Some(since) => span.since(since, poll.listed(since)).await?,
        };
        if self.wishes.full_state && since.is_some() {
            span.add_joined(&mut changes, |_, hints| hints.full = true).await?;
        }
        let mut token = Token::told(store.epoch(), store.boot_id(), since, &published.numbers);
        let mut response = self.news(&changes).await?;
        let shown = response.rooms.join.iter().filter(|(_, room)| room.shows_typing);
        token.parts.typing.shown = typing.shown_after(since, shown.fold(0, |bits, (room, _)| bits | bit(room)));
        let after = since.map_or(Position::ZERO, |since| since.parts.to_device.up_to);
        let messages = ToDevice::read(span, &changes, after).await?;
        response.to_device.events = messages.events.into_iter().map(Into::into).collect();
        if let Some(up_to) = messages.up_to {
            token.parts.to_device.up_to = up_to;
        }
        response.key_counts_changed = changes.has(StreamId::KeyCounts);
        if response.bytes() > LARGE_BYTES {
            self.large.begin().await?;
        }
        Ok((response, token))
    }

    /// What there is to say but of the device alone.
    async fn news(&self, changes: &Changes) -> Result<SyncResponse, SyncError> {
        let (span, filter) = (&self.span, &self.wishes.filter);
        let mut response = SyncResponse::default();
        let mut account_data = self.account_data(changes).await?;
        if let Some(rows) = account_data.remove(&None) {
            response.account_data.events = rows;
        }
        let paths = Memberships::read(span, changes, filter.room.include_leave).await?;
        let around = match self.wishes.has_token {
            // Whose token is of before a restore has to ask for all keys anew.
            true => {
                let since = span.since_position().unwrap_or(Position::ZERO);
                DeviceLists::read(span, changes, paths.keys().map(|room| &**room).collect(), since).await?
            }
            false => Around::default(),
        };
        response.device_lists = around.lists;
        for info in Presence::read(span, changes, around.met, |user| filter.wants_presence_of(user)) {
            response.presence.events.push(Presence::event(&info)?);
        }
        let mut rooms = changes.rooms_with(&paths, account_data.keys().flatten().map(|room| &**room));
        rooms.retain(|room, _| filter.room.wants_room(room));
        let mut items = Vec::with_capacity(rooms.len());
        for (room, hints) in rooms {
            let steps = paths.get(room).cloned().unwrap_or_default();
            let room = room.to_owned();
            let account_data = account_data.get(&Some(room.clone())).cloned().unwrap_or_default();
            items.push(Item { room, hints, steps, account_data });
        }
        response.rooms = self.rooms(items).await?;
        Ok(response)
    }

    /// The account data that changed and that the client wants, by room; that of the account under `None`.
    async fn account_data(
        &self,
        changes: &Changes,
    ) -> Result<HashMap<Option<OwnedRoomId>, Vec<ClientEvent>>, SyncError> {
        let mut data: HashMap<Option<OwnedRoomId>, Vec<ClientEvent>> = HashMap::new();
        for row in AccountData::read(&self.span, changes).await? {
            if self.wishes.filter.wants_account_data(&row) {
                let event = AccountData::event(&row)?;
                data.entry(row.room).or_default().push(event);
            }
        }
        Ok(data)
    }
}
