//! The stream of a connection: ends it when the client takes too slowly what is sent to it, lets a client that has stopped
//! sending have its answer, and gives the errors that hyper itself answers with the form of all others.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::flow::{BYTES_PER_SECOND_MIN, Flow, PATIENCE_SECONDS};
use crate::front::error_in_full;

/// Longest time that a request goes on whose client sends nothing more: it may wait for the answer, or be gone.
const HANG_UP_SECONDS_MAX: u64 = 10;

/// The stream of a connection.
pub(crate) struct Wire<T> {
    stream: T,
    flow: Arc<Flow>,
    /// For how long in sum the client has let wait what was sent to it. What it takes pays that off.
    debt: Duration,
    /// Runs while a write waits for the client, and since when. Boxed, because most connections wait for requests and never need it.
    stalled: Option<Box<(Instant, Pin<Box<Sleep>>)>>,
    /// The client has stopped sending, which isn't told until this ends or all is answered.
    end: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
    /// Something was written since the last flush.
    is_unflushed: bool,
    /// Between answers: how many requests had begun when all of them were answered and sent. What is written next, without another
    /// request, is hyper's own; at any other time it may be anything, such as a file that looks like an error of hyper's.
    between: Option<u64>,
    /// What is written in place of an error of hyper's, and the length of that.
    instead: Option<Box<(Bytes, usize)>>,
}

impl<T> Wire<T> {
    pub(crate) fn new(stream: T, flow: Arc<Flow>) -> Self {
        Self {
            stream,
            flow,
            debt: Duration::ZERO,
            stalled: None,
            end: None,
            reader: None,
            is_unflushed: false,
            between: Some(0),
            instead: None,
        }
    }

    /// Ends a wait that is too long. `taken` is how many bytes a write took.
    fn bounded<R>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<R>>,
        taken: impl Fn(&R) -> usize,
    ) -> Poll<io::Result<R>> {
        if let Poll::Ready(result) = &polled {
            if let Some(stalled) = self.stalled.take() {
                self.debt = self.debt.saturating_add(stalled.0.elapsed());
            }
            let paid = result.as_ref().map_or(0, taken) as u64 * 1_000 / BYTES_PER_SECOND_MIN;
            self.debt = self.debt.saturating_sub(Duration::from_millis(paid));
            return polled;
        }
        let left = Duration::from_secs(PATIENCE_SECONDS).saturating_sub(self.debt);
        let stalled = self.stalled.get_or_insert_with(|| Box::new((Instant::now(), Box::pin(sleep(left)))));
        match stalled.1.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_answering(&self) -> bool {
        self.is_unflushed || self.flow.is_busy()
    }

    /// The client sends nothing more. Whoever reads is told once all is answered, or after a while.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let end = self.end.get_or_insert_with(|| Box::pin(sleep(Duration::from_secs(HANG_UP_SECONDS_MAX))));
        let is_late = end.as_mut().poll(context).is_ready();
        if is_late || !self.is_answering() {
            return Poll::Ready(Ok(()));
        }
        self.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.is_some() {
            return self.poll_end(context);
        }
        let before = buffer.filled().len();
        let has_room = buffer.remaining() > 0;
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        match &polled {
            Poll::Ready(Ok(())) if has_room && buffer.filled().len() == before => {
                self.flow.set_hung_up();
                return self.poll_end(context);
            }
            // What is asked for next is nothing of what was answered before.
            Poll::Ready(Ok(())) if !self.is_answering() => self.debt = Duration::ZERO,
            _ => {}
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> Wire<T> {
    /// Writes what stands in place of `bytes`, if they are an error of hyper's own. Then the whole of them counts as written.
    fn poll_instead(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        self.is_unflushed = true;
        let is_hypers = self.between.take().is_some_and(|begun| self.flow.is_between(begun));
        if self.instead.is_none() && is_hypers {
            self.instead = error_in_full(bytes).map(|error| Box::new((error, bytes.len())));
        }
        let (left, length) = &mut **self.instead.as_mut()?;
        while !left.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, left) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(written)) => drop(left.split_to(written)),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        let length = *length;
        self.instead = None;
        Some(Poll::Ready(Ok(length)))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match self.poll_instead(context, bytes) {
            Some(polled) => polled,
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        };
        self.bounded(context, polled, |written| *written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = pieces.iter().find(|piece| !piece.is_empty()).map_or(&[][..], |piece| piece);
        let polled = match self.poll_instead(context, first) {
            Some(polled) => polled,
            None => Pin::new(&mut self.stream).poll_write_vectored(context, pieces),
        };
        self.bounded(context, polled, |written| *written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        if polled.is_ready() {
            self.is_unflushed = false;
            self.between = self.flow.between();
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        self.bounded(context, polled, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, polled, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn wire(buffer_bytes: usize) -> (Wire<DuplexStream>, DuplexStream, Arc<Flow>) {
        let (ours, theirs) = tokio::io::duplex(buffer_bytes);
        let flow = Flow::http1();
        (Wire::new(ours, flow.clone()), theirs, flow)
    }

    /// Reads this many bytes every second for as long as there are any; the number of seconds.
    async fn read_slowly(mut theirs: DuplexStream, bytes_a_second: usize) -> u64 {
        let begun = Instant::now();
        let mut piece = vec![0; bytes_a_second];
        while theirs.read_exact(&mut piece).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up() {
        // The clock moves by itself while everything waits.
        let (mut ours, _theirs, _) = wire(16);
        let begun = Instant::now();
        let error = ours.write_all(&[0; 100]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, PATIENCE_SECONDS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_a_little_now_and_then_is_given_up() {
        let rate = BYTES_PER_SECOND_MIN as usize;
        let (mut ours, theirs, flow) = wire(1_024);
        let under_way = flow.begin(None);
        let reading = tokio::spawn(read_slowly(theirs, rate / 2));
        let begun = Instant::now();
        let error = ours.write_all(&vec![0; 32 << 20]).await.expect_err("too slow");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // Half the rate pays for half of the time.
        let seconds = begun.elapsed().as_secs();
        assert!((2 * PATIENCE_SECONDS - 5..2 * PATIENCE_SECONDS + 5).contains(&seconds), "{seconds}");
        drop((ours, under_way));
        reading.await.expect("a task");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_at_the_least_rate_gets_all() {
        let rate = BYTES_PER_SECOND_MIN as usize;
        let (mut ours, theirs, flow) = wire(1_024);
        let reading = tokio::spawn(read_slowly(theirs, rate + 512));
        let under_way = flow.begin(None);
        ours.write_all(&vec![7; 4 << 20]).await.expect("all was written");
        // An answer that takes long is not the client's fault.
        sleep(Duration::from_secs(10 * PATIENCE_SECONDS)).await;
        ours.write_all(&[8; 10]).await.expect("all was written");
        ours.shutdown().await.expect("an end");
        drop((ours, under_way));
        assert!(reading.await.expect("a task") > 900);
    }

    #[tokio::test]
    async fn only_what_hyper_says_by_itself_is_written_in_another_way() {
        const ERROR: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (mut ours, mut theirs, flow) = wire(4_096);
        let under_way = flow.begin(None);
        ours.write_all(b"head").await.expect("written");
        ours.flush().await.expect("flushed");
        // The body of an answer, a file for example, which is handed over whole before it is written.
        drop(under_way);
        ours.write_all(ERROR).await.expect("written");
        ours.flush().await.expect("flushed");
        let mut body = vec![0; b"head".len() + ERROR.len()];
        theirs.read_exact(&mut body).await.expect("all of it");
        assert_eq!(&body[4..], ERROR);
        // All was answered, and what comes now is not an answer.
        ours.write_all(ERROR).await.expect("written");
        ours.flush().await.expect("flushed");
        drop(ours);
        let mut error = String::new();
        theirs.read_to_string(&mut error).await.expect("all of it");
        assert!(error.contains("errcode") && error.contains("access-control-allow-origin"), "{error}");
        // Frames of HTTP/2 are nothing that hyper says.
        let (ours, mut theirs) = tokio::io::duplex(4_096);
        let mut ours = Wire::new(ours, Flow::http2());
        ours.flush().await.expect("flushed");
        ours.write_all(ERROR).await.expect("written");
        theirs.read_exact(&mut body[4..]).await.expect("all of it");
        assert_eq!(&body[4..], ERROR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_sending_is_answered_first() {
        let (mut ours, theirs, flow) = wire(1_024);
        let (mut their_reader, their_writer) = tokio::io::split(theirs);
        let under_way = flow.begin(None);
        let mut their_writer = their_writer;
        their_writer.shutdown().await.expect("an end");
        let mut buffer = [0; 16];
        let reading = tokio::time::timeout(Duration::from_secs(HANG_UP_SECONDS_MAX - 1), ours.read(&mut buffer)).await;
        assert!(reading.is_err(), "not told while a request is under way");
        flow.hung_up().await;
        ours.write_all(b"answer").await.expect("written");
        drop(under_way);
        let reading = tokio::time::timeout(Duration::from_millis(1), ours.read(&mut buffer)).await;
        assert!(reading.is_err(), "nor before the answer is on its way");
        ours.flush().await.expect("flushed");
        assert_eq!(ours.read(&mut buffer).await.expect("the end"), 0);
        assert_eq!(their_reader.read(&mut buffer).await.expect("the answer"), 6);
        // One that takes too long is not waited for.
        let (mut ours, theirs, flow) = wire(1_024);
        let _under_way = flow.begin(None);
        drop(theirs);
        let begun = Instant::now();
        assert_eq!(ours.read(&mut buffer).await.expect("the end"), 0);
        assert_eq!(begun.elapsed().as_secs(), HANG_UP_SECONDS_MAX);
    }
}
