//! Discovery, profiles, account data, tags, filters, push rules, presence, the user directory.

use std::collections::BTreeSet;

use ruma::exports::http::Method;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn what_a_client_asks_first() {
    let world = World::new().await;
    let (status, versions) = world.ask(None, Method::GET, "/versions", None).await;
    assert_eq!(status, 200);
    assert!(versions["versions"].as_array().unwrap().contains(&json!("v1.11")));
    assert_eq!(world.ask(None, Method::GET, "/_haima/health", None).await.0, 200);
    assert_eq!(world.ask(None, Method::GET, "/.well-known/matrix/client", None).await.0, 404);
    let alice = world.register("alice").await;
    let capabilities = alice.get("/v3/capabilities").await;
    assert_eq!(capabilities["capabilities"]["m.room_versions"]["available"]["12"], "stable");
    assert_eq!(alice.get("/v3/thirdparty/protocols").await, json!({}));
    alice.fails(Method::GET, "/v3/voip/turnServer", None, (404, "M_NOT_FOUND")).await;
    assert_eq!(alice.get("/v3/joined_rooms").await, json!({ "joined_rooms": [] }));
    assert!(alice.get("/v3/pushrules/").await["global"]["override"].is_array());
    alice.fails(Method::POST, "/v3/keys/nonsense", Some(json!({})), (404, "M_UNRECOGNIZED")).await;
    alice.fails(Method::POST, "/v3/capabilities", Some(json!({})), (405, "M_UNRECOGNIZED")).await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_not_well() {
    let world = World::new().await;
    assert_eq!(world.ask(None, Method::GET, "/_haima/health", None).await.0, 200);
    world.store.close().await;
    assert_eq!(world.ask(None, Method::GET, "/_haima/health", None).await.0, 503);
    let world = World::new().await;
    world.stop.cancel();
    assert_eq!(world.ask(None, Method::GET, "/_haima/health", None).await.0, 503);
}

#[tokio::test]
async fn no_route_is_listed_twice() {
    let world = World::new().await;
    let routes: BTreeSet<_> = world.endpoints.iter().map(|e| (e.path, e.method)).collect();
    assert_eq!(routes.len(), world.endpoints.len());
    assert!(world.endpoints.iter().any(|e| e.operation == "sync" && e.path == "/_matrix/client/v3/sync"));
}

#[tokio::test]
async fn profiles_reach_rooms() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let me = format!("/v3/profile/{}", alice.id);
    assert_eq!(alice.get(&me).await, json!({}));
    alice.put(&format!("{me}/displayname"), json!({ "displayname": "Alice 海" })).await;
    alice.put(&format!("{me}/org.example.colour"), json!({ "org.example.colour": [1, 2] })).await;
    world.flows.finish_jobs().await;
    let member = alice.get(&format!("/v3/rooms/{room}/state/m.room.member/{}", alice.id)).await;
    assert_eq!((&member["displayname"], &member["membership"]), (&json!("Alice 海"), &json!("join")));
    assert_eq!(alice.get(&format!("{me}/displayname")).await, json!({ "displayname": "Alice 海" }));
    alice.delete(&format!("{me}/displayname")).await;
    world.flows.finish_jobs().await;
    let member = alice.get(&format!("/v3/rooms/{room}/state/m.room.member/{}", alice.id)).await;
    assert!(member.get("displayname").is_none(), "{member}");
    alice.fails(Method::GET, &format!("{me}/displayname"), None, (404, "M_NOT_FOUND")).await;
    let (status, answer) = world.ask(None, Method::GET, "/v3/profile/@nobody:example.org", None).await;
    assert_eq!((status, answer["errcode"].as_str()), (404, Some("M_NOT_FOUND")));
    for (path, body, expected) in [
        (format!("{me}/displayname"), json!({}), (400, "M_MISSING_PARAM")),
        (format!("{me}/displayname"), json!({ "displayname": 1 }), (400, "M_INVALID_PARAM")),
        (format!("{me}/Bad"), json!({ "Bad": 1 }), (400, "M_INVALID_PARAM")),
        ("/v3/profile/@bob:example.org/displayname".to_owned(), json!({ "displayname": "x" }), (403, "M_FORBIDDEN")),
    ] {
        alice.fails(Method::PUT, &path, Some(body), expected).await;
    }
}

#[tokio::test]
async fn account_data_tags_and_filters() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let user = format!("/v3/user/{}", alice.id);
    let data = format!("{user}/account_data/org.example");
    alice.fails(Method::GET, &data, None, (404, "M_NOT_FOUND")).await;
    alice.put(&data, json!({ "a": 1 })).await;
    assert_eq!(alice.get(&data).await, json!({ "a": 1 }));
    alice.fails(Method::PUT, &data, Some(json!([])), (400, "M_BAD_JSON")).await;
    let rules = format!("{user}/account_data/m.push_rules");
    alice.fails(Method::PUT, &rules, Some(json!({})), (405, "M_BAD_JSON")).await;
    alice.fails(Method::GET, "/v3/user/@bob:example.org/account_data/x", None, (403, "M_FORBIDDEN")).await;
    let in_room = format!("{user}/rooms/!r:example.org/account_data");
    alice.put(&format!("{in_room}/org.example"), json!({ "b": 1 })).await;
    alice.fails(Method::PUT, &format!("{in_room}/m.fully_read"), Some(json!({})), (405, "M_BAD_JSON")).await;
    let tags = format!("{user}/rooms/!r:example.org/tags");
    alice.put(&format!("{tags}/u.work"), json!({ "order": 0.5, "org.example": true })).await;
    assert_eq!(alice.get(&tags).await, json!({ "tags": { "u.work": { "order": 0.5, "org.example": true } } }));
    alice.fails(Method::PUT, &format!("{tags}/u.work"), Some(json!({ "order": 7 })), (400, "M_INVALID_PARAM")).await;
    alice.delete(&format!("{tags}/u.work")).await;
    assert_eq!(alice.get(&tags).await, json!({ "tags": {} }));
    let filter = json!({ "room": { "timeline": { "limit": 5, "related_by_rel_types": ["m.thread"] } } });
    let id = alice.post(&format!("{user}/filter"), filter.clone()).await;
    let id = id["filter_id"].as_str().unwrap();
    assert_eq!(alice.get(&format!("{user}/filter/{id}")).await, filter);
    alice.fails(Method::GET, &format!("{user}/filter/99"), None, (404, "M_NOT_FOUND")).await;
    alice.fails(Method::POST, &format!("{user}/filter"), Some(json!({ "room": 1 })), (400, "M_BAD_JSON")).await;
}

#[tokio::test]
async fn push_rules() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let rule = "/v3/pushrules/global/content/sea";
    alice.fails(Method::GET, rule, None, (404, "M_NOT_FOUND")).await;
    alice.put(rule, json!({ "actions": ["notify"], "pattern": "seahorse" })).await;
    assert_eq!(alice.get(rule).await["pattern"], "seahorse");
    alice.put(&format!("{rule}/enabled"), json!({ "enabled": false })).await;
    assert_eq!(alice.get(&format!("{rule}/enabled")).await, json!({ "enabled": false }));
    alice.put(&format!("{rule}/actions"), json!({ "actions": [] })).await;
    assert_eq!(alice.get(&format!("{rule}/actions")).await, json!({ "actions": [] }));
    alice.delete(rule).await;
    alice.fails(Method::DELETE, rule, None, (404, "M_NOT_FOUND")).await;
    let default = "/v3/pushrules/global/override/.m.rule.master";
    assert_eq!(alice.get(default).await["default"], true);
}

#[tokio::test]
async fn presence_and_directory_are_for_those_who_share_a_room() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let status = format!("/v3/presence/{}/status", alice.id);
    alice.put(&status, json!({ "presence": "online", "status_msg": "diving" })).await;
    bob.fails(Method::GET, &status, None, (403, "M_FORBIDDEN")).await;
    bob.fails(Method::PUT, &status, Some(json!({ "presence": "online" })), (403, "M_FORBIDDEN")).await;
    let search = json!({ "search_term": "alice" });
    let found = bob.post("/v3/user_directory/search", search.clone()).await;
    assert_eq!(found, json!({ "results": [], "limited": false }));
    let room = alice.create_room(json!({ "invite": [bob.id] })).await;
    bob.post(&format!("/v3/rooms/{room}/join"), json!({})).await;
    let seen = bob.get(&status).await;
    assert_eq!((&seen["presence"], &seen["status_msg"]), (&json!("online"), &json!("diving")));
    let found = bob.post("/v3/user_directory/search", search).await;
    assert_eq!(found["results"], json!([{ "user_id": alice.id }]));
    let mutual = bob.get(&format!("/v1/mutual_rooms?user_id={}", alice.id)).await;
    assert_eq!(mutual["count"], 1);
}

#[tokio::test]
async fn what_somebody_does_shows_that_they_are_there() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let event = alice.send(&room, "1", "hello").await;
    let status = format!("/v3/presence/{}/status", alice.id);
    let message = json!({ "msgtype": "m.text", "body": "more" });
    let deeds = [
        (Method::PUT, "send/m.room.message/2".to_owned(), message),
        (Method::PUT, "state/m.room.topic".to_owned(), json!({ "topic": "Tides" })),
        (Method::PUT, format!("typing/{}", alice.id), json!({ "typing": true })),
        (Method::POST, format!("receipt/m.read/{event}"), json!({})),
        (Method::POST, format!("receipt/m.fully_read/{event}"), json!({})),
        (Method::POST, "read_markers".to_owned(), json!({ "m.read.private": event })),
        (Method::PUT, format!("redact/{event}/3"), json!({})),
    ];
    for (method, path, body) in deeds {
        alice.put(&status, json!({ "presence": "unavailable" })).await;
        world.pass(1_000);
        let seen = alice.get(&status).await;
        assert_eq!((&seen["presence"], &seen["last_active_ago"]), (&json!("unavailable"), &json!(1_000)), "{path}");
        let (code, answer) = alice.ask(method, &format!("/v3/rooms/{room}/{path}"), Some(body)).await;
        assert_eq!(code, 200, "{path}: {answer}");
        let seen = alice.get(&status).await;
        assert_eq!((&seen["presence"], &seen["last_active_ago"]), (&json!("online"), &json!(0)), "{path}");
        assert_eq!(seen["currently_active"], true, "{path}");
    }
}

#[tokio::test]
async fn a_push_rule_needs_no_conditions() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let rule = "/v3/pushrules/global/override/org.example.all";
    alice.put(rule, json!({ "actions": ["notify"] })).await;
    assert_eq!(alice.get(rule).await["conditions"], json!([]));
    let content = "/v3/pushrules/global/content/cake";
    alice.fails(Method::PUT, content, Some(json!({ "actions": ["notify"] })), (400, "M_BAD_JSON")).await;
    alice.put(content, json!({ "actions": ["notify"], "pattern": "cake" })).await;
}

#[tokio::test]
async fn no_body_is_no_json() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let filter = format!("/v3/user/{}/filter", alice.id);
    alice.fails(Method::POST, &filter, None, (400, "M_NOT_JSON")).await;
    alice.fails(Method::POST, "/v3/login", None, (400, "M_NOT_JSON")).await;
}

#[tokio::test]
async fn who_has_too_many_tags_or_push_rules_is_told_so() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let long = "x".repeat(100_000);
    let tag = json!({ "org.example.text": long });
    let rule = json!({ "pattern": "reef", "actions": [{ "set_tweak": "org.example.text", "value": long }] });
    let tags = format!("/v3/user/{}/rooms/{room}/tags", alice.id);
    for (path, body) in [(tags.as_str(), tag), ("/v3/pushrules/global/content", rule)] {
        for number in 0..2 {
            alice.put(&format!("{path}/u.{number}"), body.clone()).await;
        }
        let refused = (400, "M_USER_LIMIT_EXCEEDED");
        alice.fails(Method::PUT, &format!("{path}/u.2"), Some(body.clone()), refused).await;
        alice.delete(&format!("{path}/u.0")).await;
        alice.put(&format!("{path}/u.2"), body).await;
    }
}

#[tokio::test]
async fn account_data_is_deleted_by_its_owner_alone_and_not_what_the_server_manages() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let event = alice.send(&room, "1", "hello").await;
    alice.post(&format!("/v3/rooms/{room}/read_markers"), json!({ "m.fully_read": event })).await;
    let places = |user: &str| [format!("user/{user}"), format!("user/{user}/rooms/{room}")];
    for place in places(&alice.id) {
        for event_type in users::SERVER_MANAGED_TYPES {
            let path = format!("/unstable/org.matrix.msc3391/{place}/account_data/{event_type}");
            alice.fails(Method::DELETE, &path, None, (405, "M_BAD_JSON")).await;
        }
        let (kept, path) = (format!("/v3/{place}/account_data/org.a"), format!("{place}/account_data/org.a"));
        let path = format!("/unstable/org.matrix.msc3391/{path}");
        assert_eq!(alice.delete(&path).await, json!({}), "it need not be there");
        alice.put(&kept, json!({ "n": 1 })).await;
        assert_eq!(alice.delete(&path).await, json!({}));
        alice.fails(Method::GET, &kept, None, (404, "M_NOT_FOUND")).await;
        assert_eq!(alice.delete(&path).await, json!({}));
        alice.put(&kept, json!({ "n": 1 })).await;
        alice.put(&kept, json!({})).await;
        alice.fails(Method::GET, &kept, None, (404, "M_NOT_FOUND")).await;
    }
    let marker = format!("/v3/user/{}/rooms/{room}/account_data/m.fully_read", alice.id);
    assert_eq!(alice.get(&marker).await, json!({ "event_id": event }));
    for place in places("@bob:example.org") {
        let path = format!("/unstable/org.matrix.msc3391/{place}/account_data/org.a");
        alice.fails(Method::DELETE, &path, None, (403, "M_FORBIDDEN")).await;
    }
}
