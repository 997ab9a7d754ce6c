//! Dehydrated devices (MSC3814).

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    keys::Device,
    support::{Server, password},
};

const PLACE: &str = "/unstable/org.matrix.msc3814.v1/dehydrated_device";

#[tokio::test]
async fn a_dehydrated_device_gets_messages_while_nobody_is_there() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    for method in [Method::GET, Method::DELETE] {
        alice.fails(method, PLACE, None, 404, "M_NOT_FOUND").await;
    }
    let mut device = Device::of(&alice);
    device.id = "SLEEPER".to_owned();
    let data = json!({ "algorithm": "org.matrix.msc3814.v2", "device_pickle": "secret", "nonce": "n" });
    let new = json!({
        "device_id": "SLEEPER", "initial_device_display_name": "Asleep", "device_data": data,
        "device_keys": device.keys(), "one_time_keys": device.one_time_keys(3), "fallback_keys": device.fallback_key(),
    });
    assert_eq!(alice.put(PLACE, new.clone()).await, json!({ "device_id": "SLEEPER" }));
    assert_eq!(alice.get(PLACE).await, json!({ "device_id": "SLEEPER", "device_data": data }));

    let query = bob.post("/v3/keys/query", json!({ "device_keys": { &alice.id: [] } })).await;
    assert!(query["device_keys"][&alice.id]["SLEEPER"].is_object(), "{query}");
    for n in 0..120 {
        let messages = json!({ "messages": { &alice.id: { "SLEEPER": { "n": n } } } });
        bob.put(&format!("/v3/sendToDevice/m.room.encrypted/{n}"), messages).await;
    }
    let events = format!("{PLACE}/SLEEPER/events");
    // Twice, since messages stay until the device is deleted.
    for _ in 0..2 {
        let (mut got, mut next) = (Vec::new(), json!({}));
        loop {
            let page = alice.post(&events, next).await;
            let numbers: Vec<_> = page["events"].as_array().expect("events").iter().map(number).collect();
            if numbers.is_empty() {
                break;
            }
            got.extend(numbers);
            next = json!({ "next_batch": page["next_batch"] });
        }
        assert_eq!(got, (0..120).collect::<Vec<_>>());
    }
    alice.fails(Method::POST, &format!("{PLACE}/FIRST/events"), Some(json!({})), 403, "M_FORBIDDEN").await;
    let bad = json!({ "next_batch": "nonsense" });
    alice.fails(Method::POST, &events, Some(bad), 400, "M_INVALID_PARAM").await;

    let login = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" },
        "password": password("alice"), "device_id": "SLEEPER",
    });
    alice.fails(Method::POST, "/v3/login", Some(login), 400, "M_INVALID_PARAM").await;

    let mut taken = new;
    taken["device_id"] = json!("FIRST");
    alice.fails(Method::PUT, PLACE, Some(taken), 400, "M_INVALID_PARAM").await;
    assert_eq!(alice.delete(PLACE, None).await, json!({ "device_id": "SLEEPER" }));
    alice.fails(Method::GET, PLACE, None, 404, "M_NOT_FOUND").await;
    alice.fails(Method::POST, &events, Some(json!({})), 404, "M_NOT_FOUND").await;
}

fn number(event: &Value) -> u64 {
    event["content"]["n"].as_u64().expect("n")
}
