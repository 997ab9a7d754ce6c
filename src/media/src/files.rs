//! Keeping what was received, and finding and reading it.

use std::{ops::Range, time::Duration};

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use store::{Batch, Record, View};

use crate::{
    COMMIT_ATTEMPTS_MAX, Error, Media, Received, Result,
    storage::ByteStream,
    tables::{
        BlobRow, Blobs, ByAge, ByUser, Digest, Doomed, Expiring, FileKey, FileRow, Files, MediaChanged, MediaEvent,
        Pending, PreviewPictures, Quarantined, Revisions, UploadKey,
    },
};

/// Letters of a file's id.
const ID_CHARS: usize = 24;
/// Letters that tell a blob's name from others with the same digest.
const GENERATION_CHARS: usize = 8;
/// Longest name of a file that is kept, in bytes.
const FILE_NAME_BYTES_MAX: usize = 1_024;
/// Longest content type that is kept, in bytes.
const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Longest time to wait for an upload that was announced.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What an uploader says about a file.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// The content type; one that no header can hold or that is too long is forgotten.
    pub content_type: Option<String>,
    /// The file's name, cut to a sensible length.
    pub file_name: Option<String>,
    /// When the file is deleted by itself, in Unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// A file that can be read.
#[derive(Clone, Debug)]
pub struct File {
    /// The server that its name bears.
    pub server: OwnedServerName,
    /// Its id within that server.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
    /// What the uploader said it is.
    pub content_type: Option<String>,
    /// What the uploader called it.
    pub file_name: Option<String>,
    /// Who uploaded it.
    pub uploader: Option<OwnedUserId>,
    /// When it was uploaded, in Unix milliseconds.
    pub created_ms: u64,
    pub(crate) digest: Digest,
    pub(crate) blob: String,
}

impl File {
    /// An entity tag, with its quotes: equal for equal bytes.
    pub fn etag(&self) -> String {
        format!("\"{}\"", hex(&self.digest))
    }
}

/// The entity tag that [`File::etag`] gives of a file of these bytes.
pub fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", blake3::hash(bytes).to_hex())
}

impl Media {
    /// Keeps what was received under a new id, durably, and gives the id.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], [`Error::Io`], [`Error::Contended`].
    pub async fn add(&self, user: Option<&UserId>, received: Received, details: Details) -> Result<String> {
        let id = self.inner.random.alphanumeric(ID_CHARS);
        let target = Target { id: &id, user, reserved: false, preview_for: None };
        self.keep(target, received, details).await?;
        Ok(id)
    }

    /// Keeps what was received under an id that `user` has set aside.
    ///
    /// # Errors
    /// As [`Media::check_reserved`], and [`Error::QuotaExceeded`], [`Error::Io`], [`Error::Contended`].
    pub async fn add_reserved(&self, user: &UserId, id: &str, received: Received, details: Details) -> Result<()> {
        self.keep(Target::reserved(user, id), received, details).await?;
        self.inner.finished.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// Keeps the picture of a preview that `user` asked for, if there is room for it.
    ///
    /// # Errors
    /// [`Error::PreviewFailed`] if there is none, [`Error::Io`], [`Error::Contended`].
    pub(crate) async fn add_picture(&self, user: &UserId, received: Received, details: Details) -> Result<String> {
        let bytes_max = self.inner.config.previews.as_ref().map_or(0, |config| config.url_preview_pictures_mb.bytes());
        let room = self.inner.pictures.reserve(user, received.size, bytes_max).ok_or(Error::PreviewFailed)?;
        let id = self.inner.random.alphanumeric(ID_CHARS);
        let target = Target { id: &id, user: None, reserved: false, preview_for: Some(user) };
        self.keep(target, received, details).await?;
        room.keep();
        Ok(id)
    }

    async fn keep(&self, target: Target<'_>, received: Received, mut details: Details) -> Result<()> {
        details.content_type = details.content_type.filter(|text| is_content_type(text));
        details.file_name =
            details.file_name.map(|name| cut(name, FILE_NAME_BYTES_MAX)).filter(|name| !name.is_empty());
        let reservation = match target.user {
            Some(user) => self.reserve(user, received.size).await?,
            None => None,
        };
        let mut blob = NewBlob::default();
        let kept = self.try_keep(&target, &received, &details, &mut blob).await;
        self.settle(blob, &kept).await;
        if !kept? {
            return Err(Error::Contended);
        }
        if let Some(reservation) = reservation {
            reservation.keep();
        }
        Ok(())
    }

    /// `false` if others changed the same rows each time.
    async fn try_keep(
        &self,
        target: &Target<'_>,
        received: &Received,
        details: &Details,
        blob: &mut NewBlob,
    ) -> Result<bool> {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let view = self.view().await?;
            let mut batch = Batch::new();
            self.prepare_file(&view, &mut batch, target, received, details).await?;
            self.prepare_blob(&view, &mut batch, received, blob).await?;
            if self.commit(batch).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the rows of a file.
    pub(crate) async fn prepare_file(
        &self,
        view: &View,
        batch: &mut Batch,
        target: &Target<'_>,
        received: &Received,
        details: &Details,
    ) -> Result<()> {
        let server = &self.inner.config.server_name;
        let key = FileKey { server, id: target.id };
        let revision = view.get::<Revisions>(&key).await?;
        if target.reserved {
            let row = self.reserved_row(view, target).await?;
            if let Some(expires_ms) = row.expires_ms {
                batch.delete::<Expiring>(&(expires_ms, key));
            }
            if let Some(user) = target.user {
                batch.delete::<Pending>(&(user, target.id));
            }
        }
        let now_ms = self.now_ms();
        let row = FileRow {
            digest: Some(received.digest.0),
            size: received.size,
            content_type: details.content_type.clone(),
            file_name: details.file_name.clone(),
            uploader: target.user.map(UserId::to_owned),
            preview_for: target.preview_for.map(UserId::to_owned),
            created_ms: now_ms,
            expires_ms: details.expires_ms,
        };
        batch.expect::<Revisions>(&key, revision.as_ref());
        batch.put::<Revisions>(&key, &(revision.unwrap_or(0) + 1));
        batch.put::<Files>(&key, &Record(row));
        batch.put::<ByAge>(&(now_ms, key), &received.size);
        if let Some(user) = target.user {
            batch.put::<ByUser>(&UploadKey { user, at_ms: now_ms, id: target.id }, &received.size);
        }
        if let Some(user) = target.preview_for {
            batch.put::<PreviewPictures>(&(user, target.id), &received.size);
        }
        if let Some(expires_ms) = details.expires_ms {
            batch.put::<Expiring>(&(expires_ms, key), &());
        }
        let event = MediaEvent::Uploaded;
        batch.log(&MediaChanged { server: server.clone(), id: target.id.to_owned(), event });
        Ok(())
    }

    /// Counts one more file made of a blob; the blob is put into its place first where there is none.
    pub(crate) async fn prepare_blob(
        &self,
        view: &View,
        batch: &mut Batch,
        received: &Received,
        new: &mut NewBlob,
    ) -> Result<()> {
        let row = view.get::<Blobs>(&received.digest).await?;
        // Somebody may have removed or cut the file by hand: then this upload puts it back.
        let there = match &row {
            Some(row) => self.inner.storage.size(&row.name).await? == Some(row.size),
            None => false,
        };
        batch.expect::<Blobs>(&received.digest, row.as_ref());
        let mut next = match row {
            Some(Record(row)) => BlobRow { uses: row.uses + 1, ..row },
            None => BlobRow { uses: 1, size: received.size, thumbnails: 0, name: String::new() },
        };
        new.used = !there;
        if !there {
            let name = self.place(received, new).await?;
            let damaged = std::mem::replace(&mut next.name, name);
            if !damaged.is_empty() {
                batch.put::<Doomed>(&damaged, &());
            }
        }
        batch.put::<Blobs>(&received.digest, &Record(next));
        Ok(())
    }

    /// Puts bytes into storage, unless an earlier attempt did. Gives their name.
    async fn place(&self, received: &Received, new: &mut NewBlob) -> Result<String> {
        if let Some(name) = &new.name {
            return Ok(name.clone());
        }
        let generation = self.inner.random.alphanumeric(GENERATION_CHARS);
        let name = new.name.insert(format!("{}-{generation}", hex(&received.digest)));
        self.inner.storage.place(&received.content, name).await?;
        Ok(name.clone())
    }

    /// Says what became of the commit. Forgets the marker of a blob that has its row now; removes one that has none: its
    /// upload was refused, or another upload of the same bytes made it superfluous.
    pub(crate) async fn settle(&self, blob: NewBlob, committed: &Result<bool>) {
        let Some(name) = blob.name else { return };
        // Nobody knows whether a batch that failed is stored: the marker stays, and the next start looks.
        if matches!(committed, Err(Error::Commit(_))) {
            return;
        }
        let has_row = blob.used && matches!(committed, Ok(true));
        if !has_row && let Err(error) = self.inner.storage.delete(&name).await {
            // The marker stays, and the next start tries again.
            tracing::warn!(name, %error, "can't remove a superfluous file");
            return;
        }
        self.inner.storage.settle(&name).await;
    }

    /// Finds a file to read. Where its name was set aside and nothing uploaded yet, waits for the upload, for `wait` at
    /// most and never more than half a minute.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Quarantined`], [`Error::NotYetUploaded`].
    pub async fn find(&self, server: &ServerName, id: &str, wait: Duration) -> Result<File> {
        let mut finished = self.inner.finished.subscribe();
        let waiting = async {
            loop {
                match self.find_now(&self.view().await?, server, id).await {
                    Err(Error::NotYetUploaded) => {}
                    other => return other,
                }
                if finished.changed().await.is_err() {
                    return Err(Error::NotYetUploaded);
                }
            }
        };
        match tokio::time::timeout(wait.min(WAIT_MAX), waiting).await {
            Ok(found) => found,
            Err(_late) => self.find_now(&self.view().await?, server, id).await,
        }
    }

    pub(crate) async fn find_now(&self, view: &View, server: &ServerName, id: &str) -> Result<File> {
        let row = view.get::<Files>(&FileKey { server, id }).await?.ok_or(Error::NotFound)?.0;
        let Some(digest) = row.digest else {
            let expired = row.expires_ms.is_some_and(|at| at <= self.now_ms());
            return Err(if expired { Error::NotFound } else { Error::NotYetUploaded });
        };
        let digest = store::Fixed(digest);
        if view.contains::<Quarantined>(&digest).await? {
            return Err(Error::Quarantined);
        }
        let blob = view.get::<Blobs>(&digest).await?.ok_or(Error::NotFound)?.0.name;
        Ok(File {
            server: server.to_owned(),
            id: id.to_owned(),
            size: row.size,
            content_type: row.content_type,
            file_name: row.file_name,
            uploader: row.uploader,
            created_ms: row.created_ms,
            digest,
            blob,
        })
    }

    /// Some bytes of a file, or all of them with `0..file.size`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it was deleted meanwhile, [`Error::Io`].
    pub async fn read(&self, file: &File, range: Range<u64>) -> Result<ByteStream> {
        match self.inner.storage.read(&file.blob, range).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NotFound),
            other => Ok(other?),
        }
    }

    /// Takes a file's content out of circulation, whatever names it has, or puts it back.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotYetUploaded`].
    pub async fn set_quarantined(&self, server: &ServerName, id: &str, quarantined: bool) -> Result<()> {
        let row = self.view().await?.get::<Files>(&FileKey { server, id }).await?.ok_or(Error::NotFound)?;
        let digest = store::Fixed(row.digest.ok_or(Error::NotYetUploaded)?);
        let mut batch = Batch::new();
        if quarantined {
            batch.put::<Quarantined>(&digest, &());
        } else {
            batch.delete::<Quarantined>(&digest);
        }
        let event = if quarantined { MediaEvent::Quarantined } else { MediaEvent::Released };
        batch.log(&MediaChanged { server: server.to_owned(), id: id.to_owned(), event });
        self.inner.store.commit(batch).await?;
        Ok(())
    }
}

/// Where an upload goes.
pub(crate) struct Target<'a> {
    pub(crate) id: &'a str,
    pub(crate) user: Option<&'a UserId>,
    /// The id was set aside.
    pub(crate) reserved: bool,
    /// Who asked for the preview whose picture it is.
    pub(crate) preview_for: Option<&'a UserId>,
}

impl<'a> Target<'a> {
    /// A name that `user` has set aside.
    pub(crate) fn reserved(user: &'a UserId, id: &'a str) -> Self {
        Self { id, user: Some(user), reserved: true, preview_for: None }
    }
}

/// A blob that an upload put into its place, or began to.
#[derive(Default)]
pub(crate) struct NewBlob {
    name: Option<String>,
    /// Whether the batch names it.
    used: bool,
}

pub(crate) fn hex(digest: &Digest) -> String {
    blake3::Hash::from_bytes(digest.0).to_hex().to_string()
}

/// Whether a content type can be kept and told in a header.
fn is_content_type(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    plain && text.len() <= CONTENT_TYPE_BYTES_MAX && text.contains('/')
}

fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}
