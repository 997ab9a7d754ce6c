//! Rooms: writing and reading.

use futures_util::FutureExt;
use haima_http::limit;
use ruma::exports::http::Method;
use serde_json::{Value, json};

use crate::world::World;

#[tokio::test]
async fn messages_are_sent_once_and_read() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({ "name": "Reef" })).await;
    let first = alice.send(&room, "1", "hello").await;
    assert_eq!(alice.send(&room, "1", "hello").await, first);
    let second = alice.send(&room, "2", "world").await;
    let page = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=1")).await;
    let newest = &page["chunk"][0];
    assert_eq!((&newest["event_id"], &newest["unsigned"]["transaction_id"]), (&json!(second), &json!("2")));
    let end = page["end"].as_str().unwrap();
    let page = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=1&from={end}")).await;
    assert_eq!(page["chunk"][0]["event_id"], json!(first));
    let event = alice.get(&format!("/v3/rooms/{room}/event/{first}")).await;
    assert_eq!(event["content"]["body"], "hello");
    let context = alice.get(&format!("/v3/rooms/{room}/context/{first}?limit=2")).await;
    assert_eq!(context["event"]["event_id"], json!(first));
    assert_eq!(context["events_after"][0]["event_id"], json!(second));
    let filter = "%7B%22types%22%3A%5B%22m.room.name%22%5D%7D";
    let page = alice.get(&format!("/v3/rooms/{room}/messages?dir=f&filter={filter}")).await;
    assert_eq!(page["chunk"].as_array().unwrap().len(), 1, "{page}");
    alice.fails(Method::GET, &format!("/v3/rooms/{room}/messages?from=x&dir=b"), None, (400, "M_INVALID_PARAM")).await;
    alice.fails(Method::GET, &format!("/v3/rooms/{room}/messages"), None, (400, "M_MISSING_PARAM")).await;
}

#[tokio::test]
async fn sync_tokens_are_pagination_tokens() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let since = alice.get("/v3/sync").await["next_batch"].as_str().unwrap().to_owned();
    let sent = alice.send(&room, "1", "hello").await;
    let page = alice.get(&format!("/v3/rooms/{room}/messages?dir=f&from={since}")).await;
    assert_eq!(page["chunk"][0]["event_id"], json!(sent));
    let news = alice.get(&format!("/v3/sync?since={since}&timeout=0")).await;
    let timeline = &news["rooms"]["join"][room.replace("%21", "!")]["timeline"]["events"];
    assert_eq!(timeline[0]["event_id"], json!(sent), "{news}");
    alice.fails(Method::GET, "/v3/sync?since=nonsense", None, (400, "M_INVALID_PARAM")).await;
}

#[tokio::test]
async fn a_sync_that_tells_of_all_rooms_costs_what_it_tells_whatever_its_token() {
    let limits = limit::Config { read: limit::Rate { per_second: 0.000_1, burst: 30 }, ..limit::Config::off() };
    let world = World::with_limits(limits, |config| config.allow_registration = true).await;
    let alice = world.register("alice").await;
    for _ in 0..10 {
        alice.post("/v3/createRoom", json!({})).await;
    }
    let next = alice.get("/v3/sync").await["next_batch"].as_str().unwrap().to_owned();
    let (epoch, rest) = next[1..].split_once('_').unwrap();
    let other = epoch.parse::<u64>().unwrap() + 1;
    alice.get(&format!("/v3/sync?since=s{other}_{rest}")).await;
    alice.get(&format!("/v3/sync?since={next}&full_state=true")).await;
    let path = format!("/v3/sync?since={next}&timeout=0");
    alice.fails(Method::GET, &path, None, (429, "M_LIMIT_EXCEEDED")).await;
}

#[tokio::test]
async fn state_is_set_and_read() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let room = alice.create_room(json!({})).await;
    let state = format!("/v3/rooms/{room}/state");
    for path in ["m.room.name", "m.room.name/"] {
        alice.put(&format!("{state}/{path}"), json!({ "name": path })).await;
        assert_eq!(alice.get(&format!("{state}/{path}")).await, json!({ "name": path }));
    }
    alice.put(&format!("{state}/org.example/a%2Fb"), json!({ "x": 1 })).await;
    let event = alice.get(&format!("{state}/org.example/a%2Fb?format=event")).await;
    assert_eq!((&event["state_key"], &event["sender"]), (&json!("a/b"), &json!(alice.id)));
    let all = alice.get(&state).await;
    assert!(all.as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
    alice.fails(Method::GET, &format!("{state}/org.example/none"), None, (404, "M_NOT_FOUND")).await;
    bob.fails(Method::GET, &state, None, (403, "M_FORBIDDEN")).await;
    bob.fails(Method::PUT, &format!("{state}/m.room.name"), Some(json!({ "name": "x" })), (403, "M_FORBIDDEN")).await;
    let members = alice.get(&format!("/v3/rooms/{room}/members")).await;
    assert_eq!(members["chunk"][0]["state_key"], json!(alice.id));
}

#[tokio::test]
async fn redactions_empty_events() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let event = alice.send(&room, "1", "secret").await;
    let path = format!("/v3/rooms/{room}/redact/{event}/t1");
    let redaction = alice.put(&path, json!({ "reason": "oops" })).await;
    assert_eq!(alice.put(&path, json!({ "reason": "oops" })).await, redaction);
    let shown = alice.get(&format!("/v3/rooms/{room}/event/{event}")).await;
    assert_eq!(shown["content"], json!({}));
    assert_eq!(shown["unsigned"]["redacted_because"]["content"]["reason"], "oops");
}

#[tokio::test]
async fn relations_and_threads() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let root = alice.send(&room, "1", "root").await;
    let reply =
        json!({ "body": "reply", "msgtype": "m.text", "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
    let reply = alice.put(&format!("/v3/rooms/{room}/send/m.room.message/2"), reply).await["event_id"].clone();
    for path in ["", "/m.thread", "/m.thread/m.room.message"] {
        let page = alice.get(&format!("/v1/rooms/{room}/relations/{root}{path}")).await;
        assert_eq!(page["chunk"][0]["event_id"], reply, "{page}");
    }
    let threads = alice.get(&format!("/v1/rooms/{room}/threads")).await;
    assert_eq!(threads["chunk"][0]["event_id"], json!(root));
    let ts = alice.get(&format!("/v3/rooms/{room}/event/{root}")).await["origin_server_ts"].clone();
    let found = alice.get(&format!("/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir=f")).await;
    assert_eq!(found["origin_server_ts"], ts);
}

#[tokio::test]
async fn receipts_markers_and_typing() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let event = alice.send(&room, "1", "hello").await;
    alice.post(&format!("/v3/rooms/{room}/receipt/m.read/{event}"), json!({ "thread_id": "main" })).await;
    let markers = json!({ "m.fully_read": event, "m.read": event, "m.read.private": event });
    alice.post(&format!("/v3/rooms/{room}/read_markers"), markers).await;
    let marker = format!("/v3/user/{}/rooms/{room}/account_data/m.fully_read", alice.id);
    assert_eq!(alice.get(&marker).await, json!({ "event_id": event }));
    let fully = format!("/v3/rooms/{room}/receipt/m.fully_read/{event}");
    alice.post(&fully, json!({})).await;
    alice.fails(Method::POST, &fully, Some(json!({ "thread_id": "main" })), (400, "M_INVALID_PARAM")).await;
    let unknown = format!("/v3/rooms/{room}/receipt/org.example/{event}");
    alice.fails(Method::POST, &unknown, Some(json!({})), (400, "M_INVALID_PARAM")).await;
    let typing = format!("/v3/rooms/{room}/typing/{}", alice.id);
    alice.put(&typing, json!({ "typing": true, "timeout": 5000 })).await;
    alice.put(&typing, json!({ "typing": false })).await;
    let other = format!("/v3/rooms/{room}/typing/@bob:example.org");
    alice.fails(Method::PUT, &other, Some(json!({ "typing": false })), (403, "M_FORBIDDEN")).await;
}

#[tokio::test]
async fn who_is_gone_types_no_more_and_all_hear_of_it() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let mut since = alice.get("/v3/sync").await["next_batch"].as_str().unwrap().to_owned();
    let mut typing_told = async || {
        for _ in 0..20 {
            let answer = alice.get(&format!("/v3/sync?since={since}&timeout=2000")).await;
            since = answer["next_batch"].as_str().unwrap().to_owned();
            let room = &answer["rooms"]["join"][room.replace("%21", "!")];
            let events = room["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
            if let Some(event) = events.iter().find(|event| event["type"] == "m.typing") {
                return event["content"]["user_ids"].clone();
            }
        }
        panic!("nothing is told of who is typing");
    };
    let auth = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "bob" },
        "password": crate::world::password("bob"),
    });
    for way in ["leave", "kick", "ban", "deactivate"] {
        alice.ask(Method::POST, &format!("/v3/rooms/{room}/unban"), Some(json!({ "user_id": bob.id }))).await;
        bob.post(&format!("/v3/rooms/{room}/join"), json!({})).await;
        bob.put(&format!("/v3/rooms/{room}/typing/{}", bob.id), json!({ "typing": true })).await;
        assert_eq!(typing_told().await, json!([bob.id]), "{way}");
        match way {
            "leave" => bob.post(&format!("/v3/rooms/{room}/leave"), json!({})).await,
            "deactivate" => bob.post("/v3/account/deactivate", json!({ "auth": auth })).await,
            _ => alice.post(&format!("/v3/rooms/{room}/{way}"), json!({ "user_id": bob.id })).await,
        };
        assert_eq!(typing_told().await, json!([]), "{way}");
    }
}

#[tokio::test]
async fn aliases_and_the_directory() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let room = alice.create_room(json!({ "visibility": "public", "room_alias_name": "reef", "name": "Reef" })).await;
    let alias = "%23reef:example.org";
    let (_, found) = world.ask(None, Method::GET, &format!("/v3/directory/room/{alias}"), None).await;
    assert_eq!(found["room_id"], json!(room.replace("%21", "!")));
    bob.post(&format!("/v3/join/{alias}"), json!({})).await;
    let taken = json!({ "room_alias_name": "reef" });
    alice.fails(Method::POST, "/v3/createRoom", Some(taken), (400, "M_ROOM_IN_USE")).await;
    let body = Some(json!({ "room_id": found["room_id"] }));
    alice.fails(Method::PUT, &format!("/v3/directory/room/{alias}"), body, (409, "M_UNKNOWN")).await;
    let page = alice.get("/v3/publicRooms").await;
    assert_eq!((&page["chunk"][0]["name"], &page["total_room_count_estimate"]), (&json!("Reef"), &json!(1)), "{page}");
    let page = alice.post("/v3/publicRooms", json!({ "filter": { "generic_search_term": "desert" } })).await;
    assert_eq!(page["chunk"], json!([]));
    assert_eq!(world.ask(None, Method::GET, "/v3/publicRooms", None).await.0, 401);
    let list = format!("/v3/directory/list/room/{room}");
    assert_eq!(alice.get(&list).await, json!({ "visibility": "public" }));
    bob.fails(Method::PUT, &list, Some(json!({ "visibility": "private" })), (403, "M_FORBIDDEN")).await;
    alice.put(&list, json!({ "visibility": "private" })).await;
    assert_eq!(alice.get(&list).await, json!({ "visibility": "private" }));
    assert_eq!(bob.get(&format!("/v3/rooms/{room}/aliases")).await, json!({ "aliases": ["#reef:example.org"] }));
    bob.fails(Method::DELETE, &format!("/v3/directory/room/{alias}"), None, (403, "M_FORBIDDEN")).await;
    alice.delete(&format!("/v3/directory/room/{alias}")).await;
    alice.fails(Method::GET, &format!("/v3/directory/room/{alias}"), None, (404, "M_NOT_FOUND")).await;
}

#[tokio::test]
async fn summaries_and_spaces() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Reef" })).await;
    let space = alice.create_room(json!({ "creation_content": { "type": "m.space" }, "name": "Sea" })).await;
    let child = format!("/v3/rooms/{space}/state/m.space.child/{room}");
    alice.put(&child, json!({ "via": ["example.org"] })).await;
    let tree = alice.get(&format!("/v1/rooms/{space}/hierarchy")).await;
    let names: Vec<&Value> = tree["rooms"].as_array().unwrap().iter().map(|room| &room["name"]).collect();
    assert_eq!(names, [&json!("Sea"), &json!("Reef")], "{tree}");
    let summary = alice.get(&format!("/v1/room_summary/{room}")).await;
    assert_eq!((&summary["name"], &summary["membership"]), (&json!("Reef"), &json!("join")));
    let (status, summary) = world.ask(None, Method::GET, &format!("/v1/room_summary/{room}"), None).await;
    assert_eq!((status, &summary["name"]), (200, &json!("Reef")));
    alice.fails(Method::GET, "/v1/room_summary/!none:example.org", None, (404, "M_NOT_FOUND")).await;
}

#[tokio::test]
async fn bad_rooms_are_refused() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    for (body, expected) in [
        (json!({ "room_version": "nonsense" }), (400, "M_UNSUPPORTED_ROOM_VERSION")),
        (json!({ "room_version": "" }), (400, "M_UNSUPPORTED_ROOM_VERSION")),
        (json!({ "room_version": "Version 1! ".repeat(20) }), (400, "M_UNSUPPORTED_ROOM_VERSION")),
        (json!({ "room_version": 11 }), (400, "M_BAD_JSON")),
        (json!({ "preset": "nonsense" }), (400, "M_BAD_JSON")),
        (json!({ "room_alias_name": "a:b c" }), (400, "M_INVALID_PARAM")),
        (json!({ "initial_state": [{ "type": "m.room.name" }] }), (400, "M_BAD_JSON")),
        (json!({ "invite": ["nonsense"] }), (400, "M_BAD_JSON")),
        (json!([]), (400, "M_BAD_JSON")),
    ] {
        alice.fails(Method::POST, "/v3/createRoom", Some(body), expected).await;
    }
    alice.fails(Method::POST, "/v3/rooms/!none:example.org/join", Some(json!({})), (404, "M_NOT_FOUND")).await;
}

#[tokio::test]
async fn rooms_that_cannot_be_are_not_made() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let cases = [
        (
            json!({ "room_version": "11", "power_level_content_override": { "users": { (alice.id.as_str()): 0 } } }),
            "M_INVALID_ROOM_STATE",
        ),
        (json!({ "power_level_content_override": { "users": { (alice.id.as_str()): 100 } } }), "M_INVALID_ROOM_STATE"),
        (json!({ "creation_content": { "additional_creators": ["x"] } }), "M_INVALID_ROOM_STATE"),
        (json!({ "invite": [alice.id] }), "M_INVALID_ROOM_STATE"),
        (json!({ "power_level_content_override": { "users": "x" } }), "M_BAD_JSON"),
        (json!({ "power_level_content_override": [] }), "M_BAD_JSON"),
        (json!({ "visibility": "hidden" }), "M_BAD_JSON"),
        (json!({ "preset": "chaos" }), "M_BAD_JSON"),
        (json!({ "room_alias_name": "a".repeat(255) }), "M_INVALID_PARAM"),
        (json!({ "room_alias_name": "a b" }), "M_INVALID_PARAM"),
        (json!({ "room_alias_name": "a:b" }), "M_INVALID_PARAM"),
        (json!({ "room_version": "99" }), "M_UNSUPPORTED_ROOM_VERSION"),
        (
            json!({ "invite_3pid": [{ "id_server": "x", "id_access_token": "y", "medium": "email", "address": "a@b.c" }] }),
            "M_THREEPID_DENIED",
        ),
    ];
    for (body, errcode) in cases {
        alice.fails(Method::POST, "/v3/createRoom", Some(body), (400, errcode)).await;
    }
    alice.create_room(json!({ "room_alias_name": "reef" })).await;
    alice
        .fails(Method::POST, "/v3/createRoom", Some(json!({ "room_alias_name": "reef" })), (400, "M_ROOM_IN_USE"))
        .await;
}

#[tokio::test]
async fn errors_are_the_specified_ones() {
    let world = World::new().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let event = alice.send(&room, "1", "hello").await;
    let state = format!("/v3/rooms/{room}/state");
    let canonical = format!("{state}/m.room.canonical_alias");
    alice.fails(Method::PUT, &canonical, Some(json!({ "alias": "reef" })), (400, "M_INVALID_PARAM")).await;
    alice.fails(Method::PUT, &canonical, Some(json!({ "alias": "#reef:example.org" })), (400, "M_BAD_ALIAS")).await;
    let member = format!("{state}/m.room.member/{}", bob.id);
    alice.fails(Method::PUT, &member, Some(json!({})), (400, "M_BAD_JSON")).await;
    let alias = "/v3/directory/room/%23reef:other.org";
    let body = json!({ "room_id": room.replace("%21", "!") });
    alice.fails(Method::PUT, alias, Some(body), (400, "M_INVALID_PARAM")).await;
    let target = Some(json!({ "user_id": bob.id }));
    alice.fails(Method::POST, &format!("/v3/rooms/{room}/unban"), target.clone(), (403, "M_BAD_STATE")).await;
    alice.fails(Method::POST, &format!("/v3/rooms/{room}/kick"), target.clone(), (403, "M_FORBIDDEN")).await;
    alice.fails(Method::POST, &format!("/v3/rooms/{room}/forget"), None, (400, "M_UNKNOWN")).await;
    let receipt = format!("/v3/rooms/{room}/receipt/m.read/{event}");
    for thread in ["", "nonsense", "$elsewhere"] {
        let body = json!({ "thread_id": thread });
        alice.fails(Method::POST, &receipt, Some(body), (400, "M_INVALID_PARAM")).await;
    }
    for path in ["hierarchy?limit=0", "hierarchy?max_depth=-1", "threads?include=some"] {
        alice.fails(Method::GET, &format!("/v1/rooms/{room}/{path}"), None, (400, "M_INVALID_PARAM")).await;
    }
    let rules =
        json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": "!far:other.org" }] });
    let restricted =
        alice.create_room(json!({ "initial_state": [{ "type": "m.room.join_rules", "content": rules }] })).await;
    bob.fails(Method::POST, &format!("/v3/rooms/{restricted}/join"), None, (403, "M_FORBIDDEN")).await;
    // Strangers don't learn which events there are, nor who wants no invites.
    for event in [event.as_str(), "$unknown"] {
        let path = format!("/v3/rooms/{room}/redact/{event}/1");
        bob.fails(Method::PUT, &path, Some(json!({})), (403, "M_FORBIDDEN")).await;
    }
    let permission = format!("/v3/user/{}/account_data/m.invite_permission_config", alice.id);
    alice.put(&permission, json!({ "default_action": "block" })).await;
    let other = bob.create_room(json!({})).await;
    let target = Some(json!({ "user_id": alice.id }));
    bob.fails(Method::POST, &format!("/v3/rooms/{other}/invite"), target.clone(), (403, "M_INVITE_BLOCKED")).await;
    bob.fails(Method::POST, &format!("/v3/rooms/{room}/invite"), target, (403, "M_FORBIDDEN")).await;
    bob.fails(Method::POST, "/v3/createRoom", Some(json!({ "invite": [alice.id] })), (403, "M_INVITE_BLOCKED")).await;
}

#[tokio::test]
async fn invites_into_new_rooms_carry_the_profile() {
    let world = World::new().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    bob.put(&format!("/v3/profile/{}/displayname", bob.id), json!({ "displayname": "Bob" })).await;
    let room = alice.create_room(json!({ "invite": [bob.id, bob.id], "is_direct": true })).await;
    let member = alice.get(&format!("/v3/rooms/{room}/state/m.room.member/{}", bob.id)).await;
    assert_eq!(member, json!({ "membership": "invite", "is_direct": true, "displayname": "Bob" }));
}

#[tokio::test]
async fn rooms_are_published_unless_said_otherwise() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = format!("/v3/directory/list/room/{room}");
    assert_eq!(alice.get(&path).await["visibility"], "private");
    alice.put(&path, json!({})).await;
    assert_eq!(alice.get(&path).await["visibility"], "public");
    alice.put(&path, json!({ "visibility": "private" })).await;
    assert_eq!(alice.get(&path).await["visibility"], "private");
}

#[tokio::test]
async fn a_redaction_may_be_sent_as_a_message() {
    let world = World::new().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    for version in ["10", "12"] {
        let room = alice.create_room(json!({ "preset": "public_chat", "room_version": version })).await;
        bob.post(&format!("/v3/rooms/{room}/join"), json!({})).await;
        let event = alice.send(&room, "1", "hello").await;
        let path = |txn: &str| format!("/v3/rooms/{room}/send/m.room.redaction/{txn}");
        let content = json!({ "redacts": event, "reason": "typo" });
        bob.fails(Method::PUT, &path("1"), Some(content.clone()), (403, "M_FORBIDDEN")).await;
        alice.fails(Method::PUT, &path("2"), Some(json!({ "reason": "typo" })), (400, "M_BAD_JSON")).await;
        let sent = alice.put(&path("3"), content.clone()).await;
        assert_eq!(alice.put(&path("3"), content).await, sent);
        let event = alice.get(&format!("/v3/rooms/{room}/event/{event}")).await;
        assert_eq!(event["content"], json!({}));
        assert_eq!(event["unsigned"]["redacted_because"]["event_id"], sent["event_id"], "{event}");
    }
}

#[tokio::test]
async fn joining_again_leaves_the_name_in_the_room() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let member = format!("/v3/rooms/{room}/state/m.room.member/{}", alice.id);
    let content = json!({ "membership": "join", "displayname": "Captain" });
    alice.put(&member, content.clone()).await;
    alice.post(&format!("/v3/join/{room}"), json!({ "reason": "again" })).await;
    assert_eq!(alice.get(&member).await, content);
}

#[tokio::test]
async fn what_a_device_sent_is_answered_before_its_sync_tells_it() {
    let world = World::new().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.post(&format!("/v3/rooms/{room}/join"), json!({})).await;
    let next = |answer: Value| answer["next_batch"].as_str().unwrap().to_owned();
    let (mut since, mut bobs) = (next(alice.get("/v3/sync").await), next(bob.get("/v3/sync").await));
    let mut path = format!("/v3/rooms/{room}/send/m.room.message/1");
    let contents = [json!({ "msgtype": "m.text", "body": "hello" }), json!({ "reason": "hello to nobody" })];
    for content in contents {
        let poll = format!("/v3/sync?timeout=30000&since={since}");
        let mut polling = std::pin::pin!(alice.get(&poll));
        assert!(polling.as_mut().now_or_never().is_none());
        let answer = world.ask_and_wait(&alice.token, Method::PUT, &path, content).await;
        // It is news to everybody else.
        let told = bob.get(&format!("/v3/sync?timeout=30000&since={bobs}")).await;
        assert!(told["rooms"]["join"].as_object().is_some_and(|rooms| !rooms.is_empty()), "{told}");
        bobs = next(told);
        for _ in 0..10 {
            assert!(polling.as_mut().now_or_never().is_none(), "the sender's device is not told yet");
            tokio::task::yield_now().await;
        }
        let (status, sent) = World::take(answer).await;
        assert_eq!(status, 200);
        let event = sent["event_id"].as_str().unwrap();
        let told = polling.await;
        assert!(told.to_string().contains(event), "{told}");
        since = next(told);
        path = format!("/v3/rooms/{room}/redact/{event}/1");
    }
}

/// A receipt for each of many threads.
#[tokio::test]
async fn who_has_as_many_receipts_in_a_room_as_one_may_is_told_so() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut path = String::new();
    for number in 0..=rooms::USER_RECEIPTS_MAX {
        let root = alice.send(&room, &number.to_string(), "a root").await;
        path = format!("/v3/rooms/{room}/receipt/m.read/{root}");
        let body = json!({ "thread_id": root });
        if number < rooms::USER_RECEIPTS_MAX {
            alice.post(&path, body).await;
        } else {
            let refused = alice.fails(Method::POST, &path, Some(body), (400, "M_USER_LIMIT_EXCEEDED")).await;
            assert!(refused["info_uri"].is_string(), "{refused}");
        }
    }
    // There is always room for one that is for all threads.
    alice.post(&path, json!({})).await;
}

#[tokio::test]
async fn who_is_where_and_what_is_published_count_in_the_memory_budget() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let mut held = world.store.held_bytes();
    let mut grows = || {
        let before = std::mem::replace(&mut held, world.store.held_bytes());
        assert!(held > before, "{held} {before}");
    };
    alice.create_room(json!({})).await;
    alice.get("/v3/sync").await;
    grows();
    alice.create_room(json!({ "visibility": "public", "name": "Reef" })).await;
    alice.get("/v3/sync").await;
    grows();
    assert_eq!(alice.get("/v3/publicRooms").await["total_room_count_estimate"], 1);
    grows();
}
