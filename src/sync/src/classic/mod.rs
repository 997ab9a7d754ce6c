//! Classic `/sync`: waiting for news, and shaping them.
//!
//! Specification: client-server API, "Syncing".

mod account;
mod bulk;
mod devices;
mod format;
mod joined;
mod left;
mod to_device;

use std::{
    collections::{BTreeMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use event::push::PushRules;
use reading::{ClientEvent, Viewer};
use rooms::{Membership, MembershipLogRow, MembershipRow};
use ruma::{DeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use store::Position;
use tokio::time::Instant;
use users::PresenceState;

use self::bulk::Item;
use crate::{
    Filter, Inner, InvitedRoom, KnockedRoom, RoomUpdates, Sync, SyncError, SyncResponse, Token,
    changes::{Changes, Hints, Listed, Search},
    device_lists::Around,
    hub::{Published, Routed},
    inbox::Inbox,
    large::{Given, LARGE_BYTES, LargeAnswer},
    membership::{Section, Step, section},
    reader::Reader,
    token::typing_bit,
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

/// What stays the same during one request.
pub(crate) struct Session<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    pub(crate) request: SyncRequest<'a>,
    pub(crate) filter: Arc<Filter>,
    /// The user's number in the hub.
    pub(crate) number: u32,
    /// Leave to make a large answer.
    pub(crate) large: &'a dyn LargeAnswer,
}

/// What a look at the inbox says.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum News {
    /// Nothing.
    None,
    /// Something that waits for more to come.
    Relaxed,
    /// Something to be answered at once.
    Urgent,
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
        let inner = &self.inner;
        let mut since = inner.since(request.since)?;
        // Boxed, as what follows, so that a waiting request is small.
        let filter = Box::pin(inner.filter(&request)).await?;
        if let Some(since) = &since {
            let up_to = Position::from_u64(since.to_device);
            inner.users.acknowledge_to_device(request.user, request.device, up_to).await?;
        }
        let presence = inner.users.presence();
        let _syncing = presence.begin_sync(request.user, request.device, request.set_presence);
        let (number, inbox) = inner.hub.inbox(request.user, inner.clock.now_ms(), filter.wants_presence());
        let session = Session { inner, request, filter, number, large };
        // This request sees what was acknowledged to anybody before it, and that its user is there.
        let (typing, presence) = (inner.rooms.typing().sequence(), presence.sequence());
        inner.hub.wait_for(Routed { position: inner.store.published(), typing, presence }).await;
        let wait_ms = request.timeout_ms.min(inner.config.client_sync_timeout_max.ms());
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        let mut over = pin!(inner.hub.over(deadline));
        let mut at_once = request.full_state || wait_ms == 0;
        let mut relaxed_due: Option<Instant> = None;
        loop {
            // Before looking, so that nothing is missed between the look and the wait.
            let mut urgent = pin!(inbox.urgent.notified());
            let mut relaxed = pin!(inbox.relaxed.notified());
            urgent.as_mut().enable();
            relaxed.as_mut().enable();
            let published = inner.hub.published();
            let news = session.news(&inbox, since.as_ref());
            let is_due = relaxed_due.is_some_and(|due| due <= Instant::now());
            if at_once || news == News::Urgent || is_due {
                let first = Duration::from_millis(inner.config.answer_first_ms);
                inner.answering.answered(request.user, request.device, first).await;
                if since.is_none() || request.full_state {
                    // It tells of every room.
                    large.begin().await?;
                }
                let published = inner.hub.published();
                let response = Box::pin(session.answer(&inbox, since.as_ref(), &published)).await?;
                if at_once || since.is_none() || !response.0.is_empty() {
                    return Box::pin(session.with_key_counts(response.0, &inbox, &published)).await;
                }
                large.end();
                since = Some(response.1);
                relaxed_due = None;
            } else if news == News::Relaxed && relaxed_due.is_none() {
                relaxed_due = Some(Instant::now() + Duration::from_millis(inner.config.relaxed_delay_ms));
            }
            drop(published);
            tokio::select! {
                biased;
                () = urgent => {}
                () = relaxed, if relaxed_due.is_none() => {}
                () = at(relaxed_due) => {}
                () = &mut over => at_once = true,
            }
            inbox.touch(inner.clock.now_ms());
        }
    }
}

/// Waits until a point in time, for ever if there is none.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Inner {
    /// The token of a request; `None` for a first sync, and for a token of another epoch of the store.
    pub(crate) fn since(&self, since: Option<&str>) -> Result<Option<Token>, SyncError> {
        let Some(since) = since else { return Ok(None) };
        let token: Token = since.parse()?;
        if token.epoch != self.store.epoch() {
            return Ok(None);
        }
        if token.position > self.store.published() || token.to_device > token.position.get() {
            // A token of this epoch can't be ahead of the log.
            return Err(SyncError::BadToken);
        }
        Ok(Some(token))
    }

    async fn filter(&self, request: &SyncRequest<'_>) -> Result<Arc<Filter>, SyncError> {
        let Some(text) = request.filter else {
            return Ok(self.filters.all());
        };
        if text.trim_start().starts_with('{') {
            return self.filters.parse(text);
        }
        let stored = self.users.filter(&self.store.view().await?, request.user, text).await?;
        self.filters.parse(stored.ok_or(SyncError::UnknownFilter)?.get())
    }
}

impl Session<'_> {
    fn news(&self, inbox: &Inbox, since: Option<&Token>) -> News {
        let Some(since) = since else { return News::Urgent };
        let presence = self.filter.wants_presence();
        let listed = Listed::new(inbox, self.request.device, since, self.inner.store.boot_id(), presence);
        if listed.is_urgent() {
            News::Urgent
        } else if listed.is_empty() {
            News::None
        } else {
            News::Relaxed
        }
    }

    /// The answer for everything up to what is published, and its token.
    async fn answer(
        &self,
        inbox: &Inbox,
        since: Option<&Token>,
        published: &Published,
    ) -> Result<(SyncResponse, Token), SyncError> {
        let Inner { rooms, reading, users, store, hub, .. } = &**self.inner;
        let user = self.request.user;
        let view = &published.view;
        let (boot, presence) = (store.boot_id(), self.filter.wants_presence());
        let ignored = users.ignored_users(view, user).await?;
        // In this order, and before the inbox is looked at: what changes in between is unrouted, or in the inbox.
        let typing_now = self.typing_now(&ignored);
        let typing_unrouted = rooms.typing().sequence() > published.typing;
        let erased = users.erased_users().await?;
        let viewer =
            Viewer { user, device: Some(self.request.device), ignored: &ignored, erased: &erased, joined_in: None };
        let answer = Answer {
            session: self,
            reader: Reader { rooms, reading, view, memo: &published.memo, viewer },
            since: since.map(|since| since.position),
            presence_since: since.filter(|since| since.boot == boot).map(|since| since.presence),
            typing_shown: since.is_some_and(|since| since.typing_shown != 0),
            rules: users.compiled_push_rules(view, user).await?,
        };
        let number = self.number;
        let search = Search { hub, rooms, published, user, number, boot, presence };
        let mut changes = match since {
            None => search.all().await?,
            Some(since) => {
                let listed = Listed::new(inbox, self.request.device, since, boot, presence);
                search.since(since, listed).await?
            }
        };
        if self.request.full_state && since.is_some() {
            search.add_joined(&mut changes, |_, hints| hints.full = true).await?;
        }
        let mut response = answer.build(&changes).await?;
        response.key_counts_changed = changes.one_time_keys;
        let to_device = answer.to_device(&changes, since, &mut response).await?;
        if response.bytes() > LARGE_BYTES {
            self.large.begin().await?;
        }
        let token = Token {
            epoch: store.epoch(),
            // A view that lags behind must not send the client back.
            position: view.position().max(since.map_or(Position::ZERO, |since| since.position)),
            to_device: to_device.get(),
            boot,
            typing: published.typing,
            typing_shown: typing_now
                | bits_of_typing(&response)
                | since.filter(|_| typing_unrouted).map_or(0, |since| since.typing_shown),
            presence: published.presence,
        };
        response.next_batch = token.to_string();
        Ok((response, token))
    }
}

impl Session<'_> {
    /// The rooms of the user, each by its [`typing_bit`], in which somebody types whom they don't ignore.
    fn typing_now(&self, ignored: &HashSet<OwnedUserId>) -> u64 {
        let active: Vec<OwnedRoomId> = {
            let hub = &self.inner.hub;
            let numbers = hub.typing_in(self.number);
            numbers.into_iter().filter_map(|room| hub.residents.room_id(room).cloned()).collect()
        };
        let types = |room: &RoomId| self.inner.rooms.typing().users(room).iter().any(|user| !ignored.contains(user));
        let shown = active.iter().filter(|room| ignored.is_empty() || types(room));
        shown.fold(0, |bits, room| bits | typing_bit(room))
    }
}

/// The rooms of which an answer says that somebody types there, each by its [`typing_bit`].
fn bits_of_typing(response: &SyncResponse) -> u64 {
    let shown = response.rooms.join.iter().filter(|(_, room)| room.shows_typing);
    shown.fold(0, |bits, (room, _)| bits | typing_bit(room))
}

/// One answer in the making.
pub(crate) struct Answer<'a> {
    session: &'a Session<'a>,
    reader: Reader<'a>,
    /// What the client has seen everything up to; `None` in a first sync.
    since: Option<Position>,
    /// What of presence the client has seen; `None` if nothing of this run of the server.
    presence_since: Option<u64>,
    /// Whether the client may believe that somebody is typing.
    typing_shown: bool,
    rules: Arc<PushRules>,
}

/// The user's ways into and out of rooms in the range.
type Paths = BTreeMap<OwnedRoomId, Vec<Step>>;

impl Answer<'_> {
    async fn build(&self, changes: &Changes) -> Result<SyncResponse, SyncError> {
        let filter = &self.session.filter;
        let mut response = SyncResponse::default();
        let mut account_data = self.account_data(changes).await?;
        if let Some(rows) = account_data.remove(&None) {
            response.account_data.events = rows;
        }
        let paths = if changes.memberships { self.paths().await? } else { Paths::new() };
        let Around { lists, met } = self.around(changes, &paths).await?;
        response.device_lists = lists;
        response.presence.events = self.presence(changes, met)?;
        // Every room of which anything may have to be said, in one order whatever the reason.
        let mut rooms: BTreeMap<&RoomId, Hints> = BTreeMap::new();
        for (room, hints) in &changes.rooms {
            rooms.insert(room, *hints);
        }
        for room in paths.keys() {
            let hints = rooms.entry(room).or_insert(Hints::UNKNOWN);
            // What happened while the user was out of the room was not routed to them.
            hints.timeline = true;
            hints.receipts = true;
            hints.unknown = true;
        }
        for room in account_data.keys().flatten() {
            rooms.entry(room).or_insert(Hints::UNKNOWN);
        }
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

    async fn few_rooms(&self, items: Vec<Item>) -> Result<RoomUpdates, SyncError> {
        let mut updates = RoomUpdates::default();
        let mut bytes = 0;
        for Item { room, hints, steps, account_data } in items {
            if bytes > LARGE_BYTES {
                self.session.large.begin().await?;
            }
            if let Some(section) = self.section(&room, hints, &steps).await? {
                bytes += self.add_room(&mut updates, &room, section, hints, account_data).await?;
            }
        }
        Ok(updates)
    }

    /// How a room stands to the user now; `None` if there is nothing to say about it.
    async fn section(&self, room: &RoomId, hints: Hints, steps: &[Step]) -> Result<Option<Section>, SyncError> {
        let Reader { rooms, view, viewer, .. } = &self.reader;
        let Some(since) = self.since else {
            return Ok(section(Membership::Leave, steps));
        };
        if !steps.is_empty() {
            let mut before = self.membership_at(room, since).await?;
            if before == Membership::Leave && steps.first().is_some_and(|step| step.membership == Membership::Leave) {
                // An invite or a knock by way of another server, which the room's state here says nothing of, has ended.
                before = Membership::Invite;
            }
            return Ok(section(before, steps));
        }
        if hints.joined {
            return Ok(Some(Section::Joined { fresh: false }));
        }
        let row = rooms.membership(view, viewer.user, room).await?;
        let joined = row.is_some_and(|row| row.membership == Membership::Join);
        Ok(joined.then_some(Section::Joined { fresh: false }))
    }

    /// The user's membership of a room at a position, as far as this server held the room.
    async fn membership_at(&self, room: &RoomId, at: Position) -> Result<Membership, SyncError> {
        let root = self.reader.root_at(room, at).await?;
        let Reader { rooms, view, viewer, .. } = &self.reader;
        Ok(rooms.state(view, room, root).membership(viewer.user).await?)
    }

    /// The changes of the user's memberships in the range; in a first sync what led to those of now.
    async fn paths(&self) -> Result<Paths, SyncError> {
        let Reader { rooms, view, viewer, .. } = &self.reader;
        let mut paths = Paths::new();
        let include_leave = self.session.filter.room.include_leave;
        if self.since.is_none() && !include_leave {
            // The past of rooms that aren't shown is of no interest.
            for (room, row) in rooms.memberships(view, viewer.user).await? {
                let MembershipRow { membership, event, position, forgotten } = row;
                if !forgotten {
                    paths.insert(room, vec![Step { position, membership, event }]);
                }
            }
            return Ok(paths);
        }
        let since = self.since.unwrap_or(Position::ZERO);
        let rows = rooms.membership_log(view, viewer.user, since, self.reader.now()).await?;
        for (position, row) in rows {
            let MembershipLogRow { room, membership, event, forgotten } = row;
            if !forgotten {
                let steps = paths.entry(room).or_default();
                steps.push(Step { position, membership, event });
            } else if self.since.is_none() {
                paths.remove(&room);
            }
        }
        Ok(paths)
    }

    /// Adds what there is to say about a room, and gives how many bytes of events that are.
    async fn add_room(
        &self,
        updates: &mut RoomUpdates,
        room: &RoomId,
        section: Section,
        hints: Hints,
        account_data: Vec<ClientEvent>,
    ) -> Result<usize, SyncError> {
        let id = room.to_owned();
        let mut bytes = 0;
        match section {
            Section::Joined { fresh } => {
                let update = self.joined(room, hints, fresh, account_data).await?;
                bytes = update.bytes();
                if !update.is_empty() {
                    updates.join.push((id, update));
                }
            }
            Section::Left { end, fresh, last } => {
                let update = self.left(room, end, fresh, last, account_data).await?;
                bytes = update.bytes();
                updates.leave.push((id, update));
            }
            Section::Refused(last) => {
                // A first sync has nothing to take back.
                if self.since.is_some() {
                    updates.leave.push((id, self.refused(room, last).await?));
                }
            }
            Section::Invited(step) => {
                if let Some(invite_state) = self.stripped(room, step).await? {
                    updates.invite.push((id, InvitedRoom { invite_state }));
                }
            }
            Section::Knocked(step) => {
                if let Some(knock_state) = self.stripped(room, step).await? {
                    updates.knock.push((id, KnockedRoom { knock_state }));
                }
            }
        }
        Ok(bytes)
    }
}
