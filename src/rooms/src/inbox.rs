//! The durable inbox: events of other servers that were acknowledged and are not yet part of their rooms.
//!
//! A row stays until the batch that stores its event deletes it. What can't be taken in now is tried again later, while others of the
//! room go on; what fails too often goes to quarantine, so that one event harms only itself.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use event::{Pdu, ReceivedPdu};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, ServerName};
use serde_json::value::RawValue;
use store::{Batch, Counter, Range, Store, View};
use tokio::sync::Notify;

use crate::{
    Rooms, RoomsError,
    receive::Received,
    tables::{Inbox, Quarantine},
};

/// Events of one room that wait; beyond it the sender is told to come again.
pub const INBOX_ROOM_EVENTS_MAX: usize = 10_000;

/// Events that one server may have waiting in one room.
pub const INBOX_ORIGIN_EVENTS_MAX: usize = 2_000;

/// Events of one transaction (server-server API, "Transactions").
pub const TRANSACTION_EVENTS_MAX: usize = 50;

/// Bytes of events that one server may have waiting, in all rooms together.
pub const INBOX_ORIGIN_BYTES_MAX: usize = 32 << 20;

/// Bytes of events that wait, in all rooms together.
pub const INBOX_BYTES_MAX: usize = 256 << 20;

/// How often an event is tried before it goes to quarantine.
pub const INBOX_ATTEMPTS_MAX: u32 = 10;

/// The wait after the first failure, in milliseconds; it doubles each time.
const RETRY_DELAY_MS_MIN: u64 = 5_000;

/// The longest wait between two attempts, in milliseconds.
const RETRY_DELAY_MS_MAX: u64 = 600_000;

/// Rows read at once.
const PAGE_ROWS: usize = 100;

/// Rooms worked on at the same time.
const WORKERS_MAX: usize = 8;

/// Rows of the whole inbox read at once at the start, to count what waits: a few MiB, however large their events are.
const LOAD_ROWS: usize = 100;

/// Name of the counter that orders the rows of a room.
const SEQUENCE_COUNTER: &str = "inbox";

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

/// Attempts that are to be made later, and what waits where.
#[derive(Default)]
struct Waiting {
    /// Rows by room and origin.
    counts: BTreeMap<OwnedRoomId, HashMap<String, usize>>,
    /// Bytes of events by origin.
    bytes: HashMap<String, usize>,
    /// Rooms with new rows since the last look.
    fresh: HashSet<OwnedRoomId>,
    /// When a room's next attempt is due, in Unix ms.
    due_ms: HashMap<OwnedRoomId, u64>,
    /// When a row may be tried again, in Unix ms.
    parked_ms: HashMap<(OwnedRoomId, u64), u64>,
    /// Rooms that somebody works on.
    busy: HashSet<OwnedRoomId>,
}

/// What is known in memory of the inboxes of all rooms.
pub(crate) struct Inboxes {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    sequence: Counter,
}

impl Inboxes {
    pub(crate) async fn load(store: &Store) -> Result<Self, RoomsError> {
        let mut waiting = Waiting::default();
        let view = store.view();
        let mut next = Some(Range::<Inbox>::all().limit(LOAD_ROWS));
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for ((room, _), (origin, _, json)) in page.rows {
                let room = room.into_inner();
                waiting.add(&room, &origin, json.len());
                waiting.fresh.insert(room);
            }
            next = page.next;
        }
        let sequence = store.counter(SEQUENCE_COUNTER).await?;
        Ok(Self { waiting: Mutex::new(waiting), arrived: Notify::new(), sequence })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Counts rows that are about to be written. Fails with [`RoomsError::LimitExceeded`] if there is no space for all of them.
    fn reserve(&mut self, room: &RoomId, origin: &str, sizes: &[usize]) -> Result<(), RoomsError> {
        let bytes: usize = sizes.iter().sum();
        let counts = self.counts.get(room);
        let in_room: usize = counts.map_or(0, |counts| counts.values().sum());
        let of_origin = counts.and_then(|counts| counts.get(origin)).copied().unwrap_or(0);
        let fits = in_room + sizes.len() <= INBOX_ROOM_EVENTS_MAX
            && of_origin + sizes.len() <= INBOX_ORIGIN_EVENTS_MAX
            && self.bytes.get(origin).copied().unwrap_or(0) + bytes <= INBOX_ORIGIN_BYTES_MAX
            && self.bytes.values().sum::<usize>() + bytes <= INBOX_BYTES_MAX;
        if !fits {
            return Err(RoomsError::LimitExceeded("events waiting to be taken in".to_owned()));
        }
        for size in sizes {
            self.add(room, origin, *size);
        }
        Ok(())
    }

    fn add(&mut self, room: &RoomId, origin: &str, size: usize) {
        *self.counts.entry(room.to_owned()).or_default().entry(origin.to_owned()).or_default() += 1;
        *self.bytes.entry(origin.to_owned()).or_default() += size;
    }

    fn release(&mut self, room: &RoomId, origin: &str, size: usize) {
        if let Some(bytes) = self.bytes.get_mut(origin) {
            *bytes = bytes.saturating_sub(size);
            if *bytes == 0 {
                self.bytes.remove(origin);
            }
        }
        let Some(counts) = self.counts.get_mut(room) else { return };
        if let Some(count) = counts.get_mut(origin) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(origin);
            }
        }
        if counts.is_empty() {
            self.counts.remove(room);
            self.due_ms.remove(room);
        }
    }

    /// Forgets a row that is gone.
    fn remove(&mut self, room: &RoomId, origin: &str, (sequence, size): (u64, usize)) {
        self.parked_ms.remove(&(room.to_owned(), sequence));
        self.release(room, origin, size);
    }

    /// A room that has work now and that nobody works on, which is then the caller's.
    fn take_room(&mut self, now_ms: u64) -> Option<OwnedRoomId> {
        let due = self.due_ms.iter().filter(|(_, due_ms)| **due_ms <= now_ms).map(|(room, _)| room);
        let room = self.fresh.iter().chain(due).find(|room| !self.busy.contains(*room))?.clone();
        self.fresh.remove(&room);
        self.due_ms.remove(&room);
        self.busy.insert(room.clone());
        Some(room)
    }
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
        let view = self.inner.store.view();
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
            taken.push(pdu);
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
        let mut written = 0;
        let result = self.write_rows(origin, room, taken, &mut written).await;
        let mut waiting = self.inner.inbox.lock();
        for size in &sizes[written..] {
            waiting.release(room, origin.as_str(), *size);
        }
        if written > 0 {
            waiting.fresh.insert(room.to_owned());
            drop(waiting);
            self.inner.inbox.arrived.notify_one();
        }
        result
    }

    /// As many to a batch as fit into one; `written` counts those that are on disk.
    async fn write_rows(
        &self,
        origin: &ServerName,
        room: &RoomId,
        taken: &[Pdu],
        written: &mut usize,
    ) -> Result<(), RoomsError> {
        let mut batch = Batch::new();
        for (at, pdu) in taken.iter().enumerate() {
            let sequence = self.inner.inbox.sequence.next().await?;
            let row = (origin.to_string(), 0, pdu.json().get().to_owned());
            batch.put::<Inbox>(&(room, sequence), &row);
            if batch.is_filled() || at + 1 == taken.len() {
                self.inner.store.commit(std::mem::take(&mut batch)).await?;
                *written = at + 1;
            }
        }
        Ok(())
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

    /// Works on a room's inbox until nothing is left that can be done now.
    pub async fn work_inbox(&self, room: &RoomId) -> Result<InboxProgress, RoomsError> {
        let mut progress = InboxProgress::default();
        let mut next = Some(Range::<Inbox>::prefix(&(room,)).limit(PAGE_ROWS));
        while let Some(range) = next {
            let page = self.inner.store.view().scan(range).await?;
            for ((_, sequence), row) in page.rows {
                match self.work_row(room, sequence, row).await? {
                    None => progress.done += 1,
                    Some(due_ms) => {
                        progress.waiting += 1;
                        progress.next_ms = Some(progress.next_ms.map_or(due_ms, |next| next.min(due_ms)));
                    }
                }
            }
            next = page.next;
        }
        Ok(progress)
    }

    /// Tries one row. Gives when it is due again, if it stays.
    async fn work_row(
        &self,
        room: &RoomId,
        sequence: u64,
        row: (String, u32, String),
    ) -> Result<Option<u64>, RoomsError> {
        let (origin, attempts, json) = row;
        let of_row = (sequence, json.len());
        let now_ms = self.inner.clock.now_ms();
        let parked_ms = self.inner.inbox.lock().parked_ms.get(&(room.to_owned(), sequence)).copied();
        if let Some(due_ms) = parked_ms
            && due_ms > now_ms
        {
            return Ok(Some(due_ms));
        }
        let received = self.try_row(room, sequence, &origin, &json).await.unwrap_or_else(Received::from);
        let (error, final_attempt) = match received {
            Received::Stored(_) | Received::Dropped(_) => {
                self.inner.inbox.lock().remove(room, &origin, of_row);
                return Ok(None);
            }
            Received::Later(error) => (error, attempts + 1 >= INBOX_ATTEMPTS_MAX),
            Received::Refused(error) | Received::TooLarge(error) => (error, true),
            Received::StoreFailed(error) => return Err(error),
        };
        let attempts = attempts + 1;
        let mut batch = Batch::new();
        if final_attempt {
            tracing::warn!(room.id = %room, server = %origin, "an event goes to quarantine: {error}");
            batch.delete::<Inbox>(&(room, sequence));
            batch.put::<Quarantine>(&(room, sequence), &(origin.clone(), error.to_string(), json));
            self.inner.store.commit(batch).await?;
            self.inner.inbox.lock().remove(room, &origin, of_row);
            return Ok(None);
        }
        tracing::debug!(room.id = %room, server = %origin, attempts, "an event waits: {error}");
        batch.put::<Inbox>(&(room, sequence), &(origin, attempts, json));
        batch.relaxed();
        self.inner.store.commit(batch).await?;
        let delay_ms = (RETRY_DELAY_MS_MIN << (attempts - 1)).min(RETRY_DELAY_MS_MAX);
        let due_ms = now_ms + delay_ms;
        self.inner.inbox.lock().parked_ms.insert((room.to_owned(), sequence), due_ms);
        Ok(Some(due_ms))
    }

    async fn try_row(&self, room: &RoomId, sequence: u64, origin: &str, json: &str) -> Result<Received, RoomsError> {
        let origin = ServerName::parse(origin).map_err(|_| RoomsError::corrupt("a server name in the inbox"))?;
        let json = RawValue::from_string(json.to_owned())
            .map_err(|error| RoomsError::corrupt(format!("an event in the inbox: {error}")))?;
        let received = self.take_in(&origin, room, &json, Some(sequence)).await;
        if let Received::Dropped(reason) = &received {
            tracing::info!(room.id = %room, server = %origin, "dropped an event: {reason}");
        }
        // An event that was here already, or is dropped, deletes no row by itself.
        if matches!(received, Received::Stored(_) | Received::Dropped(_))
            && self.inner.store.view().contains::<Inbox>(&(room, sequence)).await?
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
        let mut workers = tokio::task::JoinSet::new();
        loop {
            while workers.len() < WORKERS_MAX {
                let room = self.inner.inbox.lock().take_room(self.inner.clock.now_ms());
                let Some(room) = room else { break };
                let rooms = self.clone();
                workers.spawn(async move {
                    let result = rooms.work_inbox(&room).await;
                    rooms.finish_inbox(room, result);
                });
            }
            let next_ms = self.inner.inbox.lock().due_ms.values().min().copied();
            let wait_ms = next_ms.map_or(RETRY_DELAY_MS_MAX, |next| next.saturating_sub(self.inner.clock.now_ms()));
            tokio::select! {
                () = self.inner.inbox.arrived.notified() => {}
                Some(_) = workers.join_next() => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(wait_ms.max(10))) => {}
            }
        }
    }

    fn finish_inbox(&self, room: OwnedRoomId, result: Result<InboxProgress, RoomsError>) {
        let due_ms = match result {
            Ok(progress) => progress.next_ms,
            Err(error) => {
                tracing::error!(room.id = %room, "the inbox stands still: {error}");
                Some(self.inner.clock.now_ms() + RETRY_DELAY_MS_MIN)
            }
        };
        let mut waiting = self.inner.inbox.lock();
        waiting.busy.remove(&room);
        if let Some(due_ms) = due_ms {
            waiting.due_ms.insert(room, due_ms);
        }
    }
}
