//! Guests are taken out of rooms that no longer let guests in.
//!
//! Specification: client-server API, "Guest Access", server behaviour.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use rooms::{EventRedacted, RoomAdvanced};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use state_tree::Root;
use store::{Batch, FollowError, Follower, LogEntry, LogRecord, Position, View};
use tokio::sync::watch;
use tracing::{debug, error, warn};
use users::Kind;

use crate::{
    FlowsError, Inner,
    join::lets_guests_in,
    work::{Jobs, RETRY_MS},
};

/// Name of the follower's cursor.
const CURSOR: &str = "flows.guests";
/// Log records after which the cursor is moved even if nothing was done. Looking at them again is harmless.
const RECORDS_PER_MOVE: usize = 4_096;

/// How far the follower came, for those who wait for it.
pub(crate) type Followed = watch::Sender<Position>;

/// Follows the log until the flows are dropped.
pub(crate) async fn run(flows: Weak<Inner>, jobs: Arc<Jobs>) {
    let mut dropped = jobs.wanted();
    let Some((mut follower, mut published)) = begin(&flows).await else { return };
    let mut unmoved = 0;
    loop {
        // Before looking, so that nothing is missed between the look and the wait.
        published.mark_unchanged();
        let records = follower.try_next().await;
        let Some(inner) = flows.upgrade() else { return };
        let nothing_new = records.as_ref().is_ok_and(Vec::is_empty);
        match records {
            Ok(records) => {
                unmoved += records.len();
                if let Err(failed) = inner.look_for_closed_rooms(&records, &mut unmoved).await {
                    error!(error = %failed, "guests can't be taken out of closed rooms");
                }
            }
            // Who was let out of sight so long ago stays until the next change of that room.
            Err(FollowError::TooOld { .. }) => follower = inner.store.follow(inner.store.published()),
            Err(FollowError::Closed) => {
                debug!("the store is closed");
                return;
            }
            Err(failed) => {
                error!(error = %failed, "flows can't read the log");
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            }
        }
        inner.followed.send_replace(follower.position());
        drop(inner);
        if nothing_new {
            tokio::select! {
                changed = published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                _ = dropped.changed() => {}
            }
        }
    }
}

async fn begin(flows: &Weak<Inner>) -> Option<(Follower, watch::Receiver<Position>)> {
    let inner = flows.upgrade()?;
    match inner.store.cursor(CURSOR).await {
        Ok(cursor) => {
            let follower = inner.store.follow(cursor.unwrap_or(inner.store.published()));
            Some((follower, inner.store.subscribe()))
        }
        Err(failed) => {
            error!(error = %failed, "flows can't follow the log");
            None
        }
    }
}

fn unreadable<T>(record: &LogRecord) -> Result<Option<T>, FlowsError> {
    error!(position = record.position.get(), "unreadable log entry");
    Ok(None)
}

impl Inner {
    async fn look_for_closed_rooms(&self, records: &[LogRecord], unmoved: &mut usize) -> Result<(), FlowsError> {
        let mut found = false;
        for record in records {
            if let Some(room) = self.closed_by(record).await? {
                found = true;
                self.remove_guests(&self.store.view(), &room).await?;
            }
        }
        let Some(last) = records.last() else { return Ok(()) };
        if found || *unmoved >= RECORDS_PER_MOVE {
            *unmoved = 0;
            let mut batch = Batch::new();
            batch.relaxed();
            batch.move_cursor(CURSOR, last.position);
            self.store.commit(batch).await?;
        }
        Ok(())
    }

    /// The room, if a log record tells that guests may no longer be there.
    async fn closed_by(&self, record: &LogRecord) -> Result<Option<OwnedRoomId>, FlowsError> {
        match record.kind {
            RoomAdvanced::KIND => match RoomAdvanced::decode_entry(&record.payload) {
                // Messages leave the state as it is.
                Ok(advanced) if advanced.old_root == advanced.new_root => Ok(None),
                Ok(advanced) => Ok(self.closed_to_guests(&advanced).await?.then_some(advanced.room)),
                Err(_) => unreadable(record),
            },
            EventRedacted::KIND => match EventRedacted::decode_entry(&record.payload) {
                Ok(redacted) => Ok(self.closed_by_redaction(&redacted).await?.then_some(redacted.room)),
                Err(_) => unreadable(record),
            },
            _ => Ok(None),
        }
    }

    /// Whether the redacted event is the one that let guests in.
    async fn closed_by_redaction(&self, redacted: &EventRedacted) -> Result<bool, FlowsError> {
        let view = self.store.view();
        let access = self.rooms.current_event(&view, &redacted.room, crate::join::GUEST_ACCESS, "").await?;
        Ok(access.is_some_and(|access| access.num == redacted.target))
    }

    /// Whether a change of state took away the guests' right to be there.
    async fn closed_to_guests(&self, advanced: &RoomAdvanced) -> Result<bool, FlowsError> {
        let view = self.store.view();
        let room = &advanced.room;
        Ok(self.guests_allowed(&view, room, advanced.old_root).await?
            && !self.guests_allowed(&view, room, advanced.new_root).await?)
    }

    async fn guests_allowed(&self, view: &View, room: &RoomId, root: Root) -> Result<bool, FlowsError> {
        let event = self.rooms.shown_state(view, room, root, crate::join::GUEST_ACCESS, "").await?;
        Ok(event.is_some_and(|event| lets_guests_in(event.content())))
    }

    async fn remove_guests(&self, view: &View, room: &RoomId) -> Result<(), FlowsError> {
        for member in self.rooms.local_members(view, room).await? {
            if !self.is_guest(view, &member).await? {
                continue;
            }
            if let Err(failed) = self.rooms.leave(&member, room, None).await {
                warn!(%member, %room, error = %failed, "a guest can't be taken out of a closed room");
            }
        }
        Ok(())
    }

    async fn is_guest(&self, view: &View, user: &OwnedUserId) -> Result<bool, FlowsError> {
        let account = self.users.account(view, user).await?;
        Ok(account.is_some_and(|account| account.kind == Kind::Guest))
    }
}
