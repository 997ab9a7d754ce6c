//! The durable inbox: events of other servers that were acknowledged and are not yet part of their rooms.
//!
//! A row stays until the batch that stores its event deletes it. A worker tries it with what this server has at hand. If other servers
//! have to be asked, that is an errand of its own, with a deadline and within limits for each server and room, while the worker goes
//! on: however slow others are, what needs none of them isn't held up. What can't be taken in now is tried again later; what fails too
//! often goes to quarantine, so that one event harms only itself.

mod quarantine;
mod waiting;

use std::time::Duration;

use event::{Pdu, ReceivedPdu};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName};
use serde_json::value::RawValue;
use store::{Batch, View};
use tokio::task::JoinSet;

pub use self::quarantine::{QUARANTINE_EVENTS_MAX, QUARANTINE_MS, QUARANTINE_ORIGIN_EVENTS_MAX, QUARANTINE_VISITS_MAX};
use self::waiting::Errand;
pub(crate) use self::waiting::Inboxes;
use crate::{
    Rooms, RoomsError,
    ports::{Reach, RemoteError},
    remote::receive::Received,
    rows::InboxRow,
    tables::Inbox,
};

/// Events of one room that wait; beyond it, and beyond [`INBOX_SHARE_EVENTS`], the sender is told to come again.
pub const INBOX_ROOM_EVENTS_MAX: usize = 10_000;

/// Events that one server may have waiting in one room.
pub const INBOX_ORIGIN_EVENTS_MAX: usize = 2_000;

/// Events of one transaction (server-server API, "Transactions").
pub const TRANSACTION_EVENTS_MAX: usize = 50;

/// Bytes of events that one server may have waiting, in all rooms together.
pub const INBOX_ORIGIN_BYTES_MAX: usize = 32 << 20;

/// Bytes of events that wait, in all rooms together, beside [`INBOX_SHARE_BYTES`] for each server.
pub const INBOX_BYTES_MAX: usize = 256 << 20;

/// Events in one room that each server may have waiting, however many others have.
pub const INBOX_SHARE_EVENTS: usize = 2 * TRANSACTION_EVENTS_MAX;

/// Bytes of events that each server may have waiting, however many others have: one transaction of the largest.
pub const INBOX_SHARE_BYTES: usize = 4 << 20;

/// How often an event is tried before it goes to quarantine.
pub const INBOX_ATTEMPTS_MAX: u32 = 10;

/// The wait after the first failure, in milliseconds; it doubles each time.
const RETRY_DELAY_MS_MIN: u64 = 5_000;

/// The longest wait between two attempts, in milliseconds.
const RETRY_DELAY_MS_MAX: u64 = 600_000;

/// The longest time without a look at what is due, in milliseconds.
const IDLE_MS_MAX: u64 = 600_000;

/// Rooms worked on at the same time.
const WORKERS_MAX: usize = 8;

/// Rows of one room that are worked on before another room gets its turn.
const ROWS_PER_TURN_MAX: usize = 100;

/// Events for which other servers are being asked at the same time.
const ERRANDS_MAX: usize = 200;

/// The same, of events that one server sent.
const ORIGIN_ERRANDS_MAX: usize = 4;

/// The same, of events of one room.
const ROOM_ERRANDS_MAX: usize = 16;

/// The wait before the store is tried again that failed.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(RETRY_DELAY_MS_MIN);

/// How long one attempt to take an event in may take, with all that is asked of other servers for it.
pub const ERRAND_WITHIN: Duration = Duration::from_secs(120);

/// What is to be done with a row after an attempt.
#[derive(PartialEq, Eq)]
enum Next {
    /// Nothing: it is gone.
    Gone,
    /// Another attempt from this time on (Unix ms).
    Later(u64),
    /// Other servers have to be asked.
    Errand(String),
}

/// What became of one event of a transaction.
#[derive(Debug)]
pub struct Inboxed {
    /// Its id, where it has one.
    pub event_id: Option<OwnedEventId>,
    /// Whether it was taken; if not, why.
    pub result: Result<(), RoomsError>,
}

/// How far the work on a room's inbox came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboxProgress {
    /// Events that left the inbox.
    pub done: usize,
    /// Events that wait for another attempt.
    pub waiting: usize,
    /// When the next of these is due, in Unix ms.
    pub next_ms: Option<u64>,
}

impl Rooms {
    /// Takes events of a transaction into the durable inbox of a room: afterwards they are this server's to deal with.
    ///
    /// Only what can be told from the text alone is refused for good: events that aren't, rooms that this server isn't in, servers
    /// that the room's access list forbids. Fails with [`RoomsError::LimitExceeded`] if there is no space for all of them: none of them is
    /// answered then, and the sender has to come again with the whole transaction. Fails with [`RoomsError::TooLarge`] if they are
    /// more than [`TRANSACTION_EVENTS_MAX`].
    pub async fn receive(
        &self,
        origin: &ServerName,
        room: &RoomId,
        pdus: &[Box<RawValue>],
    ) -> Result<Vec<Inboxed>, RoomsError> {
        if pdus.len() > TRANSACTION_EVENTS_MAX {
            return Err(RoomsError::TooLarge(format!("more than {TRANSACTION_EVENTS_MAX} events in a transaction")));
        }
        let view = self.inner.store.view().await?;
        let refused = |event_id, error: RoomsError| Inboxed { event_id, result: Err(error) };
        let rules = match self.refusal(&view, origin, room).await? {
            Ok(rules) => rules,
            Err(reason) => {
                return Ok(pdus.iter().map(|_| refused(None, RoomsError::Forbidden(reason.clone()))).collect());
            }
        };
        let mut answers = Vec::with_capacity(pdus.len());
        let mut taken = Vec::with_capacity(pdus.len());
        for json in pdus {
            let pdu = match ReceivedPdu::parse(json.get().as_bytes(), rules) {
                Ok(received) => received.into_unverified(),
                Err(error) => {
                    answers.push(refused(None, error.into()));
                    continue;
                }
            };
            if pdu.room_id() != room {
                let error = RoomsError::BadEvent("it belongs to another room".to_owned());
                answers.push(refused(Some(pdu.owned_event_id()), error));
                continue;
            }
            answers.push(Inboxed { event_id: Some(pdu.owned_event_id()), result: Ok(()) });
            // A transaction whose answer was lost comes again.
            if !self.has_place(&view, pdu.event_id()).await? {
                taken.push(pdu);
            }
        }
        self.keep_received(origin, room, &taken).await?;
        Ok(answers)
    }

    /// Writes the rows of events that were taken. What is kept is what was checked: canonical, of bounded size, without `unsigned`.
    async fn keep_received(&self, origin: &ServerName, room: &RoomId, taken: &[Pdu]) -> Result<(), RoomsError> {
        if taken.is_empty() {
            return Ok(());
        }
        let sizes: Vec<usize> = taken.iter().map(|pdu| pdu.json().get().len()).collect();
        self.inner.inbox.lock().reserve(room, origin.as_str(), &sizes)?;
        let mut written = Vec::with_capacity(taken.len());
        let result = self.write_rows(origin, room, taken, &mut written).await;
        let mut waiting = self.inner.inbox.lock();
        for size in &sizes[written.len()..] {
            waiting.release(room, origin.as_str(), *size);
        }
        if !written.is_empty() {
            waiting.make_ready(room, written);
            drop(waiting);
            self.inner.inbox.arrived.notify_one();
        }
        result
    }

    /// As many to a batch as fit into one; `written` gets those that are on disk.
    async fn write_rows(
        &self,
        origin: &ServerName,
        room: &RoomId,
        taken: &[Pdu],
        written: &mut Vec<u64>,
    ) -> Result<(), RoomsError> {
        let mut batch = Batch::new();
        let mut in_batch = Vec::new();
        for (at, pdu) in taken.iter().enumerate() {
            let sequence = self.inner.inbox.sequence.next().await?;
            let row = InboxRow { origin: origin.as_str(), attempts: 0, visits: 0, json: pdu.json().get() };
            batch.put::<Inbox>(&(room, sequence), &row);
            in_batch.push(sequence);
            if batch.bytes() > store::BATCH_BYTES_MAX / 2 || at + 1 == taken.len() {
                self.inner.store.commit(std::mem::take(&mut batch)).await?;
                written.append(&mut in_batch);
            }
        }
        Ok(())
    }

    /// Whether an event was judged at its place in the room, so that there is nothing to be done about it any more.
    async fn has_place(&self, view: &View, event_id: &EventId) -> Result<bool, RoomsError> {
        let Some(num) = self.num(view, event_id).await? else { return Ok(false) };
        Ok(self.meta(view, num).await?.is_settled())
    }

    /// The rules of the room's version, or why nothing of `origin` is taken in the room.
    async fn refusal(
        &self,
        view: &View,
        origin: &ServerName,
        room: &RoomId,
    ) -> Result<Result<&'static event::RoomVersionRules, String>, RoomsError> {
        let Some(info) = self.info(view, room).await? else {
            return Ok(Err("this server isn't in the room".to_owned()));
        };
        if !self.is_server_joined(view, room, self.server_name()).await? {
            return Ok(Err("this server isn't in the room".to_owned()));
        }
        if !self.acl_allows(view, room, origin).await? {
            return Ok(Err("the room's access list forbids your server".to_owned()));
        }
        Ok(Ok(info.rules()?))
    }

    /// Works on a room's inbox until nothing is left that can be done now, asking other servers one after another.
    pub async fn work_inbox(&self, room: &RoomId) -> Result<InboxProgress, RoomsError> {
        if let Some(head) = self.head(&self.inner.store.view().await?, room).await?
            && head.is_behind()
        {
            // The store failed in the middle of a great change of the state.
            self.catch_up(room).await?;
        }
        let mut progress = InboxProgress::default();
        self.look_at_quarantine(Some(room)).await?;
        self.inner.inbox.lock().make_all_ready(room, self.inner.clock.now_ms());
        loop {
            let Some(sequence) = self.inner.inbox.lock().take_ready(room) else { break };
            match self.attempt(room, sequence, Reach::Network).await? {
                Next::Gone => progress.done += 1,
                Next::Later(due_ms) => self.inner.inbox.lock().put_off(room, sequence, due_ms),
                Next::Errand(_) => return Err(RoomsError::NotAtHand),
            }
        }
        (progress.waiting, progress.next_ms) = self.inner.inbox.lock().put_off_in(room);
        Ok(progress)
    }

    /// Tries one row. It waits for another attempt if the store fails, too.
    async fn attempt(&self, room: &RoomId, sequence: u64, reach: Reach) -> Result<Next, RoomsError> {
        let result = self.work_row(room, sequence, reach).await;
        if result.is_err() {
            let due_ms = self.inner.clock.now_ms() + RETRY_DELAY_MS_MIN;
            self.inner.inbox.lock().put_off(room, sequence, due_ms);
        }
        result
    }

    async fn work_row(&self, room: &RoomId, sequence: u64, reach: Reach) -> Result<Next, RoomsError> {
        let stored = self.inner.store.view().await?.get::<Inbox>(&(room, sequence)).await?;
        let Some(mut row) = stored else { return Ok(Next::Gone) };
        row.attempts += 1;
        let received = self.try_row(room, sequence, &row, reach).await.unwrap_or_else(Received::from);
        let (error, final_attempt) = match received {
            Received::Stored(_) | Received::Dropped(_) => {
                self.inner.inbox.lock().release(room, &row.origin, row.json.len());
                return Ok(Next::Gone);
            }
            Received::NotAtHand => return Ok(Next::Errand(row.origin)),
            Received::Later(error) => (error, row.attempts >= INBOX_ATTEMPTS_MAX),
            Received::Refused(error) | Received::TooLarge(error) => (error, true),
            Received::StoreFailed(error) => return Err(error),
        };
        if final_attempt {
            self.quarantine(room, sequence, &row, &error).await?;
            return Ok(Next::Gone);
        }
        tracing::debug!(room.id = %room, server = %row.origin, row.attempts, "an event waits: {error}");
        let delay_ms = (RETRY_DELAY_MS_MIN << (row.attempts - 1).min(16)).min(RETRY_DELAY_MS_MAX);
        let mut batch = Batch::new();
        batch.put::<Inbox>(&(room, sequence), &row);
        batch.relaxed();
        self.inner.store.commit(batch).await?;
        Ok(Next::Later(self.inner.clock.now_ms() + delay_ms))
    }

    async fn try_row(
        &self,
        room: &RoomId,
        sequence: u64,
        row: &InboxRow,
        reach: Reach,
    ) -> Result<Received, RoomsError> {
        let origin = ServerName::parse(&*row.origin).map_err(|_| RoomsError::corrupt("a server name in the inbox"))?;
        let json = RawValue::from_string(row.json.clone())
            .map_err(|error| RoomsError::corrupt(format!("an event in the inbox: {error}")))?;
        let taken = tokio::time::timeout(ERRAND_WITHIN, self.take_in(&origin, room, &json, sequence, reach));
        let received = match taken.await {
            Ok(received) => received,
            Err(_) => Received::Later(RemoteError::NotReachable(origin.clone()).into()),
        };
        if let Received::Dropped(reason) = &received {
            tracing::info!(room.id = %room, server = %origin, "dropped an event: {reason}");
        }
        // An event that was here already, or is dropped, deletes no row by itself.
        if matches!(received, Received::Stored(_) | Received::Dropped(_))
            && self.inner.store.view().await?.contains::<Inbox>(&(room, sequence)).await?
        {
            let mut batch = Batch::new();
            batch.delete::<Inbox>(&(room, sequence));
            batch.relaxed();
            self.inner.store.commit(batch).await?;
        }
        Ok(received)
    }

    /// Works on the inboxes of all rooms until the future is dropped, several rooms at a time.
    pub async fn run_inbox(&self) {
        let mut workers = JoinSet::new();
        let mut errands = JoinSet::new();
        loop {
            if let Err(error) = self.look_at_quarantine(None).await {
                tracing::error!("events in quarantine can't be looked at: {error}");
                tokio::time::sleep(STORE_RETRY_DELAY).await;
            }
            let now_ms = self.inner.clock.now_ms();
            while workers.len() < WORKERS_MAX {
                let Some(room) = self.inner.inbox.lock().take_room(now_ms) else { break };
                let rooms = self.clone();
                workers.spawn(async move { rooms.work_at_hand(&room).await });
            }
            loop {
                let Some(errand) = self.inner.inbox.lock().take_errand() else { break };
                let rooms = self.clone();
                errands.spawn(async move { rooms.run_errand(&errand).await });
            }
            let next_ms = self.inner.inbox.lock().next_due_ms();
            let wait_ms = next_ms.map_or(IDLE_MS_MAX, |next| next.saturating_sub(self.inner.clock.now_ms()));
            tokio::select! {
                () = self.inner.inbox.arrived.notified() => {}
                Some(_) = workers.join_next() => {}
                Some(_) = errands.join_next() => {}
                () = tokio::time::sleep(Duration::from_millis(wait_ms.clamp(10, IDLE_MS_MAX))) => {}
            }
        }
    }

    /// Works on some rows of a room with what is at hand.
    async fn work_at_hand(&self, room: &OwnedRoomId) {
        let _taken = Taken { give_back: || self.inner.inbox.lock().give_back(room) };
        for _ in 0..ROWS_PER_TURN_MAX {
            let Some(sequence) = self.inner.inbox.lock().take_ready(room) else { return };
            if !self.settle(room, sequence, Reach::AtHand).await {
                // The room's other events, and other rooms', fare no better now.
                tokio::time::sleep(STORE_RETRY_DELAY).await;
                return;
            }
        }
    }

    /// Takes one row in, asking other servers.
    async fn run_errand(&self, errand: &Errand) {
        let _taken = Taken { give_back: || self.inner.inbox.lock().errand_ended(&errand.origin, &errand.room) };
        self.settle(&errand.room, errand.sequence, Reach::Network).await;
    }

    /// Tries a row and puts it where it belongs then; `false` if the store fails.
    async fn settle(&self, room: &RoomId, sequence: u64, reach: Reach) -> bool {
        match self.attempt(room, sequence, reach).await {
            Ok(Next::Gone) => true,
            Ok(Next::Later(due_ms)) => {
                self.inner.inbox.lock().put_off(room, sequence, due_ms);
                true
            }
            Ok(Next::Errand(origin)) => {
                match ServerName::parse(&*origin) {
                    Ok(origin) => self.inner.inbox.lock().ask_for(&origin, room, sequence),
                    Err(error) => tracing::error!(room.id = %room, "a server name in the inbox: {error}"),
                }
                true
            }
            Err(error) => {
                tracing::error!(room.id = %room, "the inbox stands still: {error}");
                false
            }
        }
    }
}

/// What was taken is given back, however the work ends.
struct Taken<F: Fn()> {
    give_back: F,
}

impl<F: Fn()> Drop for Taken<F> {
    fn drop(&mut self) {
        (self.give_back)();
    }
}
