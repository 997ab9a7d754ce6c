//! What the server writes and reads is nobody else's business on the machine.

use std::{io, path::Path};

use tracing::warn;

use crate::config::Config;

/// From here on files and directories that this process makes are its user's alone.
pub fn begin() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Takes from others what an older start, or whoever made the directories, gave them. A group keeps what it has.
pub fn close_directories(config: &Config) {
    for directory in [Some(&config.server.database_path), config.media.media_path.as_ref()].into_iter().flatten() {
        if let Err(error) = close(directory) {
            warn!(%error, ?directory, "others on this machine may read what the server keeps");
        }
    }
}

/// Warns of files with secrets that others can read: those are not the server's to change.
pub fn warn_of_open_files(config: &Config, file: &Path) {
    let s3_secret = config.media.media_s3.as_ref().and_then(|s3| s3.secret_key.as_ref());
    let secrets = [&config.api.registration_token, &config.api.turn_secret, &config.api.turn_password];
    let has_secrets = s3_secret.is_some() || secrets.iter().any(|secret| secret.is_some());
    let key = config.http.tls.as_ref().map(|tls| tls.key.as_path());
    for file in [has_secrets.then_some(file), key].into_iter().flatten() {
        match others_may_read(file) {
            Ok(false) => {}
            Ok(true) => warn!(?file, "others on this machine can read secrets: chmod o-rwx"),
            Err(error) => warn!(%error, ?file, "can't tell who may read it"),
        }
    }
}

#[cfg(unix)]
const OTHERS: u32 = 0o007;

#[cfg(unix)]
fn close(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = match std::fs::metadata(directory) {
        Ok(found) => found.permissions(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if permissions.mode() & OTHERS == 0 {
        return Ok(());
    }
    permissions.set_mode(permissions.mode() & !OTHERS);
    std::fs::set_permissions(directory, permissions)
}

#[cfg(unix)]
fn others_may_read(file: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::metadata(file)?.permissions().mode() & OTHERS != 0)
}

/// Who may read what is inherited there.
#[cfg(not(unix))]
fn close(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn others_may_read(_: &Path) -> io::Result<bool> {
    Ok(false)
}
