//! Where blobs are.

use std::{fs, io, ops::Range};

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{
    bucket::Bucket,
    disk::{Disk, blocking},
    receive::Content,
};

/// The bytes of a file, piece by piece.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// The place of blobs: the local disk, or a bucket. Markers and files that are being received are on the local disk in
/// any case, and so are blobs from before there was a bucket: the disk is asked first, which costs next to nothing and needs no bucket
/// that works.
pub(crate) struct Storage {
    pub(crate) disk: Disk,
    bucket: Option<Bucket>,
}

impl Storage {
    pub(crate) fn new(disk: Disk, bucket: Option<Bucket>) -> Self {
        Self { disk, bucket }
    }

    /// Puts a blob into its place, durably, and leaves a marker that [`Storage::settle`] removes.
    pub(crate) async fn place(&self, content: &Content, name: &str) -> io::Result<()> {
        match &self.bucket {
            Some(bucket) => {
                let (disk, marked) = (self.disk.clone(), name.to_owned());
                blocking(move || disk.mark_durably(&marked)).await?;
                bucket.put(&self.disk, content, name).await
            }
            None => self.place_on_disk(content, name).await,
        }
    }

    async fn place_on_disk(&self, content: &Content, name: &str) -> io::Result<()> {
        let disk = self.disk.clone();
        let name = name.to_owned();
        match content {
            Content::Memory(bytes) => {
                let bytes = bytes.clone();
                blocking(move || {
                    disk.mark(&name)?;
                    let temp = disk.temp_file(&name);
                    fs::write(&temp.path, &bytes)?;
                    disk.place(&temp.path, &name)
                })
                .await
            }
            Content::File(temp) => {
                let temp = temp.path.clone();
                blocking(move || {
                    disk.mark(&name)?;
                    disk.place(&temp, &name)
                })
                .await
            }
        }
    }

    /// The blob has its row: forgets the marker. One that stays is looked at when the server starts.
    pub(crate) async fn settle(&self, name: &str) {
        if let Err(error) = self.disk.unmark(name).await {
            tracing::warn!(name, %error, "can't remove the marker of a stored file");
        }
    }

    /// The size of a blob in bytes; `None` if it isn't there.
    pub(crate) async fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match (self.disk.size(name).await?, &self.bucket) {
            (None, Some(bucket)) => bucket.size(name).await,
            (found, _) => Ok(found),
        }
    }

    /// Some bytes of a blob.
    pub(crate) async fn read(&self, name: &str, range: Range<u64>) -> io::Result<ByteStream> {
        match (self.disk.read(name, range.clone()).await, &self.bucket) {
            (Err(error), Some(bucket)) if error.kind() == io::ErrorKind::NotFound => bucket.read(name, range).await,
            (found, _) => found,
        }
    }

    /// Removes what an upload that was not finished left of a blob.
    pub(crate) async fn remove_leftover(&self, name: &str) -> io::Result<()> {
        if let Some(bucket) = &self.bucket
            && let Some(upload) = self.disk.noted_upload(name).await?
        {
            bucket.give_up(name, &upload).await?;
        }
        self.delete(name).await
    }

    /// Removes a blob that no row names.
    pub(crate) async fn delete(&self, name: &str) -> io::Result<()> {
        if let Some(bucket) = &self.bucket {
            bucket.delete(name).await?;
        }
        self.disk.delete(name).await
    }
}
