//! The driver of followers: those who do something about what the log tells, some time after it was written.
//!
//! [`Follower`] owns what is the same for all: where it is, what comes next, how long to wait after a failure, when what it keeps has to
//! be made anew, and that there is nothing more to do once the store is closed. Who waits for other things as well calls
//! [`Follower::next`]; who doesn't implements [`Follow`] and has a task of its own ([`Store::run_follower`]). What must never lag is a
//! [`Projection`](crate::Projection) instead.

use std::{
    convert::Infallible,
    fmt::Display,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tracing::warn;

use crate::{
    batch::Batch,
    error::{CommitError, EngineError, FollowError, StoreError},
    log::LogRecord,
    position::Position,
    store::{Store, log_reader::LogReader, view::View},
    table::Cursors,
};

/// How long a follower waits after its first failure; it doubles with each that follows.
pub const FOLLOW_DELAY_FIRST: Duration = Duration::from_millis(10);
/// The longest that a follower waits between two attempts.
pub const FOLLOW_DELAY_MAX: Duration = Duration::from_secs(5);
/// How often the log could not be read when it is given up and what the follower keeps is made anew. While the engine is being opened
/// again it is waited for.
pub(crate) const READ_FAILURES_MAX: u32 = 8;
/// A stored cursor is this many records behind at most if nothing followed from them.
pub const CURSOR_RECORDS_MAX: usize = 4_096;

/// Where a follower keeps how far it is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Cursor {
    /// In memory, as what it makes of the log: with each start it makes that anew.
    Memory,
    /// In the store, under the follower's name, moved in the same batch as what it writes: with each start it goes on where it was.
    Stored,
}

/// What a follower has to do next.
pub enum News {
    /// To do something about the records that come next.
    Records {
        /// In the order of the log. None where it skips positions.
        records: Vec<LogRecord>,
        /// Nothing up to here is left out.
        through: Position,
    },
    /// To make anew, from the tables as of this view, what it keeps: it begins, the log doesn't reach back to where it was, or the log
    /// can't be read. It goes on with what comes after the view.
    Rebuild(View),
}

/// What is done about the log in a task of its own, see [`Store::run_follower`].
///
/// What is done about the same records may be done again, after a failure or a crash: what is written is written once, by the batch, and
/// all else has to bear it.
pub trait Follow: Send + 'static {
    /// Names it among all followers, for ever where the cursor is stored.
    const NAME: &'static str;
    /// Where its cursor is kept.
    const CURSOR: Cursor;
    /// Why something can't be done now. It is tried again.
    type Error: Display + From<CommitError> + Send;

    /// Does what follows from some records, which are not empty. What is to be written is given back: it is committed, without waiting
    /// for the disk, in one batch with the cursor (with [`Batch::new`] the cursor alone is moved). `None` if nothing followed and it
    /// does no harm to look at the records again; the cursor is moved some time.
    ///
    /// An error, or a conflict of the batch, gives the same records once more after a while. What will never go better is therefore no
    /// error but passed over.
    fn apply(&mut self, records: &[LogRecord]) -> impl Future<Output = Result<Option<Batch>, Self::Error>> + Send;

    /// Does what would have followed from all that happened before a view, as far as can be told from the tables, whatever was done of it
    /// before. See [`News::Rebuild`].
    fn rebuild(&mut self, view: &View) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// How far a follower is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FollowerStatus {
    /// Its name.
    pub name: &'static str,
    /// Up to here all is done; [`Position::ZERO`] while it begins or starts over.
    pub position: Position,
    /// How many positions it is behind what is published.
    pub lag: u64,
}

/// What is known of one follower. There as long as it follows.
pub(crate) struct Status {
    name: &'static str,
    position: watch::Sender<Position>,
}

/// The followers of a store.
#[derive(Default)]
pub(crate) struct Followers(Mutex<Vec<Weak<Status>>>);

impl Followers {
    fn add(&self, name: &'static str) -> Arc<Status> {
        let status = Arc::new(Status { name, position: watch::Sender::new(Position::ZERO) });
        let mut followers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(Arc::downgrade(&status));
        status
    }

    pub(crate) fn list(&self, published: Position) -> Vec<FollowerStatus> {
        let followers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = followers.iter().filter_map(Weak::upgrade);
        let status = |follower: Arc<Status>| {
            let (name, position) = (follower.name, *follower.position.borrow());
            FollowerStatus { name, position, lag: published.get().saturating_sub(position.get()) }
        };
        there.map(status).collect()
    }
}

/// Where a follower is.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Place {
    /// As its stored cursor says, which is still to be read.
    AtCursor,
    /// Nowhere: what it keeps has to be made.
    Lost,
    /// In the log, where its reader is.
    InLog,
}

/// Follows the log: gives what is to be done next and is told whether it was ([`Follower::done`], [`Follower::failed`] or
/// [`Follower::start_over`]). What nobody says that it was done is given again.
pub struct Follower {
    log: LogReader,
    status: Arc<Status>,
    place: Place,
    /// The position that is reached when what was given last is done.
    given: Position,
    /// Failures since something was done.
    failures: u32,
    /// How often the log could not be read since it was, or something was done.
    unread: u32,
    /// Nothing is tried before.
    resume_at: Option<Instant>,
}

impl Follower {
    pub(crate) fn in_memory(log: LogReader, followers: &Followers, name: &'static str) -> Follower {
        Follower::new(log, followers, name, Place::Lost)
    }

    fn new(log: LogReader, followers: &Followers, name: &'static str, place: Place) -> Follower {
        let status = followers.add(name);
        Follower { log, status, place, given: Position::ZERO, failures: 0, unread: 0, resume_at: None }
    }

    /// Up to here all is done; [`Position::ZERO`] where that is to be made anew.
    pub fn position(&self) -> Position {
        self.log.position()
    }

    /// What is to be done next; waits until there is something, after a failure for a while at least, and while the log can't be read.
    /// `None` once the store is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            self.pause().await;
            if self.log.is_closed() {
                return None;
            }
            match self.try_next().await {
                Ok(Some(news)) => return Some(news),
                Ok(None) => self.log.changed().await.ok()?,
                Err(error) => self.unreadable(&error),
            }
        }
    }

    /// What is to be done next, if there is something, for who is asked to catch up and tells of failures: nothing is waited for but the
    /// disk.
    ///
    /// # Errors
    /// The log can't be read.
    pub async fn try_next(&mut self) -> Result<Option<News>, StoreError> {
        if self.place == Place::AtCursor {
            match self.log.view().await?.get::<Cursors>(&self.status.name).await? {
                Some(position) => self.go_to(Place::InLog, position),
                None => self.place = Place::Lost,
            }
        }
        if self.place == Place::InLog {
            match self.log.peek().await {
                Ok(None) => return Ok(None),
                Ok(Some((records, through))) => {
                    (self.given, self.unread) = (through, 0);
                    return Ok(Some(News::Records { records, through }));
                }
                Err(error @ FollowError::TooOld { .. }) => self.start_over(&error),
                Err(FollowError::Store(error)) => return Err(error),
                Err(FollowError::Closed) => return Err(StoreError::Closed),
            }
        }
        let view = self.log.view().await?;
        self.given = view.position();
        Ok(Some(News::Rebuild(view)))
    }

    /// What was given last is done.
    pub fn done(&mut self) {
        self.go_to(Place::InLog, self.given);
        (self.failures, self.unread, self.resume_at) = (0, 0, None);
    }

    /// What was given last can't be done now: it is given again after a while, or, if that was to rebuild, to rebuild as of then.
    pub fn failed(&mut self, error: &dyn Display) {
        let delay = FOLLOW_DELAY_FIRST.saturating_mul(1 << self.failures.min(16));
        self.resume_at = Some(Instant::now() + delay.min(FOLLOW_DELAY_MAX));
        self.failures += 1;
        // What fails because the store is closed is nobody's concern.
        if !self.log.is_closed() {
            warn!(follower = self.status.name, position = %self.position(), %error, "following the log failed and is tried again");
        }
    }

    /// What was given last can't be made use of, and never will: what the follower keeps is to be made anew.
    pub fn start_over(&mut self, error: &dyn Display) {
        warn!(follower = self.status.name, position = %self.position(), %error, "a follower of the log starts over");
        self.go_to(Place::Lost, Position::ZERO);
    }

    fn go_to(&mut self, place: Place, position: Position) {
        self.place = place;
        self.log.move_to(position);
        self.status.position.send_replace(position);
    }

    /// Waits, after a failure, until it is time to try again, or until the store is closed.
    async fn pause(&mut self) {
        let Some(at) = self.resume_at else { return };
        tokio::select! {
            () = tokio::time::sleep_until(at) => {}
            () = self.log.closed() => {}
        }
        self.resume_at = None;
    }

    fn unreadable(&mut self, error: &StoreError) {
        self.failed(error);
        self.unread += 1;
        let reopening = matches!(error, StoreError::Engine(EngineError::Unavailable));
        let damaged = matches!(error, StoreError::Decode { .. });
        if damaged || (self.unread >= READ_FAILURES_MAX && !reopening) {
            self.start_over(error);
        }
    }
}

/// A follower in a task of its own, which ends when this is dropped, or the store is closed.
#[must_use = "the follower ends when this is dropped"]
pub struct Following {
    position: watch::Receiver<Position>,
    _owner: oneshot::Sender<Infallible>,
}

impl Following {
    pub(crate) fn start<F: Follow>(store: Store, followers: &Followers, follow: F) -> Following {
        let place = match F::CURSOR {
            Cursor::Memory => Place::Lost,
            Cursor::Stored => Place::AtCursor,
        };
        let follower = Follower::new(store.read_log(Position::ZERO), followers, F::NAME, place);
        let position = follower.status.position.subscribe();
        let (owner, gone) = oneshot::channel();
        tokio::spawn(Runner { store, follower, follow, unmoved: 0 }.run(gone));
        Following { position, _owner: owner }
    }

    /// Waits until everything up to `position` is done.
    ///
    /// # Errors
    /// [`FollowError::Closed`] if the store is closed before.
    pub async fn reached(&self, position: Position) -> Result<(), FollowError> {
        let reached = self.position.clone().wait_for(|done| *done >= position).await.map(drop);
        reached.map_err(|_ended| FollowError::Closed)
    }
}

/// The task of a follower.
struct Runner<F> {
    store: Store,
    follower: Follower,
    follow: F,
    /// Records since the cursor was moved.
    unmoved: usize,
}

impl<F: Follow> Runner<F> {
    async fn run(mut self, mut owner_gone: oneshot::Receiver<Infallible>) {
        loop {
            let news = tokio::select! {
                biased;
                _ = &mut owner_gone => return,
                news = self.follower.next() => news,
            };
            let Some(news) = news else { return };
            match self.handle(&news).await {
                Ok(()) => self.follower.done(),
                Err(error) => self.follower.failed(&error),
            }
        }
    }

    async fn handle(&mut self, news: &News) -> Result<(), F::Error> {
        let (batch, records) = match news {
            News::Records { records, .. } if records.is_empty() => (None, 0),
            News::Records { records, .. } => (self.follow.apply(records).await?, records.len()),
            News::Rebuild(view) => {
                self.forget_cursor().await?;
                self.follow.rebuild(view).await?;
                (Some(Batch::new()), 0)
            }
        };
        let unmoved = self.unmoved + records;
        if batch.is_none() && unmoved < CURSOR_RECORDS_MAX {
            self.unmoved = unmoved;
            return Ok(());
        }
        let mut batch = batch.unwrap_or_default();
        batch.relaxed();
        if F::CURSOR == Cursor::Stored {
            batch.move_cursor(F::NAME, self.follower.given);
        }
        self.store.commit(batch).await?;
        self.unmoved = 0;
        Ok(())
    }

    /// So that who is broken off while it rebuilds begins with that again.
    async fn forget_cursor(&mut self) -> Result<(), CommitError> {
        if F::CURSOR == Cursor::Memory {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.relaxed();
        batch.delete::<Cursors>(&F::NAME);
        self.store.commit(batch).await.map(drop)
    }
}
