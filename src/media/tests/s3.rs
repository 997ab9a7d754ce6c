//! Files in a bucket: against a server that speaks S3, in this process.

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use media::{Config, Details, Error, Media, S3Config, TABLES};
use ruma::{server_name, user_id};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use store::{MemoryDisk, Options, Store};
use testkit::{ManualClock, SeededRandom};
use tokio::net::TcpListener;

/// Serves a directory, whose directories are buckets, and gives the base URL.
async fn serve(root: &Path) -> String {
    let mut service = S3ServiceBuilder::new(FileSystem::new(root).expect("a directory"));
    service.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = service.build();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                // A connection that ends badly shows in what is asked over it.
                drop(connection.await);
            });
        }
    });
    format!("http://{address}")
}

async fn open(disk: &MemoryDisk, path: &Path, s3: Option<S3Config>, seed: u64) -> Media {
    let mut config = Config::new(server_name!("example.org").to_owned(), path.to_owned());
    config.upload_bytes_max = 100 << 20;
    config.s3 = s3;
    let store = Store::open_memory(disk, &Options::default(), &[TABLES]).expect("a store");
    let (clock, random) = (Arc::new(ManualClock::new()), Arc::new(SeededRandom::new(seed)));
    Media::open(config, store, clock, random).await.expect("opens")
}

async fn upload(media: &Media, bytes: &[u8]) -> Result<String, Error> {
    let mut receiving = media.receive(u64::MAX)?;
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

fn objects(bucket: &Path) -> usize {
    std::fs::read_dir(bucket).map_or(0, |entries| {
        let files = entries.filter_map(Result::ok).filter(|entry| entry.path().is_file());
        files.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_holds_files_and_those_from_before_stay_on_disk() {
    let root = tempfile::tempdir().expect("a directory");
    let bucket = root.path().join("files").join("haima");
    std::fs::create_dir_all(&bucket).expect("a bucket");
    let endpoint = serve(root.path()).await;
    let s3 = S3Config {
        bucket: "files".into(),
        endpoint: Some(endpoint),
        region: "us-east-1".into(),
        access_key: Some("key".into()),
        secret_key: Some("secret".into()),
        prefix: "haima/".into(),
        path_style: true,
    };
    let local = tempfile::tempdir().expect("a directory");
    let disk = MemoryDisk::new();
    let old = {
        let media = open(&disk, local.path(), None, 1).await;
        upload(&media, b"from before").await.expect("uploaded")
    };

    let media = open(&disk, local.path(), Some(s3.clone()), 2).await;
    assert_eq!(read(&media, &old, None).await.expect("read"), b"from before");
    let mut ids = Vec::new();
    // In memory, from a temporary file in one piece, in three parts.
    for len in [0, 5_000, 1 << 20, (17 << 20) + 3] {
        let bytes: Vec<u8> = (0..len).map(|at: usize| (at ^ (at >> 8)) as u8).collect();
        let id = upload(&media, &bytes).await.expect("uploaded");
        assert_eq!(read(&media, &id, None).await.expect("read"), bytes);
        let (from, to) = (len / 3, len / 2);
        let part = read(&media, &id, Some(from as u64..to as u64)).await.expect("read");
        assert_eq!(part, bytes[from..to]);
        ids.push((id, bytes));
    }
    assert_eq!(objects(&bucket), ids.len());
    let again = upload(&media, &ids[1].1).await.expect("uploaded");
    assert_eq!(objects(&bucket), ids.len(), "equal files are one object");
    assert_eq!(std::fs::read_dir(local.path().join("temp")).expect("there").count(), 0);
    drop(media);

    let media = open(&disk, local.path(), Some(s3.clone()), 3).await;
    for (id, bytes) in &ids {
        assert_eq!(&read(&media, id, None).await.expect("read"), bytes);
        media.delete(server_name!("example.org"), id).await.expect("deleted");
    }
    assert_eq!(read(&media, &again, None).await.expect("read"), ids[1].1);
    media.delete(server_name!("example.org"), &again).await.expect("deleted");
    media.delete(server_name!("example.org"), &old).await.expect("deleted");
    assert_eq!(objects(&bucket), 0);
    drop(media);

    let wrong = S3Config { secret_key: Some("wrong".into()), ..s3 };
    let media = open(&disk, local.path(), Some(wrong), 4).await;
    assert!(matches!(upload(&media, b"x").await, Err(Error::Io(_))), "a refusal is no success");
}
