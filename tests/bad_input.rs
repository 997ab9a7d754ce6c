//! Malformed requests get the specified error: never a 500, never a dead server.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Server, encode};

async fn send_raw(server: &Server, token: &str, method: Method, path: &str, body: Vec<u8>) -> (u16, String) {
    let response = server.raw(method, path).bearer_auth(token).body(body).send().await.expect("an answer");
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or(Value::Null);
    (status, body["errcode"].as_str().unwrap_or("").to_owned())
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let create = "/_matrix/client/v3/createRoom";
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes();
    let cases: Vec<(Vec<u8>, u16, &str)> = vec![
        (b"{".to_vec(), 400, "M_NOT_JSON"),
        (b"nonsense".to_vec(), 400, "M_NOT_JSON"),
        (b"{\"name\": \"\xff\xfe\"}".to_vec(), 400, "M_NOT_JSON"),
        (b"{\"name\": 7}".to_vec(), 400, "M_BAD_JSON"),
        (b"[]".to_vec(), 400, "M_BAD_JSON"),
        (b"{\"invite\": [\"not a user id\"]}".to_vec(), 400, "M_BAD_JSON"),
        (format!("{{\"topic\": {}}}", String::from_utf8(deep.clone()).expect("ascii")).into_bytes(), 400, "M_BAD_JSON"),
    ];
    for (body, status, errcode) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        assert_eq!(
            send_raw(&server, &alice.token, Method::POST, create, body).await,
            (status, errcode.into()),
            "{shown}"
        );
    }
    // The answer comes before the body, which the server doesn't want to see.
    let mut stream = TcpStream::connect(server.url().trim_start_matches("http://")).expect("connect");
    let head = format!(
        "POST {create} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 22020096\r\n\r\n",
        alice.token
    );
    stream.write_all(head.as_bytes()).expect("write");
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).expect("read");
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("M_TOO_LARGE"), "{answer}");
}

#[tokio::test]
async fn events_that_cannot_be() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let at = format!("/_matrix/client/v3/rooms/{}", encode(&room));
    let put = async |path: &str, body: &str| {
        send_raw(&server, &alice.token, Method::PUT, &format!("{at}{path}"), body.as_bytes().to_vec()).await
    };
    let long = format!("{{\"body\": \"{}\"}}", "x".repeat(70_000));
    assert_eq!(put("/send/m.room.message/1", &long).await, (413, "M_TOO_LARGE".into()));
    assert_eq!(put("/send/m.room.message/2", "{\"n\": 1.5}").await, (400, "M_BAD_JSON".into()));
    assert_eq!(put("/send/m.room.message/3", "{\"n\": 9007199254740993}").await, (400, "M_BAD_JSON".into()));
    assert_eq!(put("/send/m.room.message/4", "7").await, (400, "M_BAD_JSON".into()));
    let long_type = format!("/send/{}/5", "t".repeat(300));
    let (status, errcode) = put(&long_type, "{}").await;
    assert!(
        matches!((status, errcode.as_str()), (413, "M_TOO_LARGE") | (400, "M_INVALID_PARAM")),
        "{status} {errcode}"
    );
    let long_key = format!("/state/org.example/{}", "k".repeat(300));
    let (status, errcode) = put(&long_key, "{}").await;
    assert!(
        matches!((status, errcode.as_str()), (413, "M_TOO_LARGE") | (400, "M_INVALID_PARAM")),
        "{status} {errcode}"
    );
    // A member event with nonsense in it, a power level event that is no such thing.
    let member = format!("/state/m.room.member/{}", encode(&alice.id));
    let (status, _) = put(&member, "{\"membership\": 7}").await;
    assert!((400..500).contains(&status));
    let (status, _) = put("/state/m.room.power_levels", "{\"users\": \"everyone\"}").await;
    assert!((400..500).contains(&status));
    let say = alice.say(&room, "fine", "still here").await;
    assert!(say.starts_with('$'));
}

#[tokio::test]
async fn identifiers_and_parameters() {
    let server = Server::start();
    let alice = server.register("alice").await;
    for (path, status, errcode) in [
        ("/v3/rooms/nonsense/state".to_owned(), 400, "M_INVALID_PARAM"),
        ("/v3/rooms/!unknown%3Alocalhost/state".to_owned(), 403, "M_FORBIDDEN"),
        ("/v3/profile/nonsense".to_owned(), 400, "M_INVALID_PARAM"),
        (format!("/v3/profile/@{}:localhost", "a".repeat(300)), 400, "M_INVALID_PARAM"),
        ("/v3/rooms/!unknown%3Alocalhost/messages".to_owned(), 400, "M_MISSING_PARAM"),
        ("/v3/rooms/!unknown%3Alocalhost/messages?dir=sideways".to_owned(), 400, "M_INVALID_PARAM"),
        ("/v3/directory/room/nonsense".to_owned(), 400, "M_INVALID_PARAM"),
        ("/v3/directory/room/%23none%3Aelsewhere.example".to_owned(), 404, "M_NOT_FOUND"),
        ("/v3/profile/%FF%FE".to_owned(), 400, "M_INVALID_PARAM"),
    ] {
        alice.fails(Method::GET, &path, None, status, errcode).await;
    }
    let invite = Some(json!({ "user_id": "nobody" }));
    let room = alice.create_room(json!({})).await;
    alice.fails(Method::POST, &format!("/v3/rooms/{}/invite", encode(&room)), invite, 400, "M_BAD_JSON").await;
    alice
        .fails(Method::POST, &format!("/v3/rooms/{}/invite", encode(&room)), Some(json!({})), 400, "M_MISSING_PARAM")
        .await;
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let server = Server::start();
    for path in ["/", "/_matrix/client/v3/nothing", "/_matrix/client/v99/sync", "/_matrix/federation/v1/version"] {
        let (status, answer) = server.request(Method::GET, path, None).await;
        assert_eq!((status, answer["errcode"].as_str()), (StatusCode::NOT_FOUND, Some("M_UNRECOGNIZED")), "{path}");
    }
    let (status, answer) = server.request(Method::DELETE, "/_matrix/client/v3/sync", None).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::METHOD_NOT_ALLOWED, Some("M_UNRECOGNIZED")));
    let response = server.raw(Method::OPTIONS, "/_matrix/client/v3/sync").send().await.expect("an answer");
    assert!(response.status().is_success());
    let headers = response.headers();
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert!(headers["access-control-allow-methods"].to_str().expect("ascii").contains("DELETE"));
    assert!(headers["access-control-allow-headers"].to_str().expect("ascii").contains("Authorization"));
    let response = server.raw(Method::GET, "/_matrix/client/v3/sync").send().await.expect("an answer");
    assert_eq!(response.headers()["access-control-allow-origin"], "*", "errors too");
}

#[tokio::test]
async fn aborted_and_broken_requests_harm_nobody() {
    let server = Server::start();
    let address = server.url().trim_start_matches("http://").to_owned();
    for bytes in [
        &b"GET /_matrix/client/versions HTTP/1.1\r\nHost: localhost\r\n"[..],
        b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{\"type\":",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(&address).expect("connect");
        stream.write_all(bytes).expect("write");
        drop(stream);
    }
    let mut stream = TcpStream::connect(&address).expect("connect");
    stream.write_all(b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    let (status, _) = server.request(Method::GET, "/_matrix/client/versions", None).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn rate_limits_say_when_to_come_back() {
    let server = Server::start_with("[global.rate_limit]\nmessage = { per_second = 0.001, burst = 2 }\n");
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.say(&room, "1", "a").await;
    alice.say(&room, "2", "b").await;
    let path = format!("/v3/rooms/{}/send/m.room.message/3", encode(&room));
    let answer = alice.fails(Method::PUT, &path, Some(json!({ "body": "c" })), 429, "M_LIMIT_EXCEEDED").await;
    assert!(answer["retry_after_ms"].as_u64().expect("milliseconds") > 1000);
}
