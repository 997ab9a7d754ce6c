//! Guests are taken out of rooms that no longer let guests in.
//!
//! Specification: client-server API, "Guest Access", server behaviour.

use rooms::{EventRedacted, RoomAdvanced, Rooms, RoomsError, Root, StateView};
use ruma::{OwnedRoomId, RoomId, UserId};
use store::{Batch, Cursor, Follow, LogEntry, LogRecord, Store, StoreError, View};
use tracing::{error, warn};
use users::{Kind, Users};

use crate::{
    FlowsError,
    join::{GUEST_ACCESS, lets_guests_in},
};

/// Accounts that are looked at together when all are.
const PAGE_ACCOUNTS: usize = 1_000;

/// Follows the log for rooms that close themselves to guests.
pub(crate) struct Guests {
    pub(crate) store: Store,
    pub(crate) users: Users,
    pub(crate) rooms: Rooms,
}

impl Follow for Guests {
    const NAME: &'static str = "flows.guests";
    const CURSOR: Cursor = Cursor::Stored;
    type Error = FlowsError;

    async fn apply(&mut self, records: &[LogRecord]) -> Result<Option<Batch>, FlowsError> {
        let mut found = false;
        for record in records {
            let handled = self.take_out_after(record).await;
            found |= match handled {
                Err(failed) if !may_pass(&failed) => {
                    let position = record.position.get();
                    error!(position, error = %failed, "whether a room is closed to guests can't be told");
                    false
                }
                handled => handled?,
            };
        }
        Ok(found.then(Batch::new))
    }

    async fn rebuild(&mut self, view: &View) -> Result<(), FlowsError> {
        let mut accounts = self.users.accounts(view, None, PAGE_ACCOUNTS).await?;
        while let Some((last, _)) = accounts.last() {
            for (guest, _) in accounts.iter().filter(|(_, account)| account.kind == Kind::Guest) {
                self.take_out_of_closed_rooms(view, guest).await?;
            }
            accounts = self.users.accounts(view, Some(last), PAGE_ACCOUNTS).await?;
        }
        Ok(())
    }
}

/// Whether it may go better another time: what is stored could not be read or written now. All else stays as it is.
fn may_pass(error: &FlowsError) -> bool {
    let readable = |error: &StoreError| !matches!(error, StoreError::Decode { .. });
    match error {
        FlowsError::Store(error)
        | FlowsError::Rooms(RoomsError::Store(error))
        | FlowsError::Users(users::Error::Store(error)) => readable(error),
        FlowsError::Commit(_) | FlowsError::Rooms(RoomsError::Commit(_) | RoomsError::Busy) => true,
        _ => false,
    }
}

impl Guests {
    /// Takes guests out of the room of which a log record tells that they may no longer be there. Says whether there was one.
    async fn take_out_after(&self, record: &LogRecord) -> Result<bool, FlowsError> {
        let Some(room) = self.closed_by(record).await? else { return Ok(false) };
        let view = self.store.view().await?;
        for member in self.rooms.local_members(&view, &room).await? {
            if self.users.is_guest(&view, &member).await? {
                self.take_out(&member, &room).await?;
            }
        }
        Ok(true)
    }

    /// The room, if a log record tells that guests may no longer be there.
    async fn closed_by(&self, record: &LogRecord) -> Result<Option<OwnedRoomId>, FlowsError> {
        match record.kind {
            RoomAdvanced::KIND => match record.decode::<RoomAdvanced>()? {
                // Messages leave the state as it is.
                Some(RoomAdvanced { room, old_root: Some(old_root), root, .. }) => {
                    Ok(self.closed_to_guests(&room, old_root, root).await?.then_some(room))
                }
                _ => Ok(None),
            },
            EventRedacted::KIND => match record.decode::<EventRedacted>()? {
                Some(redacted) => Ok(self.closed_by_redaction(&redacted).await?.then_some(redacted.room)),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Whether the redacted event is the one that let guests in.
    async fn closed_by_redaction(&self, redacted: &EventRedacted) -> Result<bool, FlowsError> {
        let view = self.store.view().await?;
        let access = self.rooms.current_event(&view, &redacted.room, GUEST_ACCESS, "").await?;
        Ok(access.is_some_and(|access| access.num == redacted.target))
    }

    /// Whether a change of state took away the guests' right to be there.
    async fn closed_to_guests(&self, room: &RoomId, old_root: Root, root: Root) -> Result<bool, FlowsError> {
        let view = self.store.view().await?;
        Ok(guests_allowed(self.rooms.state(&view, room, old_root)).await?
            && !guests_allowed(self.rooms.state(&view, room, root)).await?)
    }

    async fn guests_allowed_now(&self, view: &View, room: &RoomId) -> Result<bool, FlowsError> {
        guests_allowed(self.rooms.current_state(view, room).await?).await
    }

    async fn take_out_of_closed_rooms(&self, view: &View, guest: &UserId) -> Result<(), FlowsError> {
        for room in self.rooms.joined_rooms(view, guest).await? {
            match self.guests_allowed_now(view, &room).await {
                Ok(true) => {}
                Ok(false) => self.take_out(guest, &room).await?,
                Err(failed) if !may_pass(&failed) => {
                    error!(%room, error = %failed, "whether a room is closed to guests can't be told");
                }
                Err(failed) => return Err(failed),
            }
        }
        Ok(())
    }

    async fn take_out(&self, guest: &UserId, room: &RoomId) -> Result<(), FlowsError> {
        let left = self.rooms.leave(guest, room, None).await.map_err(FlowsError::from);
        match left {
            Err(failed) if !may_pass(&failed) => {
                warn!(%guest, %room, error = %failed, "a guest can't be taken out of a closed room");
                Ok(())
            }
            left => left.map(drop),
        }
    }
}

/// Whether guests may be in a room of this state.
async fn guests_allowed(state: StateView<'_>) -> Result<bool, FlowsError> {
    let access = state.shown(GUEST_ACCESS, "").await?;
    Ok(access.is_some_and(|access| lets_guests_in(access.content())))
}
