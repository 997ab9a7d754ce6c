//! Who is told that somebody's keys changed.

use reqwest::Method;
use serde_json::{Value, json};
use vodozemac::{Ed25519Keypair, olm::Account};

use crate::support::{Server, User, encode};

/// Signs an object whose keys are in order and that holds no numbers: its JSON is canonical as it is.
fn signed(mut object: Value, user: &str, key: &str, sign: impl Fn(&[u8]) -> String) -> Value {
    let signature = sign(object.to_string().as_bytes());
    object["signatures"][user][format!("ed25519:{key}")] = signature.into();
    object
}

/// Uploads keys of the device, with five one-time keys.
async fn upload_keys(user: &User<'_>) {
    let mut account = Account::new();
    account.generate_one_time_keys(5);
    let keys = account.identity_keys();
    let sign = |text: &[u8]| account.sign(text).to_base64();
    let device_keys = json!({
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "device_id": user.device,
        "keys": {
            format!("curve25519:{}", user.device): keys.curve25519.to_base64(),
            format!("ed25519:{}", user.device): keys.ed25519.to_base64(),
        },
        "user_id": user.id,
    });
    let mut one_time_keys = json!({});
    for (id, key) in account.one_time_keys() {
        let key = signed(json!({ "key": key.to_base64() }), &user.id, &user.device, sign);
        one_time_keys[format!("signed_curve25519:{}", id.to_base64())] = key;
    }
    let device_keys = signed(device_keys, &user.id, &user.device, sign);
    user.post("/v3/keys/upload", json!({ "device_keys": device_keys, "one_time_keys": one_time_keys })).await;
}

fn cross_signing_key(user: &User<'_>, usage: &str, key: &Ed25519Keypair) -> Value {
    let public = key.public_key().to_base64();
    json!({ "keys": { format!("ed25519:{public}"): public }, "usage": [usage], "user_id": user.id })
}

async fn token(user: &User<'_>) -> String {
    user.sync(None).await["next_batch"].as_str().expect("next_batch").to_owned()
}

fn changed(answer: &Value) -> &Value {
    &answer["device_lists"]["changed"]
}

async fn changes(user: &User<'_>, from: &str, to: &str) -> Value {
    user.get(&format!("/v3/keys/changes?from={}&to={}", encode(from), encode(to))).await
}

#[tokio::test]
async fn those_around_hear_of_changed_keys_of_who_comes_and_of_who_goes() {
    let mut server = Server::start();
    let (alice, bob, carol) =
        (server.register("alice").await, server.register("bob").await, server.register("carol").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let (of_bob, of_carol) = (token(&bob).await, token(&carol).await);
    upload_keys(&alice).await;

    // To whom shares a room, and to oneself.
    let answer = bob.sync_until(&of_bob, |answer| changed(answer).is_array()).await;
    assert_eq!(answer["device_lists"], json!({ "changed": [alice.id], "left": [] }));
    let answer = carol.sync(Some(&of_carol)).await;
    assert!(answer.get("device_lists").is_none(), "{answer}");
    assert_eq!(answer["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!(answer["device_unused_fallback_key_types"], json!([]));

    // Who comes.
    carol.join(&room).await;
    let answer = carol.sync(Some(&of_carol)).await;
    assert_eq!(answer["device_lists"], json!({ "changed": [alice.id, bob.id], "left": [] }));
    let with_carol = answer["next_batch"].as_str().expect("next_batch").to_owned();
    assert_eq!(changes(&bob, &of_bob, &with_carol).await, json!({ "changed": [alice.id, carol.id], "left": [] }));

    // Who goes, also after a restart.
    alice.post(&format!("/v3/rooms/{}/leave", encode(&room)), json!({})).await;
    let (alice, bob, carol) = (alice.id, (bob.id, bob.token), (carol.id, carol.token));
    server.stop();
    server.restart();
    let answer = get(&server, &carol.1, &format!("sync?timeout=0&since={with_carol}")).await;
    assert_eq!(answer["device_lists"], json!({ "changed": [], "left": [alice] }));
    let now = answer["next_batch"].as_str().expect("next_batch");
    let answer = get(&server, &carol.1, &format!("keys/changes?from={with_carol}&to={now}")).await;
    assert_eq!(answer, json!({ "changed": [], "left": [alice] }));
    // From before carol came.
    let answer = get(&server, &bob.1, &format!("keys/changes?from={of_bob}&to={now}")).await;
    assert_eq!(answer, json!({ "changed": [carol.0], "left": [alice] }));
}

async fn get(server: &Server, token: &str, path: &str) -> Value {
    let path = format!("/_matrix/client/v3/{path}");
    let (status, answer) = server.request_as(Some(token), Method::GET, &path, None).await;
    assert!(status.is_success(), "{answer}");
    answer
}

#[tokio::test]
async fn counts_of_one_time_keys_follow_claims_and_deleted_devices_are_told() {
    let server = Server::start();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    upload_keys(&alice).await;
    let answer = alice.sync(None).await;
    assert_eq!(answer["device_one_time_keys_count"], json!({ "signed_curve25519": 5 }));
    let since = answer["next_batch"].as_str().expect("next_batch");
    let claim = json!({ "one_time_keys": { &alice.id: { &alice.device: "signed_curve25519" } } });
    bob.post("/v3/keys/claim", claim).await;
    let left = |answer: &Value| answer["device_one_time_keys_count"]["signed_curve25519"].as_u64();
    let answer = alice.get(&format!("/v3/sync?timeout=60000&since={since}")).await;
    assert_eq!(left(&answer), Some(4));

    let since = token(&bob).await;
    alice.post("/v3/logout", json!({})).await;
    let answer = bob.sync_until(&since, |answer| changed(answer).is_array()).await;
    assert_eq!(changed(&answer), &json!([alice.id]));
}

#[tokio::test]
async fn what_one_device_signs_of_others_the_users_own_devices_hear() {
    let server = Server::start();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let (bobs_master, master, user_signing) = (Ed25519Keypair::new(), Ed25519Keypair::new(), Ed25519Keypair::new());
    let bobs = cross_signing_key(&bob, "master", &bobs_master);
    bob.post("/v3/keys/device_signing/upload", json!({ "master_key": bobs })).await;
    let sign = |text: &[u8]| master.sign(text).to_base64();
    let signing = cross_signing_key(&alice, "user_signing", &user_signing);
    let signing = signed(signing, &alice.id, &master.public_key().to_base64(), sign);
    let keys = json!({ "master_key": cross_signing_key(&alice, "master", &master), "user_signing_key": signing });
    alice.post("/v3/keys/device_signing/upload", keys).await;

    let (of_alice, of_bob) = (token(&alice).await, token(&bob).await);
    let sign = |text: &[u8]| user_signing.sign(text).to_base64();
    let signed_master = signed(bobs, &alice.id, &user_signing.public_key().to_base64(), sign);
    let upload = json!({ &bob.id: { bobs_master.public_key().to_base64(): signed_master } });
    let answer = alice.post("/v3/keys/signatures/upload", upload).await;
    assert_eq!(answer["failures"], json!({}));
    let answer = alice.sync(Some(&of_alice)).await;
    assert_eq!(changed(&answer), &json!([bob.id]));
    assert!(bob.sync(Some(&of_bob)).await.get("device_lists").is_none());
}

#[tokio::test]
async fn changes_need_tokens_of_this_server() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let since = token(&alice).await;
    assert_eq!(changes(&alice, &since, &since).await, json!({ "changed": [], "left": [] }));
    for (query, errcode) in [
        (format!("from={since}&to=nothing"), "M_INVALID_PARAM"),
        (format!("from=s1_2_3&to={since}"), "M_INVALID_PARAM"),
        (format!("from={since}"), "M_MISSING_PARAM"),
    ] {
        alice.fails(Method::GET, &format!("/v3/keys/changes?{query}"), None, 400, errcode).await;
    }
}

#[tokio::test]
async fn a_device_without_keys_is_told_to_the_users_other_devices_alone() {
    let server = Server::start();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let (mut of_alice, mut of_bob) = (token(&alice).await, token(&bob).await);
    let login = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" },
        "password": crate::support::password("alice"), "device_id": "PLAIN",
    });
    let (status, session) = server.request(Method::POST, "/_matrix/client/v3/login", Some(login)).await;
    assert_eq!(status, 200, "{session}");
    let plain = session["access_token"].as_str();
    for what in ["came", "was renamed", "went"] {
        match what {
            "came" => {}
            "was renamed" => drop(alice.put("/v3/devices/PLAIN", json!({ "display_name": "Plain" })).await),
            _ => {
                let (status, _) = server.request_as(plain, Method::POST, "/_matrix/client/v3/logout", None).await;
                assert_eq!(status, 200);
            }
        }
        let answer = alice.sync(Some(&of_alice)).await;
        assert_eq!(changed(&answer), &json!([alice.id]), "{what}: {answer}");
        let told = bob.sync(Some(&of_bob)).await;
        assert!(told.get("device_lists").is_none(), "{what}: {told}");
        let next = |answer: &Value| answer["next_batch"].as_str().expect("next_batch").to_owned();
        (of_alice, of_bob) = (next(&answer), next(&told));
        let listed = alice.get("/v3/devices").await["devices"].as_array().map_or(0, Vec::len);
        assert_eq!(listed, if what == "went" { 1 } else { 2 });
    }
}
