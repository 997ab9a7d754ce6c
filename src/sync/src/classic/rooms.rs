//! What `/sync` says of rooms, by how they stand to the user.

use std::sync::Arc;

use futures_util::FutureExt;
use reading::ClientEvent;
use ruma::{OwnedRoomId, RoomId};
use store::View;

use super::{
    Answer, Wishes,
    response::{Events, InvitedRoom, KnockedRoom, RoomUpdates},
};
use crate::{
    SyncError,
    large::{Given, LARGE_BYTES},
    parts::{ROOMS_INLINE_MAX, side_by_side},
    streams::{
        Memberships,
        changes::Hints,
        memberships::{Section, Step},
        span::OwnedSpan,
    },
};

/// A room of which something may have to be said, with what is known of it.
pub(super) struct Item {
    pub(super) room: OwnedRoomId,
    pub(super) hints: Hints,
    pub(super) steps: Vec<Step>,
    pub(super) account_data: Vec<ClientEvent>,
}

/// All that the parts of an answer are made from.
struct Basis {
    span: OwnedSpan,
    wishes: Wishes,
}

impl Basis {
    async fn rooms(self: Arc<Self>, view: View, items: Vec<Item>) -> Result<RoomUpdates, SyncError> {
        // Whoever has parts made has leave.
        let answer = Answer { span: self.span.span(&view), wishes: &self.wishes, large: &Given };
        answer.few_rooms(items).await
    }
}

impl Answer<'_> {
    /// What to say about rooms, in their order.
    pub(super) async fn rooms(&self, items: Vec<Item>) -> Result<RoomUpdates, SyncError> {
        if items.len() <= ROOMS_INLINE_MAX {
            return self.few_rooms(items).await;
        }
        self.large.begin().await?;
        let basis = Basis { span: OwnedSpan::new(&self.span), wishes: self.wishes.clone() };
        let view = self.span.reader.view;
        let parts = side_by_side(view, basis, items, |view, basis, items| basis.rooms(view, items).boxed()).await?;
        let mut updates = RoomUpdates::default();
        for RoomUpdates { join, invite, knock, leave } in parts {
            updates.join.extend(join);
            updates.invite.extend(invite);
            updates.knock.extend(knock);
            updates.leave.extend(leave);
        }
        Ok(updates)
    }

    async fn few_rooms(&self, items: Vec<Item>) -> Result<RoomUpdates, SyncError> {
        let mut updates = RoomUpdates::default();
        let mut bytes = 0;
        for item in items {
            if bytes > LARGE_BYTES {
                self.large.begin().await?;
            }
            if let Some(section) = Memberships::section(&self.span, &item.room, item.hints, &item.steps).await? {
                bytes += self.add_room(&mut updates, section, item).await?;
            }
        }
        Ok(updates)
    }

    /// Adds what there is to say about a room, and gives how many bytes of events that are.
    async fn add_room(&self, updates: &mut RoomUpdates, section: Section, item: Item) -> Result<usize, SyncError> {
        let Item { room, hints, account_data, .. } = item;
        let mut bytes = 0;
        match section {
            Section::Joined { fresh } => {
                let update = self.joined(&room, hints, fresh, account_data).await?;
                bytes = update.bytes();
                if !update.is_empty() {
                    updates.join.push((room, update));
                }
            }
            Section::Left { end, fresh, last } => {
                let update = self.left(&room, (end, fresh), last, account_data).await?;
                bytes = update.bytes();
                updates.leave.push((room, update));
            }
            Section::Refused(last) => {
                // A first sync has nothing to take back.
                if self.span.since.is_some() {
                    let update = self.refused(&room, last).await?;
                    updates.leave.push((room, update));
                }
            }
            Section::Invited(step) => {
                if let Some(invite_state) = self.stripped(&room, step).await? {
                    updates.invite.push((room, InvitedRoom { invite_state }));
                }
            }
            Section::Knocked(step) => {
                if let Some(knock_state) = self.stripped(&room, step).await? {
                    updates.knock.push((room, KnockedRoom { knock_state }));
                }
            }
        }
        Ok(bytes)
    }

    async fn stripped(&self, room: &RoomId, step: Step) -> Result<Option<Events>, SyncError> {
        let told = Memberships::stripped_state(&self.span, room, step).await?;
        Ok(told.map(|events| Events { events }))
    }
}
