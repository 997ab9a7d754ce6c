//! Filters: definitions that clients upload once and name by id. They never change.

use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::{Weighter, unsync::Cache};
use ruma::{OwnedUserId, UserId};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use store::{Batch, Fixed, Range, View};

use crate::{Error, Result, Users, rows::FilterUse, tables};

/// The greatest number of bytes of a filter definition.
pub const FILTER_BYTES_MAX: usize = 64 * 1024;
/// The greatest number of different filters of a user; those that were not used for longest make room for others.
pub const FILTERS_PER_USER_MAX: usize = 250;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What a filter takes in memory besides its definition and the user's id.
const FILTER_OVERHEAD_BYTES: u64 = 150;

/// Definitions by user and id.
pub(crate) struct FilterCache {
    entries: Mutex<Cache<(OwnedUserId, u64), Known, FilterWeight>>,
}

/// A definition, and the day for which its use was noted.
#[derive(Clone)]
struct Known {
    definition: Arc<RawValue>,
    noted_day: u64,
}

#[derive(Clone)]
struct FilterWeight;

impl Weighter<(OwnedUserId, u64), Known> for FilterWeight {
    fn weight(&self, (user, _): &(OwnedUserId, u64), known: &Known) -> u64 {
        (user.as_str().len() + known.definition.get().len()) as u64 + FILTER_OVERHEAD_BYTES
    }
}

impl FilterCache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let items = usize::try_from(bytes_max / (2 * FILTER_OVERHEAD_BYTES)).unwrap_or(usize::MAX).max(1);
        Self { entries: Mutex::new(Cache::with_weighter(items, bytes_max, FilterWeight)) }
    }
}

impl Users {
    /// Stores a filter definition, whose form the caller checked, and gives its id. The same definition has
    /// the same id.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnObject`], [`Error::TooLarge`], [`Error::Contended`].
    pub async fn create_filter(&self, user: &UserId, definition: &RawValue) -> Result<String> {
        let json = definition.get();
        if json.len() > FILTER_BYTES_MAX {
            return Err(Error::TooLarge { what: "the filter", max: FILTER_BYTES_MAX });
        }
        if !json.starts_with('{') {
            return Err(Error::NotAnObject);
        }
        let digest = Fixed(Sha256::digest(json.as_bytes()).into());
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            if let Some(id) = view.get::<tables::FilterIds>(&(user, digest)).await? {
                self.note_filter_use(&view, user, id).await?;
                return Ok((Batch::new(), id.to_string()));
            }
            let last = view.get::<tables::FilterLast>(&user).await?;
            let id = last.unwrap_or(0) + 1;
            batch.expect::<tables::FilterLast>(&user, last.as_ref());
            batch.put::<tables::FilterLast>(&user, &id);
            batch.put::<tables::FilterIds>(&(user, digest), &id);
            batch.put::<tables::FilterUses>(&(user, id), &FilterUse { day: self.today(), digest });
            batch.put::<tables::Filters>(&(user, id), json);
            prepare_room_for_filter(&view, &mut batch, user).await?;
            Ok((batch, id.to_string()))
        };
        self.inner.store.retry(decide).await
    }

    /// The definition of a filter, which is used by this.
    ///
    /// # Errors
    ///
    /// Fails only if the store does.
    pub async fn filter(&self, view: &View, user: &UserId, id: &str) -> Result<Option<Arc<RawValue>>> {
        let Ok(id) = id.parse::<u64>() else {
            return Ok(None);
        };
        let key = (user.to_owned(), id);
        let known = self.inner.filters.entries.lock().get(&key).cloned();
        if let Some(known) = known.as_ref().filter(|known| known.noted_day == self.today()) {
            return Ok(Some(known.definition.clone()));
        }
        let definition = match known {
            Some(known) => known.definition,
            None => {
                let Some(json) = view.get::<tables::Filters>(&(user, id)).await? else { return Ok(None) };
                let raw = RawValue::from_string(json).map_err(|source| Error::Damaged { what: "a filter", source })?;
                raw.into()
            }
        };
        self.note_filter_use(view, user, id).await?;
        let known = Known { definition: definition.clone(), noted_day: self.today() };
        self.inner.filters.entries.lock().insert(key, known);
        Ok(Some(definition))
    }

    /// Notes that a filter was used today, without waiting for the disk, if it isn't noted yet.
    async fn note_filter_use(&self, view: &View, user: &UserId, id: u64) -> Result<()> {
        let key = (user, id);
        let Some(noted) = view.get::<tables::FilterUses>(&key).await? else { return Ok(()) };
        if noted.day == self.today() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.relaxed();
        batch.expect::<tables::FilterUses>(&key, Some(&noted));
        batch.put::<tables::FilterUses>(&key, &FilterUse { day: self.today(), ..noted });
        // If it isn't written, the next use is noted.
        drop(self.inner.store.submit(batch).await?);
        Ok(())
    }

    fn today(&self) -> u64 {
        self.now_ms() / DAY_MS
    }

    pub(crate) fn prepare_delete_filters(&self, batch: &mut Batch, user: &UserId) {
        batch.delete_prefix::<tables::Filters>(&(user,));
        batch.delete_prefix::<tables::FilterIds>(&(user,));
        batch.delete_prefix::<tables::FilterUses>(&(user,));
        batch.delete::<tables::FilterLast>(&user);
    }
}

/// Deletes those filters that were not used for longest, so many that there is room for one more.
async fn prepare_room_for_filter(view: &View, batch: &mut Batch, user: &UserId) -> Result<()> {
    let mut uses = view.scan_all(Range::<tables::FilterUses>::prefix(&(user,))).await?;
    if uses.len() < FILTERS_PER_USER_MAX {
        return Ok(());
    }
    uses.sort_by_key(|((_, id), used)| (used.day, *id));
    let surplus = uses.len() + 1 - FILTERS_PER_USER_MAX;
    for ((_, id), used) in uses.into_iter().take(surplus) {
        // Not if it is used just now.
        batch.expect::<tables::FilterUses>(&(user, id), Some(&used));
        batch.delete::<tables::Filters>(&(user, id));
        batch.delete::<tables::FilterIds>(&(user, used.digest));
        batch.delete::<tables::FilterUses>(&(user, id));
    }
    Ok(())
}
