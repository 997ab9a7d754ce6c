//! Encryption without a client in between: signatures, one-time keys and sessions by vodozemac.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::future::join_all;
use reqwest::Method;
use ruma::CanonicalJsonObject;
use serde_json::{Value, json};
use vodozemac::{
    Curve25519PublicKey, Ed25519PublicKey, Ed25519Signature, base64_decode, base64_encode,
    megolm::{GroupSession, InboundGroupSession, MegolmMessage, SessionConfig as MegolmConfig, SessionKey},
    olm::{OlmMessage, SessionConfig},
};

use crate::{
    keys::Device,
    support::{Server, User, encode},
};

const UPLOAD: &str = "/v3/keys/upload";

/// How many one-time keys there are.
const KEYS: usize = 50;

/// How many want one at once.
const CLAIMS: usize = 60;

/// Checks a device's signature of an object, as clients do.
fn verify(object: &Value, user: &str, device: &str, key: &str) {
    let mut signed: CanonicalJsonObject = serde_json::from_value(object.clone()).expect("canonical");
    signed.remove("signatures");
    signed.remove("unsigned");
    let text = serde_json::to_string(&signed).expect("JSON");
    let signature = object["signatures"][user][format!("ed25519:{device}")].as_str().expect("a signature");
    let signature = Ed25519Signature::from_base64(signature).expect("a signature");
    let key = Ed25519PublicKey::from_base64(key).expect("a key");
    key.verify(text.as_bytes(), &signature).expect("signed by the device");
}

async fn query(asker: &User<'_>, device: &Device) -> Value {
    let answer = asker.post("/v3/keys/query", json!({ "device_keys": { &device.user: [] } })).await;
    answer["device_keys"][&device.user][&device.id].clone()
}

/// One claim: the id of the key, and the key.
async fn claim(asker: &User<'_>, device: &Device) -> (String, Value) {
    let wanted = json!({ "one_time_keys": { &device.user: { &device.id: "signed_curve25519" } } });
    let answer = asker.post("/v3/keys/claim", wanted).await;
    let keys = answer["one_time_keys"][&device.user][&device.id].as_object().expect("a key").clone();
    assert_eq!(keys.len(), 1);
    keys.into_iter().next().expect("a key")
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}"))
}

#[tokio::test]
async fn whatever_is_changed_after_it_was_signed_is_refused() {
    let server = Server::start();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (mut phone, stranger) = (Device::of(&alice), Device::of(&alice));
    let (keys, others) = (phone.keys(), stranger.keys());
    let (ed25519, curve25519) = (format!("ed25519:{}", phone.id), format!("curve25519:{}", phone.id));
    let refused = async |body: Value, errcode: &str| {
        alice.fails(Method::POST, UPLOAD, Some(body), 400, errcode).await;
    };
    let changes: [&dyn Fn(&mut Value); 7] = [
        &|keys| keys["keys"][&ed25519] = others["keys"][&ed25519].clone(),
        &|keys| keys["keys"][&curve25519] = others["keys"][&curve25519].clone(),
        &|keys| keys["algorithms"] = json!(["m.megolm.v1.aes-sha2"]),
        &|keys| keys["org.example.note"] = json!("added"),
        &|keys| keys["signatures"] = others["signatures"].clone(),
        &|keys| keys["signatures"] = json!({}),
        &|keys| keys["signatures"] = json!({ &bob.id: keys["signatures"][&alice.id] }),
    ];
    for change in changes {
        let mut changed = keys.clone();
        change(&mut changed);
        refused(json!({ "device_keys": changed }), "M_INVALID_SIGNATURE").await;
    }
    assert!(query(&bob, &phone).await.is_null());
    alice.post(UPLOAD, json!({ "device_keys": keys })).await;
    let mut told = query(&bob, &phone).await;
    told.as_object_mut().expect("the keys").remove("unsigned");
    assert_eq!(told, keys);

    let good = phone.one_time_keys(2);
    let (id, key) = good.iter().next().expect("a key");
    let other = good.values().nth(1).expect("a key");
    let changes: [&dyn Fn(&mut Value); 5] = [
        &|key| key["key"] = other["key"].clone(),
        &|key| key["signatures"] = other["signatures"].clone(),
        &|key| key["fallback"] = json!(true),
        &|key| key["signatures"] = json!({}),
        &|key| key["signatures"] = json!({ &bob.id: key["signatures"][&alice.id] }),
    ];
    for change in changes {
        let mut changed = key.clone();
        change(&mut changed);
        refused(json!({ "one_time_keys": { id: changed, "signed_curve25519:B": other } }), "M_INVALID_SIGNATURE").await;
        refused(json!({ "fallback_keys": { id: changed } }), "M_INVALID_SIGNATURE").await;
    }
    // What came beside a bad key was not stored either.
    let answer = alice.sync(None).await;
    assert_eq!(answer["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!(answer["device_unused_fallback_key_types"], json!([]));
}

#[tokio::test]
async fn fifty_keys_are_claimed_once_each_and_then_the_fallback_key() {
    let server = Server::start();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut phone = Device::of(&alice);
    let (keys, one_time, fallback) = (phone.keys(), phone.one_time_keys(KEYS), phone.fallback_key());
    alice.post(UPLOAD, json!({ "device_keys": keys, "one_time_keys": one_time, "fallback_keys": fallback })).await;
    let claims = join_all((0..CLAIMS).map(|_| claim(&bob, &phone))).await;
    let mut left: BTreeMap<_, _> = one_time;
    let mut last_resort = 0;
    for (id, key) in claims {
        verify(&key, &alice.id, &phone.id, &phone.account.ed25519_key().to_base64());
        if key.get("fallback").is_some() {
            assert_eq!(json!({ id: key }), fallback);
            last_resort += 1;
        } else {
            assert_eq!(left.remove(&id), Some(key), "{id} was claimed before");
        }
    }
    assert_eq!((left.len(), last_resort), (0, CLAIMS - KEYS));
    let answer = alice.sync(None).await;
    assert_eq!(answer["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!(answer["device_unused_fallback_key_types"], json!([]));
}

/// What Bob's device does with the keys of rooms that were sent to it: sessions by their ids.
fn receive_keys(phone: &mut Device, from: Curve25519PublicKey, answer: &Value) -> HashMap<String, InboundGroupSession> {
    let own = phone.account.curve25519_key().to_base64();
    let mut session = None;
    let mut sessions = HashMap::new();
    for event in answer["to_device"]["events"].as_array().expect("events") {
        let message = &event["content"]["ciphertext"][&own];
        let body = base64_decode(text(message, "body")).expect("base64");
        let kind = message["type"].as_u64().expect("a type") as usize;
        let message = OlmMessage::from_parts(kind, &body).expect("a message");
        let plain = match (&mut session, &message) {
            (None, OlmMessage::PreKey(first)) => {
                let config = SessionConfig::version_1();
                let created = phone.account.create_inbound_session(config, from, first).expect("a session");
                session = Some(created.session);
                created.plaintext
            }
            (Some(session), message) => session.decrypt(message).expect("readable"),
            (None, OlmMessage::Normal(_)) => panic!("the first message carries the one-time key"),
        };
        let key: Value = serde_json::from_slice(&plain).expect("JSON");
        let key = SessionKey::from_base64(text(&key, "session_key")).expect("a key");
        let inbound = InboundGroupSession::new(&key, MegolmConfig::version_1());
        sessions.insert(inbound.session_id(), inbound);
    }
    sessions
}

#[tokio::test]
async fn messages_of_a_rotated_session_are_read_with_the_key_of_each() {
    let mut server = Server::start();
    let (token, mut bobs, alices, room) = {
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        let (alices, mut bobs) = (Device::of(&alice), Device::of(&bob));
        let one_time = bobs.one_time_keys(1);
        bob.post(UPLOAD, json!({ "device_keys": bobs.keys(), "one_time_keys": one_time })).await;

        let keys = query(&alice, &bobs).await;
        let own_key = text(&keys["keys"], &format!("ed25519:{}", bobs.id));
        verify(&keys, &bob.id, &bobs.id, own_key);
        let (_, one_time) = claim(&alice, &bobs).await;
        verify(&one_time, &bob.id, &bobs.id, own_key);
        let identity = Curve25519PublicKey::from_base64(text(&keys["keys"], &format!("curve25519:{}", bobs.id)));
        let identity = identity.expect("a key");
        let one_time = Curve25519PublicKey::from_base64(text(&one_time, "key")).expect("a key");
        let config = SessionConfig::version_1();
        let mut olm = alices.account.create_outbound_session(config, identity, one_time).expect("a session");

        for n in 0..2 {
            let mut group = GroupSession::new(MegolmConfig::version_1());
            let key = json!({ "session_key": group.session_key().to_base64() }).to_string();
            let (kind, body) = olm.encrypt(key).expect("encrypted").to_parts();
            let content = json!({
                "algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": alices.account.curve25519_key().to_base64(),
                "ciphertext": { identity.to_base64(): { "type": kind, "body": base64_encode(body) } },
            });
            let messages = json!({ "messages": { &bob.id: { &bobs.id: content } } });
            alice.put(&format!("/v3/sendToDevice/m.room.encrypted/{n}"), messages).await;
            let ciphertext = group.encrypt(format!("message {n}")).to_base64();
            let content = json!({
                "algorithm": "m.megolm.v1.aes-sha2", "session_id": group.session_id(), "ciphertext": ciphertext,
            });
            alice.put(&format!("/v3/rooms/{}/send/m.room.encrypted/{n}", encode(&room)), content).await;
        }
        (bob.token.clone(), bobs, alices.account.curve25519_key(), room)
    };
    server.kill();
    server.restart();
    let (_, answer) = server.request_as(Some(&token), Method::GET, "/_matrix/client/v3/sync", None).await;
    let mut sessions = receive_keys(&mut bobs, alices, &answer);
    assert_eq!(sessions.len(), 2, "one key of each session");
    let events = answer["rooms"]["join"][&room]["timeline"]["events"].as_array().expect("events");
    let events: Vec<_> = events.iter().filter(|event| event["type"] == "m.room.encrypted").collect();
    let mut used = HashSet::new();
    for (n, event) in events.iter().enumerate() {
        let id = text(&event["content"], "session_id");
        let message = MegolmMessage::from_base64(text(&event["content"], "ciphertext")).expect("a message");
        for (other, session) in &mut sessions {
            let read = session.decrypt(&message).map(|read| read.plaintext);
            assert_eq!(read.ok(), (other == id).then(|| format!("message {n}").into_bytes()));
        }
        used.insert(id);
    }
    assert_eq!((events.len(), used.len()), (2, 2));
}
