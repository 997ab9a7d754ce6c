//! What an admin decides about files.

use std::{fmt, path::PathBuf};

use documented::DocumentedFields;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use crate::PreviewConfig;

/// Settings of files.
#[derive(Clone, Debug)]
pub struct Config {
    /// This server's name, which all files uploaded here bear.
    pub server_name: OwnedServerName,
    /// The directory for files, and for those that are being received.
    pub path: PathBuf,
    /// The bucket for files in place of the local disk.
    pub s3: Option<S3Config>,
    /// Previews of web pages; without this there are none.
    pub previews: Option<PreviewConfig>,
    /// The most memory that decoding images takes together, in bytes. An image that needs more gets no thumbnail.
    pub decoding_bytes_max: u64,
    /// The largest file, in bytes.
    pub upload_bytes_max: u64,
    /// What all files of a user may take together, in bytes; 0 for no limit.
    pub user_bytes_max: u64,
    /// How many names a user may set aside for uploads to come.
    pub pending_max: usize,
    /// How long a name that was set aside waits for its upload, in milliseconds.
    pub pending_ms_max: u64,
    /// Files older than this are deleted, in milliseconds; 0 for never.
    pub keep_ms: u64,
    /// Above this much on disk the oldest files are deleted, in bytes; 0 for never.
    pub keep_bytes: u64,
}

impl Config {
    /// The defaults for a server of this name.
    pub fn new(server_name: OwnedServerName, path: PathBuf) -> Self {
        Self {
            server_name,
            path,
            s3: None,
            previews: None,
            decoding_bytes_max: 128 << 20,
            upload_bytes_max: 20 << 20,
            user_bytes_max: 0,
            pending_max: 5,
            pending_ms_max: 24 * 60 * 60 * 1000,
            keep_ms: 0,
            keep_bytes: 0,
        }
    }
}

/// Uploaded files in a bucket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct S3Config {
    /// The name of the bucket, which must exist.
    pub bucket: String,
    /// The base URL of a service other than Amazon's, for example `https://minio.example.org`.
    pub endpoint: Option<String>,
    /// The region of the bucket.
    pub region: String,
    /// The id of the access key. Without one the role of the machine or container is used.
    pub access_key: Option<String>,
    /// The secret that belongs to `access_key`.
    pub secret_key: Option<String>,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// Whether the bucket is named in the path of requests, and not in the host name. MinIO and many others want it so.
    pub path_style: bool,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            endpoint: None,
            region: "us-east-1".into(),
            access_key: None,
            secret_key: None,
            prefix: String::new(),
            path_style: true,
        }
    }
}

/// Without the keys.
impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
