//! Deleting files, and blobs with their last file.

use std::collections::BTreeMap;

use ruma::ServerName;
use store::{Batch, Fixed, Range, Record, View};

use crate::{
    COMMIT_ATTEMPTS_MAX, Error, Media, Result,
    files::hex,
    tables::{
        BlobRow, Blobs, ByAge, ByUser, Digest, Doomed, Expiring, FileKey, FileRow, Files, MediaChanged, MediaEvent,
        Pending, PreviewPictures, Revisions, Thumbnails, UploadKey,
    },
};

/// How long removing leftovers goes on while storage fails, in milliseconds.
const LEFTOVERS_MS_MAX: u64 = 10_000;

impl Media {
    /// Deletes a file, or gives up a name. The bytes go when no other file is made of them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Contended`].
    pub async fn delete(&self, server: &ServerName, id: &str) -> Result<()> {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let view = self.view().await?;
            let row = view.get::<Files>(&FileKey { server, id }).await?.ok_or(Error::NotFound)?.0;
            if let Some(doomed) = self.delete_row(&view, server, id, &row).await? {
                self.remove_doomed(doomed).await;
                return Ok(());
            }
        }
        Err(Error::Contended)
    }

    /// One attempt at the rows; `None` if somebody else changed them. Gives the names to remove from storage, which rows
    /// remember until that is done.
    pub(crate) async fn delete_row(
        &self,
        view: &View,
        server: &ServerName,
        id: &str,
        row: &FileRow,
    ) -> Result<Option<Vec<String>>> {
        let mut batch = Batch::new();
        let key = FileKey { server, id };
        let revision = view.get::<Revisions>(&key).await?;
        batch.expect::<Revisions>(&key, revision.as_ref());
        batch.delete::<Revisions>(&key);
        batch.delete::<Files>(&key);
        if let Some(expires_ms) = row.expires_ms {
            batch.delete::<Expiring>(&(expires_ms, key));
        }
        let mut doomed = Vec::new();
        match (&row.digest, &row.uploader) {
            (None, Some(user)) => batch.delete::<Pending>(&(user, id)),
            (None, None) => {}
            (Some(digest), user) => {
                batch.delete::<ByAge>(&(row.created_ms, key));
                if let Some(user) = user {
                    batch.delete::<ByUser>(&UploadKey { user, at_ms: row.created_ms, id });
                }
                if let Some(user) = &row.preview_for {
                    batch.delete::<PreviewPictures>(&(user, id));
                }
                doomed = self.prepare_release(view, &mut batch, Fixed(*digest)).await?;
            }
        }
        batch.log(&MediaChanged { server: server.to_owned(), id: id.to_owned(), event: MediaEvent::Deleted });
        if !self.commit(batch).await? {
            return Ok(None);
        }
        if let (Some(user), Some(_)) = (&row.uploader, &row.digest) {
            self.count_back(user, row.size);
        }
        if let Some(user) = &row.preview_for {
            self.inner.pictures.count_back(user, row.size);
        }
        Ok(Some(doomed))
    }

    /// Counts one file less for a blob. With the last the blob goes, its thumbnails, and what only they are made of.
    /// Gives the names to remove from storage after the commit; until that is done, rows remember them.
    pub(crate) async fn prepare_release(&self, view: &View, batch: &mut Batch, digest: Digest) -> Result<Vec<String>> {
        let mut left: BTreeMap<[u8; 32], BlobRow> = BTreeMap::new();
        let mut names = Vec::new();
        let mut work = vec![digest];
        // Ends: each blob's count goes down with each step, and its thumbnails are added once.
        while let Some(digest) = work.pop() {
            let row = match left.remove(&digest.0) {
                Some(row) => row,
                None => {
                    let Some(row) = view.get::<Blobs>(&digest).await? else {
                        tracing::warn!(digest = hex(&digest), "a file had no blob");
                        continue;
                    };
                    batch.expect::<Blobs>(&digest, Some(&row));
                    row.0
                }
            };
            if row.uses > 1 {
                let row = BlobRow { uses: row.uses - 1, ..row };
                batch.put::<Blobs>(&digest, &Record(row.clone()));
                left.insert(digest.0, row);
                continue;
            }
            batch.delete::<Blobs>(&digest);
            batch.put::<Doomed>(&row.name, &());
            names.push(row.name);
            if row.thumbnails > 0 {
                for (_, thumbnail) in view.scan_all(Range::<Thumbnails>::prefix(&(digest,))).await? {
                    // A small original is its own thumbnail, and not counted for it.
                    if thumbnail.digest != digest {
                        work.push(thumbnail.digest);
                    }
                }
                batch.delete_prefix::<Thumbnails>(&(digest,));
            }
        }
        Ok(names)
    }

    /// Removes blobs from storage that no row names. What fails is tried again by the sweep.
    pub(crate) async fn remove_doomed(&self, names: Vec<String>) {
        let mut batch = Batch::new();
        batch.relaxed();
        for name in &names {
            match self.inner.storage.delete(name).await {
                Ok(()) => batch.delete::<Doomed>(name),
                Err(error) => tracing::warn!(name, %error, "can't remove a deleted file from storage"),
            }
        }
        if batch.is_empty() {
            return;
        }
        if let Err(error) = self.inner.store.commit(batch).await {
            tracing::warn!(%error, "can't forget deleted files");
        }
    }

    /// Removes what a process that was killed left behind. Where storage fails too long, the next start goes on.
    pub(crate) async fn remove_leftovers(&self) -> Result<()> {
        let until_ms = self.now_ms().saturating_add(LEFTOVERS_MS_MAX);
        let view = self.view().await?;
        for name in self.inner.storage.disk.leftovers().await? {
            // What this crate didn't name isn't its to remove.
            let Some(digest) = digest_of(&name) else { continue };
            let row = view.get::<Blobs>(&digest).await?;
            if row.is_none_or(|row| row.name != name)
                && let Err(error) = self.inner.storage.remove_leftover(&name).await
            {
                tracing::warn!(name, %error, "can't remove a file that was not uploaded to its end");
                if self.now_ms() >= until_ms {
                    return Ok(());
                }
                continue;
            }
            self.inner.storage.settle(&name).await;
        }
        Ok(())
    }
}

/// The digest in a blob's name; `None` for the name of anything else.
fn digest_of(name: &str) -> Option<Digest> {
    let (hex, _) = name.split_once('-')?;
    Some(Fixed(*blake3::Hash::from_hex(hex).ok()?.as_bytes()))
}
