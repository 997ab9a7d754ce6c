//! Keys of end-to-end encryption, with devices that have real ones.

use std::collections::{BTreeMap, HashSet};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use ruma::CanonicalJsonObject;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use vodozemac::{Ed25519SecretKey, olm::Account};

use crate::support::{Server, User, password};

const UPLOAD: &str = "/v3/keys/upload";
const QUERY: &str = "/v3/keys/query";
const CLAIM: &str = "/v3/keys/claim";
const CROSS_SIGNING: &str = "/v3/keys/device_signing/upload";
const SIGNATURES: &str = "/v3/keys/signatures/upload";

/// Adds a signature to an object, as clients do.
fn sign(object: &mut Value, user: &str, key_id: &str, sign: impl Fn(&[u8]) -> String) {
    let mut signed: CanonicalJsonObject = serde_json::from_value(object.clone()).expect("canonical");
    signed.remove("signatures");
    signed.remove("unsigned");
    let signature = sign(serde_json::to_string(&signed).expect("JSON").as_bytes());
    object["signatures"][user][key_id] = signature.into();
}

/// What a device signs and is signed with.
pub struct Device {
    pub user: String,
    pub id: String,
    pub account: Account,
}

impl Device {
    pub fn of(user: &User<'_>) -> Self {
        Self { user: user.id.clone(), id: user.device.clone(), account: Account::new() }
    }

    fn sign(&self, object: &mut Value) {
        let key_id = format!("ed25519:{}", self.id);
        sign(object, &self.user, &key_id, |text| self.account.sign(text).to_base64());
    }

    pub fn keys(&self) -> Value {
        let mut keys = json!({
            "user_id": self.user, "device_id": self.id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("ed25519:{}", self.id): self.account.ed25519_key().to_base64(),
                format!("curve25519:{}", self.id): self.account.curve25519_key().to_base64(),
            },
        });
        self.sign(&mut keys);
        keys
    }

    pub fn one_time_keys(&mut self, count: usize) -> BTreeMap<String, Value> {
        self.account.generate_one_time_keys(count);
        let new = self.account.one_time_keys();
        self.account.mark_keys_as_published();
        let mut keys = BTreeMap::new();
        for (id, key) in new {
            let mut object = json!({ "key": key.to_base64() });
            self.sign(&mut object);
            keys.insert(format!("signed_curve25519:{}", id.to_base64()), object);
        }
        keys
    }

    pub fn fallback_key(&mut self) -> Value {
        self.account.generate_fallback_key();
        let (id, key) = self.account.fallback_key().into_iter().next().expect("a key");
        let mut object = json!({ "key": key.to_base64(), "fallback": true });
        self.sign(&mut object);
        json!({ format!("signed_curve25519:{}", id.to_base64()): object })
    }
}

fn key_id(key: &Ed25519SecretKey) -> String {
    format!("ed25519:{}", key.public_key().to_base64())
}

/// A cross-signing key, signed by the keys given.
fn cross_signing_key(user: &str, usage: &str, key: &Ed25519SecretKey, by: &[&Ed25519SecretKey]) -> Value {
    let mut object = json!({
        "user_id": user, "usage": [usage], "keys": { key_id(key): key.public_key().to_base64() },
    });
    for signer in by {
        sign(&mut object, user, &key_id(signer), |text| signer.sign(text).to_base64());
    }
    object
}

/// What to claim of a device, and what came.
async fn claim(asker: &User<'_>, device: &Device) -> Value {
    let wanted = json!({ "one_time_keys": { &device.user: { &device.id: "signed_curve25519" } } });
    asker.post(CLAIM, wanted).await["one_time_keys"][&device.user][&device.id].clone()
}

async fn query(asker: &User<'_>, user: &str) -> Value {
    asker.post(QUERY, json!({ "device_keys": { user: [] } })).await
}

fn by_password(name: &str, session: &Value) -> Value {
    let identifier = json!({ "type": "m.id.user", "user": name });
    json!({ "type": "m.login.password", "identifier": identifier, "password": password(name), "session": session })
}

/// Claims one key after the other and tells their ids, until there are none or the server dies.
async fn claim_on(url: String, token: String, wanted: Value, told: mpsc::Sender<String>) {
    let client = reqwest::Client::new();
    let path = format!("{url}/_matrix/client{CLAIM}");
    loop {
        let Ok(answer) = client.post(&path).bearer_auth(&token).json(&wanted).send().await else { return };
        let Ok(answer) = answer.json::<Value>().await else { return };
        let Some(id) = claimed_id(&answer) else { return };
        told.send(id).await.expect("somebody counts");
    }
}

/// The id of the only key in an answer.
fn claimed_id(answer: &Value) -> Option<String> {
    let keys = answer["one_time_keys"].as_object()?.values().next()?.as_object()?.values().next()?.as_object()?;
    assert_eq!(keys.len(), 1);
    keys.keys().next().cloned()
}

#[tokio::test]
async fn no_key_is_handed_out_twice_though_the_server_is_killed() {
    const KEYS: usize = 90;
    const CLAIMERS: usize = 6;
    const KILLS: usize = 2;
    let mut server = Server::start();
    let (token, wanted) = {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let mut phone = Device::of(&alice);
        for _ in 0..2 {
            let upload = json!({ "device_keys": phone.keys(), "one_time_keys": phone.one_time_keys(KEYS / 2) });
            alice.post(UPLOAD, upload).await;
        }
        (bob.token.clone(), json!({ "one_time_keys": { &alice.id: { &phone.id: "signed_curve25519" } } }))
    };
    let mut ids = HashSet::new();
    for _ in 0..KILLS {
        let (told, mut heard) = mpsc::channel(1);
        for _ in 0..CLAIMERS {
            tokio::spawn(claim_on(server.url(), token.clone(), wanted.clone(), told.clone()));
        }
        drop(told);
        for _ in 0..KEYS / 4 {
            let id = heard.recv().await.expect("there are more keys");
            assert!(ids.insert(id), "a key came twice");
        }
        // The claims of the others are under way.
        server.kill();
        while let Some(id) = heard.recv().await {
            assert!(ids.insert(id), "a key came twice");
        }
        server.restart();
    }
    for _ in 0..=KEYS {
        let path = format!("/_matrix/client{CLAIM}");
        let (_, answer) = server.request_as(Some(&token), Method::POST, &path, Some(wanted.clone())).await;
        let Some(id) = claimed_id(&answer) else { break };
        assert!(ids.insert(id), "a key came twice");
    }
    // Of each claimer one answer may have got lost in each kill.
    assert!((KEYS - KILLS * CLAIMERS..=KEYS).contains(&ids.len()), "{}", ids.len());
}

#[tokio::test]
async fn devices_publish_keys_and_others_query_and_claim_them() {
    let mut server = Server::start();
    let (token, id, keys, mut phone) = {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let mut phone = Device::of(&alice);
        let (keys, one_time) = (phone.keys(), phone.one_time_keys(10));
        let upload = json!({ "device_keys": keys, "one_time_keys": one_time, "fallback_keys": phone.fallback_key() });
        let counts = alice.post(UPLOAD, upload.clone()).await;
        assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 10 } }));
        assert_eq!(alice.post(UPLOAD, upload).await, counts);
        assert_eq!(alice.post("/r0/keys/upload", json!({})).await, counts);

        alice.put("/v3/devices/FIRST", json!({ "display_name": "Phone" })).await;
        let mut seen = keys.clone();
        seen["unsigned"] = json!({ "device_display_name": "Phone" });
        let wanted = json!({ "device_keys": {
            &alice.id: ["FIRST", "NONE"], &bob.id: [], "@nobody:localhost": [], "@remote:elsewhere.example": [],
        } });
        let answer = bob.post(QUERY, wanted).await;
        assert_eq!(answer["device_keys"], json!({ &alice.id: { "FIRST": seen }, &bob.id: {} }));
        assert!(answer["failures"]["elsewhere.example"].is_object(), "{answer}");

        // Everybody at once.
        let claims = join_all((0..10).map(|_| claim(&bob, &phone))).await;
        let mut ids = HashSet::new();
        for claimed in &claims {
            let (id, key) = claimed.as_object().and_then(|keys| keys.iter().next()).expect("a key");
            assert_eq!(key, &one_time[id]);
            ids.insert(id.clone());
        }
        assert_eq!(ids.len(), 10, "each once");
        let last = claim(&bob, &phone).await;
        assert_eq!(last.as_object().and_then(|keys| keys.values().next()).expect("a key")["fallback"], json!(true));
        let none = json!({ "one_time_keys": {
            &bob.id: { "FIRST": "signed_curve25519" }, "@a:elsewhere.example": { "X": "signed_curve25519" },
        } });
        let answer = bob.post(CLAIM, none).await;
        assert_eq!(answer["one_time_keys"], json!({}));
        assert!(answer["failures"]["elsewhere.example"].is_object(), "{answer}");
        let batch = phone.one_time_keys(3);
        alice.post(UPLOAD, json!({ "one_time_keys": batch })).await;
        (bob.token.clone(), alice.id.clone(), keys, phone)
    };
    // What was handed out just before the server died isn't handed out again.
    let ask = async |server: &Server| {
        let body = json!({ "one_time_keys": { &id: { "FIRST": "signed_curve25519" } } });
        let path = "/_matrix/client/v3/keys/claim";
        let (status, answer) = server.request_as(Some(&token), Method::POST, path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["one_time_keys"][&id]["FIRST"].as_object().and_then(|keys| keys.keys().next()).expect("a key").clone()
    };
    let mut ids = HashSet::new();
    for _ in 0..3 {
        ids.insert(ask(&server).await);
        server.kill();
        server.restart();
    }
    assert_eq!(ids.len(), 3);
    let body = json!({ "device_keys": { &id: [] } });
    let path = "/_matrix/client/v3/keys/query";
    let (_, answer) = server.request_as(Some(&token), Method::POST, path, Some(body)).await;
    assert_eq!(answer["device_keys"][&id]["FIRST"]["keys"], keys["keys"]);
    assert_eq!(phone.one_time_keys(1).len(), 1);
}

#[tokio::test]
async fn keys_that_are_not_signed_or_change_are_refused() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let mut phone = Device::of(&alice);
    let mut keys = phone.keys();
    keys["algorithms"] = json!(["m.other"]);
    let refused = async |body: Value, errcode: &str| alice.fails(Method::POST, UPLOAD, Some(body), 400, errcode).await;
    refused(json!({ "device_keys": keys }), "M_INVALID_SIGNATURE").await;
    let mut keys = phone.keys();
    keys["device_id"] = "OTHER".into();
    refused(json!({ "device_keys": keys }), "M_INVALID_PARAM").await;
    refused(json!({ "device_keys": 5 }), "M_INVALID_PARAM").await;
    refused(json!({ "device_keys": {} }), "M_BAD_JSON").await;
    refused(json!({ "one_time_keys": [] }), "M_BAD_JSON").await;
    alice.post(UPLOAD, json!({ "device_keys": phone.keys() })).await;
    let stranger = Device::of(&alice);
    refused(json!({ "device_keys": stranger.keys() }), "M_INVALID_PARAM").await;
    let one_time = phone.one_time_keys(1);
    alice.post(UPLOAD, json!({ "one_time_keys": one_time })).await;
    let id = one_time.keys().next().expect("a key");
    let other = phone.one_time_keys(1).into_values().next().expect("a key");
    refused(json!({ "one_time_keys": { id: other } }), "M_INVALID_PARAM").await;
    let mut forged = phone.one_time_keys(1).into_values().next().expect("a key");
    forged["key"] = stranger.account.curve25519_key().to_base64().into();
    refused(json!({ "one_time_keys": { "signed_curve25519:F": forged } }), "M_INVALID_SIGNATURE").await;
    alice.fails(Method::POST, QUERY, Some(json!({})), 400, "M_BAD_JSON").await;
    alice.fails(Method::POST, CLAIM, Some(json!({})), 400, "M_BAD_JSON").await;
}

#[tokio::test]
async fn cross_signing_keys_are_replaced_only_with_the_password() {
    let server = Server::start();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let [master, self_signing, user_signing, next] = [1, 2, 3, 4].map(|seed| Ed25519SecretKey::from_slice(&[seed; 32]));
    let key = |usage, key, by: &[&Ed25519SecretKey]| cross_signing_key(&alice.id, usage, key, by);
    let unsigned = json!({ "self_signing_key": key("self_signing", &self_signing, &[&master]) });
    alice.fails(Method::POST, CROSS_SIGNING, Some(unsigned), 400, "M_MISSING_PARAM").await;
    let wrong = json!({
        "master_key": key("master", &master, &[]), "self_signing_key": key("self_signing", &self_signing, &[&next]),
    });
    alice.fails(Method::POST, CROSS_SIGNING, Some(wrong), 400, "M_INVALID_SIGNATURE").await;
    let first = json!({
        "master_key": key("master", &master, &[]),
        "self_signing_key": key("self_signing", &self_signing, &[&master]),
        "user_signing_key": key("user_signing", &user_signing, &[&master]),
    });
    // The first keys, and the same again.
    alice.post(CROSS_SIGNING, first.clone()).await;
    alice.post(CROSS_SIGNING, first.clone()).await;
    let own = query(&alice, &alice.id).await;
    assert_eq!(own["master_keys"][&alice.id]["keys"], first["master_key"]["keys"]);
    assert_eq!(own["self_signing_keys"][&alice.id], first["self_signing_key"]);
    assert_eq!(own["user_signing_keys"][&alice.id], first["user_signing_key"]);
    let others = query(&bob, &alice.id).await;
    assert_eq!(others["self_signing_keys"], own["self_signing_keys"]);
    assert!(others["user_signing_keys"].get(&alice.id).is_none(), "{others}");

    let mut second = json!({ "master_key": key("master", &next, &[]) });
    let path = format!("/_matrix/client{CROSS_SIGNING}");
    let (status, asked) = alice.call(Method::POST, &path, Some(second.clone())).await;
    assert_eq!((status, &asked["flows"]), (StatusCode::UNAUTHORIZED, &json!([{ "stages": ["m.login.password"] }])));
    second["auth"] = by_password("bob", &asked["session"]);
    let (status, _) = alice.call(Method::POST, &path, Some(second.clone())).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(query(&alice, &alice.id).await["master_keys"], own["master_keys"]);
    second["auth"] = by_password("alice", &asked["session"]);
    alice.post(CROSS_SIGNING, second.clone()).await;
    let own = query(&alice, &alice.id).await;
    assert_eq!(own["master_keys"][&alice.id]["keys"], second["master_key"]["keys"]);
    assert!(own["self_signing_keys"].get(&alice.id).is_none(), "signed by a key that is gone");

    let in_use = key("master", &Ed25519SecretKey::from_slice(&[9; 32]), &[]);
    let name = in_use["keys"].as_object().and_then(|keys| keys.values().next()).expect("a key").clone();
    let login = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" },
        "password": password("alice"), "device_id": name,
    });
    let (status, _) = server.request(Method::POST, "/_matrix/client/v3/login", Some(login)).await;
    assert_eq!(status, StatusCode::OK);
    let mut third = json!({ "master_key": in_use });
    let (_, asked) = alice.call(Method::POST, &path, Some(third.clone())).await;
    third["auth"] = by_password("alice", &asked["session"]);
    alice.fails(Method::POST, CROSS_SIGNING, Some(third), 403, "M_FORBIDDEN").await;
}

#[tokio::test]
async fn users_sign_their_devices_and_each_other() {
    let server = Server::start();
    let (alice, bob, carol) =
        (server.register("alice").await, server.register("bob").await, server.register("carol").await);
    let phone = Device::of(&alice);
    alice.post(UPLOAD, json!({ "device_keys": phone.keys() })).await;
    let [master, self_signing, user_signing, bobs] = [1, 2, 3, 4].map(|seed| Ed25519SecretKey::from_slice(&[seed; 32]));
    let mut master_key = cross_signing_key(&alice.id, "master", &master, &[]);
    let keys = json!({
        "master_key": master_key,
        "self_signing_key": cross_signing_key(&alice.id, "self_signing", &self_signing, &[&master]),
        "user_signing_key": cross_signing_key(&alice.id, "user_signing", &user_signing, &[&master]),
    });
    alice.post(CROSS_SIGNING, keys).await;
    let mut bobs_key = cross_signing_key(&bob.id, "master", &bobs, &[]);
    bob.post(CROSS_SIGNING, json!({ "master_key": bobs_key })).await;

    let mut device = phone.keys();
    sign(&mut device, &alice.id, &key_id(&self_signing), |text| self_signing.sign(text).to_base64());
    phone.sign(&mut master_key);
    sign(&mut bobs_key, &alice.id, &key_id(&user_signing), |text| user_signing.sign(text).to_base64());
    let (name, bobs_name) = (master.public_key().to_base64(), bobs.public_key().to_base64());
    let signed = json!({
        &alice.id: { &phone.id: device, &name: master_key, "NONE": device },
        &bob.id: { &bobs_name: bobs_key },
        &carol.id: { &name: bobs_key },
        "@remote:elsewhere.example": { &bobs_name: bobs_key },
    });
    let answer = alice.post(SIGNATURES, signed).await;
    assert_eq!(answer["failures"][&alice.id]["NONE"]["errcode"], "M_NOT_FOUND");
    assert_eq!(answer["failures"][&carol.id][&name]["errcode"], "M_NOT_FOUND");
    assert_eq!(answer["failures"]["@remote:elsewhere.example"][&bobs_name]["errcode"], "M_NOT_FOUND");
    assert_eq!(answer["failures"].as_object().expect("failures").len(), 3, "{answer}");
    assert_eq!(answer["failures"][&alice.id].as_object().expect("failures").len(), 1, "{answer}");

    for asker in [&alice, &carol] {
        let seen = query(asker, &alice.id).await;
        assert_eq!(seen["device_keys"][&alice.id][&phone.id]["signatures"], device["signatures"]);
        assert_eq!(seen["master_keys"][&alice.id], master_key);
    }
    assert_eq!(query(&alice, &bob.id).await["master_keys"][&bob.id], bobs_key);
    for asker in [&bob, &carol] {
        let seen = query(asker, &bob.id).await;
        assert!(seen["master_keys"][&bob.id]["signatures"].get(&alice.id).is_none(), "{seen}");
    }
    let mut forged = phone.keys();
    forged["signatures"][&alice.id][key_id(&self_signing)] = bobs.sign(b"text").to_base64().into();
    let answer = alice.post(SIGNATURES, json!({ &alice.id: { &phone.id: forged } })).await;
    assert_eq!(answer["failures"][&alice.id][&phone.id]["errcode"], "M_INVALID_SIGNATURE");
}

#[tokio::test]
async fn keys_go_with_the_device() {
    let server = Server::start();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut phone = Device::of(&alice);
    let one_time = phone.one_time_keys(2);
    alice.post(UPLOAD, json!({ "device_keys": phone.keys(), "one_time_keys": one_time })).await;
    alice.post("/v3/logout", json!({})).await;
    assert_eq!(query(&bob, &alice.id).await["device_keys"], json!({ &alice.id: {} }));
    assert!(claim(&bob, &phone).await.is_null());
}

#[tokio::test]
async fn a_claim_of_many_devices_counts_as_many_requests() {
    let server = Server::start_with("[global.rate_limit]\nwrite = { per_second = 0.001, burst = 10 }");
    let alice = server.register("alice").await;
    let claim = |devices: usize| {
        let of_alice: serde_json::Map<String, Value> =
            (0..devices).map(|device| (format!("D{device}"), json!("signed_curve25519"))).collect();
        json!({ "one_time_keys": { &alice.id: of_alice } })
    };
    // One request, and one unit for every twenty devices.
    assert_eq!(alice.post(CLAIM, claim(100)).await["one_time_keys"], json!({}));
    alice.post(CLAIM, claim(19)).await;
    alice.fails(Method::POST, CLAIM, Some(claim(100)), 429, "M_LIMIT_EXCEEDED").await;
}
