//! Blobs in S3, or what speaks its protocol.

use std::{fs, io, io::Read, ops::Range, path::Path as FilePath, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    ClientOptions, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload,
    aws::{AmazonS3, AmazonS3Builder},
    client::{HttpClient, HttpConnector},
    path::Path,
};
use tokio::sync::Semaphore;

use crate::{config::S3Config, disk::blocking, receive::Content, storage::ByteStream};

/// Bytes of one part of a large file. S3 wants at least 5 MiB, and at most 10,000 parts.
const PART_BYTES: usize = 8 << 20;
/// Files that are sent at the same time; each holds one part in memory.
const SENDING_MAX: usize = 4;
/// Longest time that a request may take to connect, in milliseconds.
const CONNECT_MS_MAX: u64 = 10_000;
/// Longest time without a byte of an answer, in milliseconds.
const SILENCE_MS_MAX: u64 = 60_000;

/// A bucket and the prefix of our objects in it.
pub(crate) struct Bucket {
    store: AmazonS3,
    prefix: String,
    sending: Semaphore,
}

/// Makes clients that check certificates as this server does everywhere.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic { store: "S3", source };
        let tls = net::client_config().map_err(|error| failed(error.into()))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(Duration::from_millis(CONNECT_MS_MAX))
            .read_timeout(Duration::from_millis(SILENCE_MS_MAX))
            .build()
            .map_err(|error| failed(error.into()))?;
        Ok(HttpClient::new(client))
    }
}

impl Bucket {
    pub(crate) fn new(config: &S3Config) -> io::Result<Self> {
        let mut builder = AmazonS3Builder::new()
            .with_http_connector(Connector)
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            .with_virtual_hosted_style_request(!config.path_style);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some(key) = &config.access_key {
            builder = builder.with_access_key_id(key);
        }
        if let Some(secret) = &config.secret_key {
            builder = builder.with_secret_access_key(secret);
        }
        let store = builder.build().map_err(io_error)?;
        Ok(Self { store, prefix: config.prefix.clone(), sending: Semaphore::new(SENDING_MAX) })
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.prefix))
    }

    /// Stores a blob. S3 answers when it is durable.
    pub(crate) async fn put(&self, content: &Content, name: &str) -> io::Result<()> {
        let _turn = self.sending.acquire().await.map_err(io::Error::other)?;
        let path = self.path(name);
        match content {
            Content::Memory(bytes) => {
                self.store.put(&path, PutPayload::from(bytes.clone())).await.map_err(io_error)?;
                Ok(())
            }
            Content::File(temp) => self.put_file(&temp.path, &path).await,
        }
    }

    async fn put_file(&self, file: &FilePath, path: &Path) -> io::Result<()> {
        let file = file.to_owned();
        let (mut file, mut part) = blocking(move || next_part(fs::File::open(file)?)).await?;
        if part.len() < PART_BYTES {
            self.store.put(path, PutPayload::from(part)).await.map_err(io_error)?;
            return Ok(());
        }
        let mut upload = self.store.put_multipart(path).await.map_err(io_error)?;
        while !part.is_empty() {
            if let Err(error) = upload.put_part(PutPayload::from(part)).await {
                give_up(upload).await;
                return Err(io_error(error));
            }
            (file, part) = blocking(move || next_part(file)).await?;
        }
        upload.complete().await.map_err(io_error)?;
        Ok(())
    }

    pub(crate) async fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match self.store.head(&self.path(name)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(io_error(error)),
        }
    }

    pub(crate) async fn read(&self, name: &str, range: Range<u64>) -> io::Result<ByteStream> {
        if range.is_empty() {
            return Ok(futures_util::stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.store.get_opts(&self.path(name), options).await.map_err(io_error)?;
        Ok(found.into_stream().map_err(io_error).boxed())
    }

    pub(crate) async fn delete(&self, name: &str) -> io::Result<()> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(io_error(error)),
        }
    }
}

/// As much of a file as one part holds, and the file to go on with.
fn next_part(mut file: fs::File) -> io::Result<(fs::File, Bytes)> {
    let mut part = Vec::new();
    file.by_ref().take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok((file, part.into()))
}

/// Forgets what was sent of a file. Where that fails too, the bucket's own rules for unfinished uploads remain.
async fn give_up(mut upload: Box<dyn MultipartUpload>) {
    if let Err(error) = upload.abort().await {
        tracing::warn!(%error, "can't give up an unfinished upload to S3");
    }
}

fn io_error(error: object_store::Error) -> io::Error {
    match error {
        object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        other => io::Error::other(other),
    }
}
