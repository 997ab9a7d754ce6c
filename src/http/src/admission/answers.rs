//! Large answers: how many bytes of them wait for their clients, and who may have one made.
//!
//! Making a large answer takes memory and time before anybody knows how much, so it takes a turn: one for each user, a few for
//! all, and none while too many bytes wait to be taken. What waits is counted by user; where others need the room, the oldest is
//! given up.

use std::{
    collections::{HashMap, VecDeque},
    io,
    num::NonZeroUsize,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    Client,
    flow::{Flow, Sending},
    shares::{Share, Shares},
};
use crate::ApiError;

/// Answers up to this are of no account, in bytes. Larger ones are handed to their connection in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;
/// Bytes of large answers of one user, or of one network without an account, that wait to be taken.
const WAITING_BYTES_PER_CLIENT_MAX: u64 = 32 << 20;
/// Bytes of large answers that wait to be taken above which no more are made.
const WAITING_BYTES_MAX: u64 = 32 << 20;
/// How old an answer is, in seconds, when it may be given up for others.
const GIVE_UP_SECONDS: u64 = 5;
/// How long who waits for room waits until an old answer is given up, in seconds.
const ROOM_SECONDS: u64 = 1;
/// Requests of a user that wait for their turn, or have it.
const TURNS_PER_USER_MAX: u64 = 16;
/// Turns at a time, if there are fewer cores: some wait for the disk.
const TURNS_MIN: usize = 2;
/// What an answer that is being made may come to, in bytes, as nobody knows yet.
const EXPECTED_BYTES: u64 = 16 << 20;
/// Answers that are listed before those that ended are forgotten.
const LIST_SWEEP: usize = 1_024;
/// Bytes of an answer that cost one unit of the request's rate limit.
const BYTES_PER_UNIT: u64 = 32 * 1024;

/// 429 for who holds all that they may.
pub(crate) fn busy() -> ApiError {
    ApiError::limit_exceeded(Duration::from_secs(1))
}

/// All large answers.
pub(crate) struct Answers {
    waiting: Arc<Shares>,
    oldest_first: Mutex<VecDeque<(Instant, Weak<Held>)>>,
    room: Arc<Notify>,
    turns: Arc<Semaphore>,
    /// Answers that are being made.
    making: AtomicU64,
    own_turns: Mutex<HashMap<u64, Arc<Semaphore>>>,
    in_line: Arc<Shares>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            waiting: Shares::new(WAITING_BYTES_PER_CLIENT_MAX, u64::MAX),
            oldest_first: Mutex::default(),
            room: Arc::default(),
            turns: Arc::new(Semaphore::new(TURNS_MIN.max(cores))),
            making: AtomicU64::new(0),
            own_turns: Mutex::default(),
            in_line: Shares::new(TURNS_PER_USER_MAX, u64::MAX),
        }
    }

    /// Waits until a user may have a large answer made. The turn is over when it is dropped.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` if too many of the user's requests wait.
    pub(crate) async fn turn(self: &Arc<Self>, key: u64) -> Result<Turn, ApiError> {
        let in_line = self.in_line.take(key, 1).ok_or_else(busy)?;
        let own = OwnTurns::new(self, key);
        let own_turn = own.turns.clone().acquire_owned().await.map_err(ApiError::internal)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(ApiError::internal)?;
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            if self.waiting.total() + EXPECTED_BYTES * self.making.load(Ordering::Relaxed) < WAITING_BYTES_MAX {
                let making = Making::begin(self.clone());
                return Ok(Turn { _making: making, _turn: turn, _own_turn: own_turn, _own: own, _in_line: in_line });
            }
            tokio::select! {
                () = room => {}
                () = tokio::time::sleep(Duration::from_secs(ROOM_SECONDS)) => self.give_up_oldest(),
            }
        }
    }

    fn give_up_oldest(&self) {
        let mut list = self.oldest_first.lock();
        while let Some((begun, held)) = list.front() {
            let held = held.upgrade();
            if held.is_some() && begun.elapsed() < Duration::from_secs(GIVE_UP_SECONDS) {
                return;
            }
            list.pop_front();
            if held.is_some_and(|held| held.give_up()) {
                return;
            }
        }
    }

    /// Counts a large answer until its client has taken it; gives it, and what it cost in units of the rate limit beyond the first.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` if the client lets too many wait.
    pub(crate) fn admit(
        &self,
        response: Response,
        client: Client,
        flow: Option<&Flow>,
    ) -> Result<(Response, u64), ApiError> {
        let (parts, mut body) = response.into_parts();
        let Some(length) = body.size_hint().exact() else {
            // Made as it is taken.
            let body = match flow.and_then(Flow::send) {
                Some(sending) => Body::new(Paced { source: Source::Made(body), sending: Some(sending) }),
                None => body,
            };
            return Ok((Response::from_parts(parts, body), 0));
        };
        if length <= PIECE_BYTES as u64 {
            return Ok((Response::from_parts(parts, body), 0));
        }
        // What has a length is one piece, which is there.
        let Some(Some(Ok(frame))) = body.frame().now_or_never() else {
            return Err(ApiError::internal("a body of a known length that is not there"));
        };
        let bytes = frame.into_data().map_err(|_| ApiError::internal("a body without data"))?;
        let share = self.waiting.take(client.key, length.min(WAITING_BYTES_PER_CLIENT_MAX)).ok_or_else(busy)?;
        let held = Arc::new(Held(Mutex::new(State::Waiting(Rest { bytes, _share: share, room: self.room.clone() }))));
        let mut list = self.oldest_first.lock();
        if list.len() >= LIST_SWEEP {
            list.retain(|(_, held)| held.strong_count() > 0);
        }
        list.push_back((Instant::now(), Arc::downgrade(&held)));
        drop(list);
        let paced = Paced { source: Source::Held(held), sending: flow.and_then(Flow::send) };
        Ok((Response::from_parts(parts, Body::new(paced)), length / BYTES_PER_UNIT))
    }
}

/// Leave to have a large answer made.
pub struct Turn {
    // In this order: the permits go before what counts who is in line.
    _making: Making,
    _turn: OwnedSemaphorePermit,
    _own_turn: OwnedSemaphorePermit,
    _own: OwnTurns,
    _in_line: Share,
}

/// An answer that is being made.
struct Making(Arc<Answers>);

impl Making {
    fn begin(answers: Arc<Answers>) -> Self {
        answers.making.fetch_add(1, Ordering::Relaxed);
        Self(answers)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.0.making.fetch_sub(1, Ordering::Relaxed);
        self.0.room.notify_waiters();
    }
}

/// The line of one user, forgotten with the last who stands in it.
struct OwnTurns {
    answers: Arc<Answers>,
    key: u64,
    turns: Arc<Semaphore>,
}

impl OwnTurns {
    fn new(answers: &Arc<Answers>, key: u64) -> Self {
        let turns = answers.own_turns.lock().entry(key).or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
        Self { answers: answers.clone(), key, turns }
    }
}

impl Drop for OwnTurns {
    fn drop(&mut self) {
        let mut lines = self.answers.own_turns.lock();
        // The map's reference and this one. Others are made only under the lock.
        if Arc::strong_count(&self.turns) <= 2 {
            lines.remove(&self.key);
        }
    }
}

/// An answer that waits to be taken.
struct Held(Mutex<State>);

enum State {
    Waiting(Rest),
    Taken,
    GivenUp,
}

/// What of it has not been taken.
struct Rest {
    bytes: Bytes,
    _share: Share,
    room: Arc<Notify>,
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.room.notify_waiters();
    }
}

impl Held {
    /// The next piece, copied so that the connection doesn't keep the whole.
    fn next(&self) -> Option<io::Result<Bytes>> {
        let mut state = self.0.lock();
        let rest = match &mut *state {
            State::Waiting(rest) => rest,
            State::Taken => return None,
            State::GivenUp => return Some(Err(io::ErrorKind::TimedOut.into())),
        };
        let piece = Bytes::copy_from_slice(&rest.bytes.split_to(PIECE_BYTES.min(rest.bytes.len())));
        if rest.bytes.is_empty() {
            *state = State::Taken;
        }
        Some(Ok(piece))
    }

    /// Frees what is left; the connection will break off. Tells whether there was anything.
    fn give_up(&self) -> bool {
        let mut state = self.0.lock();
        let waits = matches!(*state, State::Waiting(_));
        if waits {
            *state = State::GivenUp;
        }
        waits
    }

    fn left(&self) -> u64 {
        match &*self.0.lock() {
            State::Waiting(rest) => rest.bytes.len() as u64,
            State::Taken => 0,
            // Not the end, so that nobody takes the answer for complete.
            State::GivenUp => 1,
        }
    }
}

/// A body that tells how it is taken.
struct Paced {
    source: Source,
    sending: Option<Arc<Sending>>,
}

enum Source {
    Held(Arc<Held>),
    Made(Body),
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = match &mut self.source {
            Source::Held(held) => {
                Poll::Ready(held.next().map(|piece| piece.map(Frame::data).map_err(axum::Error::new)))
            }
            Source::Made(body) => Pin::new(body).poll_frame(context),
        };
        if let Some(sending) = &self.sending {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => sending.took(frame.data_ref().map_or(0, Bytes::len)),
                Poll::Ready(_) => {}
                Poll::Pending => sending.is_late(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Held(held) => held.left() == 0,
            Source::Made(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Held(held) => SizeHint::with_exact(held.left()),
            Source::Made(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn client(key: u64) -> Client {
        Client { key, is_user: true }
    }

    fn answer(answers: &Answers, key: u64, bytes: usize) -> Result<Response, ApiError> {
        let response = Response::new(Body::from(vec![7; bytes]));
        answers.admit(response, client(key), None).map(|(response, _)| response)
    }

    #[tokio::test]
    async fn an_answer_comes_whole_and_costs_what_it_is_long() {
        let answers = Answers::new();
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 10 * MIB] {
            let response = Response::new(Body::from(vec![7; length]));
            let (response, units) = answers.admit(response, client(1), None).expect("admitted");
            assert_eq!(response.body().size_hint().exact(), Some(length as u64));
            let whole = response.into_body().collect().await.expect("a body").to_bytes();
            assert!(whole.len() == length && whole.iter().all(|byte| *byte == 7), "{length}");
            assert_eq!(units, if length > PIECE_BYTES { length as u64 / BYTES_PER_UNIT } else { 0 });
        }
        assert_eq!(answers.waiting.total(), 0);
    }

    #[tokio::test]
    async fn a_client_that_lets_answers_wait_gets_no_more() {
        let answers = Answers::new();
        let first = answer(&answers, 1, 20 * MIB).expect("admitted");
        assert_eq!(answer(&answers, 1, 20 * MIB).expect_err("too much").errcode(), "M_LIMIT_EXCEEDED");
        assert!(answer(&answers, 1, PIECE_BYTES).is_ok(), "small ones are of no account");
        assert!(answer(&answers, 2, 20 * MIB).is_ok(), "nor is one client another");
        drop(first);
        // However long one is, a client that has taken all others gets it.
        assert!(answer(&answers, 1, 100 * MIB).is_ok());
        assert_eq!(answers.waiting.total(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_user_has_one_turn() {
        let answers = Arc::new(Answers::new());
        let turn = answers.turn(1).await.expect("a turn");
        let again = answers.turn(1);
        let mut again = pin!(again);
        assert!(again.as_mut().now_or_never().is_none());
        assert!(answers.turn(2).await.is_ok(), "another user's");
        drop(turn);
        assert!(again.await.is_ok());
        let waiting: Vec<_> = (0..TURNS_PER_USER_MAX)
            .map(|_| Box::pin(answers.turn(1)))
            .map(|mut turn| (turn.as_mut().now_or_never(), turn))
            .collect();
        assert!(answers.turn(1).await.is_err(), "too many wait");
        drop(waiting);
        assert!(answers.own_turns.lock().is_empty() && answers.in_line.total() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_takes_are_given_up_for_others() {
        let answers = Arc::new(Answers::new());
        let mut untaken = Vec::new();
        for key in 0..3 {
            untaken.push(answer(&answers, key, 30 * MIB).expect("admitted").into_body());
        }
        let begun = Instant::now();
        drop(answers.turn(9).await.expect("a turn"));
        assert!((GIVE_UP_SECONDS..GIVE_UP_SECONDS + 4).contains(&begun.elapsed().as_secs()));
        assert_eq!(answers.waiting.total(), 30 * MIB as u64);
        let mut untaken = untaken.into_iter();
        for _ in 0..2 {
            assert!(untaken.next().expect("three").collect().await.is_err(), "broken off, and not taken for complete");
        }
        assert!(untaken.next().expect("three").collect().await.is_ok());
    }
}
