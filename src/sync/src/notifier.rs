//! The notifier: follows the log and the volatile buses and routes what it reads to the inboxes.

use std::{sync::Arc, time::Duration};

use event::Clock;
use rooms::{MembershipMoved, ReceiptMoved, RoomAdvanced, Rooms};
use ruma::ServerName;
use store::{Follower, LogEntry, LogRecord, News, Position, Store, StoreError, View};
use tokio::sync::watch;
use users::{Change, ToDeviceQueued, UserChanged, Users};

use crate::{
    Config, SyncError,
    hub::{Hub, Published, RoomMove, State, Touched},
};

/// How often what ends by itself (typing, unused inboxes) is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two looks for unused inboxes.
const IDLE_CHECK_TICKS: u64 = 60;

/// Rows that are read at once when the hub is filled.
const LOAD_PAGE_ROWS: usize = 5_000;

/// Receipts that only their owner hears of (client-server API, "Private read receipts").
const PRIVATE_RECEIPT: &str = "m.read.private";

/// The notifier's name among those who follow the log.
const NAME: &str = "sync.notifier";

/// Builds the hub from the tables, and says who follows the log from there.
pub(crate) async fn build(
    config: &Config,
    store: &Store,
    rooms: &Rooms,
    users: &Users,
) -> Result<(Hub, Follower), SyncError> {
    let mut follower = store.follower(NAME);
    // What follows begins with that.
    let Some(News::Rebuild(view)) = follower.try_next().await? else { return Err(StoreError::Closed.into()) };
    let typing = rooms.typing().sequence();
    let presence = users.presence().sequence();
    let published = Published { view: view.clone(), memo: Arc::default(), typing, presence };
    let hub = Hub::new(published, config, store.hold());
    load(&hub, rooms, &view).await?;
    follower.done();
    Ok((hub, follower))
}

/// Reads who is in which room, and when each room advanced last.
async fn load(hub: &Hub, rooms: &Rooms, view: &View) -> Result<(), SyncError> {
    hub.state().clear();
    let mut after = None;
    loop {
        let page = rooms.all_local_members(view, after.as_ref(), LOAD_PAGE_ROWS).await?;
        let mut state = hub.state();
        for (room, user) in &page {
            state.join(room, user);
        }
        after = page.into_iter().next_back();
        if after.is_none() {
            break;
        }
    }
    let mut after = None;
    loop {
        let page = rooms.last_positions(view, after.as_deref(), LOAD_PAGE_ROWS).await?;
        let mut state = hub.state();
        for (room, position) in &page {
            state.set_last(room, *position);
        }
        after = page.into_iter().next_back().map(|(room, _)| room);
        if after.is_none() {
            break;
        }
    }
    hub.state().filled(view.position());
    Ok(())
}

/// The task that keeps the hub up to date.
pub(crate) struct Notifier {
    hub: Arc<Hub>,
    store: Store,
    rooms: Rooms,
    users: Users,
    clock: Arc<dyn Clock>,
    config: Config,
    follower: Follower,
    /// Inboxes to be woken once a view is published that shows what was put into them, in order.
    touched: Vec<(Position, Touched)>,
    /// A view that was ahead of what had been routed when it was taken.
    ahead: Option<View>,
}

impl Notifier {
    pub(crate) fn new(
        (hub, follower): (Arc<Hub>, Follower),
        store: Store,
        rooms: Rooms,
        users: Users,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Self {
        Self { hub, store, rooms, users, clock, config, follower, touched: Vec::new(), ahead: None }
    }

    /// Runs until the store is closed or the sync is shut down.
    pub(crate) async fn run(mut self) {
        let mut typing = self.rooms.typing().subscribe();
        let mut presence = self.users.presence().subscribe();
        let mut closing = self.hub.closing.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0_u64;
        // What happened between the hub's numbers and the subscriptions.
        self.route_typing();
        self.route_presence();
        loop {
            tokio::select! {
                biased;
                () = closed(&mut closing) => break,
                news = self.follower.next() => match news {
                    Some(News::Records { records, through }) => self.follow(&records, through),
                    Some(News::Rebuild(view)) => self.rebuild(view).await,
                    None => break,
                },
                number = changed(&mut typing) => if number { self.route_typing() },
                number = changed(&mut presence) => if number { self.route_presence() },
                _ = tick.tick() => {
                    ticks += 1;
                    self.tick(ticks);
                }
            }
        }
        // Polls must not wait for what nobody will tell them.
        self.hub.closing.send_replace(true);
    }

    fn follow(&mut self, records: &[LogRecord], through: Position) {
        match self.route(records, through) {
            Ok(()) => {
                self.follower.done();
                self.publish();
            }
            Err(error) => self.follower.start_over(&error),
        }
    }

    /// Puts records into the inboxes.
    fn route(&mut self, records: &[LogRecord], through: Position) -> Result<(), StoreError> {
        let mut state = self.hub.state();
        let mut touched = Vec::new();
        for record in records {
            let position = record.position;
            route_record(&mut state, self.rooms.server_name(), record, &mut touched)?;
            self.touched.extend(touched.drain(..).map(|touched| (position, touched)));
        }
        state.routed().position = through;
        Ok(())
    }

    /// Publishes the newest view of which everything is routed, and wakes whom it concerns.
    fn publish(&mut self) {
        let routed = self.follower.position();
        let view = self.store.view();
        let view = if view.position() <= routed {
            self.ahead = None;
            view
        } else {
            // More was written meanwhile; its records come next. A view from last time may be good by now.
            match self.ahead.replace(view) {
                Some(older) if older.position() <= routed => older,
                _ => return,
            }
        };
        let position = view.position();
        self.publish_view(view);
        let ready = self.touched.partition_point(|(at, _)| *at <= position);
        for (_, touched) in self.touched.drain(..ready) {
            touched.inbox.wake(touched.urgent);
        }
    }

    /// Fills the hub anew, because what the log tells next is gone or can't be read. Nothing new is published until it is filled.
    async fn rebuild(&mut self, view: View) {
        if let Err(error) = load(&self.hub, &self.rooms, &view).await {
            self.follower.failed(&error);
            return;
        }
        self.follower.done();
        let position = view.position();
        self.touched.clear();
        self.ahead = None;
        let inboxes = {
            let mut state = self.hub.state();
            state.routed().position = position;
            state.inboxes()
        };
        for inbox in &inboxes {
            inbox.shelves().log.reset(position.get());
        }
        self.publish_view(view);
        for inbox in &inboxes {
            inbox.wake(true);
        }
    }

    fn route_typing(&self) {
        let typing = self.rooms.typing();
        let changes = typing.changed_since(self.hub.published().typing);
        let mut touched = Vec::new();
        let mut state = self.hub.state();
        let last = match changes {
            Some((rooms, last)) => {
                for room in rooms {
                    let active = !typing.users(&room).is_empty();
                    state.typing(&room, active, last, &mut touched);
                }
                last
            }
            None => {
                // More rooms changed than are remembered; nobody can tell which.
                let last = typing.sequence();
                for inbox in state.inboxes() {
                    inbox.shelves().typing.reset(last);
                    touched.push(Touched { inbox, urgent: true });
                }
                last
            }
        };
        state.routed().typing = last;
        drop(state);
        self.publish_volatile(touched, |published| published.typing = last);
    }

    fn route_presence(&self) {
        let presence = self.users.presence();
        let last = presence.sequence();
        let changed = presence.changed_since(self.hub.published().presence);
        let mut touched = Vec::new();
        let mut state = self.hub.state();
        for (_, user) in changed {
            state.presence(&user, last, &mut touched);
        }
        state.routed().presence = last;
        drop(state);
        self.publish_volatile(touched, |published| published.presence = last);
    }

    fn publish_view(&self, view: View) {
        self.hub.published.send_modify(|published| {
            let Published { typing, presence, .. } = **published;
            *published = Arc::new(Published { view, memo: Arc::default(), typing, presence });
        });
    }

    fn publish_volatile(&self, touched: Vec<Touched>, change: impl FnOnce(&mut Published)) {
        self.hub.published.send_modify(|published| {
            let Published { view, memo, typing, presence } = &**published;
            let (view, memo, typing, presence) = (view.clone(), memo.clone(), *typing, *presence);
            let mut next = Published { view, memo, typing, presence };
            change(&mut next);
            *published = Arc::new(next);
        });
        for touched in touched {
            touched.inbox.wake(touched.urgent);
        }
    }

    fn tick(&mut self, ticks: u64) {
        self.rooms.typing().expire();
        let late = self.hub.state().late_typing();
        for room in late {
            self.rooms.typing().announce(&room);
        }
        if ticks.is_multiple_of(IDLE_CHECK_TICKS) {
            let before = self.clock.now_ms().saturating_sub(self.config.inbox_idle_ms);
            self.hub.state().drop_idle_inboxes(before);
        }
    }
}

/// Whether the number changed; waits for ever once nobody can change it.
async fn changed(number: &mut watch::Receiver<u64>) -> bool {
    if number.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    number.borrow_and_update();
    true
}

/// Waits until the sync is shut down.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // The hub keeps the sender, so this can't fail.
    let _closed = closing.wait_for(|closing| *closing).await;
}

fn route_record(
    state: &mut State,
    server_name: &ServerName,
    record: &LogRecord,
    touched: &mut Vec<Touched>,
) -> Result<(), StoreError> {
    let position = record.position;
    match record.kind {
        RoomAdvanced::KIND => {
            let Some(entry) = record.decode::<RoomAdvanced>()? else {
                return Ok(());
            };
            let change = RoomMove {
                room: &entry.room,
                position,
                event: entry.event,
                local: entry.sender.is_some_and(|sender| sender.server_name() == server_name),
                old_root: entry.old_root,
                new_root: entry.new_root,
                members: &entry.members,
                encrypted: entry.encrypted,
            };
            state.advance(&change, touched);
        }
        MembershipMoved::KIND => {
            if let Some(entry) = record.decode::<MembershipMoved>()? {
                state.membership(&entry.room, &entry.user, position, touched);
            }
        }
        ReceiptMoved::KIND => {
            if let Some(entry) = record.decode::<ReceiptMoved>()? {
                let private = entry.receipt_type == PRIVATE_RECEIPT;
                state.receipt(&entry.room, &entry.user, private, position, touched);
            }
        }
        UserChanged::KIND => {
            if let Some(entry) = record.decode::<UserChanged>()? {
                route_user(state, &entry, position, touched);
            }
        }
        ToDeviceQueued::KIND => {
            if let Some(entry) = record.decode::<ToDeviceQueued>()? {
                for (user, devices) in &entry.to {
                    state.messages_to_devices(user, devices, position, touched);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn route_user(state: &mut State, entry: &UserChanged, position: Position, touched: &mut Vec<Touched>) {
    let user = &entry.user;
    match &entry.change {
        Change::AccountData { .. } => state.account_data(user, position, touched),
        Change::DeviceKeys => state.device_keys(user, position, touched),
        Change::RemoteDeviceKeys { rooms } => state.remote_device_keys(rooms, position, touched),
        Change::SignedUser { .. } => state.signed_user(user, position, touched),
        Change::OneTimeKeys { device } => state.one_time_keys(user, device, position, touched),
        // Their keys went with them.
        Change::Devices { deleted, .. } => {
            for device in deleted {
                state.one_time_keys(user, device, position, touched);
            }
        }
        Change::Account | Change::Deactivated | Change::Sessions | Change::Profile { .. } => {}
    }
}
