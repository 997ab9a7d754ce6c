//! The notifier: follows the log and the volatile buses and routes what it reads to the inboxes.

use std::{sync::Arc, time::Duration};

use event::Clock;
use futures_util::{StreamExt, stream::select_all};
use rooms::Rooms;
use store::{Follower, LogRecord, News, Position, Store, StoreError, View};
use tokio::sync::watch;
use users::Users;

use crate::{
    Config, SyncError,
    hub::{Hub, Published, Router, Wakeup},
    sequence::Sequence,
    streams::{self, Sources, Typing, VOLATILE, Volatile},
};

/// How often what ends by itself (typing, unused inboxes) is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two looks for unused inboxes.
const IDLE_CHECK_TICKS: u64 = 60;

/// Rows that are read at once when the hub is filled.
const LOAD_PAGE_ROWS: usize = 5_000;

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
    let published = Published::new(view.clone(), streams::last_numbers(&Sources { rooms, users }));
    let hub = Hub::new(rooms.residents().clone(), published, config, store.hold());
    load(&hub, rooms, &view).await?;
    follower.done();
    Ok((hub, follower))
}

/// Reads when each room advanced last.
async fn load(hub: &Hub, rooms: &Rooms, view: &View) -> Result<(), SyncError> {
    rooms.refill_residents().await?;
    hub.clear();
    let mut after = None;
    loop {
        let page = rooms.last_positions(view, after.as_deref(), LOAD_PAGE_ROWS).await?;
        for (room, position) in &page {
            hub.set_last(room, *position);
        }
        after = page.into_iter().next_back().map(|(room, _)| room);
        if after.is_none() {
            break;
        }
    }
    hub.filled(view.position());
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
    wakeups: Vec<(Position, Wakeup)>,
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
        Self { hub, store, rooms, users, clock, config, follower, wakeups: Vec::new(), ahead: None }
    }

    /// Runs until the store is closed or the sync is shut down.
    pub(crate) async fn run(mut self) {
        let changes = VOLATILE.iter().map(|stream| stream.changes(&self.sources()));
        let mut volatile = select_all(changes);
        let mut closing = self.hub.closing.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0_u64;
        // What happened between the hub's numbers and the subscriptions.
        VOLATILE.iter().for_each(|stream| self.route_volatile(stream));
        loop {
            tokio::select! {
                biased;
                () = closed(&mut closing) => break,
                news = self.follower.next() => match news {
                    Some(News::Records { records, through }) => self.follow(&records, through).await,
                    Some(News::Rebuild(view)) => self.rebuild(view).await,
                    None => break,
                },
                Some(stream) = volatile.next() => self.route_volatile(stream),
                _ = tick.tick() => {
                    ticks += 1;
                    self.tick(ticks);
                }
            }
        }
        // Polls must not wait for what nobody will tell them.
        self.hub.closing.send_replace(true);
    }

    async fn follow(&mut self, records: &[LogRecord], through: Position) {
        let newest = match self.route(records, through) {
            Ok(()) => self.store.view().await,
            Err(error) => Err(error),
        };
        match newest {
            Ok(view) => {
                self.follower.done();
                self.publish(view);
            }
            Err(error) => self.follower.start_over(&error),
        }
    }

    /// Puts records into the inboxes.
    fn route(&mut self, records: &[LogRecord], through: Position) -> Result<(), StoreError> {
        self.hub.routing(Sequence::Log, through.get());
        let mut router = Router::new(&self.hub);
        for record in records {
            streams::route(&mut router, record)?;
            self.wakeups.extend(router.wakeups().map(|wakeup| (record.position, wakeup)));
        }
        Ok(())
    }

    /// Publishes a view of which everything is routed, `newest` if it is one, and wakes whom it concerns.
    fn publish(&mut self, newest: View) {
        let routed = self.follower.position();
        let view = if newest.position() <= routed {
            self.ahead = None;
            newest
        } else {
            // More was written meanwhile; its records come next. A view from last time may be good by now.
            match self.ahead.replace(newest) {
                Some(older) if older.position() <= routed => older,
                _ => return,
            }
        };
        let position = view.position();
        self.publish_view(view);
        let ready = self.wakeups.partition_point(|(at, _)| *at <= position);
        for (_, wakeup) in self.wakeups.drain(..ready) {
            wakeup.inbox.wake(wakeup.urgent);
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
        self.wakeups.clear();
        self.ahead = None;
        self.hub.routing(Sequence::Log, position.get());
        let inboxes = self.hub.inboxes();
        for inbox in &inboxes {
            inbox.shelves()[Sequence::Log].reset(position.get());
        }
        self.publish_view(view);
        for inbox in &inboxes {
            inbox.wake(true);
        }
    }

    fn sources(&self) -> Sources<'_> {
        Sources { rooms: &self.rooms, users: &self.users }
    }

    /// Puts into the inboxes what changed of a stream that is in no log, publishes that, and wakes whom it concerns.
    fn route_volatile(&self, stream: &Volatile) {
        let since = self.hub.published().numbers[stream.sequence];
        let mut router = Router::new(&self.hub);
        let last = (stream.route_after)(&mut router, &self.sources(), since);
        self.hub.published.send_modify(|published| {
            let Published { view, memo, mut numbers } = Published::clone(published);
            numbers[stream.sequence] = last;
            *published = Arc::new(Published { view, memo, numbers });
        });
        for Wakeup { inbox, urgent } in router.wakeups() {
            inbox.wake(urgent);
        }
    }

    fn publish_view(&self, view: View) {
        self.hub.published.send_modify(|published| *published = Arc::new(Published::new(view, published.numbers)));
    }

    fn tick(&mut self, ticks: u64) {
        self.rooms.typing().expire();
        for room in Typing::late(&self.hub) {
            self.rooms.typing().announce(&room);
        }
        if ticks.is_multiple_of(IDLE_CHECK_TICKS) {
            let before = self.clock.now_ms().saturating_sub(self.config.inbox_idle_ms);
            self.hub.drop_idle_inboxes(before);
        }
    }
}

/// Waits until the sync is shut down.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // The hub keeps the sender, so this can't fail.
    let _closed = closing.wait_for(|closing| *closing).await;
}
