//! Waiting for news, and telling them, whatever form they take.

use std::{pin::pin, sync::Arc, time::Duration};

use ruma::{DeviceId, UserId};
use tokio::time::Instant;
use users::{PresenceState, Syncing};

use crate::{
    Inner, SyncError, Token,
    inbox::Inbox,
    large::LargeAnswer,
    sequence::Sequence,
    streams::{Sources, StreamId, StreamSet, changes::Listed, last_numbers},
};

/// Who asks for news.
#[derive(Copy, Clone)]
pub(crate) struct Asks<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) device: &'a DeviceId,
    /// How present the user is meanwhile.
    pub(crate) set_presence: PresenceState,
    /// For how long to wait if there are none, in milliseconds.
    pub(crate) timeout_ms: u64,
    /// Of which streams.
    pub(crate) wanted: StreamSet,
}

/// A device that asks for news.
pub(crate) struct Poll<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    pub(crate) asks: Asks<'a>,
    /// Leave to make a large answer.
    pub(crate) large: &'a dyn LargeAnswer,
    /// The user's number in the hub.
    pub(crate) number: u32,
    pub(crate) inbox: Arc<Inbox>,
    /// The user is there while this lives.
    _syncing: Syncing,
}

/// What a look for news came to.
pub(crate) enum Told<A> {
    /// An answer.
    News(A),
    /// There are none; they are to be waited for from here on.
    Nothing(Token),
}

/// A form in which news are told.
pub(crate) trait Fold {
    /// What a device is answered.
    type Answer;

    /// Tells everything after a token up to what is published. `at_once`: that there is nothing is an answer as well.
    async fn tell(
        &self,
        poll: &Poll<'_>,
        since: Option<&Token>,
        at_once: bool,
    ) -> Result<Told<Self::Answer>, SyncError>;
}

/// What a look at the inbox says.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum News {
    /// Nothing.
    None,
    /// Something that waits for more to come.
    Relaxed,
    /// Something to be answered at once.
    Urgent,
}

impl Inner {
    /// A request's token; `None` for none, and for one of another epoch of the store.
    pub(crate) fn since(&self, since: Option<&str>) -> Result<Option<Token>, SyncError> {
        let Some(since) = since else { return Ok(None) };
        let token: Token = since.parse()?;
        if token.epoch != self.store.epoch() {
            return Ok(None);
        }
        if !token.is_possible(self.store.published()) {
            return Err(SyncError::BadToken);
        }
        Ok(Some(token.in_run(self.store.boot_id())))
    }
}

impl<'a> Poll<'a> {
    /// Begins one, which sees what was acknowledged to anybody before it, and that its user is there.
    pub(crate) async fn begin(inner: &'a Arc<Inner>, asks: Asks<'a>, large: &'a dyn LargeAnswer) -> Poll<'a> {
        let Asks { user, device, set_presence, wanted, .. } = asks;
        let syncing = inner.users.presence().begin_sync(user, device, set_presence);
        let wants_presence = wanted.contains(StreamId::Presence);
        let (number, inbox) = inner.hub.inbox(user, inner.clock.now_ms(), wants_presence);
        let mut to = last_numbers(&Sources { rooms: &inner.rooms, users: &inner.users });
        to[Sequence::Log] = inner.store.published().get();
        inner.hub.wait_for(to).await;
        Self { inner, asks, large, number, inbox, _syncing: syncing }
    }

    /// Waits until there are news since a token, or nothing to wait for any more, and tells them. The token moves on as far as there
    /// were none. `at_once`: it doesn't wait.
    pub(crate) async fn answer<F: Fold>(
        &self,
        fold: &F,
        since: &mut Option<Token>,
        mut at_once: bool,
    ) -> Result<F::Answer, SyncError> {
        let (inner, inbox) = (self.inner, &self.inbox);
        let wait_ms = self.asks.timeout_ms.min(inner.config.client_sync_timeout_max.ms());
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        let mut over = pin!(inner.hub.over(deadline));
        at_once |= wait_ms == 0;
        let mut relaxed_due: Option<Instant> = None;
        loop {
            // Before looking, so that nothing is missed between the look and the wait.
            let mut urgent = pin!(inbox.urgent.notified());
            let mut relaxed = pin!(inbox.relaxed.notified());
            urgent.as_mut().enable();
            relaxed.as_mut().enable();
            let news = self.news(since.as_ref());
            let is_due = relaxed_due.is_some_and(|due| due <= Instant::now());
            if at_once || news == News::Urgent || is_due {
                let first = Duration::from_millis(inner.config.answer_first_ms);
                inner.answering.answered(self.asks.user, self.asks.device, first).await;
                // Boxed, so that a waiting request is small.
                match Box::pin(fold.tell(self, since.as_ref(), at_once)).await? {
                    Told::News(answer) => return Ok(answer),
                    Told::Nothing(token) => *since = Some(token),
                }
                self.large.end();
                relaxed_due = None;
            } else if news == News::Relaxed && relaxed_due.is_none() {
                relaxed_due = Some(Instant::now() + Duration::from_millis(inner.config.relaxed_delay_ms));
            }
            tokio::select! {
                biased;
                () = urgent => {}
                () = relaxed, if relaxed_due.is_none() => {}
                () = at(relaxed_due) => {}
                () = &mut over => at_once = true,
            }
            inbox.touch(inner.clock.now_ms());
        }
    }

    fn news(&self, since: Option<&Token>) -> News {
        let Some(since) = since else { return News::Urgent };
        let listed = self.listed(since);
        if listed.is_urgent() {
            News::Urgent
        } else if listed.is_empty() {
            News::None
        } else {
            News::Relaxed
        }
    }

    /// What the inbox lists since a token.
    pub(crate) fn listed(&self, since: &Token) -> Listed {
        Listed::new(&self.inbox, self.asks.device, since, self.asks.wanted)
    }
}

/// Waits until a point in time, for ever if there is none.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
