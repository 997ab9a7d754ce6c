//! Listening, and ending without cutting off what is in progress.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

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

use crate::{Front, Gate, Peer, patience::Patience, tls};

/// Longest time for a TLS handshake.
const HANDSHAKE_SECONDS_MAX: u64 = 10;
/// Longest time that an idle connection stays open, and that a request's headers may take.
const HEADERS_SECONDS_MAX: u64 = 120;
/// Greatest size of a request's headers, which is also the greatest read buffer of a connection.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
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
    listeners: Vec<(TcpListener, Option<TlsAcceptor>)>,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Binds all configured addresses.
    ///
    /// # Errors
    /// [`ServeError`] names the address or file at fault.
    pub async fn bind(gate: Arc<Gate>) -> Result<Self, ServeError> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for listen in &gate.config.listen {
            let acceptor = listen.tls.as_ref().map(tls::acceptor).transpose()?;
            let failed = |source| ServeError::Bind { address: listen.address, source };
            let listener = listen_on(listen.address).map_err(failed)?;
            addresses.push(listener.local_addr().map_err(failed)?);
            listeners.push((listener, acceptor));
        }
        Ok(Self { gate, listeners, addresses })
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
        let mut accepting = tokio::task::JoinSet::new();
        for (listener, acceptor) in self.listeners {
            let worker = Worker {
                gate: self.gate.clone(),
                front: front.clone(),
                graceful: graceful.clone(),
                acceptor,
                connections: connections.clone(),
            };
            accepting.spawn(worker.accept(listener));
        }
        while accepting.join_next().await.is_some() {}
        self.gate.tasks.close();
        let finish = async {
            // The workers, which held the other references, have ended.
            if let Some(graceful) = Arc::into_inner(graceful) {
                graceful.shutdown().await;
            }
            self.gate.tasks.wait().await;
        };
        let time_max = Duration::from_secs(self.gate.config.shutdown_seconds_max);
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
                    let connection = Connection {
                        gate: self.gate.clone(),
                        front: self.front.clone(),
                        watcher: self.graceful.watcher(),
                        peer,
                        _permit: permit,
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
        let (front, peer) = (self.front, self.peer);
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            front.clone().call(request)
        });
        let stream = TokioIo::new(Patience::new(stream));
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
                    .keep_alive_interval(Duration::from_secs(HEADERS_SECONDS_MAX));
                // Boxed, because most connections are of the other version.
                Box::pin(self.watcher.watch(builder.serve_connection(stream, service))).await
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
