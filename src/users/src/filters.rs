//! Filters: definitions that clients upload once and name by id. They never change.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use store::{Batch, Fixed, View};

use crate::{Error, Result, Users, tables};

/// The greatest number of bytes of a filter definition.
pub const FILTER_BYTES_MAX: usize = 64 * 1024;
/// The greatest number of different filters of a user.
pub const FILTERS_PER_USER_MAX: u64 = 250;

/// Definitions by user and id.
pub(crate) struct FilterCache {
    entries: Mutex<LruCache<(OwnedUserId, u64), Arc<RawValue>>>,
}

impl FilterCache {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self { entries: Mutex::new(LruCache::new(capacity)) }
    }
}

impl Users {
    /// Stores a filter definition, whose form the caller checked, and gives its id. The same definition has
    /// the same id.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnObject`], [`Error::TooLarge`], [`Error::TooMany`], [`Error::Contended`].
    pub async fn create_filter(&self, user: &UserId, definition: &RawValue) -> Result<String> {
        let json = definition.get();
        if json.len() > FILTER_BYTES_MAX {
            return Err(Error::TooLarge { what: "the filter", max: FILTER_BYTES_MAX });
        }
        if !json.starts_with('{') {
            return Err(Error::NotAnObject);
        }
        let digest = Fixed(Sha256::digest(json.as_bytes()).into());
        let mut attempts = self.attempts();
        loop {
            let mut attempt = attempts.next()?;
            let (view, batch) = (&attempt.view, &mut attempt.batch);
            if let Some(id) = view.get::<tables::FilterIds>(&(user, digest)).await? {
                return Ok(id.to_string());
            }
            let last = view.get::<tables::FilterCounts>(&user).await?;
            let id = last.unwrap_or(0) + 1;
            if id > FILTERS_PER_USER_MAX {
                return Err(Error::TooMany("filters"));
            }
            batch.expect::<tables::FilterCounts>(&user, last.as_ref());
            batch.put::<tables::FilterCounts>(&user, &id);
            batch.put::<tables::FilterIds>(&(user, digest), &id);
            batch.put::<tables::Filters>(&(user, id), &json.to_owned());
            if attempt.commit().await? {
                return Ok(id.to_string());
            }
        }
    }

    /// The definition of a filter.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn filter(&self, view: &View, user: &UserId, id: &str) -> Result<Option<Arc<RawValue>>> {
        let Ok(id) = id.parse::<u64>() else {
            return Ok(None);
        };
        let key = (user.to_owned(), id);
        if let Some(known) = self.inner.filters.entries.lock().get(&key) {
            return Ok(Some(known.clone()));
        }
        let Some(json) = view.get::<tables::Filters>(&(user, id)).await? else {
            return Ok(None);
        };
        let raw = RawValue::from_string(json).map_err(|source| Error::Damaged { what: "a filter", source })?;
        let raw: Arc<RawValue> = raw.into();
        self.inner.filters.entries.lock().put(key, raw.clone());
        Ok(Some(raw))
    }

    pub(crate) fn prepare_delete_filters(&self, batch: &mut Batch, user: &UserId) {
        batch.delete_prefix::<tables::Filters>(&(user,));
        batch.delete_prefix::<tables::FilterIds>(&(user,));
        batch.delete::<tables::FilterCounts>(&user);
    }
}
