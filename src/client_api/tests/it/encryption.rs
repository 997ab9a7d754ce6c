//! Endpoints of encryption, asked with what no client should send.

use ruma::exports::http::Method;
use serde_json::{Map, Value, json};

use crate::world::World;

/// Endpoints with the fields of their bodies.
const ENDPOINTS: &[(Method, &str, &[&str])] = &[
    (Method::POST, "/v3/keys/upload", &["device_keys", "one_time_keys", "fallback_keys"]),
    (Method::POST, "/v3/keys/query", &["device_keys", "timeout"]),
    (Method::POST, "/v3/keys/claim", &["one_time_keys", "timeout"]),
    (Method::POST, "/v3/keys/device_signing/upload", &["master_key", "self_signing_key", "user_signing_key", "auth"]),
    (Method::POST, "/v3/keys/signatures/upload", &["@alice:example.org", "@nobody:elsewhere.org"]),
    (Method::PUT, "/v3/sendToDevice/m.test/1", &["messages"]),
    (Method::POST, "/v3/room_keys/version", &["algorithm", "auth_data"]),
    (Method::PUT, "/v3/room_keys/version/1", &["algorithm", "auth_data", "version"]),
    (Method::PUT, "/v3/room_keys/keys?version=1", &["rooms"]),
    (Method::PUT, "/v3/room_keys/keys/%21a:example.org?version=1", &["sessions"]),
    (
        Method::PUT,
        "/v3/room_keys/keys/%21a:example.org/s?version=1",
        &["first_message_index", "forwarded_count", "is_verified", "session_data"],
    ),
    (
        Method::PUT,
        "/unstable/org.matrix.msc3814.v1/dehydrated_device",
        &["device_id", "device_data", "device_keys", "one_time_keys", "initial_device_display_name"],
    ),
    (Method::POST, "/unstable/org.matrix.msc3814.v1/dehydrated_device/X/events", &["next_batch"]),
];

/// Values of every kind, alone and where users, devices, rooms, sessions and keys have theirs.
fn garbage() -> Vec<Value> {
    let leaves = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("*"),
        json!("\u{0}\u{fffd}"),
        json!([]),
        json!([null]),
        json!({}),
    ];
    let names =
        ["@alice:example.org", "@a:elsewhere.org", "!a:example.org", "FIRST", "*", "", "signed_curve25519:A", "keys"];
    let mut all = leaves.to_vec();
    for name in names {
        for leaf in &leaves {
            all.push(json!({ name: leaf }));
            all.push(json!({ name: { "FIRST": leaf } }));
            all.push(json!({ name: { "sessions": { "s": leaf } } }));
            all.push(json!({ "user_id": "@alice:example.org", "device_id": "FIRST", name: { "ed25519:FIRST": leaf } }));
        }
    }
    all
}

#[tokio::test]
async fn whatever_is_sent_is_answered_with_its_own_error() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    alice.post("/v3/room_keys/version", json!({ "algorithm": "x", "auth_data": {} })).await;
    let garbage = garbage();
    for (method, path, fields) in ENDPOINTS {
        for field in *fields {
            for value in &garbage {
                let body = Value::Object(Map::from_iter([((*field).to_owned(), value.clone())]));
                let (status, answer) = alice.ask(method.clone(), path, Some(body.clone())).await;
                let is_error = matches!(status, 400 | 401 | 403 | 404 | 413) && answer.get("errcode").is_some();
                let is_challenge = status == 401 && answer.get("flows").is_some();
                assert!(status == 200 || is_error || is_challenge, "{path} {body}: {status} {answer}");
            }
        }
    }
    // The device still syncs and may upload.
    assert_eq!(alice.post("/v3/keys/upload", json!({})).await["one_time_key_counts"]["signed_curve25519"], 0);
    assert!(alice.get("/v3/sync").await["next_batch"].is_string());
}
