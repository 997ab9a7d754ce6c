//! Listening: plain and with TLS, and ending in good order.

use std::{net::SocketAddr, sync::Arc};

use axum::extract::State;
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use haima_http::{
    AnyAccount, Anyone, ApiError, ApiResult, Authenticate, CancellationToken, Class, Config, FileReply, Front, Gate,
    Json, Networks, OneOrMany, Origin, Routes, Selection, Server, Tls,
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

async fn versions(State(slow): State<Slow>, _: Anyone, _: Request) -> ApiResult<Json<&'static str>> {
    slow.begun.notify_one();
    slow.end.notified().await;
    Ok(Json("done"))
}

async fn start(tls: Option<Tls>, slow: Slow) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    start_with(Config { tls, ..on_loopback() }, slow).await
}

/// A free port of the machine.
fn on_loopback() -> Config {
    Config { address: OneOrMany::One([127, 0, 0, 1].into()), port: OneOrMany::One(0), ..Config::default() }
}

async fn start_with(config: Config, slow: Slow) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let stop = CancellationToken::new();
    let gate = Arc::new(Gate::new(config, Box::new(NoTokens), stop.clone()));
    let (router, _) = Routes::new(slow, gate.clone()).on("getVersions", Class::Free, versions).finish();
    let front = Front::new(&gate, router);
    let server = Server::bind(gate).await.unwrap();
    let address = server.addresses()[0];
    (address, stop, tokio::spawn(server.run(front)))
}

/// Sends this and gives what comes until the connection ends.
async fn send(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    let _ended = stream.read_to_string(&mut answer).await;
    answer
}

const GET: &[u8] = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

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
    let tls = Tls { certs: directory.path().join("cert.pem"), key: directory.path().join("key.pem") };
    std::fs::write(&tls.certs, certified.cert.pem()).unwrap();
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
    let gate = Arc::new(Gate::new(on_loopback(), Box::new(NoTokens), CancellationToken::new()));
    let server = Server::bind(gate).await.unwrap();
    let mut connected = Vec::new();
    for _ in 0..CLIENTS {
        connected.push(TcpStream::connect(server.addresses()[0]).await.unwrap());
    }
    assert_eq!(connected.len(), CLIENTS);
}

#[tokio::test]
async fn a_bad_certificate_is_named() {
    let tls = Tls { certs: "/nonexistent/cert.pem".into(), key: "/nonexistent/key.pem".into() };
    let config = Config { tls: Some(tls), ..on_loopback() };
    let gate = Arc::new(Gate::new(config, Box::new(NoTokens), CancellationToken::new()));
    let error = Server::bind(gate).await.err().unwrap().to_string();
    assert!(error.contains("/nonexistent/cert.pem"), "{error}");
}

#[tokio::test]
async fn a_client_that_stops_sending_gets_its_answer() {
    let slow = Slow::default();
    let (address, stop, server) = start(None, slow.clone()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    slow.begun.notified().await;
    // The server knows by now, if it looks: the end of the stream came with the request.
    tokio::task::yield_now().await;
    slow.end.notify_one();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\"done\""), "{answer}");
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn what_is_no_request_gets_an_error_like_all_others() {
    let (address, stop, server) = start(None, Slow::default()).await;
    let headers: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let many_headers = format!("GET / HTTP/1.1\r\n{headers}\r\n");
    let cases: [(&[u8], &str, &str); 5] = [
        (b"nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request", "M_UNKNOWN"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", "HTTP/1.1 400 Bad Request", "M_UNKNOWN"),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request", "M_UNKNOWN"),
        (many_headers.as_bytes(), "HTTP/1.1 431 Request Header Fields Too Large", "M_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 Not Found", "M_UNRECOGNIZED"),
    ];
    for (request, status, errcode) in cases {
        let answer = send(TcpStream::connect(address).await.unwrap(), request).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with(status), "{answer}");
        assert!(head.contains("access-control-allow-origin: *") && head.contains("content-type: application/json"));
        assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["errcode"], errcode);
    }
    // Also after another request.
    let two = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(two).await.unwrap();
    let mut first = [0; 1_024];
    assert!(stream.read(&mut first).await.unwrap() > 0);
    let second = send(stream, b"GET /\x01 HTTP/1.1\r\n\r\n").await;
    assert!(
        second.starts_with("HTTP/1.1 400") && second.ends_with("\"M_UNKNOWN\",\"error\":\"This is not a request\"}")
    );
    stop.cancel();
    server.await.unwrap();
}

/// A file whose text is what hyper says of a request that it can't read, once it may come.
async fn error_file(State(slow): State<Slow>, _: Anyone, _: Request) -> ApiResult<FileReply> {
    let body = futures_util::stream::once(async move {
        slow.end.notified().await;
        Ok(Bytes::from_static(HYPERS_ERROR))
    });
    Ok(FileReply {
        selection: Selection::Whole,
        body: body.boxed(),
        size: HYPERS_ERROR.len() as u64,
        etag: "\"file\"".to_owned(),
        content_type: None,
        file_name: None,
    })
}

const HYPERS_ERROR: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_file_that_looks_like_an_error_comes_as_it_is() {
    let stop = CancellationToken::new();
    let gate = Arc::new(Gate::new(on_loopback(), Box::new(NoTokens), stop.clone()));
    let slow = Slow::default();
    let (router, _) = Routes::new(slow.clone(), gate.clone()).on("getVersions", Class::Free, error_file).finish();
    let front = Front::new(&gate, router);
    let server = Server::bind(gate).await.unwrap();
    let mut stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
    let server = tokio::spawn(server.run(front));
    stream.write_all(GET).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    slow.end.notify_one();
    let mut file = Vec::new();
    stream.read_to_end(&mut file).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&file), String::from_utf8_lossy(HYPERS_ERROR));
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let uncounted_networks = Networks::default();
    let config = Config { max_connections_per_address: 2, uncounted_networks, ..on_loopback() };
    let slow = Slow::default();
    let (address, stop, server) = start_with(config, slow.clone()).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        slow.begun.notified().await;
        kept.push(stream);
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    let mut nothing = Vec::new();
    // Closed, or reset where the request came before that.
    let _ended = third.write_all(GET).await;
    assert!(matches!(third.read_to_end(&mut nothing).await, Ok(0) | Err(_)));
    // The place of one that has ended is free.
    slow.end.notify_one();
    let mut answer = String::new();
    kept.remove(0).read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\"done\""));
    loop {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _closed = stream.write_all(GET).await;
        let mut byte = [0];
        tokio::select! {
            () = slow.begun.notified() => break,
            // The server was still about to notice.
            _closed = stream.read(&mut byte) => {}
        }
    }
    stop.cancel();
    // Who has a place and is gone, and who waits for an answer.
    slow.end.notify_waiters();
    drop(kept);
    server.await.unwrap();
}

#[tokio::test]
async fn behind_a_proxy_the_requests_of_one_client_are_counted() {
    let trusted_proxies = Networks::loopback();
    let config = Config { max_connections_per_address: 1, trusted_proxies, ..on_loopback() };
    let slow = Slow::default();
    let (address, stop, server) = start_with(config, slow.clone()).await;
    let request = |client: &str| {
        let head = "GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
        format!("{head}X-Forwarded-For: {client}\r\n\r\n").into_bytes()
    };
    let begin = |client: &'static str| {
        let request = request(client);
        tokio::spawn(async move { send(TcpStream::connect(address).await.unwrap(), &request).await })
    };
    let first = begin("203.0.113.7");
    slow.begun.notified().await;
    let second = send(TcpStream::connect(address).await.unwrap(), &request("203.0.113.7")).await;
    assert!(second.starts_with("HTTP/1.1 429") && second.contains("M_LIMIT_EXCEEDED"), "{second}");
    let other = begin("203.0.113.8");
    slow.begun.notified().await;
    for request in [first, other] {
        slow.end.notify_one();
        slow.end.notify_one();
        assert!(request.await.unwrap().ends_with("\"done\""));
    }
    stop.cancel();
    server.await.unwrap();
}
