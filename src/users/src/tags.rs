//! Room tags: one account data row `m.tag` for each room.
//!
//! Specification: client-server API, "Room Tagging".

use std::collections::BTreeMap;

use ruma::{RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use store::{Batch, View};

use crate::{AccountDataEntry, Error, Result, Users, error::too_many};

/// The greatest number of bytes of a tag's name.
pub const TAG_BYTES_MAX: usize = 255;

const TYPE: &str = "m.tag";

#[derive(Default, Deserialize, Serialize)]
struct Content {
    #[serde(default)]
    tags: BTreeMap<String, Box<RawValue>>,
}

/// Checks a tag's name and information.
///
/// # Errors
///
/// [`Error::TooLarge`], [`Error::NotAnObject`], [`Error::InvalidTagOrder`].
pub fn check_tag(tag: &str, info: &RawValue) -> Result<()> {
    if tag.len() > TAG_BYTES_MAX {
        return Err(Error::TooLarge { what: "the name of a tag", max: TAG_BYTES_MAX });
    }
    let info: serde_json::Value = serde_json::from_str(info.get()).map_err(|_| Error::NotAnObject)?;
    let info = info.as_object().ok_or(Error::NotAnObject)?;
    let Some(order) = info.get("order") else {
        return Ok(());
    };
    let order = order.as_f64().ok_or(Error::InvalidTagOrder)?;
    if !(0.0..=1.0).contains(&order) {
        return Err(Error::InvalidTagOrder);
    }
    Ok(())
}

impl Users {
    /// The user's tags of a room and the information of each.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn tags(&self, view: &View, user: &UserId, room: &RoomId) -> Result<BTreeMap<String, Box<RawValue>>> {
        let Some(content) = self.account_data(view, user, Some(room), TYPE).await? else {
            return Ok(BTreeMap::new());
        };
        // Clients may set the whole row, so it can hold anything.
        let content: Content = serde_json::from_str(content.get()).unwrap_or_default();
        Ok(content.tags)
    }

    /// Sets a tag.
    ///
    /// # Errors
    ///
    /// As [`check_tag`]; the errors of account data.
    pub async fn set_tag(&self, user: &UserId, room: &RoomId, tag: &str, info: &RawValue) -> Result<()> {
        check_tag(tag, info)?;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let mut tags = self.tags(&view, user, room).await?;
            tags.insert(tag.to_owned(), info.to_owned());
            self.prepare_tags(&view, &mut batch, user, room, tags).await?;
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Removes a tag; it need not be there.
    ///
    /// # Errors
    ///
    /// The errors of account data.
    pub async fn remove_tag(&self, user: &UserId, room: &RoomId, tag: &str) -> Result<()> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let mut tags = self.tags(&view, user, room).await?;
            if tags.remove(tag).is_none() {
                return Ok((Batch::new(), ()));
            }
            self.prepare_tags(&view, &mut batch, user, room, tags).await?;
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    async fn prepare_tags(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        room: &RoomId,
        tags: BTreeMap<String, Box<RawValue>>,
    ) -> Result<()> {
        let content = to_raw_value(&Content { tags }).map_err(|_| Error::NotAnObject)?;
        let entry = AccountDataEntry::new(Some(room), TYPE, &content);
        self.prepare_account_data(view, batch, user, entry).await.map_err(too_many("tags of the room"))
    }

    /// Copies the tags of a room that was upgraded to the room that replaces it.
    ///
    /// # Errors
    ///
    /// The errors of account data.
    pub async fn prepare_copy_tags(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        old: &RoomId,
        new: &RoomId,
    ) -> Result<()> {
        let tags = self.tags(view, user, old).await?;
        if tags.is_empty() {
            return Ok(());
        }
        self.prepare_tags(view, batch, user, new, tags).await
    }
}
