//! Files on the local disk: temporary ones, markers, and blobs in their places.
//!
//! Below the directory of files, `temp/` holds what is being received (`*.part`) and a marker for each blob whose rows may not be
//! committed yet, which is empty unless the blob is sent elsewhere in parts; `blobs/` has a directory for each first byte of a digest.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::storage::ByteStream;

/// Bytes that are read from a file at a time.
const READ_BYTES: usize = 128 * 1024;
/// How temporary files end.
const PART: &str = ".part";

/// The directory of files. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Disk {
    temp: Arc<PathBuf>,
    blobs: Arc<PathBuf>,
    /// Directories of blobs that a power cut leaves in place.
    durable: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// A temporary file, removed when dropped unless it was placed.
pub(crate) struct TempFile {
    pub(crate) path: PathBuf,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Where it was renamed into its place there is nothing here; where that fails the next start removes it.
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "can't remove a temporary file");
        }
    }
}

impl Disk {
    pub(crate) async fn open(path: &Path) -> io::Result<Self> {
        let disk =
            Self { temp: Arc::new(path.join("temp")), blobs: Arc::new(path.join("blobs")), durable: Arc::default() };
        let (temp, blobs, path) = (disk.temp.clone(), disk.blobs.clone(), path.to_owned());
        blocking(move || {
            fs::create_dir_all(&*temp)?;
            fs::create_dir_all(&*blobs)?;
            sync_directory(&path)?;
            match path.parent() {
                // A relative path of one name lies in the working directory.
                Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new(".")),
                Some(parent) => sync_directory(parent),
                None => Ok(()),
            }
        })
        .await?;
        Ok(disk)
    }

    /// A path for a temporary file with this (random) name; the file is not made yet.
    pub(crate) fn temp_file(&self, name: &str) -> TempFile {
        TempFile { path: self.temp.join(format!("{name}{PART}")) }
    }

    /// Marks that a blob of this name may be in storage without a row. [`Disk::place`] makes the
    /// marker durable.
    pub(crate) fn mark(&self, name: &str) -> io::Result<()> {
        fs::File::create(self.temp.join(name)).map(drop)
    }

    /// As [`Disk::mark`], for a blob that is placed elsewhere.
    pub(crate) fn mark_durably(&self, name: &str) -> io::Result<()> {
        self.mark(name)?;
        sync_directory(&self.temp)
    }

    /// Writes into a marker, durably, under which id the storage elsewhere keeps the parts that it has of the blob.
    pub(crate) fn note_upload(&self, name: &str, upload: &str) -> io::Result<()> {
        let mut marker = fs::File::create(self.temp.join(name))?;
        marker.write_all(upload.as_bytes())?;
        marker.sync_all()
    }

    /// What [`Disk::note_upload`] wrote last, if anything.
    pub(crate) async fn noted_upload(&self, name: &str) -> io::Result<Option<String>> {
        let noted = tokio::fs::read_to_string(self.temp.join(name)).await?;
        Ok(Some(noted).filter(|noted| !noted.is_empty()))
    }

    /// Says that the blob has its row, or is gone.
    pub(crate) async fn unmark(&self, name: &str) -> io::Result<()> {
        let path = self.temp.join(name);
        blocking(move || remove(&path)).await
    }

    /// Syncs a temporary file and renames it into its place, durably. Blocks.
    pub(crate) fn place(&self, temp: &Path, name: &str) -> io::Result<()> {
        fs::File::open(temp)?.sync_all()?;
        sync_directory(&self.temp)?;
        let place = self.path(name);
        let directory = place.parent().unwrap_or(&self.blobs);
        self.make_durably(directory)?;
        fs::rename(temp, &place)?;
        sync_directory(directory)
    }

    /// Makes a directory of blobs unless it is there. The lock is held meanwhile: who finds it made may count on it.
    fn make_durably(&self, directory: &Path) -> io::Result<()> {
        let mut durable = self.durable.lock();
        // Somebody may have removed it by hand.
        if !durable.contains(directory) || !directory.is_dir() {
            fs::create_dir_all(directory)?;
            sync_directory(&self.blobs)?;
            durable.insert(directory.to_owned());
        }
        Ok(())
    }

    /// The size of a blob in bytes; `None` if it isn't here.
    pub(crate) async fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match tokio::fs::metadata(self.path(name)).await {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Some bytes of a blob.
    pub(crate) async fn read(&self, name: &str, range: Range<u64>) -> io::Result<ByteStream> {
        let mut file = tokio::fs::File::open(self.path(name)).await?;
        if range.start > 0 {
            file.seek(io::SeekFrom::Start(range.start)).await?;
        }
        let length = range.end.saturating_sub(range.start);
        let capacity = usize::try_from(length).unwrap_or(READ_BYTES).clamp(1, READ_BYTES);
        file.set_max_buf_size(capacity);
        Ok(ReaderStream::with_capacity(file.take(length), capacity).boxed())
    }

    pub(crate) async fn delete(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        blocking(move || remove(&path)).await
    }

    /// Removes temporary files, and lists the names of the markers.
    pub(crate) async fn leftovers(&self) -> io::Result<Vec<String>> {
        let temp = self.temp.clone();
        blocking(move || {
            let mut marked = Vec::new();
            for entry in fs::read_dir(&*temp)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                if !entry.file_type()?.is_file() {
                    continue;
                }
                if name.ends_with(PART) {
                    remove(&entry.path())?;
                } else {
                    marked.push(name);
                }
            }
            Ok(marked)
        })
        .await
    }

    fn path(&self, name: &str) -> PathBuf {
        // Names are made by this crate, of the letters of a digest and of random ones.
        self.blobs.join(name.get(..2).unwrap_or(name)).join(name)
    }
}

/// Runs file operations off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|failed| Err(io::Error::other(failed)))
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes names in a directory durable.
#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Directories can't be opened here; the file system writes names in order.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}
