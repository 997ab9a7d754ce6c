//! Listening, and ending without cutting off what is in progress.

use std::{convert::Infallible, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use ruma::exports::http::Request;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tower::Service;
use tracing::{debug, warn};

use crate::{
    Certificates, Front, Gate, Peer,
    admission::{
        flow::{Flow, IDLE_SECONDS_MAX},
        shares::Share,
        streams,
        wire::Wire,
    },
    front::add_cors,
    reply::KeepingBody,
};

/// Longest time for a TLS handshake.
const HANDSHAKE_SECONDS_MAX: u64 = 10;
/// Longest time that a request's headers may take, and that an idle connection stays open.
const HEADERS_SECONDS_MAX: u64 = IDLE_SECONDS_MAX;
/// Greatest size of a request's headers, which is also the greatest read buffer of a connection.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 100;
/// Bytes of an answer that wait in an HTTP/2 connection until its client takes more of it.
const STREAM_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How a connection begins on which the client speaks HTTP/2 without having asked; no HTTP/1 method begins so (RFC 9113,
/// section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI";
/// Connections that may wait to be accepted, if the system allows as many. Those beyond are dropped, and their clients try again
/// after a second at the soonest, which all who come back at once after a restart would feel.
const LISTEN_BACKLOG: u32 = 4096;
/// Pause after an accept that failed for want of resources.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Why the server can't listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is taken, or not ours.
    #[error("can't listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate or key can't be used.
    #[error("can't use {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Bound listeners, not yet accepting.
pub struct Server {
    gate: Arc<Gate>,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    certificates: Certificates,
    acceptor: Option<TlsAcceptor>,
}

impl Server {
    /// Binds all configured addresses.
    ///
    /// # Errors
    /// [`ServeError`] names the address or file at fault.
    pub async fn bind(gate: Arc<Gate>) -> Result<Self, ServeError> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        let certificates = Certificates::read(gate.config.tls.as_ref())?;
        let acceptor = certificates.acceptor()?;
        for address in gate.config.sockets() {
            let failed = |source| ServeError::Bind { address, source };
            let listener = listen_on(address).map_err(failed)?;
            addresses.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        Ok(Self { gate, listeners, addresses, certificates, acceptor })
    }

    /// The certificates, which are read anew within a minute when their files change, and when asked to.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// The addresses bound, in the configuration's order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until the gate's shutdown token is cancelled; then requests in progress finish, and writes whose clients
    /// are gone too, within the configured time.
    pub async fn run(self, front: Front) {
        let graceful = Arc::new(GracefulShutdown::new());
        let connections = Arc::new(Semaphore::new(self.gate.config.connections_max.max(1)));
        let following = tokio::spawn(self.certificates.follow());
        let mut accepting = tokio::task::JoinSet::new();
        for listener in self.listeners {
            let worker = Worker {
                gate: self.gate.clone(),
                front: front.clone(),
                graceful: graceful.clone(),
                acceptor: self.acceptor.clone(),
                connections: connections.clone(),
            };
            accepting.spawn(worker.accept(listener));
        }
        while accepting.join_next().await.is_some() {}
        following.abort();
        self.gate.tasks.close();
        let finish = async {
            // The workers, which held the other references, have ended.
            if let Some(graceful) = Arc::into_inner(graceful) {
                graceful.shutdown().await;
            }
            self.gate.tasks.wait().await;
        };
        let time_max = self.gate.config.client_shutdown_timeout.duration();
        if tokio::time::timeout(time_max, finish).await.is_err() {
            warn!("some requests did not finish in time");
        }
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted server doesn't wait for the connections of the one before to be forgotten. Elsewhere the option lets two servers
    // share an address.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Accepts on one listener.
struct Worker {
    gate: Arc<Gate>,
    front: Front,
    graceful: Arc<GracefulShutdown>,
    acceptor: Option<TlsAcceptor>,
    connections: Arc<Semaphore>,
}

impl Worker {
    async fn accept(self, listener: TcpListener) {
        loop {
            let next = async {
                // A closed semaphore would mean that the server is gone.
                let permit = self.connections.clone().acquire_owned().await.map_err(io::Error::other)?;
                let (stream, peer) = listener.accept().await?;
                Ok::<_, io::Error>((permit, stream, peer))
            };
            let accepted = tokio::select! {
                () = self.gate.shutdown().cancelled() => return,
                accepted = next => accepted,
            };
            match accepted {
                Ok((permit, stream, peer)) => {
                    let Ok(place) = self.gate.admission.connect(peer.ip()) else {
                        debug!(%peer, "too many connections from one address");
                        continue;
                    };
                    let connection = Connection {
                        gate: self.gate.clone(),
                        front: self.front.clone(),
                        watcher: self.graceful.watcher(),
                        peer,
                        _permit: permit,
                        _place: place,
                    };
                    tokio::spawn(connection.start(stream, self.acceptor.clone()));
                }
                Err(error) => {
                    debug!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            }
        }
    }
}

/// One accepted connection.
struct Connection {
    gate: Arc<Gate>,
    front: Front,
    watcher: Watcher,
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
    _place: Option<Share>,
}

impl Connection {
    async fn start(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        // Answers are written in one piece; waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "no TCP_NODELAY");
        }
        match acceptor {
            None => {
                let version = tokio::select! {
                    () = self.gate.shutdown().cancelled() => None,
                    version = version_of(&stream) => version,
                };
                if let Some(version) = version {
                    self.serve(stream, version).await;
                }
            }
            // Boxed, because a session of TLS takes much more room than a connection without it.
            Some(acceptor) => Box::pin(self.start_tls(stream, acceptor)).await,
        }
    }

    async fn start_tls(self, stream: TcpStream, acceptor: TlsAcceptor) {
        let handshake = tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECONDS_MAX), acceptor.accept(stream));
        match handshake.await {
            Ok(Ok(stream)) => {
                let version = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => HttpVersion::Two,
                    _ => HttpVersion::One,
                };
                self.serve(stream, version).await;
            }
            Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
            Err(_late) => debug!("TLS handshake took too long"),
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, version: HttpVersion) {
        let (gate, front, peer) = (self.gate, self.front, Peer(self.peer));
        let flow = match version {
            HttpVersion::One => Flow::http1(),
            HttpVersion::Two => Flow::http2(),
        };
        let stream = TokioIo::new(Wire::new(stream, flow.clone()));
        let requests = flow.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            let place = gate.admission.forward(peer, request.headers());
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(requests.clone());
            let answer = place.map(|place| (requests.begin(place), front.clone().call(request)));
            let begun = answer.map_err(|error| (requests.begin(None), error));
            let requests = requests.clone();
            async move {
                let (under_way, response) = match begun {
                    Ok((under_way, answer)) => (under_way, answer.await?),
                    Err((under_way, error)) => {
                        let mut response = error.into_response();
                        add_cors(response.headers_mut());
                        (under_way, response)
                    }
                };
                let response = streams::watch(&requests, response);
                Ok::<_, Infallible>(response.map(|body| KeepingBody::new(body, under_way)))
            }
        });
        let served = match version {
            HttpVersion::One => {
                let mut builder = http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(HEADERS_SECONDS_MAX))
                    .max_buf_size(HEADERS_BYTES_MAX);
                self.watcher.watch(builder.serve_connection(stream, service)).await
            }
            HttpVersion::Two => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(STREAMS_MAX)
                    .max_header_list_size(HEADERS_BYTES_MAX as u32)
                    .max_send_buf_size(STREAM_BUFFER_BYTES_MAX)
                    .keep_alive_interval(Duration::from_secs(HEADERS_SECONDS_MAX));
                let serving = self.watcher.watch(builder.serve_connection(stream, service));
                // Boxed, because most connections are of the other version.
                let serving = Box::pin(async move {
                    tokio::select! {
                        served = serving => served,
                        () = flow.over() => Ok(()),
                    }
                });
                serving.await
            }
        };
        if let Err(error) = served {
            debug!(%error, "connection ended");
        }
    }
}

/// How requests come on a connection.
#[derive(Copy, Clone)]
enum HttpVersion {
    /// HTTP/1.0 or HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
}

/// The version that a client speaks without TLS: its first bytes tell, and stay for who reads next. Reading them away would cost
/// each connection a larger buffer for as long as it lives. `None` if nothing comes.
async fn version_of(stream: &TcpStream) -> Option<HttpVersion> {
    let mut first = [0; HTTP2_PREFACE.len()];
    let peeked = tokio::time::timeout(Duration::from_secs(HEADERS_SECONDS_MAX), stream.peek(&mut first));
    match peeked.await {
        Ok(Ok(0) | Err(_)) | Err(_) => None,
        Ok(Ok(_)) if first == HTTP2_PREFACE => Some(HttpVersion::Two),
        Ok(Ok(_)) => Some(HttpVersion::One),
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::State;
    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use ruma::api::client::discovery::get_supported_versions;
    use tokio::{task::JoinHandle, time::Instant};

    use super::*;
    use crate::{
        AnyAccount, Anyone, ApiError, ApiResult, Authenticate, CancellationToken, Class, Config, Origin, Routes,
    };

    const ANSWER_BYTES: usize = 4 << 20;

    struct NoTokens;

    impl Authenticate for NoTokens {
        fn authenticate<'a>(&'a self, _: &'a str, _: &'a Origin) -> BoxFuture<'a, Result<AnyAccount, ApiError>> {
            Box::pin(async { Err(ApiError::unknown_token(false)) })
        }
    }

    async fn versions(
        State(bytes): State<usize>,
        _: Anyone,
        _: get_supported_versions::Request,
    ) -> ApiResult<crate::JsonBytes> {
        Ok(crate::JsonBytes(vec![b' '; bytes].into()))
    }

    /// A connection in memory to a server that answers so many bytes, and its side of it, which ends with it.
    fn connection(answer_bytes: usize) -> (tokio::io::DuplexStream, JoinHandle<()>) {
        let graceful = GracefulShutdown::new();
        let gate = Arc::new(Gate::new(Config::default(), Box::new(NoTokens), CancellationToken::new()));
        let (router, _) = Routes::new(answer_bytes, gate.clone()).on("getVersions", Class::Free, versions).finish();
        let front = Front::new(&gate, router);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a permit");
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let connection = Connection {
            gate,
            front,
            watcher: graceful.watcher(),
            peer: SocketAddr::from(([192, 0, 2, 1], 1)),
            _permit: permit,
            _place: None,
        };
        let serving = async move {
            connection.serve(ours, HttpVersion::Two).await;
            drop(graceful);
        };
        (theirs, tokio::spawn(serving))
    }

    async fn ask(stream: tokio::io::DuplexStream) -> (h2::RecvStream, impl Sized) {
        let (mut client, driver) = h2::client::handshake(stream).await.expect("a handshake");
        // Answers pings, too.
        tokio::spawn(async move { drop(driver.await) });
        let request = Request::builder().uri("http://x/_matrix/client/versions").body(()).expect("a request");
        let (response, _) = client.send_request(request, true).expect("sent");
        // Whoever keeps the client asks for no more, and doesn't close the connection either.
        (response.await.expect("an answer").into_body(), client)
    }

    #[tokio::test(start_paused = true)]
    async fn an_http_2_client_that_lives_but_takes_nothing_is_given_up() {
        let begun = Instant::now();
        let (stream, server) = connection(ANSWER_BYTES);
        let (mut body, _client) = ask(stream).await;
        let mut taken = 0;
        // As much as comes without asking for more.
        while let Some(Ok(piece)) = body.data().await {
            taken += piece.len();
        }
        assert!(taken < ANSWER_BYTES, "{taken}");
        server.await.expect("a task");
        assert!((55..75).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_http_2_client_that_takes_nothing_of_small_answers_is_given_up_too() {
        let begun = Instant::now();
        let (stream, server) = connection(60_000);
        // The connection gets as much of each as it asks for, and may send a few bytes of it.
        let handshake = h2::client::Builder::new().initial_window_size(10).handshake::<_, Bytes>(stream);
        let (mut client, driver) = handshake.await.expect("a handshake");
        tokio::spawn(async move { drop(driver.await) });
        // It is never idle.
        let mut answers = Vec::new();
        loop {
            let request = Request::builder().uri("http://x/_matrix/client/versions").body(()).expect("a request");
            let Ok((answer, _)) = client.send_request(request, true) else { break };
            let Ok(answer) = answer.await else { break };
            answers.push(answer);
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        server.await.expect("a task");
        assert!((55..80).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_http_2_client_that_takes_its_answer_gets_all_and_is_closed_when_idle() {
        let begun = Instant::now();
        let (stream, server) = connection(ANSWER_BYTES);
        let (mut body, _client) = ask(stream).await;
        let mut taken = 0;
        while let Some(piece) = body.data().await {
            let piece: Bytes = piece.expect("a piece");
            taken += piece.len();
            body.flow_control().release_capacity(piece.len()).expect("released");
            // 16 KiB a second, in pieces of any size.
            tokio::time::sleep(Duration::from_millis(piece.len() as u64 / 16)).await;
        }
        assert_eq!(taken, ANSWER_BYTES);
        server.await.expect("a task");
        assert!(begun.elapsed().as_secs() >= IDLE_SECONDS_MAX);
    }
}
