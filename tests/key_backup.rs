//! Server-side key backups.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::support::{Server, User, encode};

const VERSION: &str = "/v3/room_keys/version";
const ROOM: &str = "!room:localhost";

fn backup(key: &str) -> Value {
    let auth_data = json!({ "public_key": key, "signatures": {}, "org.example": 1 });
    json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": auth_data })
}

fn key(index: u64) -> Value {
    let data = json!({ "ephemeral": "e", "ciphertext": "c".repeat(600), "mac": "m" });
    json!({ "first_message_index": index, "forwarded_count": 0, "is_verified": false, "session_data": data })
}

async fn create(user: &User<'_>) -> String {
    user.post(VERSION, backup("a")).await["version"].as_str().expect("version").to_owned()
}

fn keys(place: &[&str], version: &str) -> String {
    let place: String = place.iter().map(|part| format!("/{}", encode(part))).collect();
    format!("/v3/room_keys/keys{place}?version={version}")
}

#[tokio::test]
async fn a_backup_is_made_changed_and_deleted() {
    let server = Server::start();
    let alice = server.register("alice").await;
    alice.fails(Method::GET, VERSION, None, 404, "M_NOT_FOUND").await;
    alice.fails(Method::GET, &format!("{VERSION}/1"), None, 404, "M_NOT_FOUND").await;
    alice.fails(Method::DELETE, &format!("{VERSION}/1"), None, 404, "M_NOT_FOUND").await;
    let version = create(&alice).await;
    let place = format!("{VERSION}/{version}");
    let info = alice.get(VERSION).await;
    assert_eq!((&info["version"], &info["count"]), (&json!(version), &json!(0)));
    assert_eq!(info["auth_data"], backup("a")["auth_data"]);
    assert!(info["etag"].is_string());
    assert_eq!(alice.get(&place).await, info);

    alice.put(&place, backup("b")).await;
    assert_eq!(alice.get(&place).await["auth_data"]["public_key"], "b");
    let mut with_version = backup("c");
    with_version["version"] = json!(version);
    alice.put(&place, with_version.clone()).await;
    with_version["version"] = json!("7");
    alice.fails(Method::PUT, &place, Some(with_version), 400, "M_INVALID_PARAM").await;
    let mut other = backup("d");
    other["algorithm"] = json!("org.example.other");
    alice.fails(Method::PUT, &place, Some(other), 400, "M_INVALID_PARAM").await;
    alice.fails(Method::PUT, &format!("{VERSION}/9"), Some(backup("e")), 404, "M_NOT_FOUND").await;
    alice.fails(Method::POST, VERSION, Some(json!({ "algorithm": "x" })), 400, "M_BAD_JSON").await;

    let newer = create(&alice).await;
    assert_ne!(newer, version);
    assert_eq!(alice.get(VERSION).await["version"], json!(newer));
    alice.delete(&format!("{VERSION}/{newer}"), None).await;
    alice.delete(&format!("{VERSION}/{newer}"), None).await;
    alice.fails(Method::GET, &format!("{VERSION}/{newer}"), None, 404, "M_NOT_FOUND").await;
    let newest = create(&alice).await;
    assert!(![version, newer].contains(&newest));
    let bob = server.register("bob").await;
    bob.fails(Method::GET, &format!("{VERSION}/{newest}"), None, 404, "M_NOT_FOUND").await;
}

#[tokio::test]
async fn keys_are_stored_read_and_deleted_at_each_level() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let version = create(&alice).await;
    assert_eq!(alice.get(&keys(&[], &version)).await, json!({ "rooms": {} }));
    assert_eq!(alice.get(&keys(&[ROOM], &version)).await, json!({ "sessions": {} }));
    // Session ids are base64 with slashes.
    let one = keys(&[ROOM, "a/b+c"], &version);
    alice.fails(Method::GET, &one, None, 404, "M_NOT_FOUND").await;
    let first = alice.put(&one, key(5)).await;
    assert_eq!(first["count"], 1);
    assert_eq!(alice.get(&one).await, key(5));
    // A worse key changes nothing, a better one replaces it.
    assert_eq!(alice.put(&one, key(6)).await, first);
    let better = alice.put(&one, key(4)).await;
    assert_eq!(better["count"], 1);
    assert_ne!(better["etag"], first["etag"]);
    assert_eq!(alice.get(&one).await, key(4));

    let room = alice.put(&keys(&[ROOM], &version), json!({ "sessions": { "s1": key(0), "s2": key(0) } })).await;
    assert_eq!(room["count"], 3);
    let all = json!({ "rooms": { "!other:localhost": { "sessions": { "s1": key(0) } }, ROOM: { "sessions": {} } } });
    assert_eq!(alice.put(&keys(&[], &version), all).await["count"], 4);
    let read = alice.get(&keys(&[], &version)).await;
    let sessions = json!({ "a/b+c": key(4), "s1": key(0), "s2": key(0) });
    assert_eq!(
        read["rooms"],
        json!({ "!other:localhost": { "sessions": { "s1": key(0) } }, ROOM: { "sessions": sessions } })
    );
    assert_eq!(alice.get(&keys(&[ROOM], &version)).await["sessions"], sessions);
    let info = alice.get(VERSION).await;
    assert_eq!(info["count"], 4);

    let after = alice.delete(&keys(&[ROOM, "s1"], &version), None).await;
    assert_eq!(after["count"], 3);
    assert_ne!(after["etag"], info["etag"]);
    assert_eq!(alice.delete(&keys(&[ROOM, "s1"], &version), None).await, after);
    assert_eq!(alice.delete(&keys(&[ROOM], &version), None).await["count"], 1);
    assert_eq!(alice.delete(&keys(&[], &version), None).await["count"], 0);
    assert_eq!(alice.get(VERSION).await["count"], 0);
    alice.fails(Method::PUT, &one, Some(json!({ "is_verified": true })), 400, "M_BAD_JSON").await;
    alice.fails(Method::PUT, "/v3/room_keys/keys", Some(json!({ "rooms": {} })), 400, "M_MISSING_PARAM").await;
}

#[tokio::test]
async fn keys_of_another_version_are_refused() {
    let server = Server::start();
    let alice = server.register("alice").await;
    alice.fails(Method::PUT, &keys(&[ROOM, "s"], "1"), Some(key(0)), 404, "M_NOT_FOUND").await;
    let old = create(&alice).await;
    alice.put(&keys(&[ROOM, "s"], &old), key(0)).await;
    let current = create(&alice).await;
    let put = keys(&[ROOM, "s"], &old);
    let answer = alice.fails(Method::PUT, &put, Some(key(0)), 403, "M_WRONG_ROOM_KEYS_VERSION").await;
    assert_eq!(answer["current_version"], json!(current));
    assert_eq!(alice.get(&keys(&[ROOM, "s"], &old)).await, key(0));
    for method in [Method::GET, Method::DELETE] {
        for place in [&[][..], &[ROOM], &[ROOM, "s"]] {
            alice.fails(method.clone(), &keys(place, "77"), None, 404, "M_NOT_FOUND").await;
        }
    }
}

#[tokio::test]
async fn a_large_backup_comes_back_whole_after_a_kill() {
    let mut server = Server::start();
    let mut rooms = Map::new();
    for room in 0..4 {
        let sessions: Map<_, _> = (0..1_000).map(|n| (format!("{n:04}"), key(n))).collect();
        rooms.insert(format!("!{room}:localhost"), json!({ "sessions": sessions }));
    }
    let rooms = Value::Object(rooms);
    let (token, version) = {
        let alice = server.register("alice").await;
        let version = create(&alice).await;
        let after = alice.put(&keys(&[], &version), json!({ "rooms": rooms })).await;
        assert_eq!(after["count"], 4_000);
        (alice.token.clone(), version)
    };
    server.kill();
    server.restart();
    let path = format!("/_matrix/client{}", keys(&[], &version));
    let (_, read) = server.request_as(Some(&token), Method::GET, &path, None).await;
    assert!(read == json!({ "rooms": rooms }), "the backup is not what was stored");
    let path = format!("/_matrix/client{}", keys(&["!2:localhost"], &version));
    let (_, read) = server.request_as(Some(&token), Method::GET, &path, None).await;
    assert!(read == rooms["!2:localhost"], "the room is not what was stored");
}
