//! Events that could not be taken in, however often that was tried: kept for a while, in bounded number, and looked at again. What was
//! missing may be there then, or a newer program may make more of them.

use ruma::RoomId;
use store::Batch;

use super::{INBOX_ATTEMPTS_MAX, waiting::RowKey};
use crate::{
    Rooms, RoomsError,
    rows::{InboxRow, QuarantineRow},
    tables::{Inbox, Quarantine},
};

/// Events in quarantine, of all rooms and servers.
pub const QUARANTINE_EVENTS_MAX: usize = 1_000;

/// Events in quarantine that one server sent.
pub const QUARANTINE_ORIGIN_EVENTS_MAX: usize = 100;

/// How often an event goes to quarantine before it is dropped.
pub const QUARANTINE_VISITS_MAX: u32 = 7;

/// After how long an event in quarantine is looked at again, in milliseconds.
pub const QUARANTINE_MS: u64 = 24 * 3_600_000;

/// What is kept of the reason, in characters. Another server may have given it, in as many words as it likes.
const REASON_CHARS_MAX: usize = 500;

/// Events that leave quarantine at once.
const LOOKED_AT_AT_ONCE_MAX: usize = 10;

impl Rooms {
    /// Moves a row to quarantine, or drops it if it was there too often. The oldest of those who have more than their share goes.
    pub(super) async fn quarantine(
        &self,
        room: &RoomId,
        sequence: u64,
        row: &InboxRow,
        reason: &RoomsError,
    ) -> Result<(), RoomsError> {
        let visits = row.visits + 1;
        let reason: String = reason.to_string().chars().take(REASON_CHARS_MAX).collect();
        let mut batch = Batch::new();
        batch.delete::<Inbox>(&(room, sequence));
        let again_ms = self.inner.clock.now_ms() + QUARANTINE_MS;
        let mut gone = None;
        if visits > QUARANTINE_VISITS_MAX {
            tracing::warn!(room.id = %room, server = %row.origin, "an event is given up: {reason}");
        } else {
            tracing::warn!(room.id = %room, server = %row.origin, "an event goes to quarantine: {reason}");
            let kept = QuarantineRow { origin: &row.origin, visits, again_ms, reason: &reason, json: &row.json };
            batch.put::<Quarantine>(&(room, sequence), &kept);
            gone = self.take_one_too_many(&row.origin);
            if let Some(((room, sequence), _)) = &gone {
                batch.delete::<Quarantine>(&(room, *sequence));
            }
        }
        if let Err(error) = self.inner.store.commit(batch).await {
            self.inner.inbox.lock().quarantined.extend(gone);
            return Err(error.into());
        }
        let mut waiting = self.inner.inbox.lock();
        waiting.release(room, &row.origin, row.json.len());
        if visits <= QUARANTINE_VISITS_MAX {
            waiting.quarantined.insert((room.to_owned(), sequence), (row.origin.clone(), again_ms));
        }
        Ok(())
    }

    /// Takes out what has to go for another row of a server. Nobody else finds it then, so several that come at the same time each
    /// take another.
    fn take_one_too_many(&self, origin: &str) -> Option<(RowKey, (String, u64))> {
        let mut waiting = self.inner.inbox.lock();
        let of_origin = || waiting.quarantined.iter().filter(|(_, (other, _))| other == origin);
        let oldest = if of_origin().count() >= QUARANTINE_ORIGIN_EVENTS_MAX {
            of_origin().min_by_key(|(_, (_, again_ms))| *again_ms)
        } else if waiting.quarantined.len() >= QUARANTINE_EVENTS_MAX {
            waiting.quarantined.iter().min_by_key(|(_, (_, again_ms))| *again_ms)
        } else {
            None
        };
        let key = oldest.map(|(key, _)| key.clone())?;
        waiting.quarantined.remove_entry(&key)
    }

    /// Lets what is due in quarantine be tried once more. Of a room, or of all.
    pub(super) async fn look_at_quarantine(&self, room: Option<&RoomId>) -> Result<(), RoomsError> {
        let now_ms = self.inner.clock.now_ms();
        loop {
            let due: Vec<RowKey> = {
                let waiting = self.inner.inbox.lock();
                let due = waiting
                    .quarantined
                    .iter()
                    .filter(|((of, _), (_, again_ms))| *again_ms <= now_ms && room.is_none_or(|room| room == of));
                due.map(|(key, _)| key.clone()).take(LOOKED_AT_AT_ONCE_MAX).collect()
            };
            if due.is_empty() {
                return Ok(());
            }
            for key in due {
                self.leave_quarantine(key, now_ms).await?;
            }
        }
    }

    async fn leave_quarantine(&self, (room, sequence): RowKey, now_ms: u64) -> Result<(), RoomsError> {
        let key = (&room, sequence);
        let Some(row) = self.inner.store.view().await?.get::<Quarantine>(&key).await? else {
            self.inner.inbox.lock().quarantined.remove(&(room, sequence));
            return Ok(());
        };
        let QuarantineRow { origin, visits, json, .. } = row;
        let size = json.len();
        if self.inner.inbox.lock().reserve(&room, &origin, &[size]).is_err() {
            // There is no space among what came later.
            let again_ms = now_ms + QUARANTINE_MS;
            self.inner.inbox.lock().quarantined.insert((room, sequence), (origin, again_ms));
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete::<Quarantine>(&key);
        let attempts = INBOX_ATTEMPTS_MAX - 1;
        batch.put::<Inbox>(&key, &InboxRow { origin: &origin, attempts, visits, json: &json });
        if let Err(error) = self.inner.store.commit(batch).await {
            self.inner.inbox.lock().release(&room, &origin, size);
            return Err(error.into());
        }
        let mut waiting = self.inner.inbox.lock();
        waiting.make_ready(&room, [sequence]);
        waiting.quarantined.remove(&(room, sequence));
        Ok(())
    }
}
