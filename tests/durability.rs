//! What was acknowledged is there after a kill, and long polls end well at a shutdown.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Server, encode};

/// Rounds of writing and killing.
const ROUNDS: usize = 3;
/// Messages written at once in each.
const BURST: usize = 40;

#[tokio::test]
async fn acknowledged_messages_survive_a_kill() {
    let mut server = Server::start();
    let (token, room) = {
        let alice = server.register("alice").await;
        (alice.token.clone(), alice.create_room(json!({})).await)
    };
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let sends = (0..BURST).map(|n| {
            let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{round}-{n}", encode(&room));
            let body = json!({ "msgtype": "m.text", "body": "x" });
            let (server, token) = (&server, &token);
            async move { server.request_as(Some(token), Method::PUT, &path, Some(body)).await }
        });
        for (status, answer) in futures_util::future::join_all(sends).await {
            assert!(status.is_success(), "{answer}");
            acknowledged.push(answer["event_id"].as_str().expect("event_id").to_owned());
        }
        server.kill();
        server.restart();
        let mut found = Vec::new();
        let mut from = String::new();
        for _ in 0..100 {
            let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=50{from}", encode(&room));
            let (_, page) = server.request_as(Some(&token), Method::GET, &path, None).await;
            let events = page["chunk"].as_array().expect("chunk").clone();
            found.extend(events.iter().map(|event: &Value| event["event_id"].as_str().expect("id").to_owned()));
            match page["end"].as_str() {
                Some(end) => from = format!("&from={}", encode(end)),
                None => break,
            }
        }
        for id in &acknowledged {
            assert_eq!(found.iter().filter(|other| *other == id).count(), 1, "{id} in round {round}");
        }
    }
}

#[tokio::test]
async fn a_shutdown_answers_long_polls() {
    let mut server = Server::start();
    let (token, since) = {
        let alice = server.register("alice").await;
        (alice.token.clone(), alice.sync(None).await["next_batch"].as_str().expect("token").to_owned())
    };
    let url = format!("{}/_matrix/client/v3/sync?timeout=60000&since={since}", server.url());
    let client = reqwest::Client::new();
    let poll = tokio::spawn(client.get(url).bearer_auth(&token).send());
    // The poll is under way once a later request has been answered.
    server.request_as(Some(&token), Method::GET, "/_matrix/client/v3/account/whoami", None).await;
    tokio::task::spawn_blocking(move || server.stop()).await.expect("stops");
    match poll.await.expect("task") {
        Ok(answer) => assert!(answer.status().is_success(), "{}", answer.status()),
        // It had not reached the server before that stopped listening.
        Err(error) => assert!(error.is_connect() || error.is_request(), "{error}"),
    }
}
