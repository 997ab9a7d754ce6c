//! Thumbnails: made when first asked for, kept as blobs beside their originals, found again by the original's digest.

mod cost;
mod plan;
mod render;

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use store::{Batch, Record};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

pub use self::plan::Ask;
pub(crate) use self::render::{Rendered, content_type as image_type, dimensions};
use self::{plan::Variant, render::Job};
use crate::{
    Error, File, Media, Result,
    disk::blocking,
    files::NewBlob,
    slots::Slots,
    tables::{BlobRow, Blobs, Digest, ThumbnailKey, ThumbnailRow, Thumbnails},
    to_its_end,
};

/// Thumbnails that are rendered at the same time.
const RENDERING_MAX: usize = 2;
/// The largest file that is decoded, as a part of the memory for decoding.
const SOURCE_PART: u64 = 4;
/// What memory for decoding is counted in, in bytes.
const UNIT_BYTES: u64 = 64 * 1024;
/// Requests that wait for their turn.
const WAITING_MAX: usize = 1_024;
/// Of these, how many one client may have. Only one of them at a time waits for a decoder, so that others wait for that at most.
const WAITING_PER_CLIENT_MAX: usize = 128;
/// Different thumbnails of one original that are kept. More are made, and made again when asked for again.
const KEPT_MAX: u64 = 32;
/// Locks that keep two requests from making the same thumbnail.
const LOCKS: usize = 64;
/// Bytes that tell the format of an image.
const MAGIC_BYTES: u64 = 64;
/// How often it is tried to keep a thumbnail when others change the same rows.
const KEEP_ATTEMPTS_MAX: u32 = 5;

/// What bounds the rendering of thumbnails.
pub(crate) struct Renderers {
    waiting: Arc<Semaphore>,
    clients: Slots,
    rendering: Semaphore,
    /// The memory for decoding, in units of [`UNIT_BYTES`].
    pub(crate) memory: Semaphore,
    bytes_max: u64,
    locks: Vec<Mutex<()>>,
}

impl Renderers {
    /// Renderers that take at most `bytes_max` for decoding at a time.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            clients: Slots::new(WAITING_PER_CLIENT_MAX),
            rendering: Semaphore::new(RENDERING_MAX),
            memory: Semaphore::new(units(bytes_max) as usize),
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
        }
    }
}

/// A thumbnail.
#[derive(Clone, Debug)]
pub enum Thumbnail {
    /// One that was made before, to be read as any file; or the original, where that is small enough.
    Kept(File),
    /// One that was made just now.
    Made {
        /// Its bytes.
        bytes: Bytes,
        /// Its content type.
        content_type: &'static str,
    },
}

impl Media {
    /// The thumbnail of a file that was made before, which costs no more than reading a file.
    ///
    /// # Errors
    /// Fails only if the store does.
    pub async fn kept_thumbnail(&self, file: &File, ask: Ask) -> Result<Option<File>> {
        self.known_thumbnail(file, Variant::of(ask)).await
    }

    /// A thumbnail of a file, made if it wasn't before; asked by `client`, a user or a network.
    ///
    /// # Errors
    /// [`Error::NotAnImage`], [`Error::ImageTooLarge`], [`Error::NotFound`], [`Error::Busy`], [`Error::Io`].
    pub async fn thumbnail(&self, client: &str, file: &File, ask: Ask) -> Result<Thumbnail> {
        let slot = self.inner.renderers.clients.take(client)?;
        let waiting = self.inner.renderers.waiting.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        let (media, file, variant) = (self.clone(), file.clone(), Variant::of(ask));
        to_its_end(async move {
            let _waiting = waiting;
            let _turn = slot.turn().await;
            media.make_thumbnail(&file, variant).await
        })
        .await
    }

    async fn make_thumbnail(&self, file: &File, variant: Variant) -> Result<Thumbnail> {
        let stripe = usize::from(file.digest.0[0]) % LOCKS;
        let _one = self.inner.renderers.locks[stripe].lock().await;
        if let Some(known) = self.known_thumbnail(file, variant).await? {
            return Ok(Thumbnail::Kept(known));
        }
        render::content_type(&self.head(file).await?)?;
        if file.size > self.inner.renderers.bytes_max / SOURCE_PART {
            return Err(Error::ImageTooLarge);
        }
        let rendered = self.render(file, variant).await?;
        Ok(self.keep_thumbnail(file, variant, rendered).await)
    }

    async fn known_thumbnail(&self, file: &File, variant: Variant) -> Result<Option<File>> {
        let view = self.view().await?;
        let Some(row) = view.get::<Thumbnails>(&key(&file.digest, variant)).await? else { return Ok(None) };
        let ThumbnailRow { digest, size, content_type } = row;
        if digest == file.digest {
            return Ok(Some(original(file, &content_type)));
        }
        let row = view.get::<Blobs>(&digest).await?;
        Ok(row.map(|row| kept(file, digest, size, &content_type, row.0.name)))
    }

    async fn render(&self, file: &File, variant: Variant) -> Result<Rendered> {
        let renderers = &self.inner.renderers;
        // The semaphores are never closed.
        let _turn = renderers.rendering.acquire().await.map_err(|_| Error::Busy)?;
        // What an image takes its header tells, which is read with its file.
        let mut held = renderers.take_memory(units(file.size)).await?;
        loop {
            let bytes = self.all_bytes(file, 0..file.size).await?;
            let bytes_max = renderers.bytes_max;
            let job = work(move || Job::new(bytes, variant, bytes_max)).await??;
            let needed = units(job.cost_bytes());
            let more = needed.saturating_sub(held.num_permits() as u32);
            if let Ok(more) = renderers.memory.try_acquire_many(more) {
                held.merge(more);
                return work(move || job.run()).await?;
            }
            // Who waits for more while holding some could wait for somebody who does the same. It is enough next time: the file
            // doesn't change.
            drop((job, held));
            held = renderers.take_memory(needed).await?;
        }
    }

    /// Keeps a thumbnail, unless its original is gone or has many already.
    async fn keep_thumbnail(&self, file: &File, variant: Variant, rendered: Rendered) -> Thumbnail {
        let mut blob = NewBlob::default();
        let kept = self.try_keep_thumbnail(file, variant, &rendered, &mut blob).await;
        self.settle(blob, &kept).await;
        if let Err(error) = &kept {
            tracing::warn!(%error, "a thumbnail can't be kept, and will be made again");
        }
        match rendered {
            Rendered::Original(content_type) => Thumbnail::Kept(original(file, content_type)),
            Rendered::Made { bytes, content_type } => Thumbnail::Made { bytes, content_type },
        }
    }

    /// `false` if it is not to be kept, or others changed the same rows each time.
    async fn try_keep_thumbnail(
        &self,
        file: &File,
        variant: Variant,
        rendered: &Rendered,
        blob: &mut NewBlob,
    ) -> Result<bool> {
        let (received, content_type) = match rendered {
            Rendered::Original(content_type) => (None, *content_type),
            Rendered::Made { bytes, content_type } => (Some(Self::received(bytes.clone())), *content_type),
        };
        let (digest, size) = received.as_ref().map_or((file.digest, file.size), |made| (made.digest, made.size));
        for _ in 0..KEEP_ATTEMPTS_MAX {
            let view = self.view().await?;
            let mut batch = Batch::new();
            let row = view.get::<Blobs>(&file.digest).await?;
            let Some(row) = row.filter(|row| row.thumbnails < KEPT_MAX) else { return Ok(false) };
            // Whoever deletes the original expects this row, and would miss a thumbnail that it doesn't count.
            batch.expect::<Blobs>(&file.digest, Some(&row));
            batch.put::<Blobs>(&file.digest, &Record(BlobRow { thumbnails: row.thumbnails + 1, ..row.0 }));
            let thumbnail = key(&file.digest, variant);
            batch.expect::<Thumbnails>(&thumbnail, None);
            batch.put::<Thumbnails>(&thumbnail, &ThumbnailRow { digest, size, content_type });
            if let Some(received) = &received {
                self.prepare_blob(&view, &mut batch, received, blob).await?;
            }
            if self.commit(batch).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Enough of a file's beginning to tell its format.
    pub(crate) async fn head(&self, file: &File) -> Result<Bytes> {
        self.all_bytes(file, 0..file.size.min(MAGIC_BYTES)).await
    }

    pub(crate) async fn all_bytes(&self, file: &File, range: Range<u64>) -> Result<Bytes> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(|_| Error::ImageTooLarge)?;
        let mut all = BytesMut::with_capacity(length);
        let mut pieces = self.read(file, range).await?;
        while let Some(piece) = pieces.try_next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

impl Renderers {
    async fn take_memory(&self, units: u32) -> Result<SemaphorePermit<'_>> {
        self.memory.acquire_many(units).await.map_err(|_| Error::Busy)
    }
}

/// As many units of memory as hold so many bytes.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

fn key(original: &Digest, variant: Variant) -> ThumbnailKey {
    let Variant { width, height, .. } = variant;
    ThumbnailKey { original: *original, width, height, kind: variant.kind() }
}

/// The original as its own thumbnail.
fn original(file: &File, content_type: &str) -> File {
    kept(file, file.digest, file.size, content_type, file.blob.clone())
}

fn kept(file: &File, digest: Digest, size: u64, content_type: &str, blob: String) -> File {
    File {
        digest,
        size,
        blob,
        content_type: Some(content_type.to_owned()),
        file_name: Some(thumbnail_name(content_type)),
        ..file.clone()
    }
}

/// What a thumbnail of this type is called.
pub fn thumbnail_name(content_type: &str) -> String {
    format!("thumbnail.{}", content_type.strip_prefix("image/").unwrap_or("bin"))
}

/// Runs a decoder off the async threads. One that panics says that the image is broken.
pub(crate) async fn work<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    blocking(move || Ok(work())).await.map_err(|error| {
        tracing::warn!(%error, "an image could not be decoded");
        Error::NotAnImage
    })
}
