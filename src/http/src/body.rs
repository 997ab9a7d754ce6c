//! Reading a request's body within its limits.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use ruma::exports::http::{HeaderMap, StatusCode, header};

use crate::{
    ApiError,
    admission::{
        answers::busy,
        shares::{Share, Shares},
    },
};

/// Longest time that a client may take to send the body of a request.
const BODY_SECONDS_MAX: u64 = 60;
/// Bodies up to this are not counted in what is held of all, if they are there at once, in bytes.
const SMALL_BYTES: usize = 16 * 1024;
/// Bytes that a comma or colon of a larger body stands for: what an element of a map or list takes once the JSON is read. Short
/// ones take many times their text.
const ELEMENT_BYTES: u64 = 40;

/// A body that was read, and what it takes of what may be held at a time.
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    pub(crate) share: Option<Share>,
}

/// Where bodies are counted, and for whom.
pub(crate) struct Account<'a> {
    pub(crate) bodies: &'a Arc<Shares>,
    pub(crate) client: u64,
}

/// The whole body.
///
/// # Errors
/// `M_TOO_LARGE` above `bytes_max` or if it takes more than a client may hold once it is read, `M_LIMIT_EXCEEDED` if the client, or all together, have too much of bodies under way, 408 when
/// the client sends too slowly, `M_UNKNOWN` when the connection breaks.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    account: Account<'_>,
) -> Result<Read, ApiError> {
    if body.is_end_stream() {
        return Ok(Read { bytes: Bytes::new(), share: None });
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    let account_max = account.bodies.each_max();
    let reading = read_pieces(body, bytes_max, account);
    let mut read = match tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), reading).await {
        Ok(read) => read?,
        Err(_late) => {
            let message = "The request's body came too slowly";
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", message));
        }
    };
    if let Some(share) = &mut read.share
        && read.bytes.len() > SMALL_BYTES
    {
        let elements = read.bytes.iter().filter(|byte| matches!(byte, b',' | b':')).count() as u64;
        let bytes = elements.saturating_mul(ELEMENT_BYTES);
        if bytes > account_max {
            return Err(ApiError::too_large("The request's body has too many elements"));
        }
        // Its text isn't kept beside what is made of it.
        if !share.grow(bytes.saturating_sub(read.bytes.len() as u64)) {
            return Err(busy());
        }
    }
    Ok(read)
}

async fn read_pieces(mut body: Body, bytes_max: usize, account: Account<'_>) -> Result<Read, ApiError> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut share: Option<Share> = None;
    loop {
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => {
                // From here on the client decides for how long the server holds what it has.
                hold(&mut share, &account, first.len() + all.len(), 0)?;
                body.frame().await
            }
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::bad_request("The request's body could not be read"))?;
        let Ok(piece) = frame.into_data() else { continue };
        let length = first.len() + all.len() + piece.len();
        if length > bytes_max {
            return Err(too_large(bytes_max));
        }
        if share.is_some() || length > SMALL_BYTES {
            hold(&mut share, &account, length - piece.len(), piece.len())?;
        }
        if length == piece.len() {
            first = piece;
        } else {
            // Most bodies come in one piece, and are not copied.
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&piece);
        }
    }
    let bytes = if all.is_empty() { first } else { all.freeze() };
    Ok(Read { bytes, share })
}

/// Counts `more` bytes, and the `held` ones if they haven't been.
fn hold(share: &mut Option<Share>, account: &Account<'_>, held: usize, more: usize) -> Result<(), ApiError> {
    match share {
        Some(share) => share.grow(more as u64).then_some(()).ok_or_else(busy),
        None => {
            *share = Some(account.bodies.take(account.client, (held + more) as u64).ok_or_else(busy)?);
            Ok(())
        }
    }
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::too_large(format!("The request's body is larger than {bytes_max} bytes"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};

    use super::*;

    const MIB: usize = 1 << 20;

    async fn read_all(bodies: &Arc<Shares>, client: u64, body: Body) -> Result<Read, ApiError> {
        read(&HeaderMap::new(), body, 4 * MIB, Account { bodies, client }).await
    }

    /// A body that stops after these pieces, and goes on when nobody waits for it any more.
    fn stuck(pieces: usize, bytes: usize) -> Body {
        let pieces = stream::iter(0..pieces).map(move |_| Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes])));
        Body::from_stream(pieces.chain(stream::pending()))
    }

    #[tokio::test]
    async fn bodies_are_counted_until_their_requests_are_over() {
        let bodies = Shares::new(6 * MIB as u64, 8 * MIB as u64);
        let small = read_all(&bodies, 1, Body::from(vec![b' '; SMALL_BYTES])).await.expect("read");
        assert!(small.share.is_none() && small.bytes.len() == SMALL_BYTES);
        let pieces = (0..3).map(|n| Ok::<_, Infallible>(Bytes::from(vec![n; MIB])));
        let large = read_all(&bodies, 1, Body::from_stream(stream::iter(pieces))).await.expect("read");
        assert_eq!((bodies.total(), large.bytes.len(), large.bytes[MIB]), (3 * MIB as u64, 3 * MIB, 1));
        let again = read_all(&bodies, 1, Body::from(vec![0; 4 * MIB])).await;
        assert_eq!(again.err().expect("more than a client may").errcode(), "M_LIMIT_EXCEEDED");
        let other = read_all(&bodies, 2, Body::from(vec![0; 4 * MIB])).await.expect("read");
        assert_eq!(read_all(&bodies, 3, Body::from(vec![0; 2 * MIB])).await.err().expect("full").status(), 429);
        assert!(read_all(&bodies, 1, Body::from(vec![b' '; 100])).await.is_ok(), "small ones pass");
        drop((large, other));
        assert_eq!(bodies.total(), 0);
    }

    #[tokio::test]
    async fn a_body_counts_for_what_it_takes_once_it_is_read() {
        let bodies = Shares::new(8 * MIB as u64, 16 * MIB as u64);
        let of = |entry: &str, bytes: usize| Body::from(entry.repeat(bytes / entry.len()));
        let long =
            read_all(&bodies, 1, of(r#""a session of megolm": "a ciphertext of a hundred bytes, and so on","#, MIB));
        let long = long.await.expect("read");
        assert!(bodies.total() < 2 * MIB as u64);
        let short = read_all(&bodies, 2, of(r#""@a:b":[],"#, MIB)).await;
        assert_eq!(short.err().expect("fifteen times as much").errcode(), "M_TOO_LARGE");
        let short = read_all(&bodies, 2, of(r#""@a:b":[],"#, MIB / 4)).await.expect("read");
        assert!(bodies.total() > 3 * MIB as u64, "{}", bodies.total());
        assert!(read_all(&bodies, 2, of(r#""@a:b":[],"#, MIB / 2)).await.is_err_and(|error| error.status() == 429));
        drop((long, short));
        assert_eq!(bodies.total(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_bodies_from_ending_holds_no_more_than_a_share() {
        let bodies = Shares::new(MIB as u64, 8 * MIB as u64);
        let mut reading = Vec::new();
        for _ in 0..1_000 {
            let mut one = Box::pin(read_all(&bodies, 1, stuck(1, 10_000)));
            match one.as_mut().now_or_never() {
                None => reading.push(one),
                Some(read) => assert_eq!(read.err().expect("no end").errcode(), "M_LIMIT_EXCEEDED"),
            }
        }
        assert_eq!(reading.len(), MIB / 10_000);
        let short = Body::from_stream(stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{}"))]));
        assert!(read_all(&bodies, 2, short).await.is_ok());
        // And not for ever.
        for reading in reading {
            assert_eq!(reading.await.err().expect("no end").status(), StatusCode::REQUEST_TIMEOUT);
        }
        assert_eq!(bodies.total(), 0);
    }
}
