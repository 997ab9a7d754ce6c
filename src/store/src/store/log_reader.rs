//! How the log is read.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    engine::Engine,
    error::{FollowError, StoreError},
    log::{FOLLOW_RECORDS_MAX, LogRecord},
    position::Position,
    range::Range,
    store::{open::log_oldest, view::View},
    table::Log,
};

/// Reads the log from a position on and then as it grows. What does something about what it reads is a [`Follower`](crate::Follower),
/// which goes on after failures too.
pub struct LogReader {
    engine: Arc<dyn Engine>,
    published: watch::Receiver<Position>,
    at: Position,
}

impl LogReader {
    pub(crate) fn new(engine: Arc<dyn Engine>, from: Position) -> LogReader {
        let published = engine.positions();
        LogReader { engine, published, at: from }
    }

    /// Everything up to this position was returned.
    pub fn position(&self) -> Position {
        self.at
    }

    /// The next records, in order, at least one; waits until there are any. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<LogRecord>, FollowError> {
        loop {
            let records = self.try_next().await?;
            if !records.is_empty() {
                return Ok(records);
            }
            self.changed().await?;
        }
    }

    /// The next records that are there now, in order; none if everything was returned.
    pub async fn try_next(&mut self) -> Result<Vec<LogRecord>, FollowError> {
        let Some((records, through)) = self.peek().await? else { return Ok(Vec::new()) };
        self.at = through;
        Ok(records)
    }

    /// The next records that are there now and the position that is reached with them, without going there. No records where only
    /// positions were skipped; `None` if there is nothing new at all.
    pub(crate) async fn peek(&mut self) -> Result<Option<(Vec<LogRecord>, Position)>, FollowError> {
        // Before looking, so that nothing is missed between the look and a wait.
        self.published.mark_unchanged();
        let published = self.engine.published();
        if self.at >= published {
            return Ok(None);
        }
        let records = match self.engine.recent_log(self.at, published) {
            Some(records) => records,
            None => self.read_stored(published).await?,
        };
        let through = records.last().map_or(published, |last| last.position);
        Ok(Some((records, through)))
    }

    /// Goes on after `position`.
    pub(crate) fn move_to(&mut self, position: Position) {
        self.at = position;
    }

    /// Waits until more is published than [`LogReader::peek`] has seen.
    pub(crate) async fn changed(&mut self) -> Result<(), FollowError> {
        self.published.changed().await.map_err(|_| FollowError::Closed)
    }

    /// Waits until the store is closed.
    pub(crate) async fn closed(&self) {
        let mut published = self.published.clone();
        while published.changed().await.is_ok() {}
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.published.has_changed().is_err()
    }

    /// The tables at the published position.
    pub(crate) async fn view(&self) -> Result<View, StoreError> {
        Ok(View::new(self.engine.snapshot().wait().await?))
    }

    async fn read_stored(&self, through: Position) -> Result<Vec<LogRecord>, FollowError> {
        let view = self.view().await?;
        let oldest = log_oldest(&view).await?;
        if self.at.next() < oldest {
            return Err(FollowError::TooOld { oldest });
        }
        let range = Range::<Log>::all().after(&(self.at,)).through(&(through,));
        let rows = view.scan(range.limit(FOLLOW_RECORDS_MAX)).await?.rows;
        rows.into_iter().map(|(position, value)| Ok(LogRecord::from_value(position, value)?)).collect()
    }
}
