//! What can go wrong with files, in this crate's own words.

use std::io;

use store::{CommitError, StoreError};

use crate::bucket::Failed;

/// What the operations of this crate give.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on files was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file, or its name was set aside and has expired.
    #[error("there is no such file")]
    NotFound,
    /// The file was taken out of circulation by an admin.
    #[error("this file was removed by the server's administration")]
    Quarantined,
    /// The name was set aside, and nothing uploaded to it yet.
    #[error("the file has not been uploaded yet")]
    NotYetUploaded,
    /// Something was uploaded under this name already.
    #[error("something was uploaded under this name already")]
    AlreadyUploaded,
    /// The name was set aside by somebody else.
    #[error("this name was set aside by somebody else")]
    NotYours,
    /// The file is larger than configured.
    #[error("files may have at most {bytes_max} bytes")]
    TooLarge {
        /// The greatest number of bytes.
        bytes_max: u64,
    },
    /// The user's files would take more than configured.
    #[error("your files would take more than the {bytes_max} bytes that a user of this server may store")]
    QuotaExceeded {
        /// The greatest number of bytes of all files of a user.
        bytes_max: u64,
    },
    /// The file is not an image that can be decoded.
    #[error("no thumbnail can be made of this file")]
    NotAnImage,
    /// The image has more pixels, or is a larger file, than is decoded.
    #[error("the image is too large for a thumbnail")]
    ImageTooLarge,
    /// The user has set aside as many names as may wait.
    #[error("too many uploads that were announced have not been made")]
    TooManyPending,
    /// The URL is not one whose previews are made.
    #[error("previews of this URL are not made here")]
    PreviewNotAllowed,
    /// The page could not be fetched or read.
    #[error("the page could not be fetched")]
    PreviewFailed,
    /// The HTTP client can't be set up.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// Too much of this happens already.
    #[error("too many files are worked on at the moment")]
    Busy,
    /// Others changed the same rows each time that it was tried.
    #[error("others change the same file")]
    Contended,
    /// The bucket refuses what the configuration says of it.
    #[error("media_s3: the storage of files refuses what is configured; check {setting}")]
    Misconfigured {
        /// The setting, or several, that must be wrong.
        setting: &'static str,
        /// What the storage said.
        source: io::Error,
    },
    /// The bucket can't be reached, or failed.
    #[error("the storage of files failed: {0}")]
    Bucket(#[source] io::Error),
    /// The file's bytes can't be written or read on this machine.
    #[error("can't keep or read a file: {0}")]
    Io(#[source] io::Error),
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store can't be written.
    #[error(transparent)]
    Commit(CommitError),
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        if matches!(error, CommitError::Contended) { Self::Contended } else { Self::Commit(error) }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.get_ref() {
            Some(cause) if cause.is::<Failed>() => Self::Bucket(error),
            _ => Self::Io(error),
        }
    }
}
