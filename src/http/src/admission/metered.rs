//! What answers cost that are made as they are taken: files, and whatever is written piece by piece.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use ruma::exports::http::header;

use super::{Admission, Client, answers::BYTES_PER_UNIT, limit::Class, limit::Limits};

/// Bytes of a file that cost one unit of the request's rate limit: it is sent as it lies there.
const FILE_BYTES_PER_UNIT: u64 = 256 * 1024;

impl Admission {
    /// Charges an answer that is made as it is taken: at once if it says how long it is, as files do, or else while it is made.
    pub(crate) fn meter(&self, class: Class, client: Client, response: Response) -> Response {
        if response.body().size_hint().exact().is_some() {
            return response;
        }
        let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if let Some(length) = length.and_then(|text| text.parse::<u64>().ok()) {
            self.charge(class, client, length / FILE_BYTES_PER_UNIT);
            return response;
        }
        let (limits, class) = (self.limits.clone(), client.class(class));
        response.map(|body| Body::new(Metered { body, limits, class, key: client.key, uncharged: 0 }))
    }
}

struct Metered {
    body: Body,
    limits: Arc<Limits>,
    class: Class,
    key: u64,
    /// Bytes that were made and not charged.
    uncharged: u64,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let made = self.uncharged + frame.data_ref().map_or(0, Bytes::len) as u64;
            self.limits.charge(self.class, self.key, made / BYTES_PER_UNIT);
            self.uncharged = made % BYTES_PER_UNIT;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::stream;
    use http_body_util::BodyExt;
    use ruma::{UserId, user_id};

    use super::*;
    use crate::{
        Config,
        admission::limit::{self, Rate},
    };

    #[tokio::test(start_paused = true)]
    async fn what_is_made_as_it_is_taken_costs_what_it_is_long() {
        let read = Rate { per_second: 1.0, burst: 10 };
        let rate_limit = limit::Config { read, ..limit::Config::off() };
        let admission = Admission::new(&Config { rate_limit, ..Config::default() });
        let client = |user: &UserId| Client { key: admission.limits.user_key(user), is_user: true };
        let left =
            |user: &UserId| (0..20).take_while(|_| admission.limits.check_user(Class::Read, user).is_ok()).count();
        let made = |pieces: usize| {
            let piece = Bytes::from(vec![7; BYTES_PER_UNIT as usize / 2]);
            let pieces = (0..pieces).map(move |_| Ok::<_, io::Error>(piece.clone()));
            Response::new(Body::from_stream(stream::iter(pieces)))
        };

        let (alice, bob, carol) = (user_id!("@alice:h"), user_id!("@bob:h"), user_id!("@carol:h"));
        let body = admission.meter(Class::Bulk, client(alice), made(9)).into_body();
        let whole = body.collect().await.expect("a body").to_bytes();
        assert_eq!(whole.len() as u64, 9 * BYTES_PER_UNIT / 2);
        assert_eq!(left(alice), 6, "four of ten");

        drop(admission.meter(Class::Bulk, client(bob), made(9)));
        assert_eq!(left(bob), 10, "nothing was made");

        let mut file = made(1);
        file.headers_mut().insert(header::CONTENT_LENGTH, (3 * FILE_BYTES_PER_UNIT).into());
        drop(admission.meter(Class::Read, client(carol), file));
        assert_eq!(left(carol), 7, "it was promised");
    }
}
