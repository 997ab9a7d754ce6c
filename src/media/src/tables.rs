//! The tables of this crate, which nothing outside reads, and its log entry.

use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use store::{Fixed, Key, NoPrevious, Record, TableInfo, Text, Value, Versioned};

/// A BLAKE3 digest of a file's bytes.
pub(crate) type Digest = Fixed<32>;

/// What names a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Key)]
pub(crate) struct FileKey<V = Text<OwnedServerName>, S = String> {
    /// The server that gave it its id.
    pub(crate) server: V,
    /// Its id.
    pub(crate) id: S,
}

/// A file of a user, by when it came.
#[derive(Clone, PartialEq, Eq, Debug, Key)]
pub(crate) struct UploadKey<U = Text<OwnedUserId>, S = String> {
    /// Who uploaded it.
    pub(crate) user: U,
    /// When, in Unix milliseconds.
    pub(crate) at_ms: u64,
    /// Its id on this server.
    pub(crate) id: S,
}

/// What a thumbnail is of.
#[derive(Clone, PartialEq, Eq, Debug, Key)]
pub(crate) struct ThumbnailKey {
    /// The original.
    pub(crate) original: Digest,
    /// Width in pixels.
    pub(crate) width: u32,
    /// Height in pixels.
    pub(crate) height: u32,
    /// How it was made of the original.
    pub(crate) kind: u8,
}

/// A thumbnail.
#[derive(Clone, PartialEq, Eq, Debug, Value)]
pub(crate) struct ThumbnailRow<S = String> {
    /// Its bytes; those of the original, if that was small enough.
    pub(crate) digest: Digest,
    /// How many there are.
    pub(crate) size: u64,
    /// Its content type.
    pub(crate) content_type: S,
}

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

store::table! { /// Files.
pub(crate) Files = 208, Points: FileKey => Record<FileRow> }
store::table! { /// Bumped and expected by every writer of a row of `Files`.
pub(crate) Revisions = 209, Points: FileKey => u64 }
store::table! { /// What is stored of the bytes of a digest.
pub(crate) Blobs = 210, Points: Fixed<32> => Record<BlobRow> }
store::table! { /// The files of users by time of upload: the size in bytes.
pub(crate) ByUser = 211, Ranges: UploadKey => u64 }
store::table! { /// All files by time of upload (Unix ms): the size in bytes.
pub(crate) ByAge = 212, Ranges: (u64, FileKey) => u64 }
store::table! { /// Names that a user has set aside, with their expiry (Unix ms).
pub(crate) Pending = 213, Ranges: (Text<OwnedUserId>, String) => u64 }
store::table! { /// Bumped and expected by every writer that adds to a user's rows of `Pending`.
pub(crate) PendingRevisions = 214, Points: Text<OwnedUserId> => u64 }
store::table! { /// Files and names that expire, by that time (Unix ms).
pub(crate) Expiring = 215, Ranges: (u64, FileKey) => () }
store::table! { /// Names of blobs that no row has any more and that are to be removed from storage.
pub(crate) Doomed = 216, Ranges: String => () }
store::table! { /// Digests of what an admin took out of circulation.
pub(crate) Quarantined = 217, Points: Fixed<32> => () }
store::table! { /// Thumbnails.
pub(crate) Thumbnails = 218, Ranges: ThumbnailKey => ThumbnailRow }
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
