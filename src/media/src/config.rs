//! What an admin decides about files.

use std::path::PathBuf;

use ruma::OwnedServerName;

/// Settings of files.
#[derive(Clone, Debug)]
pub struct Config {
    /// This server's name, which all files uploaded here bear.
    pub server_name: OwnedServerName,
    /// The directory for files, and for those that are being received.
    pub path: PathBuf,
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
            upload_bytes_max: 20 << 20,
            user_bytes_max: 0,
            pending_max: 5,
            pending_ms_max: 24 * 60 * 60 * 1000,
            keep_ms: 0,
            keep_bytes: 0,
        }
    }
}
