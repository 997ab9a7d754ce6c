//! Clients that want to take what others need.

use std::{sync::Arc, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{Server, User, encode, password};

const MIB: u64 = 1 << 20;
/// Connections that try it at the same time.
const CONNECTIONS: usize = 500;
/// Accounts that they share.
const USERS: usize = 20;
/// What each wants the server to hold, in bytes.
const WANTED_BYTES: usize = 20 << 20;

/// Sends a body of JSON that doesn't end, in pieces and without saying how long it is; ends when the server doesn't take more. What is
/// left keeps the connection open.
async fn send_endless(server: std::net::SocketAddr, token: Arc<str>) -> (TcpStream, usize) {
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    let head = format!(
        "POST /_matrix/client/v3/keys/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    let piece = [format!("{:x}\r\n", 64 * 1024).as_bytes(), &[b' '; 64 * 1024], b"\r\n"].concat();
    let mut sent = 0;
    let mut written = stream.write_all(head.as_bytes()).await;
    // Not quite to the limit, at which the server would be rid of it.
    while written.is_ok() && sent < WANTED_BYTES.min(4 * MIB as usize - piece.len()) {
        written = stream.write_all(&piece).await;
        sent += 64 * 1024;
    }
    (stream, sent)
}

/// Asks for all that a user can see, or all that is new to them, and takes only the status of the answer.
async fn take_nothing(server: std::net::SocketAddr, token: Arc<str>, since: Option<Arc<str>>) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    let filter = encode(r#"{"room":{"timeline":{"limit":500}}}"#);
    let since = since.map_or(String::new(), |since| format!("&since={since}"));
    let head = format!(
        "GET /_matrix/client/v3/sync?filter={filter}{since} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut status = [0; 12];
    // Those who wait too long get an answer, or none.
    let read = stream.read_exact(&mut status).await;
    (stream, read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&status[9..]).into_owned()))
}

async fn log_in(server: &Server, name: &str) -> Arc<str> {
    server.register(name).await;
    let body = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": name }, "password": password(name) });
    let (status, answer) = server.request(Method::POST, "/_matrix/client/v3/login", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["access_token"].as_str().expect("a token").into()
}

/// A room that has accounts in it, whose tokens these are, and one more who does no harm.
async fn crowd<'s>(server: &'s Server) -> (User<'s>, String, Vec<Arc<str>>) {
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let join = format!("/_matrix/client/v3/join/{}", encode(&room));
    let mut tokens = Vec::new();
    for n in 0..USERS {
        let token = log_in(server, &format!("user{n}")).await;
        let (status, _) = server.request_as(Some(&token), Method::POST, &join, Some(json!({}))).await;
        assert_eq!(status, StatusCode::OK);
        tokens.push(token);
    }
    (alice, room, tokens)
}

fn assert_bounded(server: &Server, quiet: u64) {
    let bytes = server.memory_bytes_max();
    println!("{} MiB before, {} MiB at most", quiet / MIB, bytes / MIB);
    assert!(bytes < 400 * MIB, "{} MiB", bytes / MIB);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_bounded_while_500_connections_send_20_mib_each() {
    let server = Server::start();
    let (alice, room, tokens) = crowd(&server).await;
    let quiet = server.memory_bytes_max();
    let mut sending = JoinSet::new();
    for n in 0..CONNECTIONS {
        sending.spawn(send_endless(server.address(), tokens[n % USERS].clone()));
    }
    let kept = sending.join_all().await;
    let sent: usize = kept.iter().map(|(_, sent)| sent).sum();
    assert!(sent as u64 > 800 * MIB, "{sent} bytes were sent");
    // Whoever does no harm is served meanwhile.
    alice.say(&room, "meanwhile", "hello").await;
    assert_bounded(&server, quiet);
}

/// Whether memory stays bounded while many ask for answers of 20 MiB and take nothing of them: first syncs, or syncs of whoever was
/// away for long.
#[cfg(target_os = "linux")]
async fn ask_for_much(is_first: bool) {
    let server = Server::start();
    let (alice, room, tokens) = crowd(&server).await;
    let since: Arc<str> = alice.sync(None).await["next_batch"].as_str().expect("a token").into();
    let since = (!is_first).then_some(since);
    fill(&alice, &room).await;
    let quiet = server.memory_bytes_max();
    let mut asking = JoinSet::new();
    for n in 0..CONNECTIONS {
        asking.spawn(take_nothing(server.address(), tokens[n % USERS].clone(), since.clone()));
    }
    let (mut untaken, mut refused) = (Vec::new(), 0);
    // More than may wait at a time: those who came first were given up for these.
    while untaken.len() < 6 || refused == 0 {
        let (stream, status) = asking.join_next().await.expect("more").expect("a task");
        match &*status {
            "200" => untaken.push(stream),
            "429" => refused += 1,
            other => panic!("{other} after {} answers and {refused} refusals", untaken.len()),
        }
    }
    alice.say(&room, "still", "hello").await;
    assert_bounded(&server, quiet);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_bounded_while_500_connections_ask_for_20_mib_each_and_take_nothing() {
    ask_for_much(true).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_bounded_while_500_connections_ask_for_20_mib_of_news_each_and_take_nothing() {
    ask_for_much(false).await;
}

/// Sends a room what makes an answer as long as wanted.
async fn fill(user: &User<'_>, room: &str) {
    let text = "x".repeat(60_000);
    for n in 0..WANTED_BYTES / text.len() + 1 {
        user.say(room, &format!("fill{n}"), &text).await;
    }
}

#[tokio::test]
async fn a_device_that_polls_again_and_again_ends_its_own_oldest_polls() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let since = alice.sync(None).await["next_batch"].as_str().expect("a token").to_owned();
    let head = format!(
        "GET /_matrix/client/v3/sync?timeout=300000&since={since} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\n\r\n",
        alice.token
    );
    let mut polls = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
        stream.write_all(head.as_bytes()).await.expect("written");
        polls.push(stream);
    }
    // One of them is answered with what there is, though nothing happened and five minutes are not over.
    let answers = polls.into_iter().map(|mut stream| {
        Box::pin(async move {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            answer
        })
    });
    let (answer, ..) = futures_util::future::select_all(answers).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("next_batch"), "{answer}");
}

#[tokio::test]
async fn a_poll_whose_client_stops_sending_is_answered_at_once() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let since = alice.sync(None).await["next_batch"].as_str().expect("a token").to_owned();
    let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
    let head = format!(
        "GET /_matrix/client/v3/sync?timeout=300000&since={since} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        alice.token
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.shutdown().await.expect("shut down");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("next_batch"), "{answer}");
}

#[tokio::test]
async fn a_message_is_answered_though_its_client_stops_sending() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let body = r#"{"msgtype":"m.text","body":"half"}"#;
    let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
    let head = format!(
        "PUT /_matrix/client/v3/rooms/{}/send/m.room.message/half HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        encode(&room),
        alice.token,
        body.len(),
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.shutdown().await.expect("shut down");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("event_id"), "{answer}");
}

#[tokio::test]
async fn a_class_of_pupils_registers_behind_one_address() {
    // The defaults.
    let server = Server::start_with("[global.rate_limit]\nwrite = { per_second = 20.0, burst = 200 }");
    for n in 0..30 {
        for typed in ["p", "pu", "pup", "pupi", "pupil"] {
            let path = format!("/_matrix/client/v3/register/available?username={typed}{n}");
            let (status, answer) = server.request(Method::GET, &path, None).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
        server.register(&format!("pupil{n}")).await;
    }
}

#[tokio::test]
async fn who_guesses_a_password_keeps_its_owner_from_nothing() {
    let limits = "trusted_proxies = [\"127.0.0.1\"]\n[global.rate_limit]\nlogin_account = { per_second = 0.001, burst = 2 }\n\
                  registration = { per_second = 0.0 }\nlogin = { per_second = 0.0 }\nanonymous = { per_second = 0.0 }";
    let server = Server::start_with(limits);
    let log_in = async |secret: &str, address: &str| {
        let identifier = json!({ "type": "m.id.user", "user": "alice" });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": secret });
        let request = server.raw(Method::POST, "/_matrix/client/v3/login").header("x-forwarded-for", address);
        request.json(&body).send().await.expect("an answer").status().as_u16()
    };
    // Registered from the proxy itself.
    server.register("alice").await;
    let right = password("alice");
    assert_eq!(log_in(&right, "203.0.113.1").await, 200);
    for _ in 0..20 {
        assert_eq!(log_in(&right, "203.0.113.1").await, 200, "right ones cost nothing");
    }
    // Six networks guess until all that the account allows is used up.
    let mut guesses = Vec::new();
    for n in 0..6 {
        for _ in 0..3 {
            guesses.push(log_in("wrong", &format!("198.51.100.{n}")).await);
        }
    }
    assert_eq!(guesses.iter().filter(|status| **status == 403).count(), 10, "{guesses:?}");
    assert_eq!(log_in(&right, "198.51.100.77").await, 429, "unknown networks wait");
    assert_eq!(log_in(&right, "203.0.113.1").await, 200, "where she was before she is let in");
}

/// For the time that no test waits for: a client that is refused may go on soon.
#[tokio::test]
async fn a_refusal_says_how_long_to_wait() {
    let server = Server::start_with("[global.rate_limit]\nanonymous = { per_second = 0.5, burst = 1 }");
    let path = "/_matrix/client/v3/account/whoami";
    let ask = async || server.raw(Method::GET, path).bearer_auth("guessed").send().await.expect("an answer");
    assert_eq!(ask().await.status(), StatusCode::UNAUTHORIZED);
    let refused = ask().await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("a number");
    assert!(Duration::from_secs(seconds) <= Duration::from_secs(2));
}
