//! Large answers: how many bytes of them wait for their clients, and who may have one made.
//!
//! Making a large answer takes memory and time before anybody knows how much, so it takes a turn: one for each user, a few for
//! all, and none while too many bytes wait to be taken. What waits is counted by user; where others need the room, the one that
//! is taken most slowly is given up.

use std::{
    collections::HashMap,
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
    flow::Flow,
    shares::{Share, Shares},
};
use crate::ApiError;

/// Answers up to this are of no account on HTTP/1, where a connection has one at a time, in bytes. Larger ones are handed to their
/// connection in pieces of this size.
pub(super) const PIECE_BYTES: usize = 64 * 1024;
/// Answers up to this are of no account on HTTP/2, in bytes: what was written, above all, is confirmed whatever its client lets wait.
const STREAM_SMALL_BYTES: u64 = 1_024;
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
pub(super) const BYTES_PER_UNIT: u64 = 32 * 1024;

/// 429 for who holds all that they may.
pub(crate) fn busy() -> ApiError {
    ApiError::limit_exceeded(Duration::from_secs(1))
}

/// All large answers.
pub(crate) struct Answers {
    waiting: Arc<Shares>,
    list: Mutex<Vec<Weak<Held>>>,
    room: Arc<Notify>,
    turns: Arc<Semaphore>,
    /// Answers that are being made.
    making: AtomicU64,
    lines: Mutex<HashMap<u64, Line>>,
    in_line: Arc<Shares>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            waiting: Shares::new(WAITING_BYTES_PER_CLIENT_MAX, u64::MAX),
            list: Mutex::default(),
            room: Arc::default(),
            turns: Arc::new(Semaphore::new(TURNS_MIN.max(cores))),
            making: AtomicU64::new(0),
            lines: Mutex::default(),
            in_line: Shares::new(TURNS_PER_USER_MAX, u64::MAX),
        }
    }

    /// Waits until a user may have a large answer made. The turn is over when it is dropped.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` if too many of the user's requests wait.
    pub(crate) async fn turn(self: &Arc<Self>, key: u64) -> Result<Turn, ApiError> {
        let in_line = self.in_line.take(key, 1).ok_or_else(busy)?;
        let (place, line) = Place::take(self, key);
        let own_turn = line.acquire_owned().await.map_err(ApiError::internal)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(ApiError::internal)?;
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            if self.waiting.total() + EXPECTED_BYTES * self.making.load(Ordering::Relaxed) < WAITING_BYTES_MAX {
                let making = Making::begin(self.clone());
                return Ok(Turn {
                    _making: making,
                    _turn: turn,
                    _own_turn: own_turn,
                    _place: place,
                    _in_line: in_line,
                });
            }
            tokio::select! {
                () = room => {}
                () = tokio::time::sleep(Duration::from_secs(ROOM_SECONDS)) => self.give_up_slowest(),
            }
        }
    }

    /// Gives up the answer that was taken at the lowest rate so far, of those that are old enough to tell.
    fn give_up_slowest(&self) {
        let mut list = self.list.lock();
        list.retain(|held| held.strong_count() > 0);
        let rates = list.iter().filter_map(Weak::upgrade).filter_map(|held| Some((held.rate()?, held)));
        if let Some((_, slowest)) = rates.min_by_key(|(rate, _)| *rate) {
            slowest.give_up();
        }
    }

    /// Counts a large answer until its client has taken it. Gives it, and in any case what it cost in units of the rate limit beyond
    /// the first.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` if the client lets too many wait.
    pub(crate) fn admit(
        &self,
        response: Response,
        client: Client,
        flow: Option<&Flow>,
    ) -> (Result<Response, ApiError>, u64) {
        // What is made as it is taken has no length.
        let Some(length) = response.body().size_hint().exact() else { return (Ok(response), 0) };
        if length > PIECE_BYTES as u64 {
            return (self.hold(response, client, length), length / BYTES_PER_UNIT);
        }
        if length > STREAM_SMALL_BYTES && flow.is_some_and(Flow::has_streams) {
            return (self.count(response, client, length), 0);
        }
        (Ok(response), 0)
    }

    /// Counts an answer that is one of many on its connection until that has written it.
    fn count(&self, mut response: Response, client: Client, length: u64) -> Result<Response, ApiError> {
        let share = self.waiting.take(client.key, length).ok_or_else(busy)?;
        response.extensions_mut().insert(Counted(Arc::new(share)));
        Ok(response)
    }

    /// Holds an answer until its client has taken it, or it is given up.
    fn hold(&self, response: Response, client: Client, length: u64) -> Result<Response, ApiError> {
        let (parts, mut body) = response.into_parts();
        // What has a length is one piece, which is there.
        let Some(Some(Ok(frame))) = body.frame().now_or_never() else {
            return Err(ApiError::internal("a body of a known length that is not there"));
        };
        let bytes = frame.into_data().map_err(|_| ApiError::internal("a body without data"))?;
        let share = self.waiting.take(client.key, length.min(WAITING_BYTES_PER_CLIENT_MAX)).ok_or_else(busy)?;
        let state = State::Waiting(Rest { bytes, _share: share, room: self.room.clone() });
        let held = Arc::new(Held { length, begun: Instant::now(), state: Mutex::new(state) });
        let mut list = self.list.lock();
        if list.len() >= LIST_SWEEP {
            list.retain(|held| held.strong_count() > 0);
        }
        list.push(Arc::downgrade(&held));
        drop(list);
        Ok(Response::from_parts(parts, Body::new(HeldBody(held))))
    }
}

/// A small answer on HTTP/2, counted for as long as the connection has any of it. Its response carries this to the connection.
#[derive(Clone)]
pub(super) struct Counted(#[expect(dead_code, reason = "it counts until it is dropped")] Arc<Share>);

/// Leave to have a large answer made.
pub struct Turn {
    _making: Making,
    _turn: OwnedSemaphorePermit,
    _own_turn: OwnedSemaphorePermit,
    _place: Place,
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

/// Where the requests of one user wait for each other.
struct Line {
    turn: Arc<Semaphore>,
    standing: usize,
}

/// A place in the line of a user, which is forgotten with the last who stands in it.
struct Place {
    answers: Arc<Answers>,
    key: u64,
}

impl Place {
    fn take(answers: &Arc<Answers>, key: u64) -> (Self, Arc<Semaphore>) {
        let mut lines = answers.lines.lock();
        let line = lines.entry(key).or_insert_with(|| Line { turn: Arc::new(Semaphore::new(1)), standing: 0 });
        line.standing += 1;
        (Self { answers: answers.clone(), key }, line.turn.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.answers.lines.lock();
        if let Some(line) = lines.get_mut(&self.key) {
            line.standing -= 1;
            if line.standing == 0 {
                lines.remove(&self.key);
            }
        }
    }
}

/// An answer that waits to be taken.
struct Held {
    length: u64,
    begun: Instant,
    state: Mutex<State>,
}

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
        let mut state = self.state.lock();
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

    /// Bytes a second that were taken of it; `None` of one that isn't old enough to be given up, or does not wait.
    fn rate(&self) -> Option<u64> {
        let seconds = self.begun.elapsed().as_secs();
        match &*self.state.lock() {
            State::Waiting(rest) if seconds >= GIVE_UP_SECONDS => {
                Some(self.length.saturating_sub(rest.bytes.len() as u64) / seconds)
            }
            _ => None,
        }
    }

    /// Frees what is left; the connection will break off.
    fn give_up(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Waiting(_)) {
            *state = State::GivenUp;
        }
    }

    fn left(&self) -> u64 {
        match &*self.state.lock() {
            State::Waiting(rest) => rest.bytes.len() as u64,
            State::Taken => 0,
            // Not the end, so that nobody takes the answer for complete.
            State::GivenUp => 1,
        }
    }
}

struct HeldBody(Arc<Held>);

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.next().map(|piece| piece.map(Frame::data).map_err(axum::Error::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.left())
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
        answers.admit(response, client(key), None).0
    }

    #[tokio::test]
    async fn an_answer_comes_whole_and_costs_what_it_is_long() {
        let answers = Answers::new();
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 10 * MIB] {
            let response = Response::new(Body::from(vec![7; length]));
            let (response, units) = answers.admit(response, client(1), None);
            let response = response.expect("admitted");
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
        let (refused, units) = answers.admit(Response::new(Body::from(vec![7; 20 * MIB])), client(1), None);
        assert_eq!(refused.expect_err("too much").errcode(), "M_LIMIT_EXCEEDED");
        assert_eq!(units, 20 * MIB as u64 / BYTES_PER_UNIT, "it was made all the same");
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
        assert!(answers.lines.lock().is_empty() && answers.in_line.total() == 0);
    }

    #[tokio::test]
    async fn small_answers_count_where_a_connection_has_many() {
        let (answers, flow) = (Answers::new(), Flow::http2());
        let small = |key| answers.admit(Response::new(Body::from(vec![7; PIECE_BYTES])), client(key), Some(&flow)).0;
        let held: Vec<_> = (0..).map_while(|_| small(1).ok()).collect();
        assert_eq!(held.len() as u64 * PIECE_BYTES as u64, WAITING_BYTES_PER_CLIENT_MAX);
        assert!(small(2).is_ok());
        let confirmed = Response::new(Body::from(vec![7; STREAM_SMALL_BYTES as usize]));
        assert!(answers.admit(confirmed, client(1), Some(&flow)).0.is_ok());
        drop(held);
        assert_eq!(answers.waiting.total(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_an_answer_slowly_keeps_it_if_others_take_nothing() {
        let answers = Arc::new(Answers::new());
        let mut slow = answer(&answers, 1, 20 * MIB).expect("admitted").into_body();
        let untaken = answer(&answers, 2, 20 * MIB).expect("admitted").into_body();
        drop(slow.frame().await);
        drop(answers.turn(9).await.expect("a turn"));
        assert!(untaken.collect().await.is_err());
        assert!(slow.collect().await.is_ok());
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
