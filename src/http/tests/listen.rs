//! Listening: plain and with TLS, and ending in good order.

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use haima_http::{
    AnyAccount, Anyone, ApiError, ApiResult, Authenticate, CancellationToken, Class, Config, Front, Gate, Json, Listen,
    Origin, Routes, Server, Tls,
};
use ruma::api::client::discovery::get_supported_versions::Request;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

struct NoTokens;

impl Authenticate for NoTokens {
    fn authenticate<'a>(&'a self, _: &'a str, _: &'a Origin) -> BoxFuture<'a, Result<AnyAccount, ApiError>> {
        Box::pin(async { Err(ApiError::unknown_token(false)) })
    }
}

/// Tells when a request has begun, and holds it until it may end.
#[derive(Clone, Default)]
struct Slow {
    begun: Arc<Notify>,
    end: Arc<Notify>,
}

async fn versions(slow: Slow, _: Anyone, _: Request) -> ApiResult<Json<&'static str>> {
    slow.begun.notify_one();
    slow.end.notified().await;
    Ok(Json("done"))
}

async fn start(tls: Option<Tls>, slow: Slow) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let stop = CancellationToken::new();
    let listen = vec![Listen { address: SocketAddr::from(([127, 0, 0, 1], 0)), tls }];
    let config = Config { listen, ..Config::default() };
    let gate = Arc::new(Gate::new(config, Box::new(NoTokens), stop.clone()));
    let (router, _) = Routes::new(slow, gate.clone()).on("getVersions", Class::Free, versions).finish();
    let front = Front::new(&gate, router);
    let server = Server::bind(gate).await.unwrap();
    let address = server.addresses()[0];
    (address, stop, tokio::spawn(server.run(front)))
}

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let request = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    // A TLS peer may end without a closing message; what has come by then is the answer.
    let _ended = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn a_request_in_progress_finishes_at_shutdown() {
    let slow = Slow::default();
    let (address, stop, server) = start(None, slow.clone()).await;
    let client = tokio::spawn(async move { get(TcpStream::connect(address).await.unwrap()).await });
    slow.begun.notified().await;
    stop.cancel();
    slow.end.notify_one();
    assert!(client.await.unwrap().ends_with("\"done\""));
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_client_may_begin_with_http_2() {
    /// Length, type and flags of an empty SETTINGS frame, and its stream (RFC 9113, section 6.5).
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let (address, stop, server) = start(None, Slow::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&SETTINGS).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], SETTINGS[3]);
    stop.cancel();
    drop(stream);
    server.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_says_nothing_does_not_hold_up_shutdown() {
    let (address, stop, server) = start(None, Slow::default()).await;
    let _silent = TcpStream::connect(address).await.unwrap();
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn tls() {
    let directory = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let tls = Tls { certificate: directory.path().join("cert.pem"), key: directory.path().join("key.pem") };
    std::fs::write(&tls.certificate, certified.cert.pem()).unwrap();
    std::fs::write(&tls.key, certified.signing_key.serialize_pem()).unwrap();

    let slow = Slow::default();
    slow.end.notify_one();
    let (address, stop, server) = start(Some(tls), slow).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certified.cert.der().to_vec())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config =
        config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert!(get(stream).await.ends_with("\"done\""));
    stop.cancel();
    server.await.unwrap();
}

/// All who come back at once after a restart wait their turn: what doesn't fit is dropped by the system, and never gets here.
#[tokio::test]
async fn many_may_connect_before_any_is_accepted() {
    const CLIENTS: usize = 300;
    let listen = vec![Listen { address: SocketAddr::from(([127, 0, 0, 1], 0)), tls: None }];
    let config = Config { listen, ..Config::default() };
    let gate = Arc::new(Gate::new(config, Box::new(NoTokens), CancellationToken::new()));
    let server = Server::bind(gate).await.unwrap();
    let mut connected = Vec::new();
    for _ in 0..CLIENTS {
        connected.push(TcpStream::connect(server.addresses()[0]).await.unwrap());
    }
    assert_eq!(connected.len(), CLIENTS);
}

#[tokio::test]
async fn a_bad_certificate_is_named() {
    let tls = Tls { certificate: "/nonexistent/cert.pem".into(), key: "/nonexistent/key.pem".into() };
    let listen = vec![Listen { address: SocketAddr::from(([127, 0, 0, 1], 0)), tls: Some(tls) }];
    let config = Config { listen, ..Config::default() };
    let gate = Arc::new(Gate::new(config, Box::new(NoTokens), CancellationToken::new()));
    let error = Server::bind(gate).await.err().unwrap().to_string();
    assert!(error.contains("/nonexistent/cert.pem"), "{error}");
}
