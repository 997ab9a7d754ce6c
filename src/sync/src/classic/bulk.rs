//! Answers about very many rooms: built in parts side by side, on threads that may wait for the disk.
//!
//! Most requests are about few rooms, and most of what they read is in memory. A first sync of a thousand rooms reads much that
//! is not, and is worth more than one core.

use std::{collections::HashSet, sync::Arc};

use event::push::PushRules;
use futures_util::{StreamExt, stream};
use reading::{ClientEvent, Viewer};
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use store::{Position, StoreError, View};
use tokio::{runtime::Handle, task::spawn_blocking};
use users::PresenceState;

use super::{Answer, Session, SyncRequest};
use crate::{
    Filter, Inner, RoomUpdates, SyncError, changes::Hints, large::Given, membership::Step, memo::Memo, reader::Reader,
};

/// Answers about up to so many rooms are built by the task that asks.
const ROOMS_INLINE_MAX: usize = 64;

/// Rooms of one part.
const ROOMS_PER_PART: usize = 32;

/// Parts of one answer that are built at the same time.
const PARTS_AT_ONCE: usize = 4;

/// A room of which something may have to be said, with what is known of it.
pub(super) struct Item {
    pub(super) room: OwnedRoomId,
    pub(super) hints: Hints,
    pub(super) steps: Vec<Step>,
    pub(super) account_data: Vec<ClientEvent>,
}

/// All that an answer is made from, for a thread of its own.
struct Basis {
    inner: Arc<Inner>,
    user: OwnedUserId,
    device: OwnedDeviceId,
    filter: Arc<Filter>,
    full_state: bool,
    use_state_after: bool,
    number: u32,
    view: View,
    memo: Arc<Memo>,
    ignored: HashSet<OwnedUserId>,
    erased: HashSet<OwnedUserId>,
    since: Option<Position>,
    typing_shown: bool,
    rules: Arc<PushRules>,
}

impl Basis {
    async fn rooms(&self, items: Vec<Item>) -> Result<RoomUpdates, SyncError> {
        let request = SyncRequest {
            user: &self.user,
            device: &self.device,
            since: None,
            filter: None,
            full_state: self.full_state,
            set_presence: PresenceState::Offline,
            timeout_ms: 0,
            use_state_after: self.use_state_after,
        };
        let (inner, filter, number) = (&self.inner, self.filter.clone(), self.number);
        // Whoever has parts made has leave.
        let session = Session { inner, request, filter, number, large: &Given };
        let viewer = Viewer {
            user: &self.user,
            device: Some(&self.device),
            ignored: &self.ignored,
            erased: &self.erased,
            joined_in: None,
        };
        let reader = Reader {
            rooms: &self.inner.rooms,
            reading: &self.inner.reading,
            view: &self.view,
            memo: &self.memo,
            viewer,
        };
        let answer = Answer {
            session: &session,
            reader,
            since: self.since,
            presence_since: None,
            typing_shown: self.typing_shown,
            rules: self.rules.clone(),
        };
        answer.few_rooms(items).await
    }
}

impl Answer<'_> {
    /// What to say about rooms, in their order.
    pub(super) async fn rooms(&self, items: Vec<Item>) -> Result<RoomUpdates, SyncError> {
        if items.len() <= ROOMS_INLINE_MAX {
            return self.few_rooms(items).await;
        }
        self.session.large.begin().await?;
        let basis = Arc::new(self.basis());
        let mut parts = Vec::with_capacity(items.len().div_ceil(ROOMS_PER_PART));
        let mut items = items.into_iter();
        loop {
            let part: Vec<Item> = items.by_ref().take(ROOMS_PER_PART).collect();
            if part.is_empty() {
                break;
            }
            parts.push(build(basis.clone(), part));
        }
        let mut parts = stream::iter(parts).buffered(PARTS_AT_ONCE);
        let mut updates = RoomUpdates::default();
        while let Some(part) = parts.next().await {
            let RoomUpdates { join, invite, knock, leave } = part?;
            updates.join.extend(join);
            updates.invite.extend(invite);
            updates.knock.extend(knock);
            updates.leave.extend(leave);
        }
        Ok(updates)
    }

    fn basis(&self) -> Basis {
        let Reader { view, memo, viewer, .. } = &self.reader;
        let Session { inner, request, filter, number, .. } = self.session;
        Basis {
            inner: Arc::clone(inner),
            user: request.user.to_owned(),
            device: request.device.to_owned(),
            filter: filter.clone(),
            full_state: request.full_state,
            use_state_after: request.use_state_after,
            number: *number,
            view: view.on_this_thread(),
            memo: Arc::clone(memo),
            ignored: viewer.ignored.clone(),
            erased: viewer.erased.clone(),
            since: self.since,
            typing_shown: self.typing_shown,
            rules: self.rules.clone(),
        }
    }
}

/// Builds a part on a thread of its own, once one of those for all answers is free.
async fn build(basis: Arc<Basis>, items: Vec<Item>) -> Result<RoomUpdates, SyncError> {
    let turn = basis.inner.builders.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
    let runtime = Handle::current();
    let built = spawn_blocking(move || {
        let _turn = turn;
        runtime.block_on(basis.rooms(items))
    });
    match built.await {
        Ok(built) => built,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The server stops.
        Err(_) => Err(StoreError::Closed.into()),
    }
}
