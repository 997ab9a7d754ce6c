//! File descriptors: connections, the database's files and uploads share what the system gives the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// The most files of the database that it pays to keep open: some 500 GB.
const DATABASE_FILES_MAX: u64 = 8_192;
/// What is taken for the limit where there is none.
const LIMIT_MAX: u64 = 1 << 20;

/// How the descriptors are divided. What is left over, a quarter at least, is for files of users, connections to others, and logs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// What the system allows.
    pub limit: u64,
    /// Connections of clients.
    pub connections: usize,
    /// Files of the database that stay open.
    pub database_files: u32,
}

impl Descriptors {
    fn of(limit: u64) -> Self {
        let database_files = (limit / 4).min(DATABASE_FILES_MAX);
        Self {
            limit,
            connections: usize::try_from(limit / 2).unwrap_or(usize::MAX),
            database_files: u32::try_from(database_files).unwrap_or(u32::MAX),
        }
    }

    /// Raises the process's limit as far as it may, and divides it.
    pub fn claim() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = maximum.unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
        let limit = match current {
            Some(current) if current < raised => {
                match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
                    Ok(()) => raised,
                    Err(error) => {
                        warn!("the limit of file descriptors stays at {current}: {error}");
                        current
                    }
                }
            }
            Some(current) => current,
            None => LIMIT_MAX,
        };
        Self::of(limit)
    }

    /// Says in the log if there are too few for `connections_wanted` connections, and what to do.
    pub fn warn_if_few(&self, connections_wanted: usize) {
        if self.connections < connections_wanted {
            let Self { limit, connections, database_files } = self;
            warn!(
                "the system allows {limit} file descriptors: {connections} connections at once instead of \
                 {connections_wanted}, and {database_files} open files of the database; allow {} or more (LimitNOFILE= of \
                 systemd, --ulimit nofile= of docker, ulimit -Hn)",
                2 * connections_wanted,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_share_fits_into_the_limit() {
        for limit in [0, 20, 256, 1_024, 4_096, 65_536, LIMIT_MAX] {
            let Descriptors { connections, database_files, .. } = Descriptors::of(limit);
            assert!(connections as u64 + u64::from(database_files) <= limit - limit / 4, "{limit}");
        }
        let usual = Descriptors::of(1_024);
        assert_eq!((usual.connections, usual.database_files), (512, 256));
    }
}
