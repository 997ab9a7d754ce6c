//! Receiving a file: hashed on the way to a temporary file, in memory as long as it is small.

use std::{fs, io::Write};

use bytes::Bytes;
use ruma::UserId;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    Error, Media, Result,
    disk::{TempFile, blocking},
    slots::Slot,
    tables::Digest,
};

/// Bytes that are held in memory for one upload.
pub(crate) const BUFFER_BYTES: usize = 128 * 1024;
/// Letters of a temporary file's name.
const TEMP_NAME_CHARS: usize = 24;

/// A file that is being received. Dropping it forgets it.
pub struct Receiving {
    media: Media,
    buffer: Vec<u8>,
    size: u64,
    spool: Option<Spool>,
    held: Held,
}

/// One of the uploads that are received at the same time, and of those of its user; until it is kept.
type Held = (OwnedSemaphorePermit, Slot);

/// A temporary file that grows.
struct Spool {
    file: fs::File,
    temp: TempFile,
    hasher: blake3::Hasher,
}

/// A file that was received whole, and is not kept yet.
pub struct Received {
    pub(crate) content: Content,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    _held: Option<Held>,
}

/// Where the bytes are.
pub(crate) enum Content {
    Memory(Bytes),
    File(TempFile),
}

impl Media {
    /// Begins to receive a file of `user`.
    ///
    /// # Errors
    /// [`Error::Busy`] while too many files, of this user or of all, are being received or kept.
    pub fn receive(&self, user: &UserId) -> Result<Receiving> {
        let slot = self.inner.uploaders.take(user.as_str())?;
        let permit = self.inner.receiving.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        Ok(Receiving { media: self.clone(), buffer: Vec::new(), size: 0, spool: None, held: (permit, slot) })
    }

    /// A file that this server made, and that is small.
    pub(crate) fn received(bytes: Bytes) -> Received {
        let digest = store::Fixed(*blake3::hash(&bytes).as_bytes());
        Received { digest, size: bytes.len() as u64, content: Content::Memory(bytes), _held: None }
    }
}

impl Receiving {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Io`].
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        let bytes_max = self.media.inner.config.max_request_size;
        if self.size > bytes_max {
            return Err(Error::TooLarge { bytes_max });
        }
        while !bytes.is_empty() {
            let room = BUFFER_BYTES.saturating_sub(self.buffer.len());
            let part = bytes.split_to(room.min(bytes.len()));
            self.buffer.extend_from_slice(&part);
            if self.buffer.len() >= BUFFER_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn finish(mut self) -> Result<Received> {
        let (digest, content) = if self.spool.is_none() {
            let bytes = Bytes::from(std::mem::take(&mut self.buffer));
            (blake3::hash(&bytes), Content::Memory(bytes))
        } else {
            self.flush().await?;
            let spool = self.spool.take().ok_or_else(lost)?;
            (spool.hasher.finalize(), Content::File(spool.temp))
        };
        let digest = store::Fixed(*digest.as_bytes());
        Ok(Received { content, digest, size: self.size, _held: Some(self.held) })
    }

    async fn flush(&mut self) -> Result<()> {
        let spool = match self.spool.take() {
            Some(spool) => spool,
            None => self.spool().await?,
        };
        let buffer = std::mem::take(&mut self.buffer);
        let written = blocking(move || {
            let mut spool = spool;
            spool.file.write_all(&buffer)?;
            spool.hasher.update(&buffer);
            Ok((spool, buffer))
        });
        let (spool, mut buffer) = written.await?;
        buffer.clear();
        self.buffer = buffer;
        self.spool = Some(spool);
        Ok(())
    }

    async fn spool(&self) -> Result<Spool> {
        let name = self.media.inner.random.alphanumeric(TEMP_NAME_CHARS);
        let temp = self.media.inner.storage.disk.temp_file(&name);
        let made = blocking(move || {
            let file = fs::OpenOptions::new().write(true).create_new(true).open(&temp.path)?;
            Ok(Spool { file, temp, hasher: blake3::Hasher::new() })
        });
        Ok(made.await?)
    }
}

/// A spool is missing only while it is written to, and after a write that failed.
fn lost() -> Error {
    Error::Io(std::io::Error::other("the temporary file was lost"))
}
