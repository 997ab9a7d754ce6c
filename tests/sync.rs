//! `/sync` as clients use it.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Server, encode};

fn ids(events: &Value) -> Vec<String> {
    events.as_array().into_iter().flatten().map(|event| event["event_id"].as_str().expect("id").to_owned()).collect()
}

#[tokio::test]
async fn a_long_poll_is_answered_by_a_message() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let since = bob.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    let path = format!("/v3/sync?timeout=60000&since={since}");
    let (answer, sent) = tokio::join!(bob.get(&path), alice.say(&room, "1", "hello"));
    let timeline = &answer["rooms"]["join"][&room]["timeline"];
    assert_eq!(ids(&timeline["events"]), [sent]);
    assert_eq!(timeline["limited"], false);
    assert_eq!(answer["rooms"]["join"][&room]["unread_notifications"]["notification_count"], 1);
    let nothing = bob.sync(answer["next_batch"].as_str()).await;
    assert!(nothing["rooms"]["join"].as_object().is_none_or(|rooms| rooms.is_empty()), "{nothing}");
}

#[tokio::test]
async fn a_gap_is_limited_and_filled_from_messages() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    let mut sent = Vec::new();
    for n in 0..30 {
        sent.push(alice.say(&room, &n.to_string(), "x").await);
    }
    let filter = encode(r#"{"room":{"timeline":{"limit":5}}}"#);
    let answer = alice.get(&format!("/v3/sync?since={since}&filter={filter}")).await;
    let timeline = &answer["rooms"]["join"][&room]["timeline"];
    assert_eq!(timeline["limited"], true);
    let mut got = ids(&timeline["events"]);
    assert_eq!(got, sent[25..]);
    let mut from = timeline["prev_batch"].as_str().expect("prev_batch").to_owned();
    while got.len() < sent.len() {
        let path = format!("/v3/rooms/{}/messages?dir=b&limit=7&from={}&to={since}", encode(&room), encode(&from));
        let page = alice.get(&path).await;
        let older: Vec<_> = ids(&page["chunk"]).into_iter().rev().collect();
        assert!(!older.is_empty(), "{page}");
        got.splice(0..0, older);
        match page["end"].as_str() {
            Some(end) => from = end.to_owned(),
            None => break,
        }
    }
    assert_eq!(got, sent);
}

#[tokio::test]
async fn lazy_loading_gives_the_members_that_are_seen() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    // Without a name, members would be told as the room's heroes.
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Reef" })).await;
    bob.join(&room).await;
    carol.join(&room).await;
    for n in 0..5 {
        bob.say(&room, &n.to_string(), "x").await;
    }
    let filter = encode(r#"{"room":{"timeline":{"limit":3},"state":{"lazy_load_members":true}}}"#);
    let answer = alice.get(&format!("/v3/sync?filter={filter}")).await;
    let entry = &answer["rooms"]["join"][&room];
    let members: BTreeSet<_> = entry["state"]["events"]
        .as_array()
        .expect("state")
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| event["state_key"].as_str().expect("key").to_owned())
        .collect();
    assert!(members.contains(&bob.id) && !members.contains(&carol.id), "{members:?}");
    assert_eq!(entry["summary"]["m.joined_member_count"], 3);
}

#[tokio::test]
async fn state_after_stands_at_the_end_of_the_timeline() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    let topic = format!("/v3/rooms/{}/state/m.room.topic", encode(&room));
    alice.put(&topic, json!({ "topic": "one" })).await;
    alice.put(&topic, json!({ "topic": "two" })).await;
    let answer = alice.get(&format!("/v3/sync?since={since}&use_state_after=true")).await;
    let entry = &answer["rooms"]["join"][&room];
    assert!(entry.get("state").is_none(), "{entry}");
    assert_eq!(entry["state_after"]["events"][0]["content"]["topic"], "two");
    // As clients ask for it that know it by its flag in `/versions`.
    let early = alice.get(&format!("/v3/sync?since={since}&org.matrix.msc4222.use_state_after=true")).await;
    let early = &early["rooms"]["join"][&room];
    assert_eq!(early["org.matrix.msc4222.state_after"], entry["state_after"]);
    assert!(early.get("state").is_none() && early.get("state_after").is_none(), "{early}");
    let classic = alice.sync(Some(&since)).await;
    assert_eq!(classic["rooms"]["join"][&room]["state"]["events"].as_array().map_or(0, Vec::len), 0);
    let full = alice.get(&format!("/v3/sync?since={since}&full_state=true")).await;
    assert!(full["rooms"]["join"][&room]["state"]["events"].as_array().expect("state").len() > 3);
}

#[tokio::test]
async fn leaving_and_being_banned_end_a_room() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let since = bob.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    alice.post(&format!("/v3/rooms/{}/ban", encode(&room)), json!({ "user_id": bob.id })).await;
    alice.say(&room, "1", "not for bob").await;
    let answer = bob.sync(Some(&since)).await;
    let left = &answer["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(left.as_array().expect("events").last().expect("one")["content"]["membership"], "ban");
    assert!(!answer.to_string().contains("not for bob"));
    let next = bob.sync(answer["next_batch"].as_str()).await;
    assert!(next["rooms"]["leave"].get(&room).is_none(), "told once");
}

#[tokio::test]
async fn ignored_users_are_not_heard() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let list = json!({ "ignored_users": { (bob.id.clone()): {} } });
    alice.put(&format!("/v3/user/{}/account_data/m.ignored_user_list", encode(&alice.id)), list).await;
    let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    bob.say(&room, "1", "noise").await;
    alice.say(&room, "1", "signal").await;
    let answer = alice.sync(Some(&since)).await.to_string();
    assert!(answer.contains("signal") && !answer.contains("noise"));
}

#[tokio::test]
async fn unread_counts_follow_rules_and_receipts() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let count = |answer: &Value| {
        let unread = &answer["rooms"]["join"][&room]["unread_notifications"];
        (unread["notification_count"].as_u64(), unread["highlight_count"].as_u64())
    };
    for n in 0..3 {
        alice.say(&room, &n.to_string(), "hello").await;
    }
    let mention = json!({ "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [bob.id] } });
    let last = alice.put(&format!("/v3/rooms/{}/send/m.room.message/m", encode(&room)), mention).await;
    let answer = bob.sync(None).await;
    assert_eq!(count(&answer), (Some(4), Some(1)));
    let event = last["event_id"].as_str().expect("id");
    bob.post(&format!("/v3/rooms/{}/receipt/m.read/{}", encode(&room), encode(event)), json!({})).await;
    assert_eq!(count(&bob.sync(None).await), (Some(0), Some(0)));
}

#[tokio::test]
async fn sync_refuses_what_it_cannot_read() {
    let server = Server::start();
    let alice = server.register("alice").await;
    alice.fails(Method::GET, "/v3/sync?since=nonsense", None, 400, "M_INVALID_PARAM").await;
    alice.fails(Method::GET, "/v3/sync?timeout=soon", None, 400, "M_INVALID_PARAM").await;
    let bad = format!("/v3/sync?filter={}", encode("{\"room\": 7}"));
    let (status, _) = alice.call(Method::GET, &format!("/_matrix/client{bad}"), None).await;
    assert_eq!(status.as_u16(), 400);
}

#[tokio::test]
async fn tokens_live_through_a_restart() {
    let mut server = Server::start();
    let (token, room, since) = {
        let alice = server.register("alice").await;
        let room = alice.create_room(json!({})).await;
        let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();
        alice.say(&room, "1", "before the restart").await;
        (alice.token.clone(), room, since)
    };
    server.kill();
    server.restart();
    let path = format!("/_matrix/client/v3/sync?timeout=0&since={since}");
    let (_, answer) = server.request_as(Some(&token), Method::GET, &path, None).await;
    let events = &answer["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(events.as_array().map_or(0, Vec::len), 1, "{answer}");
    assert_eq!(events[0]["content"]["body"], "before the restart");
}
