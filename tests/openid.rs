//! OpenID tokens, and credentials for TURN servers.

use reqwest::Method;
use serde_json::json;

use crate::support::{Server, encode};

#[tokio::test]
async fn a_token_is_made_for_oneself_alone() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = |user: &str| format!("/v3/user/{}/openid/request_token", encode(user));
    let token = alice.post(&path(&alice.id), json!({})).await;
    let told = (&token["token_type"], &token["matrix_server_name"], &token["expires_in"]);
    assert_eq!(told, (&json!("Bearer"), &json!("localhost"), &json!(3600)));
    let other = alice.post(&path(&alice.id), json!({})).await;
    assert_ne!(token["access_token"], other["access_token"]);
    alice.fails(Method::POST, &path(&bob.id), Some(json!({})), 403, "M_FORBIDDEN").await;
    // It is no access token.
    let whoami = "/_matrix/client/v3/account/whoami";
    let (status, answer) = server.request_as(token["access_token"].as_str(), Method::GET, whoami, None).await;
    assert_eq!((status.as_u16(), &answer["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
}

#[tokio::test]
async fn a_turn_server_is_told_with_credentials() {
    let uris = r#"turn_uris = ["turn:turn.example.org?transport=udp", "turns:turn.example.org"]"#;
    let server = Server::start_with(&format!("{uris}\nturn_secret = \"north\"\nturn_ttl = 600"));
    let alice = server.register("alice").await;
    let turn = alice.get("/v3/voip/turnServer").await;
    assert_eq!(turn["uris"], json!(["turn:turn.example.org?transport=udp", "turns:turn.example.org"]));
    assert_eq!(turn["ttl"], 600);
    let username = turn["username"].as_str().expect("username");
    assert!(username.ends_with(&format!(":{}", alice.id)), "{username}");
    // 20 bytes as base64.
    assert_eq!(turn["password"].as_str().expect("password").len(), 28);

    let server = Server::start_with(&format!("{uris}\nturn_username = \"all\"\nturn_password = \"secret\""));
    let alice = server.register("alice").await;
    let turn = alice.get("/v3/voip/turnServer").await;
    assert_eq!((&turn["username"], &turn["password"]), (&json!("all"), &json!("secret")));
    assert_eq!(turn["ttl"], 86_400);
}
