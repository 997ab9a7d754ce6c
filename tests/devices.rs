//! Device management.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Server, password};

async fn login(server: &Server, device: &str) -> serde_json::Value {
    let body = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" },
        "password": password("alice"), "device_id": device, "initial_device_display_name": format!("My {device}"),
    });
    let (status, answer) = server.request(Method::POST, "/_matrix/client/v3/login", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test]
async fn devices_are_listed_renamed_and_deleted() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let second = login(&server, "PHONE").await;
    login(&server, "TABLET").await;
    let devices = alice.get("/v3/devices").await;
    assert_eq!(devices["devices"].as_array().expect("devices").len(), 3, "{devices}");

    // Clients read no list in which a field is missing.
    for device in devices["devices"].as_array().expect("devices") {
        for field in ["device_id", "display_name", "last_seen_ip", "last_seen_ts"] {
            assert!(device.get(field).is_some(), "{field}: {device}");
        }
    }

    alice.put("/v3/devices/PHONE", json!({ "display_name": "Work phone" })).await;
    let phone = alice.get("/v3/devices/PHONE").await;
    assert_eq!((&phone["device_id"], &phone["display_name"]), (&json!("PHONE"), &json!("Work phone")));
    alice.fails(Method::GET, "/v3/devices/NONE", None, 404, "M_NOT_FOUND").await;
    alice.fails(Method::PUT, "/v3/devices/NONE", Some(json!({ "display_name": "x" })), 404, "M_NOT_FOUND").await;

    let auth = |session: &serde_json::Value| {
        json!({
            "type": "m.login.password", "session": session, "password": password("alice"),
            "identifier": { "type": "m.id.user", "user": "alice" },
        })
    };
    let (status, asked) = alice.call(Method::DELETE, "/_matrix/client/v3/devices/PHONE", Some(json!({}))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    alice.delete("/v3/devices/PHONE", Some(json!({ "auth": auth(&asked["session"]) }))).await;
    let whoami = "/_matrix/client/v3/account/whoami";
    let (status, _) = server.request_as(second["access_token"].as_str(), Method::GET, whoami, None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a deleted device's token is dead");

    let body = json!({ "devices": ["TABLET", "NONE"] });
    let (status, asked) = alice.call(Method::POST, "/_matrix/client/v3/delete_devices", Some(body.clone())).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let mut body = body;
    body["auth"] = auth(&asked["session"]);
    alice.post("/v3/delete_devices", body).await;
    let devices = alice.get("/v3/devices").await;
    assert_eq!(devices["devices"][0]["device_id"], "FIRST");
    assert_eq!(devices["devices"].as_array().expect("devices").len(), 1);
}

#[tokio::test]
async fn logging_in_to_a_known_device_replaces_its_token() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let again = login(&server, "FIRST").await;
    assert_eq!(again["device_id"], "FIRST");
    alice.fails(Method::GET, "/v3/account/whoami", None, 401, "M_UNKNOWN_TOKEN").await;
}
