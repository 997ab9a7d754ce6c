//! The client against a server that misbehaves, on this machine.

use std::net::{Ipv4Addr, SocketAddr};

use net::{Client, Config, DENIED_DEFAULT, Error, Guard, Headers, Limits, Url};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const LIMITS: Limits = Limits { bytes_max: 1_000, cut: false };

/// Answers by path; every connection one request.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let request = String::from_utf8(request).expect("text");
                let path = request.split(' ').nth(1).unwrap_or("").to_owned();
                let answer = match path.as_str() {
                    "/ok" => "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
                    "/echo" => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{request}", request.len()),
                    "/large" => "HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n".to_owned() + &"x".repeat(1_001),
                    "/endless" => {
                        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                        let mut sent = stream.write_all(head.as_bytes()).await;
                        while sent.is_ok() {
                            sent = stream.write_all(format!("64\r\n{}\r\n", "y".repeat(100)).as_bytes()).await;
                        }
                        return;
                    }
                    "/silent" => {
                        let _: usize = stream.read(&mut [0; 16]).await.unwrap_or(0);
                        return;
                    }
                    "/missing" => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
                    "/around" => redirect("/around"),
                    "/there" => redirect("/ok"),
                    "/inside" => redirect("http://169.254.169.254/latest/meta-data"),
                    "/file" => redirect("file:///etc/passwd"),
                    _ => redirect(&path.replace("/to/", "http://")),
                };
                // A client that has heard enough is gone.
                drop(stream.write_all(answer.as_bytes()).await);
            });
        }
    });
    address
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
}

fn client(guard: Guard, request_ms_max: u64) -> Client {
    let config = Config { guard, connect_ms_max: 5_000, request_ms_max, user_agent: "Haima".to_owned() };
    Client::new(&config).expect("a client")
}

fn url(address: SocketAddr, path: &str) -> Url {
    format!("http://{address}{path}").parse().expect("a URL")
}

#[tokio::test]
async fn answers_come_within_limits() {
    let server = server().await;
    let client = client(Guard::parse(["169.254.0.0/16"]).expect("networks"), 20_000);
    let get = async |path: &str, limits| client.get(url(server, path), &Headers::default(), limits, |_| true).await;
    let answer = get("/ok", LIMITS).await.expect("an answer");
    assert_eq!((answer.content_type(), &answer.body[..]), (Some("text/plain"), &b"hello"[..]));
    let answer = get("/there", LIMITS).await.expect("an answer");
    assert_eq!((answer.url.path(), &answer.body[..]), ("/ok", &b"hello"[..]));
    assert!(matches!(get("/large", LIMITS).await, Err(Error::TooLarge)));
    assert!(matches!(get("/endless", LIMITS).await, Err(Error::TooLarge)));
    assert_eq!(get("/endless", Limits { cut: true, ..LIMITS }).await.expect("cut").body.len(), 1_000);
    assert!(matches!(get("/missing", LIMITS).await, Err(Error::Status(404))));
    assert!(matches!(get("/around", LIMITS).await, Err(Error::TooManyRedirects)));
    assert!(matches!(get("/inside", LIMITS).await, Err(Error::Denied)));
    assert!(matches!(get("/file", LIMITS).await, Err(Error::BadUrl)));
    let refused = client.get(url(server, "/there"), &Headers::default(), LIMITS, |_| false).await;
    assert!(matches!(refused, Err(Error::RedirectRefused)));
    let headers = Headers { accept: Some("text/html"), accept_language: Some("de") };
    let echo = client.get(url(server, "/echo"), &headers, LIMITS, |_| true).await.expect("an answer").body;
    let echo = String::from_utf8(echo.to_vec()).expect("text").to_lowercase();
    for line in ["accept: text/html\r\n", "accept-language: de\r\n", "user-agent: haima\r\n"] {
        assert!(echo.contains(line), "{echo}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let server = server().await;
    let client = client(Guard::default(), 50);
    let silent = client.get(url(server, "/silent"), &Headers::default(), LIMITS, |_| true).await;
    assert!(matches!(silent, Err(Error::TimedOut)));
}

#[tokio::test]
async fn denied_addresses_are_not_connected_to_by_name_or_number() {
    let server = server().await;
    let client = client(Guard::parse(DENIED_DEFAULT).expect("networks"), 20_000);
    let port = server.port();
    // The forms that a URL parser knows for the same address, and a name that resolves to it.
    let hosts =
        ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"];
    for host in hosts {
        let url: Url = format!("http://{host}:{port}/ok").parse().expect("a URL");
        let denied = client.get(url, &Headers::default(), LIMITS, |_| true).await;
        assert!(matches!(denied, Err(Error::Denied)), "{host}: {denied:?}");
    }
    for text in ["ftp://example.org/", "http://user:secret@example.org/", "data:text/plain,x"] {
        let refused = client.get(text.parse().expect("a URL"), &Headers::default(), LIMITS, |_| true).await;
        assert!(matches!(refused, Err(Error::BadUrl)), "{text}");
    }
}
