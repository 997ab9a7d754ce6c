//! Profiles, presence, account data, tags, filters, push rules, the user directory.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Server, encode};

#[tokio::test]
async fn a_profile_is_public_and_reaches_rooms() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    let me = format!("/v3/profile/{}", encode(&alice.id));
    alice.put(&format!("{me}/displayname"), json!({ "displayname": "Alice 海" })).await;
    alice.put(&format!("{me}/avatar_url"), json!({ "avatar_url": "mxc://localhost/abc" })).await;
    alice.put(&format!("{me}/m.tz"), json!({ "m.tz": "Europe/Paris" })).await;
    let (status, profile) = server.request(Method::GET, &format!("/_matrix/client{me}"), None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        profile,
        json!({ "displayname": "Alice 海", "avatar_url": "mxc://localhost/abc", "m.tz": "Europe/Paris" })
    );
    let (_, field) = server.request(Method::GET, &format!("/_matrix/client{me}/m.tz"), None).await;
    assert_eq!(field, json!({ "m.tz": "Europe/Paris" }));
    alice.sync_until(&since, |answer| answer.to_string().contains("Alice 海")).await;
    let member = alice.get(&format!("/v3/rooms/{room}/state/m.room.member/{}", encode(&alice.id))).await;
    assert_eq!(member["displayname"], "Alice 海");

    alice.delete(&format!("{me}/m.tz"), None).await;
    alice.fails(Method::GET, &format!("{me}/m.tz"), None, 404, "M_NOT_FOUND").await;
    alice.fails(Method::GET, "/v3/profile/@nobody:localhost", None, 404, "M_NOT_FOUND").await;
    let other = "/v3/profile/@bob:localhost/displayname";
    alice.fails(Method::PUT, other, Some(json!({ "displayname": "x" })), 403, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn presence_is_told_to_those_who_share_a_room() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let since = bob.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    let path = format!("/v3/presence/{}/status", encode(&alice.id));
    alice.put(&path, json!({ "presence": "online", "status_msg": "diving" })).await;
    bob.sync_until(&since, |answer| answer["presence"].to_string().contains("diving")).await;
    let seen = bob.get(&path).await;
    assert_eq!((&seen["presence"], &seen["status_msg"]), (&json!("online"), &json!("diving")));
    bob.fails(Method::PUT, &path, Some(json!({ "presence": "offline" })), 403, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn account_data_and_tags_come_back_and_sync() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let user = format!("/v3/user/{}", encode(&alice.id));
    let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();

    alice.put(&format!("{user}/account_data/org.example.colour"), json!({ "colour": "blue" })).await;
    assert_eq!(alice.get(&format!("{user}/account_data/org.example.colour")).await, json!({ "colour": "blue" }));
    alice.fails(Method::GET, &format!("{user}/account_data/org.example.none"), None, 404, "M_NOT_FOUND").await;
    let in_room = format!("{user}/rooms/{}/account_data/org.example.colour", encode(&room));
    alice.put(&in_room, json!({ "colour": "red" })).await;
    assert_eq!(alice.get(&in_room).await, json!({ "colour": "red" }));
    let tags = format!("{user}/rooms/{}/tags", encode(&room));
    alice.put(&format!("{tags}/m.favourite"), json!({ "order": 0.5 })).await;
    assert_eq!(alice.get(&tags).await, json!({ "tags": { "m.favourite": { "order": 0.5 } } }));

    let answer = alice.sync(Some(&since)).await;
    let global = &answer["account_data"]["events"];
    assert_eq!(global, &json!([{ "type": "org.example.colour", "content": { "colour": "blue" } }]));
    let room_data = answer["rooms"]["join"][&room]["account_data"]["events"].as_array().expect("events");
    assert_eq!(room_data.len(), 2, "{answer}");
    alice.delete(&format!("{tags}/m.favourite"), None).await;
    assert_eq!(alice.get(&tags).await, json!({ "tags": {} }));

    let fixed = format!("{user}/account_data/m.push_rules");
    alice.fails(Method::PUT, &fixed, Some(json!({})), 405, "M_BAD_JSON").await;
    let others = "/v3/user/@bob:localhost/account_data/org.example.colour";
    alice.fails(Method::PUT, others, Some(json!({})), 403, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn filters_are_kept() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let path = format!("/v3/user/{}/filter", encode(&alice.id));
    let filter = json!({ "room": { "timeline": { "limit": 3 } } });
    let id = alice.post(&path, filter.clone()).await["filter_id"].as_str().expect("filter_id").to_owned();
    assert_eq!(alice.get(&format!("{path}/{id}")).await["room"]["timeline"]["limit"], 3);
    alice.fails(Method::GET, &format!("{path}/999999"), None, 404, "M_NOT_FOUND").await;
    alice.fails(Method::POST, &path, Some(json!({ "room": 7 })), 400, "M_BAD_JSON").await;
}

#[tokio::test]
async fn push_rules_are_edited() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let all = alice.get("/v3/pushrules/").await;
    assert!(all["global"]["override"].as_array().expect("rules").len() > 3);
    assert_eq!(alice.get("/v3/pushrules/global/").await, all["global"]);

    let rule = "/v3/pushrules/global/content/reef";
    alice.put(rule, json!({ "pattern": "reef", "actions": ["notify"] })).await;
    let kept = alice.get(rule).await;
    assert_eq!((&kept["pattern"], &kept["enabled"]), (&json!("reef"), &json!(true)));
    alice.put(&format!("{rule}/enabled"), json!({ "enabled": false })).await;
    assert_eq!(alice.get(&format!("{rule}/enabled")).await, json!({ "enabled": false }));
    alice.put(&format!("{rule}/actions"), json!({ "actions": [] })).await;
    assert_eq!(alice.get(&format!("{rule}/actions")).await, json!({ "actions": [] }));
    alice.delete(rule, None).await;
    alice.fails(Method::GET, rule, None, 404, "M_NOT_FOUND").await;

    let bad = "/v3/pushrules/global/content/.mine";
    alice.fails(Method::PUT, bad, Some(json!({ "pattern": "a", "actions": [] })), 400, "M_INVALID_PARAM").await;
    let before = "/v3/pushrules/global/content/other?before=nothing";
    alice.fails(Method::PUT, before, Some(json!({ "pattern": "a", "actions": [] })), 400, "M_UNKNOWN").await;
    alice.put("/v3/pushrules/global/override/.m.rule.master/enabled", json!({ "enabled": true })).await;
    alice.fails(Method::DELETE, "/v3/pushrules/global/override/.m.rule.master", None, 400, "M_INVALID_PARAM").await;
}

#[tokio::test]
async fn the_user_directory_finds_those_one_may_know() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let search = json!({ "search_term": "bob" });
    let found = alice.post("/v3/user_directory/search", search.clone()).await;
    assert_eq!(found["results"], json!([]), "a stranger without a public room is not shown");
    let room = bob.create_room(json!({ "preset": "private_chat", "invite": [alice.id] })).await;
    alice.join(&room).await;
    let found = alice.post("/v3/user_directory/search", search).await;
    assert_eq!(found["results"][0]["user_id"], json!(bob.id), "{found}");
    assert_eq!(found["limited"], false);
    let found = bob.post("/v3/user_directory/search", json!({ "search_term": "BOB" })).await;
    assert_eq!(found["results"][0]["user_id"], json!(bob.id), "one finds oneself: {found}");
}

#[tokio::test]
async fn names_are_found_as_people_write_them_in_both_directories() {
    let server = Server::start();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.put(&format!("/v3/profile/{}/displayname", alice.id), json!({ "displayname": "Zoë Straße 🌊" })).await;
    alice.create_room(json!({ "name": "Café für alle 🌊", "preset": "public_chat", "visibility": "public" })).await;
    for term in ["zoe", "ZOË", "zoe\u{308}", "strasse", "🌊"] {
        let found = bob.post("/v3/user_directory/search", json!({ "search_term": term })).await;
        assert_eq!(found["results"][0]["user_id"], json!(alice.id), "{term}: {found}");
    }
    for term in ["cafe", "CAFÉ", "cafe\u{301} alle", "FÜR", "🌊"] {
        let query = json!({ "filter": { "generic_search_term": term } });
        let found = bob.post("/v3/publicRooms", query).await;
        assert_eq!(found["chunk"][0]["name"], "Café für alle 🌊", "{term}: {found}");
    }
}

#[tokio::test]
async fn deleted_account_data_is_told_to_who_knew_it_and_to_nobody_else() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let places = [format!("user/{}", encode(&alice.id)), format!("user/{}/rooms/{}", encode(&alice.id), encode(&room))];
    for place in &places {
        for name in ["one", "two", "three"] {
            alice.put(&format!("/v3/{place}/account_data/org.example.{name}"), json!({ "n": 1 })).await;
        }
    }
    let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    for place in &places {
        let path = format!("/unstable/org.matrix.msc3391/{place}/account_data/org.example.one");
        assert_eq!(alice.delete(&path, None).await, json!({}));
        // Clients of servers without that endpoint do it so.
        alice.put(&format!("/v3/{place}/account_data/org.example.two"), json!({})).await;
        for name in ["one", "two"] {
            let path = format!("/v3/{place}/account_data/org.example.{name}");
            alice.fails(Method::GET, &path, None, 404, "M_NOT_FOUND").await;
        }
    }
    let deleted = json!([
        { "type": "org.example.one", "content": {} }, { "type": "org.example.two", "content": {} },
    ]);
    let answer = alice.sync(Some(&since)).await;
    assert_eq!(answer["account_data"]["events"], deleted);
    assert_eq!(answer["rooms"]["join"][&room]["account_data"]["events"], deleted);
    let first = alice.sync(None).await.to_string();
    assert_eq!(first.matches("org.example.three").count(), 2, "{first}");
    assert!(!first.contains("org.example.one") && !first.contains("org.example.two"), "{first}");
}
