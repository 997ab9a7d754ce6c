//! Connections whose clients stop reading: they are ended after a while, and what they hold is free for others.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Longest time that a client may leave unread what is sent to it.
const STALL_SECONDS_MAX: u64 = 60;

/// A stream on which nobody writes in vain for ever.
pub(crate) struct Patience<T> {
    stream: T,
    /// Runs while a write waits for the client. Boxed, because most connections wait for requests and never need it.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<T> Patience<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self { stream, stalled: None }
    }

    /// Ends a wait that is too long.
    fn bounded<R>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(Duration::from_secs(STALL_SECONDS_MAX))));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patience<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patience<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.bounded(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up() {
        // The clock moves by itself while everything waits.
        let (ours, _theirs) = tokio::io::duplex(16);
        let begun = Instant::now();
        let error = Patience::new(ours).write_all(&[0; 100]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, STALL_SECONDS_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_gets_all() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let writing = tokio::spawn(async move {
            let mut ours = Patience::new(ours);
            ours.write_all(&[7; 100]).await?;
            // An answer that takes long is not the client's fault.
            sleep(Duration::from_secs(10 * STALL_SECONDS_MAX)).await;
            ours.write_all(&[8; 10]).await?;
            ours.shutdown().await
        });
        let mut all = Vec::new();
        while theirs.read_buf(&mut all).await.expect("bytes") > 0 {
            sleep(Duration::from_secs(STALL_SECONDS_MAX - 1)).await;
        }
        writing.await.expect("a task").expect("all was written");
        assert_eq!(all.len(), 110);
    }
}
