//! Files in a bucket: of a server in this process, or of one that the environment names (see [`testkit::s3`]).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use media::{Config, Details, Error, Media, S3Config, TABLES};
use ruma::{server_name, user_id};
use settings::Days;
use store::{MemoryDisk, Options, Store};
use tempfile::TempDir;
use testkit::{
    ManualClock, SeededRandom,
    s3::{Asked, Fault, S3},
};

/// A bucket, and the directory and the store of a server that uses it.
struct World {
    s3: S3,
    local: TempDir,
    disk: MemoryDisk,
    clock: Arc<ManualClock>,
    seed: u64,
}

impl World {
    fn new() -> Self {
        let local = tempfile::tempdir().expect("a directory");
        Self { s3: S3::start(), local, disk: MemoryDisk::new(), clock: Arc::new(ManualClock::new()), seed: 0 }
    }

    fn s3_config(&self) -> S3Config {
        S3Config {
            bucket: self.s3.bucket.clone(),
            endpoint: Some(self.s3.endpoint.clone()),
            region: self.s3.region.clone(),
            access_key: Some(self.s3.access_key.clone()),
            secret_key: Some(self.s3.secret_key.clone()),
            prefix: self.s3.prefix.clone(),
            path_style: true,
        }
    }

    /// Starts the "process", with its own random numbers.
    async fn try_open(&mut self, change: impl FnOnce(&mut Config)) -> Result<Media, Error> {
        self.seed += 1;
        let mut config = Config::new(server_name!("example.org").to_owned(), self.local.path().to_owned());
        config.max_request_size = 100 << 20;
        config.media_s3 = Some(self.s3_config());
        change(&mut config);
        let store = Store::open_memory(&self.disk, &Options::default(), &[TABLES]).await.expect("a store");
        Media::open(config, store, self.clock.clone(), Arc::new(SeededRandom::new(self.seed))).await
    }

    async fn open(&mut self) -> Media {
        self.try_open(|_| {}).await.expect("opens")
    }

    fn temp_files(&self) -> usize {
        std::fs::read_dir(self.local.path().join("temp")).expect("a directory").count()
    }
}

/// Bytes that don't repeat soon.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// A file that goes in four parts.
fn large() -> Vec<u8> {
    content((17 << 20) + 3)
}

async fn upload(media: &Media, bytes: &[u8]) -> Result<String, Error> {
    let mut receiving = media.receive(user_id!("@alice:example.org"))?;
    for piece in bytes.chunks(1 << 20) {
        receiving.write(Bytes::copy_from_slice(piece)).await?;
    }
    media.add(Some(user_id!("@alice:example.org")), receiving.finish().await?, Details::default()).await
}

async fn read(media: &Media, id: &str, range: Option<std::ops::Range<u64>>) -> Result<Vec<u8>, Error> {
    let file = media.find(server_name!("example.org"), id, Duration::ZERO).await?;
    let pieces: Vec<Bytes> = media.read(&file, range.unwrap_or(0..file.size)).await?.try_collect().await?;
    Ok(pieces.concat())
}

/// How many requests had all of these words in their line, and a status below 300.
fn count(asked: &[Asked], words: &[&str]) -> usize {
    asked.iter().filter(|a| (200..300).contains(&a.status) && words.iter().all(|word| a.line.contains(word))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_holds_files_and_those_from_before_stay_on_disk() {
    let mut world = World::new();
    let old = {
        let media = world.try_open(|config| config.media_s3 = None).await.expect("opens");
        upload(&media, b"from before").await.expect("uploaded")
    };
    let media = world.open().await;
    assert_eq!(read(&media, &old, None).await.expect("read"), b"from before");
    let mut ids = Vec::new();
    // In memory, from a temporary file in one piece, in one part, in four.
    for len in [0, 5_000, 1 << 20, 5 << 20, (17 << 20) + 3] {
        let bytes = content(len);
        let id = upload(&media, &bytes).await.expect("uploaded");
        assert_eq!(read(&media, &id, None).await.expect("read"), bytes);
        let (from, to) = (len / 3, len / 2);
        let part = read(&media, &id, Some(from as u64..to as u64)).await.expect("read");
        assert_eq!(part, bytes[from..to]);
        ids.push((id, bytes));
    }
    assert_eq!(world.s3.objects().await.len(), ids.len());
    let again = upload(&media, &ids[1].1).await.expect("uploaded");
    assert_eq!(world.s3.objects().await.len(), ids.len(), "equal files are one object");
    assert_eq!(world.temp_files(), 0);
    drop(media);

    let media = world.open().await;
    for (id, bytes) in &ids {
        assert_eq!(&read(&media, id, None).await.expect("read"), bytes);
        media.delete(server_name!("example.org"), id).await.expect("deleted");
    }
    assert_eq!(read(&media, &again, None).await.expect("read"), ids[1].1);
    for id in [&again, &old] {
        media.delete(server_name!("example.org"), id).await.expect("deleted");
    }
    assert_eq!(world.s3.objects().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_removed_by_hand_is_not_found_and_comes_back_with_the_next_upload() {
    let mut world = World::new();
    let media = world.open().await;
    let id = upload(&media, b"content").await.expect("uploaded");
    let objects = world.s3.objects().await;
    world.s3.remove(&objects[0]).await;
    assert!(matches!(read(&media, &id, None).await, Err(Error::NotFound)));
    upload(&media, b"content").await.expect("uploaded");
    assert_eq!(read(&media, &id, None).await.expect("read"), b"content");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_refuses_is_told_at_the_start() {
    let mut world = World::new();
    let refused = async |world: &mut World, wrong: fn(&mut S3Config), setting: &str| {
        let change = |config: &mut Config| config.media_s3.iter_mut().for_each(wrong);
        let Err(Error::Misconfigured { setting: found, source }) = world.try_open(change).await else {
            panic!("{setting} is not refused")
        };
        assert!(found.contains(setting), "{found} for {setting}: {source}");
    };
    refused(&mut world, |s3| s3.bucket = "absent".into(), "bucket").await;
    refused(&mut world, |s3| s3.access_key = Some("GK31c2f218a2e44f485b94239e".into()), "access_key").await;
    refused(&mut world, |s3| s3.secret_key = Some("wrong".into()), "secret_key").await;
    refused(&mut world, |s3| s3.secret_key = None, "secret_key").await;
    refused(&mut world, |s3| s3.endpoint = Some("s3.example.org:3900".into()), "endpoint").await;
    world.open().await;
    assert_eq!(world.s3.objects().await, [] as [String; 0], "the check leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_down_gives_errors_and_is_used_again_when_it_is_back() {
    let mut world = World::new();
    let before = world.try_open(|config| config.media_s3 = None).await.expect("opens");
    let old = upload(&before, b"on disk").await.expect("uploaded");
    drop(before);
    let bytes = content(300_000);
    let id = upload(&world.open().await, &bytes).await.expect("uploaded");
    for fault in [Fault::HangUp, Fault::Refuse(503)] {
        world.s3.fail(&[], fault);
        // Rooms work without files: the server starts.
        let media = world.open().await;
        assert!(matches!(upload(&media, b"other").await, Err(Error::Bucket(_))), "{fault:?}");
        assert!(matches!(upload(&media, &bytes).await, Err(Error::Bucket(_))), "{fault:?}");
        assert!(matches!(read(&media, &id, None).await, Err(Error::Bucket(_))), "{fault:?}");
        assert_eq!(read(&media, &old, None).await.expect("needs no bucket"), b"on disk");
        let asked = world.s3.take_asked();
        let retried = asked.iter().filter(|a| a.line.starts_with("GET ") && !(200..300).contains(&a.status)).count();
        assert_eq!(retried, 6, "retries are bounded: {asked:?}");
        world.s3.heal();
        assert_eq!(read(&media, &id, None).await.expect("read"), bytes);
        upload(&media, b"other").await.expect("uploaded");
    }
    world.open().await;
    assert_eq!((world.s3.objects().await.len(), world.temp_files()), (2, 0), "a start removes what failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_whose_connection_ends_goes_on_where_it_was() {
    let mut world = World::new();
    let media = world.open().await;
    let id = upload(&media, &large()).await.expect("uploaded");
    for range in [0..large().len(), 7..9_000_000] {
        world.s3.take_asked();
        world.s3.fail(&["GET "], Fault::Cut);
        let (from, to) = (range.start as u64, range.end as u64);
        assert!(read(&media, &id, Some(from..to)).await.expect("read") == large()[range]);
        assert_eq!(count(&world.s3.take_asked(), &["GET "]), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_does_no_harm() {
    let mut world = World::new();
    let media = world.open().await;
    world.s3.take_asked();
    // Each request is made several times: the server has done it, and the answer never comes.
    for words in [["PUT ", "haima"], ["POST ", "?uploads"], ["PUT ", "partNumber=2"], ["POST ", "?uploadId="]] {
        world.s3.fail(&words, Fault::Lose);
        let bytes = match words[0] {
            "PUT " if words[1] == "haima" => b"small".to_vec(),
            _ => large(),
        };
        assert!(matches!(upload(&media, &bytes).await, Err(Error::Bucket(_))), "{words:?}");
        world.s3.heal();
        let id = upload(&media, &bytes).await.expect("uploaded");
        assert_eq!(read(&media, &id, None).await.expect("read"), bytes, "{words:?}");
        media.delete(server_name!("example.org"), &id).await.expect("deleted");
    }
    drop(media);
    world.open().await;
    assert_eq!((world.s3.objects().await.len(), world.temp_files()), (0, 0), "a start removes what failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_fails_in_the_middle_leaves_no_parts() {
    let mut world = World::new();
    let media = world.open().await;
    world.s3.take_asked();
    world.s3.fail(&["partNumber=3"], Fault::Refuse(500));
    assert!(matches!(upload(&media, &large()).await, Err(Error::Bucket(_))));
    let asked = world.s3.take_asked();
    assert_eq!(count(&asked, &["POST ", "?uploads"]), 1);
    assert_eq!(count(&asked, &["PUT ", "partNumber="]), 2);
    assert_eq!(count(&asked, &["DELETE ", "?uploadId="]), 1, "given up");
    assert_eq!(world.s3.objects().await, [] as [String; 0]);

    world.s3.heal();
    let id = upload(&media, &large()).await.expect("uploaded");
    assert_eq!(read(&media, &id, None).await.expect("read"), large());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_in_the_middle_of_a_large_file_leaves_no_parts_after_the_next_start() {
    let mut world = World::new();
    let media = world.open().await;
    world.s3.fail(&["partNumber=3"], Fault::Hold);
    let sending = tokio::spawn(async move { upload(&media, &large()).await });
    world.s3.held().await;
    sending.abort();
    assert!(sending.await.is_err());
    world.s3.take_asked();
    world.s3.heal();
    assert!(world.temp_files() > 0);
    world.open().await;
    assert_eq!(count(&world.s3.take_asked(), &["DELETE ", "?uploadId="]), 1, "given up");
    assert_eq!((world.s3.objects().await.len(), world.temp_files()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_that_take_long_hold_up_no_small_ones() {
    let mut world = World::new();
    let media = world.open().await;
    world.s3.fail(&["partNumber=1"], Fault::Hold);
    let mut sending = Vec::new();
    for byte in 0..6_u8 {
        let media = media.clone();
        sending.push(tokio::spawn(async move { upload(&media, &vec![byte; 5 << 20]).await }));
    }
    world.s3.held().await;
    let small = upload(&media, b"small").await.expect("uploaded");
    assert_eq!(read(&media, &small, None).await.expect("read"), b"small");
    world.s3.heal();
    for sent in sending {
        sent.await.expect("ended").expect("uploaded");
    }
    assert_eq!(world.s3.objects().await.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_removes_objects_also_when_the_storage_was_down_meanwhile() {
    let mut world = World::new();
    let media = world.try_open(|config| config.media_retention_days = Days::from_ms(1_000)).await.expect("opens");
    for byte in 0..5 {
        upload(&media, &[byte]).await.expect("uploaded");
    }
    world.clock.advance(2_000);
    world.s3.fail(&["DELETE "], Fault::Refuse(403));
    assert_eq!(media.sweep().await.expect("swept").deleted, 5);
    assert_eq!(world.s3.objects().await.len(), 5);
    world.s3.heal();
    media.sweep().await.expect("swept");
    assert_eq!(world.s3.objects().await, [] as [String; 0]);
}
