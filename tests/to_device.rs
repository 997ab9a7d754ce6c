//! Messages to devices.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Server, User, password};

async fn login(server: &Server, name: &str, device: &str) -> String {
    let body = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": name },
        "password": password(name), "device_id": device,
    });
    let (status, answer) = server.request(Method::POST, "/_matrix/client/v3/login", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["access_token"].as_str().expect("token").to_owned()
}

async fn send(from: &User<'_>, txn: &str, messages: Value) {
    let path = format!("/v3/sendToDevice/m.room_key_request/{txn}");
    assert_eq!(from.put(&path, json!({ "messages": messages })).await, json!({}));
}

fn contents(answer: &Value) -> Vec<&Value> {
    let events = answer["to_device"]["events"].as_array();
    events.into_iter().flatten().map(|event| &event["content"]).collect()
}

#[tokio::test]
async fn messages_reach_the_devices_that_are_meant_once() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let phone = login(&server, "bob", "PHONE").await;
    let since = bob.sync(None).await["next_batch"].as_str().expect("token").to_owned();

    send(&alice, "1", json!({ &bob.id: { "FIRST": { "n": 1 } }, "@nobody:localhost": { "X": {} } })).await;
    send(&alice, "1", json!({ &bob.id: { "FIRST": { "n": 1 } } })).await;
    send(&alice, "2", json!({ &bob.id: { "*": { "n": 2 } } })).await;
    let first = bob.sync(Some(&since)).await;
    assert_eq!(contents(&first), [&json!({ "n": 1 }), &json!({ "n": 2 })]);
    let event = &first["to_device"]["events"][0];
    assert_eq!((&event["type"], &event["sender"]), (&json!("m.room_key_request"), &json!(alice.id)));
    // Until it is acknowledged it is told again.
    assert_eq!(contents(&bob.sync(Some(&since)).await).len(), 2);
    let since = first["next_batch"].as_str().expect("token");
    assert!(bob.sync(Some(since)).await.get("to_device").is_none());

    let (_, other) = server.request_as(Some(&phone), Method::GET, "/_matrix/client/v3/sync", None).await;
    assert_eq!(contents(&other), [&json!({ "n": 2 })]);
}

#[tokio::test]
async fn a_request_for_users_of_other_servers_is_refused_whole() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = "/v3/sendToDevice/m.room_key_request/1";
    for devices in [json!({ "*": {} }), json!({ "PHONE": { "n": 1 } })] {
        let messages = json!({ &bob.id: { "*": { "n": 1 } }, "@carol:example.org": devices });
        // A repetition isn't taken for one of a request that was done either.
        for _ in 0..2 {
            let body = Some(json!({ "messages": messages }));
            let answer = alice.fails(Method::PUT, path, body, 403, "M_FORBIDDEN").await;
            assert!(answer["error"].as_str().expect("text").contains("@carol:example.org"), "{answer}");
        }
    }
    assert!(contents(&bob.sync(None).await).is_empty());
    // The same transaction id without them.
    send(&alice, "1", json!({ &bob.id: { "*": { "n": 2 } }, "@carol:example.org": {} })).await;
    assert_eq!(contents(&bob.sync(None).await), [&json!({ "n": 2 })]);
    let refused = json!({ "messages": { "@carol:example.org": { "*": {} } } });
    alice.fails(Method::PUT, path, Some(refused), 403, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn a_long_poll_is_answered_by_a_message_to_the_device() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    let path = format!("/v3/sync?timeout=60000&since={since}");
    let message = json!({ &alice.id: { "FIRST": { "n": 1 } } });
    let (answer, ()) = tokio::join!(alice.get(&path), send(&alice, "1", message));
    assert_eq!(contents(&answer), [&json!({ "n": 1 })]);
}

#[tokio::test]
async fn many_messages_come_in_order_and_outlive_kills() {
    let mut server = Server::start();
    let (id, token) = {
        let alice = server.register("alice").await;
        (alice.id.clone(), alice.token.clone())
    };
    let put = |n: usize| {
        let body = json!({ "messages": { &id: { "FIRST": { "n": n } } } });
        (format!("/_matrix/client/v3/sendToDevice/m.test/{n}"), body)
    };
    let mut got = Vec::new();
    let mut since = String::new();
    let mut sent = 0;
    for round in 0..3 {
        for _ in 0..70 {
            let (path, body) = put(sent);
            let (status, answer) = server.request_as(Some(&token), Method::PUT, &path, Some(body)).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            sent += 1;
        }
        server.kill();
        server.restart();
        // What was answered before the kill is not sent again.
        let (path, body) = put(sent - 1);
        server.request_as(Some(&token), Method::PUT, &path, Some(body)).await;
        // One answer a round: in the end more wait than one holds.
        let path = format!("/_matrix/client/v3/sync?timeout=0{since}");
        let (_, answer) = server.request_as(Some(&token), Method::GET, &path, None).await;
        got.extend(contents(&answer).into_iter().map(|content| content["n"].as_u64().expect("n")));
        if round != 1 {
            since = format!("&since={}", answer["next_batch"].as_str().expect("token"));
        } else {
            // This answer gets lost.
            got.truncate(70);
        }
    }
    let path = format!("/_matrix/client/v3/sync?timeout=60000{since}");
    let (_, answer) = server.request_as(Some(&token), Method::GET, &path, None).await;
    got.extend(contents(&answer).into_iter().map(|content| content["n"].as_u64().expect("n")));
    assert_eq!(got, (0..210).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_can_not_be_sent_is_refused() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let large = "x".repeat(70_000);
    for (body, status, errcode) in [
        (json!({}), 400, "M_BAD_JSON"),
        (json!({ "messages": { "alice": { "FIRST": {} } } }), 400, "M_BAD_JSON"),
        (json!({ "messages": { &alice.id: { "FIRST": [] } } }), 400, "M_BAD_JSON"),
        (json!({ "messages": { &alice.id: { "FIRST": { "large": large } } } }), 413, "M_TOO_LARGE"),
    ] {
        alice.fails(Method::PUT, "/v3/sendToDevice/m.test/1", Some(body), status, errcode).await;
    }
    assert!(alice.sync(None).await.get("to_device").is_none());
}
