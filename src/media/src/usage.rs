//! How much each user stores, for quotas. Counted from the tables when a user first uploads, and in memory from then on.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use store::Range;

use crate::{Error, Media, Result, tables::ByUser};

/// Users whose usage is kept in memory.
const USERS_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Rows read at a time.
const PAGE_ROWS: usize = 5_000;
/// What a file counts at least, in bytes: rows take room too, and so a quota bounds the number of files.
const FILE_BYTES_MIN: u64 = 1_024;

/// What users store, in bytes.
pub(crate) struct Usage {
    users: Mutex<LruCache<OwnedUserId, Arc<Mutex<u64>>>>,
}

impl Default for Usage {
    fn default() -> Self {
        Self { users: Mutex::new(LruCache::new(USERS_MAX)) }
    }
}

/// Bytes that were counted for an upload; given back when dropped unless it was kept.
pub(crate) struct Reservation {
    count: Arc<Mutex<u64>>,
    bytes: u64,
}

impl Reservation {
    /// The upload succeeded: the bytes stay counted.
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut count = self.count.lock();
        *count = count.saturating_sub(self.bytes);
    }
}

impl Media {
    /// What a user's files count against the quota, in bytes: their sizes, and something for each however small it is.
    ///
    /// # Errors
    /// Fails only if the store does.
    pub async fn usage(&self, user: &UserId) -> Result<u64> {
        let view = self.view().await?;
        let mut sum = 0_u64;
        let mut next = Some(Range::<ByUser>::prefix(&(user,)).limit(PAGE_ROWS));
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for (_, size) in &page.rows {
                sum = sum.saturating_add(charge(*size));
            }
            next = page.next;
        }
        Ok(sum)
    }

    /// Refuses a user who could not store a file of `bytes` more, before anything is sent.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`].
    pub async fn check_quota(&self, user: &UserId, bytes: u64) -> Result<()> {
        drop(self.reserve(user, bytes).await?);
        Ok(())
    }

    /// Counts an upload of `size` bytes by `user`.
    pub(crate) async fn reserve(&self, user: &UserId, size: u64) -> Result<Option<Reservation>> {
        let bytes = charge(size);
        let bytes_max = self.inner.config.media_user_quota_mb.bytes();
        if bytes_max == 0 {
            return Ok(None);
        }
        let known = self.inner.usage.users.lock().get(user).cloned();
        let count = match known {
            Some(count) => count,
            None => {
                let stored = Arc::new(Mutex::new(self.usage(user).await?));
                let mut users = self.inner.usage.users.lock();
                users.get_or_insert(user.to_owned(), || stored).clone()
            }
        };
        let mut sum = count.lock();
        if sum.saturating_add(bytes) > bytes_max {
            return Err(Error::QuotaExceeded { bytes_max });
        }
        *sum = sum.saturating_add(bytes);
        drop(sum);
        Ok(Some(Reservation { count, bytes }))
    }

    /// Counts back a file of a user that was deleted.
    pub(crate) fn count_back(&self, user: &UserId, size: u64) {
        let known = self.inner.usage.users.lock().get(user).cloned();
        if let Some(count) = known {
            let mut sum = count.lock();
            *sum = sum.saturating_sub(charge(size));
        }
    }
}

/// What a file of this size counts.
pub(crate) fn charge(size: u64) -> u64 {
    size.max(FILE_BYTES_MIN)
}
