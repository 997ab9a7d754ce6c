//! The tables of this crate, which nothing outside reads, and its log entry.

use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use store::{Fixed, NoPrevious, Record, TableInfo, Text, Versioned};

/// A BLAKE3 digest of a file's bytes.
pub(crate) type Digest = Fixed<32>;

/// A preview that was made, or that could not be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PreviewRow {
    /// The answer; none if there is no preview.
    pub(crate) json: Option<String>,
    pub(crate) expires_ms: u64,
}

impl Versioned for PreviewRow {
    const VERSION: u8 = 1;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> Self {
        match previous {}
    }
}

store::table! { /// A file by its server and id.
pub(crate) Files = 208, Points: (Text<OwnedServerName>, String) => Record<FileRow> }
store::table! { /// Bumped and expected by every writer of a row of `Files`.
pub(crate) Revisions = 209, Points: (Text<OwnedServerName>, String) => u64 }
store::table! { /// What is stored of the bytes of a digest.
pub(crate) Blobs = 210, Points: Fixed<32> => Record<BlobRow> }
store::table! { /// A user's files by time of upload (Unix ms): the size in bytes.
pub(crate) ByUser = 211, Ranges: (Text<OwnedUserId>, u64, String) => u64 }
store::table! { /// All files by time of upload (Unix ms): the size in bytes.
pub(crate) ByAge = 212, Ranges: (u64, Text<OwnedServerName>, String) => u64 }
store::table! { /// Names that a user has set aside, with their expiry (Unix ms).
pub(crate) Pending = 213, Ranges: (Text<OwnedUserId>, String) => u64 }
store::table! { /// Bumped and expected by every writer that adds to a user's rows of `Pending`.
pub(crate) PendingRevisions = 214, Points: Text<OwnedUserId> => u64 }
store::table! { /// Files and names that expire, by that time (Unix ms).
pub(crate) Expiring = 215, Ranges: (u64, Text<OwnedServerName>, String) => () }
store::table! { /// Names of blobs that no row has any more and that are to be removed from storage.
pub(crate) Doomed = 216, Ranges: String => () }
store::table! { /// Digests of what an admin took out of circulation.
pub(crate) Quarantined = 217, Points: Fixed<32> => () }
store::table! { /// A thumbnail by the digest of its original, width, height and kind: digest and size of its blob, content type.
pub(crate) Thumbnails = 218, Ranges: (Fixed<32>, u32, u32, u8) => (Fixed<32>, u64, String) }
store::table! { /// A preview by the BLAKE3 digest of its URL.
pub(crate) Previews = 219, Points: Fixed<32> => Record<PreviewRow> }
store::table! { /// Previews by the time that they are kept to (Unix ms).
pub(crate) PreviewExpiry = 220, Ranges: (u64, Fixed<32>) => () }
store::table! { /// The pictures of previews by the user who asked for the preview: the size in bytes.
pub(crate) PreviewPictures = 221, Ranges: (Text<OwnedUserId>, String) => u64 }

/// All of them, for opening the store.
pub const TABLES: &[TableInfo] = &[
    TableInfo::of::<Files>(),
    TableInfo::of::<Revisions>(),
    TableInfo::of::<Blobs>(),
    TableInfo::of::<ByUser>(),
    TableInfo::of::<ByAge>(),
    TableInfo::of::<Pending>(),
    TableInfo::of::<PendingRevisions>(),
    TableInfo::of::<Expiring>(),
    TableInfo::of::<Doomed>(),
    TableInfo::of::<Quarantined>(),
    TableInfo::of::<Thumbnails>(),
    TableInfo::of::<Previews>(),
    TableInfo::of::<PreviewExpiry>(),
    TableInfo::of::<PreviewPictures>(),
];

/// A file, or a name that waits for one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileRow {
    /// The digest of its bytes; none while it waits for its upload.
    pub(crate) digest: Option<[u8; 32]>,
    pub(crate) size: u64,
    pub(crate) content_type: Option<String>,
    pub(crate) file_name: Option<String>,
    /// The local user who uploaded it or set the name aside.
    pub(crate) uploader: Option<OwnedUserId>,
    /// The local user who asked for the preview whose picture it is.
    #[serde(default)]
    pub(crate) preview_for: Option<OwnedUserId>,
    /// When it was uploaded, or the name set aside, in Unix milliseconds.
    pub(crate) created_ms: u64,
    /// When it is deleted, in Unix milliseconds.
    pub(crate) expires_ms: Option<u64>,
}

impl Versioned for FileRow {
    const VERSION: u8 = 1;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> Self {
        match previous {}
    }
}

/// Bytes in storage.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct BlobRow {
    /// How many files and thumbnails are made of them.
    pub(crate) uses: u64,
    /// How many there are.
    pub(crate) size: u64,
    /// How many thumbnails there are of them as an image.
    pub(crate) thumbnails: u64,
    /// Their name in storage.
    pub(crate) name: String,
}

impl Versioned for BlobRow {
    const VERSION: u8 = 1;
    type Previous = NoPrevious;

    fn upgrade(previous: NoPrevious) -> Self {
        match previous {}
    }
}

/// What happened to a file, in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MediaChanged {
    /// The server that the file's name bears.
    pub server: OwnedServerName,
    /// The id within that server.
    pub id: String,
    /// What happened.
    pub event: MediaEvent,
}

/// See [`MediaChanged`].
#[derive(Copy, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MediaEvent {
    /// The name was set aside for an upload to come.
    Reserved,
    /// It was uploaded.
    Uploaded,
    /// It was deleted, or the name given up.
    Deleted,
    /// Its content was taken out of circulation.
    Quarantined,
    /// Its content was put back.
    Released,
}

store::log_entry!(MediaChanged = 208);
