//! Removing what has had its time: names that nothing was uploaded to, files that expire, old files, more than may be kept.

use store::Range;

use crate::{
    Error, Media, Result,
    tables::{Blobs, ByAge, Doomed, Expiring, FileKey, Files},
};

/// Files deleted in one sweep.
const DELETED_MAX: usize = 10_000;
/// Rows read at a time.
const PAGE_ROWS: usize = 500;
/// Blobs removed from storage between two looks at the clock.
const REMOVED_AT_ONCE: usize = 16;
/// How long a sweep goes on removing from storage, in milliseconds.
const REMOVING_MS_MAX: u64 = 120_000;

/// What a sweep did.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Swept {
    /// Files and names that were deleted.
    pub deleted: usize,
}

impl Media {
    /// Deletes what has had its time, up to a bound; the next sweep goes on.
    ///
    /// # Errors
    /// [`Error::Io`] or the store's.
    pub async fn sweep(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        let now_ms = self.now_ms();
        self.sweep_expired(now_ms, &mut swept).await?;
        self.sweep_previews(now_ms).await?;
        let config = &self.inner.config;
        if !config.media_retention_days.is_zero() {
            let oldest_ms = now_ms.saturating_sub(config.media_retention_days.ms());
            self.sweep_oldest(&mut swept, |at, _| at < oldest_ms).await?;
        }
        let bytes_max = config.media_retention_mb.bytes();
        if bytes_max > 0 {
            let mut over = self.stored_bytes().await?.saturating_sub(bytes_max);
            // Files that share a blob count once each here, so that the next sweep may find more to do.
            let more = |_, size: u64| {
                let delete = over > 0;
                over = over.saturating_sub(size);
                delete
            };
            self.sweep_oldest(&mut swept, more).await?;
        }
        self.sweep_storage().await?;
        Ok(swept)
    }

    /// Removes from storage what no row names any more, for a bounded time: storage that fails takes long to say so.
    async fn sweep_storage(&self) -> Result<()> {
        let until_ms = self.now_ms().saturating_add(REMOVING_MS_MAX);
        let mut next = Some(Range::<Doomed>::all().limit(REMOVED_AT_ONCE));
        while let Some(range) = next {
            let page = self.view().await?.scan(range).await?;
            self.remove_doomed(page.rows.into_iter().map(|(name, ())| name).collect()).await;
            next = page.next.filter(|_| self.now_ms() < until_ms);
        }
        Ok(())
    }

    /// What all files and thumbnails take in storage, in bytes.
    ///
    /// # Errors
    /// Fails only if the store does.
    pub async fn stored_bytes(&self) -> Result<u64> {
        let view = self.view().await?;
        let mut sum = 0_u64;
        let mut next = Some(Range::<Blobs>::all());
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for (_, row) in &page.rows {
                sum = sum.saturating_add(row.size);
            }
            next = page.next;
        }
        Ok(sum)
    }

    async fn sweep_expired(&self, now_ms: u64, swept: &mut Swept) -> Result<()> {
        while swept.deleted < DELETED_MAX {
            let view = self.view().await?;
            let range = Range::<Expiring>::all().through(&(now_ms,)).limit(PAGE_ROWS);
            let page = view.scan(range).await?;
            let before = swept.deleted;
            for ((_, key), ()) in &page.rows {
                self.sweep_one(key, swept).await?;
            }
            if page.next.is_none() || swept.deleted == before {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Deletes files, the oldest first, as long as `delete` says so of their time (Unix ms) and size.
    async fn sweep_oldest(&self, swept: &mut Swept, mut delete: impl FnMut(u64, u64) -> bool) -> Result<()> {
        while swept.deleted < DELETED_MAX {
            let page = self.view().await?.scan(Range::<ByAge>::all().limit(PAGE_ROWS)).await?;
            let before = swept.deleted;
            for ((at, key), size) in &page.rows {
                if !delete(*at, *size) {
                    return Ok(());
                }
                self.sweep_one(key, swept).await?;
            }
            if page.next.is_none() || swept.deleted == before {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn sweep_one(&self, key: &FileKey, swept: &mut Swept) -> Result<()> {
        let view = self.view().await?;
        let Some(row) = view.get::<Files>(key).await? else { return Ok(()) };
        match self.delete_row(&view, &key.server, &key.id, &row).await {
            Ok(Some(_doomed)) => swept.deleted += 1,
            // Somebody uses it just now.
            Ok(None) | Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
