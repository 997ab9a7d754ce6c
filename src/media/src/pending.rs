//! Names that are set aside for uploads to come.

use ruma::UserId;
use store::{Batch, Range, Record, View};

use crate::{
    Error, Media, Result,
    files::Target,
    tables::{Expiring, FileKey, FileRow, Files, MediaChanged, MediaEvent, Pending, PendingRevisions, Revisions},
};

/// Letters of a name.
const ID_CHARS: usize = 24;

/// A name that was set aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// The id within this server.
    pub id: String,
    /// Until when something must be uploaded to it, in Unix milliseconds.
    pub expires_ms: u64,
}

impl Media {
    /// Sets a name aside for an upload by `user`.
    ///
    /// # Errors
    /// [`Error::TooManyPending`], [`Error::Contended`].
    pub async fn reserve_id(&self, user: &UserId) -> Result<Reserved> {
        let server = &self.inner.config.server_name;
        let decide = |view: View| async move {
            let now_ms = self.now_ms();
            let mut batch = Batch::new();
            if self.pending_count(&view, user, now_ms).await? >= self.inner.config.max_pending_media_uploads {
                return Err(Error::TooManyPending);
            }
            let revision = view.get::<PendingRevisions>(&user).await?;
            batch.expect::<PendingRevisions>(&user, revision.as_ref());
            batch.put::<PendingRevisions>(&user, &(revision.unwrap_or(0) + 1));
            let id = self.inner.random.alphanumeric(ID_CHARS);
            let expires_ms = now_ms.saturating_add(self.inner.config.media_create_unused_expiration_time.ms());
            let row = FileRow {
                digest: None,
                size: 0,
                content_type: None,
                file_name: None,
                uploader: Some(user.to_owned()),
                preview_for: None,
                created_ms: now_ms,
                expires_ms: Some(expires_ms),
            };
            let key = FileKey { server, id: &id };
            batch.expect::<Revisions>(&key, None);
            batch.put::<Revisions>(&key, &1);
            batch.put::<Files>(&key, &Record(row));
            batch.put::<Pending>(&(user, id.as_str()), &expires_ms);
            batch.put::<Expiring>(&(expires_ms, key), &());
            batch.log(&MediaChanged { server: server.clone(), id: id.clone(), event: MediaEvent::Reserved });
            Ok((batch, Reserved { id, expires_ms }))
        };
        self.inner.store.retry(decide).await
    }

    /// Whether `user` may upload to a name now, before anything is sent.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it was not set aside or has expired, [`Error::NotYours`], [`Error::AlreadyUploaded`].
    pub async fn check_reserved(&self, user: &UserId, id: &str) -> Result<()> {
        self.reserved_row(&self.view().await?, &Target::reserved(user, id)).await.map(drop)
    }

    pub(crate) async fn reserved_row(&self, view: &View, target: &Target<'_>) -> Result<FileRow> {
        let key = FileKey { server: &self.inner.config.server_name, id: target.id };
        let row = view.get::<Files>(&key).await?.ok_or(Error::NotFound)?.0;
        if row.uploader.as_deref() != target.user {
            return Err(Error::NotYours);
        }
        if row.digest.is_some() {
            return Err(Error::AlreadyUploaded);
        }
        if row.expires_ms.is_some_and(|at| at <= self.now_ms()) {
            return Err(Error::NotFound);
        }
        Ok(row)
    }

    /// How many names wait for an upload of `user`.
    async fn pending_count(&self, view: &View, user: &UserId, now_ms: u64) -> Result<usize> {
        // Those that have expired are removed by the sweep, and few until then.
        let rows = view.scan_all(Range::<Pending>::prefix(&(user,))).await?;
        Ok(rows.iter().filter(|(_, expires_ms)| *expires_ms > now_ms).count())
    }
}
