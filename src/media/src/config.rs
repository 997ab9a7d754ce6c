//! What an admin decides about files.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use documented::DocumentedFields;
use ruma::{OwnedServerName, owned_server_name};
use serde::{Deserialize, Serialize};
use settings::{Days, Fault, Mebibytes, Seconds, Settings, Table, refuse};

use crate::PreviewConfig;

/// Settings of files.
#[derive(Clone, Debug, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Config {
    /// The largest file that can be uploaded, in bytes.
    pub max_request_size: u64,

    /// The directory of uploaded files. It is made where it is missing; without this key it is `media` in the directory
    /// of the database.
    pub media_path: Option<PathBuf>,

    /// Keep uploaded files in a bucket of S3 or of a service with the same protocol. Files that were uploaded before stay
    /// where they are, and are found there.
    pub media_s3: Option<S3Config>,

    /// How many uploads a user may announce that are still to be made.
    pub max_pending_media_uploads: usize,

    /// Seconds after which an announced upload that was not made is forgotten.
    pub media_create_unused_expiration_time: Seconds,

    /// MiB that all files of a user may take together; 0 for no limit.
    pub media_user_quota_mb: Mebibytes,

    /// Days after which uploaded files are deleted, for everybody; 0 to keep them.
    pub media_retention_days: Days,

    /// MiB that all files may take together; above that the oldest are deleted, for everybody. 0 to keep them.
    pub media_retention_mb: Mebibytes,

    /// This server's name, which all files uploaded here bear.
    #[serde(skip)]
    pub server_name: OwnedServerName,
    /// The directory of files where `media_path` names none.
    #[serde(skip)]
    pub path_default: PathBuf,
    /// Previews of web pages; without this there are none.
    #[serde(skip)]
    pub previews: Option<PreviewConfig>,
    /// The most memory that decoding images takes together, in bytes. An image that needs more gets no thumbnail.
    #[serde(skip)]
    pub decoding_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_request_size: 20 << 20,
            media_path: None,
            media_s3: None,
            max_pending_media_uploads: 5,
            media_create_unused_expiration_time: Seconds::of(24 * 60 * 60),
            media_user_quota_mb: Mebibytes::of(0),
            media_retention_days: Days::of(0),
            media_retention_mb: Mebibytes::of(0),
            server_name: owned_server_name!("localhost"),
            path_default: "media".into(),
            previews: None,
            decoding_bytes_max: 128 << 20,
        }
    }
}

impl Config {
    /// The defaults for a server of this name.
    pub fn new(server_name: OwnedServerName, path: PathBuf) -> Self {
        Self { server_name, path_default: path, ..Self::default() }
    }

    /// The directory for files, and for those that are being received.
    pub(crate) fn path(&self) -> &Path {
        self.media_path.as_ref().unwrap_or(&self.path_default)
    }
}

impl Settings for Config {
    fn faults(&self) -> Vec<Fault> {
        refuse([
            ("max_request_size", self.max_request_size < 65_536, "must be at least 65536, the size of an event"),
            ("media_s3", self.media_s3.as_ref().is_some_and(|s3| s3.bucket.is_empty()), "needs a bucket"),
        ])
    }

    fn tables() -> Vec<Table> {
        vec![Table::of::<S3Config>("media_s3")]
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
