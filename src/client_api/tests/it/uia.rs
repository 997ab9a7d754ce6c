//! User-interactive authentication.

use client_api::Registration;
use ruma::exports::http::Method;
use serde_json::{Value, json};

use crate::world::{World, password};

fn by_password(name: &str, secret: &str, session: &Value) -> Value {
    let identifier = json!({ "type": "m.id.user", "user": name });
    let mut auth = json!({ "type": "m.login.password", "identifier": identifier, "password": secret });
    if !session.is_null() {
        auth["session"] = session.clone();
    }
    auth
}

#[tokio::test]
async fn a_request_without_auth_is_told_the_flows() {
    let world = World::new().await;
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(json!({ "username": "a" }))).await;
    assert_eq!(status, 401);
    assert_eq!(
        answer["flows"],
        json!([
            { "stages": ["m.login.dummy"] }, { "stages": ["m.login.registration_token"] },
        ])
    );
    assert_eq!(answer["params"], json!({}));
    assert!(answer["session"].is_string() && answer.get("errcode").is_none() && answer.get("completed").is_none());
    // Once there is an account no token is worth anything here, and nobody is asked for one.
    world.register("alice").await;
    let (_, answer) = world.ask(None, Method::POST, "/v3/register", Some(json!({ "username": "b" }))).await;
    assert_eq!(answer["flows"], json!([{ "stages": ["m.login.dummy"] }]));
}

#[tokio::test]
async fn a_wrong_password_can_be_tried_again() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let path = "/v3/devices/FIRST";
    let (status, first) = alice.ask(Method::DELETE, path, Some(json!({}))).await;
    assert_eq!((status, &first["flows"]), (401, &json!([{ "stages": ["m.login.password"] }])));
    let session = &first["session"];
    let wrong = json!({ "auth": by_password("alice", "wrong", session) });
    let (status, answer) = alice.ask(Method::DELETE, path, Some(wrong)).await;
    assert_eq!((status, answer["errcode"].as_str()), (401, Some("M_FORBIDDEN")));
    assert_eq!(&answer["session"], session);
    let right = json!({ "auth": by_password("@alice:example.org", &password("alice"), session) });
    let (status, answer) = alice.ask(Method::DELETE, path, Some(right)).await;
    assert_eq!((status, answer), (200, json!({})));
    alice.fails(Method::GET, "/v3/account/whoami", None, (401, "M_UNKNOWN_TOKEN")).await;
}

#[tokio::test]
async fn a_session_is_for_one_request_of_one_user() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let path = "/v3/delete_devices";
    let (_, first) = alice.ask(Method::POST, path, Some(json!({ "devices": ["A"] }))).await;
    let auth = by_password("alice", &password("alice"), &first["session"]);
    let other = json!({ "devices": ["FIRST"], "auth": auth });
    alice.fails(Method::POST, path, Some(other), (403, "M_FORBIDDEN")).await;
    let elsewhere = json!({ "auth": auth });
    alice.fails(Method::DELETE, "/v3/devices/A", Some(elsewhere), (403, "M_FORBIDDEN")).await;
    bob.fails(Method::POST, path, Some(json!({ "devices": ["A"], "auth": auth })), (403, "M_FORBIDDEN")).await;
    // Another version of the same path is the same operation.
    let same = json!({ "devices": ["A"], "auth": auth });
    let (status, answer) = alice.ask(Method::POST, "/r0/delete_devices", Some(same.clone())).await;
    assert_eq!(status, 200, "{answer}");
    // A session that was used up asks again.
    let (status, answer) = alice.ask(Method::POST, path, Some(same)).await;
    assert_eq!(status, 401);
    assert_ne!(answer["session"], first["session"]);
}

#[tokio::test]
async fn somebody_elses_password_is_no_proof() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    world.register("bob").await;
    let body = json!({ "auth": by_password("bob", &password("bob"), &Value::Null) });
    alice.fails(Method::DELETE, "/v3/devices/FIRST", Some(body), (401, "M_FORBIDDEN")).await;
}

#[tokio::test]
async fn sessions_expire() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let (_, first) = alice.ask(Method::DELETE, "/v3/devices/X", Some(json!({}))).await;
    world.pass(16 * 60 * 1000);
    let body = json!({ "auth": by_password("alice", &password("alice"), &first["session"]) });
    let (status, answer) = alice.ask(Method::DELETE, "/v3/devices/X", Some(body)).await;
    assert_eq!(status, 401);
    assert_ne!(answer["session"], first["session"]);
    // The new session works at once.
    let body = json!({ "auth": by_password("alice", &password("alice"), &answer["session"]) });
    let (status, answer) = alice.ask(Method::DELETE, "/v3/devices/X", Some(body)).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn registration_tokens_are_used_up() {
    let world = World::with(|config| config.registration = Registration::Token).await;
    let new = users::NewRegistrationToken { token: Some("once".to_owned()), uses_allowed: Some(1), expires_ms: None };
    world.users.create_registration_token(new).await.unwrap();
    let register = |name: &str, token: &str| {
        let auth = json!({ "type": "m.login.registration_token", "token": token });
        json!({ "username": name, "password": password(name), "auth": auth })
    };
    let path = "/v3/register";
    let dummy = json!({ "username": "a", "password": password("a"), "auth": { "type": "m.login.dummy" } });
    let (status, answer) = world.ask(None, Method::POST, path, Some(dummy)).await;
    assert_eq!((status, answer["errcode"].as_str()), (401, Some("M_FORBIDDEN")));
    let (status, _) = world.ask(None, Method::POST, path, Some(register("a", "nonsense"))).await;
    assert_eq!(status, 401);
    let (status, answer) = world.ask(None, Method::POST, path, Some(register("a", "once"))).await;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = world.ask(None, Method::POST, path, Some(register("b", "once"))).await;
    assert_eq!((status, answer["errcode"].as_str()), (401, Some("M_FORBIDDEN")));
}
