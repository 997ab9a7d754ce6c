//! Answers on HTTP/2. A connection takes of each as much as its client allows, and keeps it until the client takes it: what is there
//! has to be known to the last byte, or a client could have any number of answers and take nothing of them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::{
    answers::{Counted, PIECE_BYTES},
    flow::{Flow, Sending},
};

/// Has it known how the client takes an answer, if its connection is one of HTTP/2.
pub(crate) fn watch(flow: &Flow, mut response: Response) -> Response {
    if response.body().is_end_stream() {
        return response;
    }
    let Some(sending) = flow.send() else { return response };
    let counted = response.extensions_mut().remove::<Counted>();
    response.map(|body| Body::new(Watched { body, rest: Bytes::new(), sending, counted }))
}

/// A body in pieces of which it is known when they were written.
struct Watched {
    body: Body,
    /// What of the body was not handed over yet.
    rest: Bytes,
    sending: Arc<Sending>,
    counted: Option<Counted>,
}

/// A piece, as long as the connection has any of it.
struct Piece {
    bytes: Bytes,
    sending: Arc<Sending>,
    _counted: Option<Counted>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.sending.wrote(self.bytes.len());
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            if polled.is_pending() {
                self.sending.is_late();
            }
            match ready!(polled).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(other)) => return Poll::Ready(Some(Ok(other))),
                None => return Poll::Ready(None),
            }
        }
        let length = PIECE_BYTES.min(self.rest.len());
        let bytes = self.rest.split_to(length);
        self.sending.handed(length);
        let piece = Piece { bytes, sending: self.sending.clone(), _counted: self.counted.clone() };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(rest.saturating_add(upper));
        }
        hint.set_lower(rest.saturating_add(body.lower()));
        hint
    }
}
