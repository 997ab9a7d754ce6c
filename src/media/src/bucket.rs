//! Blobs in S3, or what speaks its protocol.
//!
//! Only requests are used that every such service knows: put, get, head, delete, and uploads in parts. Payloads are signed
//! with their digest, so that what arrives changed is refused, and an object that is there is whole.

use std::{error::Error as StdError, fs, io, io::Read, ops::Range, path::Path as FilePath, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use net::Url;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    client::{HttpClient, HttpConnector},
    multipart::{MultipartStore, PartId},
    path::Path,
};
use ruma::ServerName;
use tokio::sync::Semaphore;

use crate::{
    Error,
    config::S3Config,
    disk::{Disk, blocking},
    receive::Content,
    storage::ByteStream,
};

/// Bytes of one part of a large file. S3 wants at least 5 MiB, and at most 10,000 parts: files may have 48 GiB.
const PART_BYTES: usize = 5 << 20;
/// Large files that are sent at the same time; each holds one part in memory.
const SENDING_MAX: usize = 4;
/// Longest time that a request may take to connect, in milliseconds.
const CONNECT_MS_MAX: u64 = 10_000;
/// Longest time from the beginning of a request, or from a byte of its answer, to the next byte, in milliseconds.
const SILENCE_MS_MAX: u64 = 60_000;
/// How often a request is made again that did not arrive or that the server could not serve: for some three seconds.
const RETRIES_MAX: usize = 5;
/// The first pause between two tries, in milliseconds; it grows with each.
const RETRY_MS_MIN: u64 = 100;
/// The longest pause between two tries, in milliseconds.
const RETRY_MS_MAX: u64 = 2_000;
/// After this time a request is not made again, in milliseconds.
const RETRYING_MS_MAX: u64 = 20_000;

/// A bucket and the prefix of our objects in it.
pub(crate) struct Bucket {
    store: AmazonS3,
    prefix: String,
    sending: Semaphore,
}

/// The bucket could not do as asked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Failed(object_store::Error);

/// Makes clients that check certificates as this server does everywhere.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let failed = |source: Box<dyn StdError + Send + Sync>| object_store::Error::Generic { store: "S3", source };
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
    pub(crate) fn new(config: &S3Config) -> crate::Result<Self> {
        let retries = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(RETRY_MS_MIN),
                max_backoff: Duration::from_millis(RETRY_MS_MAX),
                base: 2.0,
            },
            max_retries: RETRIES_MAX,
            retry_timeout: Duration::from_millis(RETRYING_MS_MAX),
        };
        let mut builder = AmazonS3Builder::new()
            .with_http_connector(Connector)
            .with_retry(retries)
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            // Some services don't know the request that deletes many at once.
            .with_disable_bulk_delete(true)
            .with_virtual_hosted_style_request(!config.path_style);
        if let Some(endpoint) = &config.endpoint {
            let url = base_url(endpoint, (!config.path_style).then_some(&config.bucket));
            let url = url.map_err(|error| misconfigured("endpoint", error))?;
            builder = builder.with_allow_http(url.starts_with("http://")).with_endpoint(url);
        }
        if let Some(key) = &config.access_key {
            builder = builder.with_access_key_id(key);
        }
        if let Some(secret) = &config.secret_key {
            builder = builder.with_secret_access_key(secret);
        }
        let store = builder.build().map_err(|error| misconfigured("access_key and secret_key", io_error(error)))?;
        Ok(Self { store, prefix: config.prefix.clone(), sending: Semaphore::new(SENDING_MAX) })
    }

    /// Stores, reads and deletes an object with the server's name, as all that files need.
    ///
    /// A bucket that can't be reached is only told of in the log: rooms are of use without files.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] where the storage refuses what the configuration says.
    pub(crate) async fn check(&self, server: &ServerName) -> crate::Result<()> {
        // Always the same one, so that starts that may not delete it don't leave more and more.
        let path = self.path(&format!("check-{server}"));
        let tried = async {
            self.store.put(&path, PutPayload::from_static(b"haima")).await?;
            self.store.get(&path).await?.bytes().await?;
            self.store.delete(&path).await
        };
        let Err(error) = tried.await else { return Ok(()) };
        match wrong_setting(&error) {
            Some(setting) => Err(misconfigured(setting, io_error(error))),
            None => {
                tracing::warn!(%error, "the storage of files can't be used (media_s3): uploads and downloads fail until it can");
                Ok(())
            }
        }
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.prefix))
    }

    /// Stores a blob. S3 answers when it is durable. What is sent in parts is noted in the blob's marker on `disk`.
    pub(crate) async fn put(&self, disk: &Disk, content: &Content, name: &str) -> io::Result<()> {
        match content {
            Content::Memory(bytes) => self.put_whole(name, bytes.clone()).await,
            Content::File(temp) => {
                let _turn = self.sending.acquire().await.map_err(io::Error::other)?;
                self.put_file(disk, &temp.path, name).await
            }
        }
    }

    async fn put_whole(&self, name: &str, bytes: Bytes) -> io::Result<()> {
        self.store.put(&self.path(name), PutPayload::from(bytes)).await.map_err(io_error)?;
        Ok(())
    }

    async fn put_file(&self, disk: &Disk, file: &FilePath, name: &str) -> io::Result<()> {
        let file = file.to_owned();
        let (file, part) = blocking(move || next_part(fs::File::open(file)?)).await?;
        if part.len() < PART_BYTES {
            return self.put_whole(name, part).await;
        }
        let upload = self.store.create_multipart(&self.path(name)).await.map_err(io_error)?;
        let sent = async {
            let (disk, marker, noted) = (disk.clone(), name.to_owned(), upload.clone());
            blocking(move || disk.note_upload(&marker, &noted)).await?;
            self.put_parts(name, &upload, file, part).await
        };
        let sent = sent.await;
        if sent.is_err() {
            // Where that fails too, the next start tries again.
            if let Err(error) = self.give_up(name, &upload).await {
                tracing::warn!(name, %error, "can't give up an unfinished upload to S3");
            }
        }
        sent
    }

    async fn put_parts(&self, name: &str, upload: &String, mut file: fs::File, mut part: Bytes) -> io::Result<()> {
        let path = self.path(name);
        let mut sent: Vec<PartId> = Vec::new();
        while !part.is_empty() {
            let id = self.store.put_part(&path, upload, sent.len(), PutPayload::from(part)).await.map_err(io_error)?;
            sent.push(id);
            (file, part) = blocking(move || next_part(file)).await?;
        }
        self.store.complete_multipart(&path, upload, sent).await.map_err(io_error)?;
        Ok(())
    }

    /// Forgets what was sent of a file.
    pub(crate) async fn give_up(&self, name: &str, upload: &String) -> io::Result<()> {
        gone(self.store.abort_multipart(&self.path(name), upload).await)
    }

    /// The size of a blob in bytes; `None` if it isn't there.
    pub(crate) async fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match self.store.head(&self.path(name)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(io_error(error)),
        }
    }

    /// Some bytes of a blob.
    pub(crate) async fn read(&self, name: &str, range: Range<u64>) -> io::Result<ByteStream> {
        if range.is_empty() {
            return Ok(futures_util::stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.store.get_opts(&self.path(name), options).await.map_err(io_error)?;
        Ok(found.into_stream().map_err(io_error).boxed())
    }

    /// Removes a blob, which may be gone already.
    pub(crate) async fn delete(&self, name: &str) -> io::Result<()> {
        gone(self.store.delete(&self.path(name)).await)
    }
}

/// The base URL of requests; with a bucket, that which names it in the host.
fn base_url(endpoint: &str, bucket: Option<&String>) -> io::Result<String> {
    let mut url = Url::parse(endpoint).map_err(io::Error::other)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(io::Error::other("the URL is neither http nor https"));
    }
    if let Some(bucket) = bucket {
        let domain = url.domain().ok_or_else(|| io::Error::other("an address can't name the bucket"))?;
        let host = format!("{bucket}.{domain}");
        url.set_host(Some(&host)).map_err(io::Error::other)?;
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// As much of a file as one part holds, and the file to go on with.
fn next_part(mut file: fs::File) -> io::Result<(fs::File, Bytes)> {
    let mut part = Vec::with_capacity(PART_BYTES);
    file.by_ref().take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok((file, part.into()))
}

/// What is gone was gone before.
fn gone(removed: object_store::Result<()>) -> io::Result<()> {
    match removed.map_err(io_error) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn io_error(error: object_store::Error) -> io::Error {
    let kind = match &error {
        // A bucket that is gone says nothing of what was in it.
        object_store::Error::NotFound { .. } if !says(&error, "NoSuchBucket") => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, Failed(error))
}

fn misconfigured(setting: &'static str, source: io::Error) -> Error {
    Error::Misconfigured { setting, source }
}

/// The setting that makes the storage refuse; `None` where the storage is at fault, or the network.
fn wrong_setting(error: &object_store::Error) -> Option<&'static str> {
    const CODES: [(&str, &str); 7] = [
        ("NoSuchBucket", "bucket"),
        ("InvalidBucketName", "bucket"),
        ("InvalidAccessKeyId", "access_key"),
        ("SignatureDoesNotMatch", "secret_key"),
        ("AuthorizationHeaderMalformed", "region"),
        ("PermanentRedirect", "region"),
        ("incorrectly configured region", "region"),
    ];
    for (code, setting) in CODES {
        if says(error, code) {
            return Some(setting);
        }
    }
    match error {
        // Many services tell nobody which of the two is wrong.
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            Some("access_key, secret_key and what the key may do with the bucket")
        }
        // What serves no path of ours is another kind of server.
        object_store::Error::NotFound { .. } => Some("endpoint"),
        _ => None,
    }
}

/// Whether the storage's answer has this code. The client gives it only in its text.
fn says(error: &object_store::Error, code: &str) -> bool {
    error.to_string().contains(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_is_named_in_the_path_or_in_the_host() {
        let bucket = "files".to_owned();
        let check = |endpoint, expected: [Option<&str>; 2]| {
            let found = [base_url(endpoint, None).ok(), base_url(endpoint, Some(&bucket)).ok()];
            assert_eq!(found, expected.map(|url| url.map(str::to_owned)), "{endpoint}");
        };
        check("https://s3.example.org", [Some("https://s3.example.org"), Some("https://files.s3.example.org")]);
        check("http://s3:3900/", [Some("http://s3:3900"), Some("http://files.s3:3900")]);
        check("http://127.0.0.1:3900", [Some("http://127.0.0.1:3900"), None]);
        check("s3.example.org:3900", [None, None]);
        check("s3.example.org", [None, None]);
        check("ftp://s3.example.org", [None, None]);
    }
}
