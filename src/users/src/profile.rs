//! Profiles: display name, avatar, and any further fields.
//!
//! Specification: client-server API, "Profiles" (with extended fields since v1.16).

use std::collections::BTreeMap;

use ruma::{MxcUri, UserId};
use serde_json::value::{RawValue, to_raw_value};
use store::{Batch, View};

use crate::{Change, Error, Result, Users, directory, log, tables};

/// The greatest number of bytes of a whole profile as JSON.
pub const PROFILE_BYTES_MAX: usize = 64 * 1024;
/// The greatest number of bytes of a field's name.
pub const PROFILE_KEY_BYTES_MAX: usize = 255;

/// The greatest number of bytes of a display name or avatar URL: both go into every membership event.
const SHORT_VALUE_BYTES_MAX: usize = 2048;

const DISPLAY_NAME: &str = "displayname";
const AVATAR_URL: &str = "avatar_url";
const TIME_ZONE: &str = "m.tz";

/// The profile of a user.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    fields: BTreeMap<String, Box<RawValue>>,
}

impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        if self.fields.len() != other.fields.len() {
            return false;
        }
        for (key, value) in &self.fields {
            if other.get(key).is_none_or(|other| other.get() != value.get()) {
                return false;
            }
        }
        true
    }
}

impl Profile {
    /// The display name.
    pub fn display_name(&self) -> Option<String> {
        self.text(DISPLAY_NAME)
    }

    /// The `mxc:` address of the avatar.
    pub fn avatar_url(&self) -> Option<String> {
        self.text(AVATAR_URL)
    }

    /// The value of a field.
    pub fn get(&self, key: &str) -> Option<&RawValue> {
        self.fields.get(key).map(|value| &**value)
    }

    /// All fields by name.
    pub fn fields(&self) -> &BTreeMap<String, Box<RawValue>> {
        &self.fields
    }

    /// Whether no field is set.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn text(&self, key: &str) -> Option<String> {
        let value = self.fields.get(key)?;
        serde_json::from_str(value.get()).ok()
    }
}

/// A change of one field of a profile.
#[derive(Clone, Debug)]
pub enum ProfileChange {
    /// The field is set. `null` and `""` for a display name or avatar delete it.
    Set {
        /// The field's name.
        key: String,
        /// The new value.
        value: Box<RawValue>,
    },
    /// The field is deleted.
    Delete {
        /// The field's name.
        key: String,
    },
}

impl ProfileChange {
    /// Sets the display name.
    pub fn display_name(name: &str) -> Self {
        Self::text(DISPLAY_NAME, name)
    }

    /// Sets the avatar.
    pub fn avatar_url(url: &MxcUri) -> Self {
        Self::text(AVATAR_URL, url.as_str())
    }

    fn text(key: &str, value: &str) -> Self {
        let key = key.to_owned();
        // A string always has a JSON form; an empty value deletes the field.
        match to_raw_value(value) {
            Ok(value) => Self::Set { key, value },
            Err(_) => Self::Delete { key },
        }
    }

    /// The name of the field.
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A profile before and after a change.
#[derive(Clone, Debug)]
pub struct ProfileDelta {
    /// Before.
    pub old: Profile,
    /// After.
    pub new: Profile,
}

impl ProfileDelta {
    /// Whether membership events have to carry something else now.
    pub fn concerns_rooms(&self) -> bool {
        self.old.display_name() != self.new.display_name() || self.old.avatar_url() != self.new.avatar_url()
    }
}

/// The name of a field: one of the specification's own, or a namespaced identifier with at least one dot.
fn check_key(key: &str) -> Result<()> {
    if key.len() > PROFILE_KEY_BYTES_MAX {
        return Err(Error::ProfileKeyTooLarge);
    }
    if key == DISPLAY_NAME || key == AVATAR_URL {
        return Ok(());
    }
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_.".contains(&c);
    let starts = key.bytes().next().is_some_and(|c| c.is_ascii_lowercase());
    let namespaced = key.split('.').count() > 1 && key.split('.').all(|part| !part.is_empty());
    if !starts || !namespaced || !key.bytes().all(allowed) {
        return Err(Error::InvalidProfileKey);
    }
    Ok(())
}

/// The value to store, or none if the change deletes the field.
fn checked_value(key: &str, value: &RawValue) -> Result<Option<Box<RawValue>>> {
    let short = key == DISPLAY_NAME || key == AVATAR_URL;
    if short && value.get() == "null" {
        return Ok(None);
    }
    if short || key == TIME_ZONE {
        let text: String =
            serde_json::from_str(value.get()).map_err(|_| Error::InvalidProfileValue("it must be a string"))?;
        if text.len() > SHORT_VALUE_BYTES_MAX {
            return Err(Error::TooLarge { what: "the value", max: SHORT_VALUE_BYTES_MAX });
        }
        if short && text.is_empty() {
            return Ok(None);
        }
        if key == AVATAR_URL && !<&MxcUri>::from(text.as_str()).is_valid() {
            return Err(Error::InvalidProfileValue("it must be an mxc: address"));
        }
        if key == TIME_ZONE && text.is_empty() {
            return Err(Error::InvalidProfileValue("it must name a time zone"));
        }
    }
    Ok(Some(value.to_owned()))
}

fn parse(row: Option<&String>) -> Result<Profile> {
    let Some(row) = row else {
        return Ok(Profile::default());
    };
    let fields = serde_json::from_str(row).map_err(|source| Error::Damaged { what: "a profile", source })?;
    Ok(Profile { fields })
}

impl Users {
    /// The profile of a local user; empty if nothing is set or there is no such user.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn profile(&self, view: &View, user: &UserId) -> Result<Profile> {
        parse(view.get::<tables::Profiles>(&user).await?.as_ref())
    }

    /// Writes a change of a local user's profile and of their entry in the user directory. Membership
    /// events are for the caller.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidProfileKey`], [`Error::ProfileKeyTooLarge`], [`Error::InvalidProfileValue`],
    /// [`Error::TooLarge`], [`Error::ProfileTooLarge`].
    pub async fn prepare_profile_change(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        change: &ProfileChange,
    ) -> Result<ProfileDelta> {
        check_key(change.key())?;
        let row = view.get::<tables::Profiles>(&user).await?;
        let old = parse(row.as_ref())?;
        let mut new = old.clone();
        let value = match change {
            ProfileChange::Set { key, value } => checked_value(key, value)?,
            ProfileChange::Delete { .. } => None,
        };
        match value {
            Some(value) => new.fields.insert(change.key().to_owned(), value),
            None => new.fields.remove(change.key()),
        };
        if new == old {
            return Ok(ProfileDelta { old, new });
        }
        batch.expect::<tables::Profiles>(&user, row.as_ref());
        if new.is_empty() {
            batch.delete::<tables::Profiles>(&user);
        } else {
            let json =
                serde_json::to_string(&new.fields).map_err(|source| Error::Damaged { what: "a profile", source })?;
            if json.len() > PROFILE_BYTES_MAX {
                return Err(Error::ProfileTooLarge);
            }
            batch.put::<tables::Profiles>(&user, &json);
        }
        let (old_name, new_name) = (old.display_name(), new.display_name());
        if old_name != new_name {
            directory::unindex(batch, user, old_name.as_deref());
            directory::index(batch, user, new_name.as_deref());
        }
        let key = change.key().to_owned();
        log(batch, user, Change::Profile { key });
        Ok(ProfileDelta { old, new })
    }

    /// Changes a profile alone, for who is in no room.
    ///
    /// # Errors
    ///
    /// As [`Users::prepare_profile_change`]; [`Error::Contended`].
    pub async fn change_profile(&self, user: &UserId, change: &ProfileChange) -> Result<ProfileDelta> {
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let delta = self.prepare_profile_change(&view, &mut batch, user, change).await?;
            Ok((batch, delta))
        };
        self.inner.store.retry(decide).await
    }
}

/// Deletes the profile and the directory entry of a deactivated user.
pub(crate) async fn remove(view: &View, batch: &mut Batch, user: &UserId) -> Result<()> {
    let row = view.get::<tables::Profiles>(&user).await?;
    let old = parse(row.as_ref())?;
    batch.expect::<tables::Profiles>(&user, row.as_ref());
    batch.delete::<tables::Profiles>(&user);
    directory::unindex(batch, user, old.display_name().as_deref());
    for key in old.fields.into_keys() {
        log(batch, user, Change::Profile { key });
    }
    Ok(())
}
