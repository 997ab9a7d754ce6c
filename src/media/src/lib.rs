//! Files that users upload: receiving, keeping, reading, thumbnails, quotas and retention.
//!
//! A file is a row that says who uploaded what and when, and a *blob*, the bytes, named by their BLAKE3 digest. Equal
//! files share one blob, whose row counts them. The order of an upload is: bytes to a temporary file, a marker with the
//! blob's name beside it, the file synced and renamed into its place, the place's directory synced, the rows committed,
//! the marker removed. Whatever the process was doing when it was killed, [`Media::open`] finds a temporary file or a
//! marker of it and removes what no row names. A blob's name is never used again, so that a late removal can't hit a
//! new file with the same bytes.

mod bucket;
mod config;
mod disk;
mod error;
mod files;
mod pending;
mod preview;
mod receive;
mod release;
mod slots;
mod storage;
mod sweep;
mod tables;
#[cfg(test)]
mod tests;
mod thumbnail;
mod usage;

use std::{io, sync::Arc};

use event::{Clock, Random};
use store::{CommitError, Store, View};
use tokio::sync::{Semaphore, watch};
use tracing::Instrument;

pub use config::{Config, S3Config};
pub use error::{Error, Result};
pub use files::{Details, File, etag};
pub use pending::Reserved;
pub use preview::PreviewConfig;
pub use receive::{Received, Receiving};
pub use storage::ByteStream;
pub use sweep::Swept;
pub use tables::{MediaChanged, MediaEvent, TABLES};
pub use thumbnail::{Ask, Thumbnail, thumbnail_name};

use crate::{
    bucket::Bucket,
    disk::Disk,
    preview::{Pictures, Previewer},
    slots::Slots,
    storage::Storage,
    thumbnail::Renderers,
    usage::Usage,
};

/// How often a change is tried again when others change the same rows.
const COMMIT_ATTEMPTS_MAX: u32 = 20;
/// Uploads that are received at the same time; each holds a buffer of [`receive::BUFFER_BYTES`].
const RECEIVING_MAX: usize = 256;
/// Of these, how many one user may have.
const RECEIVING_PER_USER_MAX: usize = 32;

/// All operations on files. Cheap to clone.
#[derive(Clone)]
pub struct Media {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    store: Store,
    storage: Storage,
    usage: Usage,
    renderers: Renderers,
    previewer: Option<Previewer>,
    pictures: Pictures,
    receiving: Arc<Semaphore>,
    uploaders: Slots,
    /// Counts uploads to names that were set aside: who waits for one looks again.
    finished: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl Media {
    /// Files of `store` (opened with [`TABLES`]) below the configured directory, which is made where it is missing. What
    /// a process that was killed left behind is removed.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory can't be used, [`Error::Misconfigured`] if the bucket can't.
    pub async fn open(config: Config, store: Store, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self> {
        let disk = Disk::open(config.path()).await?;
        let bucket = config.media_s3.as_ref().map(Bucket::new).transpose()?;
        if let Some(bucket) = &bucket {
            bucket.check(&config.server_name).await?;
        }
        let inner = Inner {
            storage: Storage::new(disk, bucket),
            usage: Usage::default(),
            renderers: Renderers::new(config.decoding_bytes_max),
            previewer: config.previews.clone().map(Previewer::new).transpose()?,
            pictures: Pictures::load(&store.view().await.unwrap()).await?,
            receiving: Arc::new(Semaphore::new(RECEIVING_MAX)),
            uploaders: Slots::new(RECEIVING_PER_USER_MAX),
            finished: watch::Sender::new(0),
            config,
            store,
            clock,
            random,
        };
        let media = Self { inner: Arc::new(inner) };
        media.remove_leftovers().await?;
        Ok(media)
    }

    /// The configuration that these files were opened with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// A view of the store that the other operations read from.
    pub async fn view(&self) -> Result<View> {
        Ok(self.inner.store.view().await?)
    }

    fn now_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }

    /// Commits. `false` if somebody else changed what was read.
    async fn commit(&self, batch: store::Batch) -> Result<bool> {
        match self.inner.store.commit(batch).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs work to its end even if its client goes away. A file that is half kept would stay in storage until the next start; and a
/// decoder can't be stopped, so that what bounds the number of decoders must not be given back before it is done.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let done = tokio::spawn(work.in_current_span()).await;
    done.unwrap_or_else(|failed| Err(io::Error::other(failed).into()))
}
