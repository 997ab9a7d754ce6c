//! Sending, reading back, redacting, relating.

use reqwest::Method;
use serde_json::json;

use crate::support::{Server, encode};

#[tokio::test]
async fn a_transaction_id_sends_once_even_across_a_restart() {
    let mut server = Server::start();
    let (token, room, first) = {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let first = alice.say(&room, "same", "once").await;
        assert_eq!(alice.say(&room, "same", "once").await, first);
        (alice.token.clone(), room, first)
    };
    server.stop();
    server.restart();
    let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/same", encode(&room));
    let body = json!({ "msgtype": "m.text", "body": "once" });
    let (_, answer) = server.request_as(Some(&token), Method::PUT, &path, Some(body.clone())).await;
    assert_eq!(answer["event_id"], json!(first));
    let other = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/another", encode(&room));
    let (_, answer) = server.request_as(Some(&token), Method::PUT, &other, Some(body)).await;
    assert_ne!(answer["event_id"], json!(first));
}

#[tokio::test]
async fn history_is_paged_both_ways() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut sent = Vec::new();
    for n in 0..25 {
        sent.push(alice.say(&room, &n.to_string(), &format!("message {n}")).await);
    }
    let filter = encode(r#"{"types":["m.room.message"]}"#);
    let base = format!("/v3/rooms/{}/messages?limit=10&filter={filter}", encode(&room));
    let mut back = Vec::new();
    let mut from = String::new();
    for _ in 0..20 {
        let page = alice.get(&format!("{base}&dir=b{from}")).await;
        for event in page["chunk"].as_array().expect("chunk") {
            back.push(event["event_id"].as_str().expect("id").to_owned());
        }
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", encode(end)),
            None => break,
        }
    }
    back.reverse();
    assert_eq!(back, sent);
    let page = alice.get(&format!("{base}&dir=f")).await;
    assert_eq!(page["chunk"][0]["event_id"], json!(sent[0]));
    assert_eq!(page["chunk"].as_array().expect("chunk").len(), 10);
    let bad = format!("{base}&dir=b&from=nonsense");
    alice.fails(Method::GET, &bad, None, 400, "M_INVALID_PARAM").await;
}

#[tokio::test]
async fn context_event_and_timestamp() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut sent = Vec::new();
    for n in 0..9 {
        sent.push(alice.say(&room, &n.to_string(), "x").await);
    }
    let at = format!("/v3/rooms/{}", encode(&room));
    let context = alice.get(&format!("{at}/context/{}?limit=4", encode(&sent[4]))).await;
    assert_eq!(context["event"]["event_id"], json!(sent[4]));
    assert_eq!(context["events_before"][0]["event_id"], json!(sent[3]));
    assert_eq!(context["events_after"][0]["event_id"], json!(sent[5]));
    assert!(context["state"].as_array().is_some() && context["start"].is_string() && context["end"].is_string());
    let event = alice.get(&format!("{at}/event/{}", encode(&sent[4]))).await;
    assert_eq!((&event["room_id"], &event["unsigned"]["transaction_id"]), (&json!(room), &json!("4")));
    alice.fails(Method::GET, &format!("{at}/event/$none"), None, 404, "M_NOT_FOUND").await;
    let ts = event["origin_server_ts"].as_u64().expect("ts");
    let found = alice.get(&format!("/v1/rooms/{}/timestamp_to_event?ts={}&dir=f", encode(&room), ts)).await;
    assert_eq!(found["origin_server_ts"], json!(ts));
    let none = format!("/v1/rooms/{}/timestamp_to_event?ts={}&dir=f", encode(&room), ts + 1_000_000_000);
    alice.fails(Method::GET, &none, None, 404, "M_NOT_FOUND").await;
}

#[tokio::test]
async fn a_redaction_removes_content_everywhere() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let event = alice.say(&room, "1", "regretted").await;
    let at = format!("/v3/rooms/{}", encode(&room));
    let redact = format!("{at}/redact/{}/r1", encode(&event));
    bob.fails(Method::PUT, &redact, Some(json!({})), 403, "M_FORBIDDEN").await;
    let redaction = alice.put(&redact, json!({ "reason": "typo" })).await["event_id"].clone();
    assert_eq!(alice.put(&redact, json!({ "reason": "typo" })).await["event_id"], redaction);
    for answer in [
        bob.get(&format!("{at}/event/{}", encode(&event))).await,
        bob.get(&format!("{at}/context/{}", encode(&event))).await["event"].clone(),
    ] {
        assert_eq!(answer["content"], json!({}), "{answer}");
        assert_eq!(answer["unsigned"]["redacted_because"]["event_id"], redaction);
    }
    assert!(!bob.sync(None).await.to_string().contains("regretted"));
    assert!(!bob.get(&format!("{at}/messages?dir=b&limit=50")).await.to_string().contains("regretted"));
}

#[tokio::test]
async fn relations_are_listed_and_bundled() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let at = format!("/v3/rooms/{}", encode(&room));
    let root = alice.say(&room, "1", "root").await;
    let relate = |rel: &str, key: Option<&str>, body: &str| {
        let mut content = json!({ "msgtype": "m.text", "body": body,
            "m.relates_to": { "rel_type": rel, "event_id": root } });
        if let Some(key) = key {
            content["m.relates_to"]["key"] = json!(key);
        }
        if rel == "m.replace" {
            content["m.new_content"] = json!({ "msgtype": "m.text", "body": "edited" });
        }
        content
    };
    alice.put(&format!("{at}/send/m.room.message/2"), relate("m.replace", None, "* edited")).await;
    bob.put(&format!("{at}/send/m.reaction/3"), relate("m.annotation", Some("🐟"), "")).await;
    let reply = bob.put(&format!("{at}/send/m.room.message/4"), relate("m.thread", None, "in thread")).await;
    bob.put(&format!("{at}/send/m.room.message/5"), relate("m.reference", None, "see")).await;

    let event = bob.get(&format!("{at}/event/{}", encode(&root))).await;
    let bundled = &event["unsigned"]["m.relations"];
    assert_eq!(bundled["m.thread"]["count"], 1, "{event}");
    assert_eq!(bundled["m.thread"]["latest_event"]["event_id"], reply["event_id"]);
    assert_eq!(bundled["m.thread"]["current_user_participated"], true);
    assert_eq!(bundled["m.replace"]["content"]["m.new_content"]["body"], "edited");
    assert_eq!(bundled["m.reference"]["chunk"].as_array().expect("chunk").len(), 1);

    let relations = format!("/v1/rooms/{}/relations/{}", encode(&room), encode(&root));
    assert_eq!(bob.get(&relations).await["chunk"].as_array().expect("chunk").len(), 4);
    assert_eq!(bob.get(&format!("{relations}/m.thread")).await["chunk"].as_array().expect("chunk").len(), 1);
    let reactions = bob.get(&format!("{relations}/m.annotation/m.reaction")).await;
    assert_eq!(reactions["chunk"].as_array().expect("chunk").len(), 1);
    let page = bob.get(&format!("{relations}?limit=3")).await;
    let rest = bob.get(&format!("{relations}?limit=3&from={}", page["next_batch"].as_str().expect("more"))).await;
    assert_eq!(rest["chunk"].as_array().expect("chunk").len(), 1);
    let threads = bob.get(&format!("/v1/rooms/{}/threads", encode(&room))).await;
    assert_eq!(threads["chunk"][0]["event_id"], json!(root));
    let mine = alice.get(&format!("/v1/rooms/{}/threads?include=participated", encode(&room))).await;
    assert_eq!(mine["chunk"].as_array().expect("chunk").len(), 1, "alice sent the root");
    let twice = relate("m.annotation", Some("🐟"), "");
    bob.fails(Method::PUT, &format!("{at}/send/m.reaction/6"), Some(twice), 400, "M_DUPLICATE_ANNOTATION").await;
}

#[tokio::test]
async fn what_happened_before_a_join_is_shown_as_the_room_says() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    for (visibility, seen) in [("shared", true), ("joined", false), ("invited", false), ("world_readable", true)] {
        let state = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } }]);
        let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": state })).await;
        let early = alice.say(&room, "1", "early").await;
        bob.join(&room).await;
        let at = format!("/v3/rooms/{}", encode(&room));
        let page = bob.get(&format!("{at}/messages?dir=b&limit=50")).await;
        assert_eq!(page["chunk"].to_string().contains("early"), seen, "{visibility}");
        let (status, _) = bob.call(Method::GET, &format!("/_matrix/client{at}/event/{}", encode(&early)), None).await;
        assert_eq!(status.is_success(), seen, "{visibility}");
    }
}
