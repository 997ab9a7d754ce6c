//! Commands for whoever runs the server: what an admin does to users, tokens, files and rooms from a shell.
//!
//! A database belongs to one process. So the running server does what is asked, over a socket beside its database; where no server
//! runs, the command opens the database itself. Both ways lead through [`execute`].

use std::io::Write;

use anyhow::Context;
use clap::Subcommand;
use event::Secret;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::info;

#[cfg(unix)]
use crate::commands_socket::{connect, relay};
use crate::{commands_execute::execute, config::Config, wire};

/// Lines that wait to be printed.
const LINES_MAX: usize = 256;

/// A command that works beside a running server and without one.
#[derive(Clone, PartialEq, Debug, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Make an account. Asks for its password, or reads it from standard input.
    CreateUser {
        /// The part of the user id between `@` and `:`.
        localpart: String,
        /// Make the account an admin.
        #[arg(long)]
        admin: bool,
    },
    /// Give a user a new password and end all their sessions. Asks for it, or reads it from standard input.
    ResetPassword {
        /// The user id, or the part between `@` and `:`.
        user: String,
        /// Leave the sessions and devices as they are.
        #[arg(long)]
        keep_devices: bool,
    },
    /// Keep a user from everything but logging out, until they are unlocked.
    LockUser {
        /// The user id, or the part between `@` and `:`.
        user: String,
    },
    /// End a lock.
    UnlockUser {
        /// The user id, or the part between `@` and `:`.
        user: String,
    },
    /// Let a user read and leave, and no more, until the suspension ends.
    SuspendUser {
        /// The user id, or the part between `@` and `:`.
        user: String,
    },
    /// End a suspension.
    UnsuspendUser {
        /// The user id, or the part between `@` and `:`.
        user: String,
    },
    /// Close an account for ever: its sessions, keys and profile go, and it leaves its rooms. The name isn't given again.
    DeactivateUser {
        /// The user id, or the part between `@` and `:`.
        user: String,
        /// Also hide what they wrote from those who have not seen it yet.
        #[arg(long)]
        erase: bool,
    },
    /// Make a user an admin.
    MakeAdmin {
        /// The user id, or the part between `@` and `:`.
        user: String,
    },
    /// Make an admin an ordinary user again.
    RevokeAdmin {
        /// The user id, or the part between `@` and `:`.
        user: String,
    },
    /// List the users: id, what is special about them, and the day of their registration.
    ListUsers,
    /// Make a registration token and print it.
    CreateToken {
        /// The token: up to 64 of the characters A-Z a-z 0-9 . _ ~ -; a random one if it is left out.
        token: Option<Secret>,
        /// How many accounts may be made with it; any number if it is left out.
        #[arg(long)]
        uses: Option<u64>,
        /// After how many days it expires; never if it is left out.
        #[arg(long)]
        days: Option<u64>,
    },
    /// List the registration tokens: token, how often it was used of how often it may be, and its last day.
    ListTokens,
    /// Revoke a registration token.
    RevokeToken {
        /// The token.
        token: Secret,
    },
    /// Take a file out of circulation, whatever names its content has or gets.
    QuarantineFile {
        /// Its URI, `mxc://server/id`.
        uri: String,
    },
    /// Put a file back that was taken out of circulation.
    ReleaseFile {
        /// Its URI, `mxc://server/id`.
        uri: String,
    },
    /// List the rooms: id, members, version, whether it is published, and name or alias.
    ListRooms,
}

impl Command {
    /// What a new password is for, if the command needs one.
    pub fn needs_password(&self) -> bool {
        matches!(self, Self::CreateUser { .. } | Self::ResetPassword { .. })
    }
}

/// A command with what was entered for it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// The password that it needs.
    pub password: Option<String>,
}

/// Where the lines of an answer go.
#[derive(Clone)]
pub(crate) struct Output(mpsc::Sender<String>);

impl Output {
    /// Lines, and where they come out.
    pub(crate) fn new() -> (Self, mpsc::Receiver<String>) {
        let (sender, lines) = mpsc::channel(LINES_MAX);
        (Self(sender), lines)
    }

    /// Answers a line.
    ///
    /// # Errors
    /// If nobody reads the answer any more.
    pub(crate) async fn line(&self, line: String) -> anyhow::Result<()> {
        self.0.send(line).await.context("nobody reads the answer")
    }

    /// Says what was done, in the answer and in the server's log.
    pub(crate) async fn done(&self, what: String) -> anyhow::Result<()> {
        info!("on the command line: {what}");
        self.line(what).await
    }
}

/// Does what is asked, through the running server if there is one.
///
/// # Errors
/// If it is refused or fails, with what to show to whoever asked.
pub async fn perform(config: &Config, request: Request) -> anyhow::Result<()> {
    #[cfg(unix)]
    if let Some(stream) = connect(&config.server.database_path).await? {
        return relay(stream, &request).await;
    }
    let path = &config.server.database_path;
    let makes_database = matches!(request.command, Command::CreateUser { .. });
    anyhow::ensure!(makes_database || path.exists(), "there is no database (database_path = {path:?})");
    let work = async move |parts: &wire::Parts| {
        let (output, lines) = Output::new();
        let (done, ()) = tokio::join!(execute(config, parts, request, output), print_all(lines));
        done
    };
    wire::with_parts(config, work).await.map_err(|error| match error.is::<store::OpenError>() {
        true => error.context("no running server answers, and its database can't be opened beside it"),
        false => error,
    })
}

async fn print_all(mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        if !print(&line) {
            return;
        }
    }
}

/// Prints a line. `false` if nobody reads it, as behind `head`.
pub(crate) fn print(line: &str) -> bool {
    writeln!(std::io::stdout().lock(), "{line}").is_ok()
}
