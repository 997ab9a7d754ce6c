//! Sync: what changed for a user, as soon as it changed. Reads, never writes.
//!
//! A task (`notifier`) follows the log and routes each change to the inboxes (`inbox`) of the local users that it concerns, by what
//! it keeps in memory of who is where (`hub`). Each kind of news is a stream (`streams`), which routes its changes, reads what a range of
//! them has for a user, and owns its part of the token. A poll (`poll`) looks into its inbox, or for an older token into the tables
//! (`streams::changes`), for where something may have changed. What changed in a room is a `room_view`: a stretch of its timeline (`slice`)
//! and a difference of its state (`state`). `classic` shapes all that into the answer of `/sync`.
//!
//! All reads of an answer go through one view whose position is the answer's `now`; everything up to it has been routed before a
//! poll may see it, so an inbox never knows less than the view.

mod answering;
mod classic;
mod config;
mod error;
mod format;
mod hub;
mod inbox;
mod large;
mod lazy;
mod memo;
mod notifier;
mod parts;
mod poll;
mod reader;
mod room_view;
mod sequence;
mod slice;
mod state;
mod streams;
mod tail;
mod unread;

use std::sync::Arc;

use event::Clock;
use reading::Reading;
use rooms::Rooms;
use ruma::{DeviceId, UserId};
use store::Store;
use users::Users;

use crate::{answering::Answering, classic::ParsedFilters, hub::Hub, lazy::SentMembers, notifier::Notifier};
pub use crate::{
    answering::Sending,
    classic::{
        EventFormat, Events, FILTER_BYTES_MAX, Filter, InvitedRoom, JoinedRoom, KnockedRoom, LeftRoom, RoomFilter,
        RoomUpdates, StateUpdate, Summary, SyncRequest, SyncResponse, Timeline, UnreadCount,
    },
    config::Config,
    error::SyncError,
    large::LargeAnswer,
    streams::{
        device_lists::DeviceListChanges,
        token::{BadToken, Token},
    },
};

/// Answers `/sync`. Cloning is cheap.
#[derive(Clone)]
pub struct Sync {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: Config,
    store: Store,
    rooms: Rooms,
    reading: Reading,
    users: Users,
    clock: Arc<dyn Clock>,
    hub: Arc<Hub>,
    sent_members: SentMembers,
    filters: ParsedFilters,
    answering: Arc<Answering>,
}

impl Sync {
    /// Reads who is in which room and starts the task that follows the log, so it must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn start(
        config: Config,
        store: Store,
        reading: Reading,
        users: Users,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SyncError> {
        let rooms = reading.rooms().clone();
        let (hub, follower) = notifier::build(&config, &store, &rooms, &users).await?;
        let hub = Arc::new(hub);
        let follows = (hub.clone(), follower);
        let notifier =
            Notifier::new(follows, store.clone(), rooms.clone(), users.clone(), clock.clone(), config.clone());
        tokio::spawn(notifier.run());
        let sent_members = SentMembers::new(config.half_of_cache());
        let answering = Arc::default();
        let filters = ParsedFilters::new();
        let inner = Inner { config, store, rooms, reading, users, clock, hub, sent_members, filters, answering };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How many changes were put into users' inboxes since the start: what following the log and what is volatile costs.
    pub fn changes_routed(&self) -> u64 {
        self.inner.hub.routed_count()
    }

    /// A device is about to send a message or a redaction, which its client shows already. Until what this gives is dropped, which is
    /// when the device has its answer, it hears no news (but for [`Config::answer_first_ms`] at most); nobody else waits.
    pub fn sending(&self, user: &UserId, device: &DeviceId) -> Sending {
        self.inner.answering.begin(user, device)
    }

    /// Answers all waiting requests with what there is, and lets no other wait. Ends the task that follows the log.
    pub fn shut_down(&self) {
        self.inner.hub.closing.send_replace(true);
    }
}
