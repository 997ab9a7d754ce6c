//! The socket beside the database over which the running server takes commands.
//!
//! A request is one line of JSON, the answer several: what to print, line by line, and how it ended. Who may connect is who could open
//! the database as well: the user that the server runs as, and root.

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::mpsc,
    task::JoinSet,
};
use tracing::{debug, warn};

use crate::{
    commands::{Output, Request, print},
    commands_execute::execute,
    config::Config,
    wire::Parts,
};

/// The socket's name in the directory of the database.
const NAME: &str = "admin.sock";
/// Commands that are done at the same time; further ones wait to be accepted.
const COMMANDS_MAX: usize = 8;
/// The longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// How long a request may take to come.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after the system has refused a connection.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// A line of an answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// To be printed.
    Line(String),
    /// The command was done.
    Done,
    /// It was refused or failed.
    Failed(String),
}

/// The socket of a running server. Dropping it takes it away.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, "can't remove the socket for commands");
        }
    }
}

impl Control {
    /// Listens beside the database, which must be open: nobody else listens there then, whatever a process that was killed left behind.
    ///
    /// # Errors
    /// If the system refuses, for example because the path is too long for a socket.
    pub(crate) fn bind(database: &Path) -> io::Result<Self> {
        let path = database.join(NAME);
        match std::fs::symlink_metadata(&path) {
            Ok(left) if left.file_type().is_socket() => std::fs::remove_file(&path)?,
            Ok(_) => return Err(io::Error::other("something else has the socket's name")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(&path)?;
        let control = Self { listener, path };
        std::fs::set_permissions(&control.path, std::fs::Permissions::from_mode(0o600))?;
        Ok(control)
    }

    /// Does what is asked, until this is dropped.
    pub(crate) async fn run(self, config: Arc<Config>, parts: Parts) {
        let mut working = JoinSet::new();
        loop {
            while working.try_join_next().is_some() {}
            if working.len() >= COMMANDS_MAX {
                working.join_next().await;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (config, parts) = (config.clone(), parts.clone());
                    working.spawn(async move {
                        if let Err(error) = serve(stream, &config, &parts).await {
                            debug!(error = format!("{error:#}"), "a command was given up");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "can't accept commands");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

/// Answers one request.
async fn serve(stream: UnixStream, config: &Config, parts: &Parts) -> anyhow::Result<()> {
    let peer = stream.peer_cred()?.uid();
    // The socket's mode keeps others away as well, but for a moment after it was made.
    anyhow::ensure!(peer == 0 || peer == rustix::process::geteuid().as_raw(), "user {peer} may not give commands");
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    let mut reading = BufReader::new(reading.take(REQUEST_BYTES_MAX));
    tokio::time::timeout(REQUEST_PATIENCE, reading.read_line(&mut line)).await??;
    let ended = match serde_json::from_str(&line) {
        Ok(request) => {
            let (output, lines) = Output::new();
            let work = execute(config, parts, request, output);
            let (done, told) = tokio::join!(work, tell(lines, &mut writing));
            told?;
            done
        }
        Err(error) => Err(anyhow::Error::new(error).context("the running server doesn't know this command")),
    };
    let answer = match ended {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    send(&mut writing, &answer).await
}

/// Sends lines as they come. Whoever makes them sees that nobody reads them when this has failed.
async fn tell(mut lines: mpsc::Receiver<String>, writing: &mut OwnedWriteHalf) -> anyhow::Result<()> {
    while let Some(line) = lines.recv().await {
        send(writing, &Answer::Line(line)).await?;
    }
    Ok(())
}

async fn send(writing: &mut OwnedWriteHalf, answer: &Answer) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(writing.write_all(&line).await?)
}

/// A connection to the server that runs on this database; `None` if none does.
///
/// # Errors
/// If one may run, but can't be talked to.
pub(crate) async fn connect(database: &Path) -> anyhow::Result<Option<UnixStream>> {
    let path = database.join(NAME);
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(Some(stream)),
        // The last one was killed, or ended; or the path is so long that no server could listen there either.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(None)
        }
        Err(error) => {
            let why = format!("can't talk to the server at {}; commands are for the user it runs as", path.display());
            Err(anyhow::Error::new(error).context(why))
        }
    }
}

/// Has the server do what is asked, and prints its answer.
///
/// # Errors
/// As the server says, or if it ended before it answered.
pub(crate) async fn relay(stream: UnixStream, request: &Request) -> anyhow::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // Who is refused may find the connection closed already: the reason is not to be read there.
    writing.write_all(&line).await.context("the server takes no commands from this user")?;
    let mut answers = BufReader::new(reading).lines();
    while let Some(answer) = answers.next_line().await? {
        match serde_json::from_str(&answer)
            .context("the running server answers in another way than this program knows")?
        {
            Answer::Line(line) if print(&line) => {}
            Answer::Line(_) | Answer::Done => return Ok(()),
            Answer::Failed(why) => anyhow::bail!("{why}"),
        }
    }
    anyhow::bail!("the server ended before it answered: look whether it was done")
}
