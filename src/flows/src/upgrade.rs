//! What a user set about a room, when the room is replaced or forgotten.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::value::to_raw_value;
use store::{Batch, View};
use users::AccountDataEntry;

use crate::{Flows, FlowsError};

const DIRECT: &str = "m.direct";

#[derive(Deserialize)]
struct Create {
    predecessor: Option<Predecessor>,
}

#[derive(Deserialize)]
struct Predecessor {
    room_id: OwnedRoomId,
}

/// What is carried from a room to the one that replaces it.
#[derive(Copy, Clone)]
enum Setting {
    Tags,
    PushRule,
    Direct,
}

impl Flows {
    pub(crate) async fn try_carry_settings(&self, user: &UserId, room: &RoomId) -> Result<(), FlowsError> {
        let predecessor = self.predecessor(&self.inner.store.view().await?, user, room).await?;
        let Some(old) = predecessor else { return Ok(()) };
        for setting in [Setting::Tags, Setting::PushRule, Setting::Direct] {
            self.carry(setting, user, &old, room).await?;
        }
        Ok(())
    }

    /// Carries one setting, in a batch of its own: each counts for what the user may have of account data.
    async fn carry(&self, setting: Setting, user: &UserId, old: &RoomId, new: &RoomId) -> Result<(), FlowsError> {
        let users = &self.inner.users;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            match setting {
                Setting::Tags => users.prepare_copy_tags(&view, &mut batch, user, old, new).await?,
                // Nobody has unread events yet that the rule could be about: the room was just joined.
                Setting::PushRule => users.prepare_copy_room_rule(&view, &mut batch, user, old, new).await?,
                Setting::Direct => self.prepare_direct(&view, &mut batch, user, old, new).await?,
            }
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// The room that this one replaces, if the user was there.
    async fn predecessor(&self, view: &View, user: &UserId, room: &RoomId) -> Result<Option<OwnedRoomId>, FlowsError> {
        let create = self.inner.rooms.current_state(view, room).await?.shown("m.room.create", "").await?;
        // Other servers' rooms may say anything here.
        let create = create.and_then(|event| serde_json::from_str::<Create>(event.content().get()).ok());
        let Some(old) = create.and_then(|create| create.predecessor) else { return Ok(None) };
        let was_there = self.inner.rooms.membership(view, user, &old.room_id).await?.is_some();
        Ok(was_there.then_some(old.room_id))
    }

    /// Adds the new room to the direct chats that the old one is listed under.
    async fn prepare_direct(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        old: &RoomId,
        new: &RoomId,
    ) -> Result<(), FlowsError> {
        let Some(content) = self.inner.users.account_data(view, user, None, DIRECT).await? else { return Ok(()) };
        // What isn't of the specified form is the client's own affair.
        let direct = serde_json::from_str::<BTreeMap<OwnedUserId, Vec<OwnedRoomId>>>(content.get());
        let Ok(mut direct) = direct else { return Ok(()) };
        let mut changed = false;
        for rooms in direct.values_mut() {
            if rooms.iter().any(|room| room == old) && !rooms.iter().any(|room| room == new) {
                rooms.push(new.to_owned());
                changed = true;
            }
        }
        if changed {
            let content = to_raw_value(&direct)?;
            let entry = AccountDataEntry::new(None, DIRECT, &content);
            self.inner.users.prepare_account_data(view, batch, user, entry).await?;
        }
        Ok(())
    }

    /// Deletes what a user stored about a room.
    pub(crate) async fn forget_account_data(&self, user: &UserId, room: &RoomId) -> Result<(), FlowsError> {
        let forget_some = |view: View| async move {
            let mut batch = Batch::new();
            let is_all = self.inner.users.prepare_forget_room(&view, &mut batch, user, room).await?;
            Ok::<_, FlowsError>((batch, is_all))
        };
        while !self.inner.store.retry(forget_some).await? {}
        Ok(())
    }
}
