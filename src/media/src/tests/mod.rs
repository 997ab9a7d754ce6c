//! Tests of this crate that need to see inside it.

mod crash;
mod keeping;
mod model;
mod previews;
mod thumbnails;
mod waiting;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use event::Clock;
use futures_util::TryStreamExt;
use ruma::{UserId, server_name, user_id};
use store::{MemoryDisk, Options, Store};
use tempfile::TempDir;
use testkit::{ManualClock, SeededRandom};

use crate::{Config, Details, Error, File, Media, Received, Result, TABLES};

/// A directory and a store that outlive the process that uses them.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    disk: MemoryDisk,
    pub(crate) clock: Arc<ManualClock>,
    seed: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, disk: MemoryDisk::default(), clock: Arc::new(ManualClock::new()), seed: 0 }
    }

    /// Starts the "process": each time with other random numbers.
    pub(crate) async fn open(&mut self, change: impl FnOnce(&mut Config)) -> Media {
        self.seed += 1;
        let mut config = Config::new(server_name!("example.org").to_owned(), self.directory.path().to_owned());
        change(&mut config);
        let store = Store::open_memory(&self.disk, &Options::default(), &[TABLES]).await.expect("a store");
        let random = Arc::new(SeededRandom::new(self.seed));
        Media::open(config, store, self.clock.clone(), random).await.expect("opens")
    }

    /// The names of all files in storage, and of temporary files and markers.
    pub(crate) fn on_disk(&self) -> (Vec<String>, Vec<String>) {
        let mut blobs = Vec::new();
        for directory in list(&self.directory.path().join("blobs")) {
            blobs.extend(list(&self.directory.path().join("blobs").join(directory)));
        }
        blobs.sort();
        (blobs, list(&self.directory.path().join("temp")))
    }
}

fn list(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

pub(crate) fn alice() -> &'static UserId {
    user_id!("@alice:example.org")
}

pub(crate) fn bob() -> &'static UserId {
    user_id!("@bob:example.org")
}

/// Bytes that differ from others of another seed or length, larger than the buffer if `len` is.
pub(crate) fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed ^ (at as u8) ^ ((at >> 8) as u8)).collect()
}

impl Media {
    pub(crate) async fn take(&self, bytes: &[u8]) -> Result<Received> {
        let mut receiving = self.receive(alice())?;
        for piece in bytes.chunks(50_000) {
            receiving.write(Bytes::copy_from_slice(piece)).await?;
        }
        receiving.finish().await
    }

    pub(crate) async fn upload(&self, user: &UserId, bytes: &[u8]) -> Result<String> {
        self.add(Some(user), self.take(bytes).await?, Details::default()).await
    }

    pub(crate) async fn get(&self, id: &str) -> Result<File> {
        self.find(server_name!("example.org"), id, Duration::ZERO).await
    }

    pub(crate) async fn bytes(&self, file: &File, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        let pieces: Vec<Bytes> = self.read(file, range).await?.try_collect().await?;
        Ok(pieces.concat())
    }

    /// The whole of a file.
    pub(crate) async fn contents(&self, id: &str) -> Result<Vec<u8>> {
        let file = self.get(id).await?;
        self.bytes(&file, 0..file.size).await
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        self.delete(server_name!("example.org"), id).await
    }
}

pub(crate) fn now_ms(world: &World) -> u64 {
    world.clock.now_ms()
}

#[track_caller]
pub(crate) fn is_gone(result: Result<impl Sized>) {
    assert!(matches!(result.map(drop), Err(Error::NotFound)));
}
