//! User-interactive authentication.

use client_api::Config;
use event::Secret;
use haima_http::limit;
use ruma::exports::http::Method;
use serde_json::{Value, json};

use crate::world::{World, password};

/// Who registers needs a token.
fn by_token(config: &mut Config) {
    config.allow_registration = true;
    config.registration_token = Some(Secret::new("everybody's"));
}

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
    assert!(answer["session"].is_string() && answer.get("errcode").is_none());
    assert_eq!(answer["completed"], json!([]));
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
    // Who didn't get the answer asks again, and gets it.
    let (status, answer) = alice.ask(Method::POST, path, Some(same)).await;
    assert_eq!((status, answer), (200, json!({})));
    let (status, answer) =
        alice.ask(Method::POST, path, Some(json!({ "auth": { "session": first["session"] } }))).await;
    assert_eq!((status, answer), (200, json!({})));
}

#[tokio::test]
async fn a_login_token_is_made_once_however_often_it_is_asked_for() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let path = "/v1/login/get_token";
    let body = json!({ "auth": by_password("alice", &password("alice"), &Value::Null) });
    let (_, first) = alice.ask(Method::POST, path, Some(json!({}))).await;
    let again = json!({ "auth": by_password("alice", &password("alice"), &first["session"]) });
    let token = alice.post(path, again.clone()).await;
    assert!(token["login_token"].is_string() && token["expires_in_ms"].is_u64());
    assert_eq!(alice.post(path, again).await, token);
    assert_ne!(alice.post(path, body).await, token);
}

#[tokio::test]
async fn what_was_said_first_need_not_be_repeated() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let path = "/v3/delete_devices";
    let (_, first) = alice.ask(Method::POST, path, Some(json!({ "devices": ["FIRST"] }))).await;
    let auth = by_password("alice", &password("alice"), &first["session"]);
    alice.fails(Method::POST, path, Some(json!({ "devices": ["A"], "auth": auth })), (403, "M_FORBIDDEN")).await;
    alice.post(path, json!({ "auth": auth })).await;
    alice.fails(Method::GET, "/v3/account/whoami", None, (401, "M_UNKNOWN_TOKEN")).await;
    // Nobody else gets to say it.
    let bob = world.register("bob").await;
    bob.fails(Method::POST, path, Some(json!({ "auth": auth })), (400, "M_BAD_JSON")).await;

    let form = json!({ "username": "carol", "password": password("carol"), "device_id": "PHONE" });
    let (_, first) = world.ask(None, Method::POST, "/v3/register", Some(form)).await;
    let rest = json!({ "auth": { "type": "m.login.dummy", "session": first["session"] } });
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(rest)).await;
    assert_eq!(
        (status, &answer["user_id"], &answer["device_id"]),
        (200, &json!("@carol:example.org"), &json!("PHONE"))
    );
}

#[tokio::test]
async fn what_would_take_much_memory_has_to_be_repeated() {
    let world = World::new().await;
    let mut form = json!({ "username": "carol", "password": password("carol") });
    for field in 0..1_000 {
        form[format!("{field:x}")] = json!(1);
    }
    let (_, first) = world.ask(None, Method::POST, "/v3/register", Some(form)).await;
    let rest =
        json!({ "password": password("carol"), "auth": { "type": "m.login.dummy", "session": first["session"] } });
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(rest)).await;
    assert_eq!(status, 200, "{answer}");
    assert_ne!(answer["user_id"], json!("@carol:example.org"));
}

#[tokio::test]
async fn who_has_guessed_too_often_is_not_told_what_is_right() {
    let limits = limit::Config { registration: limit::Rate { per_second: 0.000_1, burst: 3 }, ..limit::Config::off() };
    let world = World::with_limits(limits, by_token).await;
    let new = users::NewRegistrationToken { token: Some("right".to_owned()), uses_allowed: None, expires_ms: None };
    world.users.create_registration_token(new).await.unwrap();
    let ask = async |name: &str, auth: Value| {
        let form = json!({ "username": name, "password": password(name), "auth": auth });
        world.ask(None, Method::POST, "/v3/register", Some(form)).await
    };
    let guess = |token: &str, session: &Value| json!({ "type": "m.login.registration_token", "token": token, "session": session });
    // What is right counts once, for the account that is made.
    let (_, first) = ask("a", json!(null)).await;
    assert_eq!(ask("a", guess("right", &first["session"])).await.0, 200);
    let (_, begun) = ask("b", json!(null)).await;
    let session = &begun["session"];
    for (token, status) in [("wrong", 401), ("wrong", 401), ("wrong", 429), ("right", 429)] {
        assert_eq!(ask("b", guess(token, session)).await.0, status);
    }
    let (_, answer) = ask("b", json!({ "session": session })).await;
    assert_eq!(answer["completed"], json!([]));
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_can_be_repeated() {
    let world = World::new().await;
    let form = json!({ "username": "alice", "password": password("alice") });
    let (_, first) = world.ask(None, Method::POST, "/v3/register", Some(form.clone())).await;
    let mut done = form.clone();
    done["auth"] = json!({ "type": "m.login.dummy", "session": first["session"] });
    let (status, lost) = world.ask(None, Method::POST, "/v3/register", Some(done.clone())).await;
    assert_eq!(status, 200, "{lost}");
    let (status, got) = world.ask(None, Method::POST, "/v3/register", Some(done.clone())).await;
    assert_eq!((status, &got), (200, &lost));
    let token = got["access_token"].as_str();
    let (status, _) = world.ask(token, Method::GET, "/v3/account/whoami", None).await;
    assert_eq!(status, 200);
    // It is the answer to this form alone.
    for (field, value) in [("username", "mallory"), ("password", "something else")] {
        let mut other = done.clone();
        other[field] = json!(value);
        let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(other)).await;
        assert_eq!((status, answer["errcode"].as_str()), (401, Some("M_UNKNOWN")), "{field}");
        assert!(answer.get("access_token").is_none());
    }
}

#[tokio::test]
async fn a_form_that_is_wrong_is_mended_without_another_step() {
    let world = World::with(by_token).await;
    let new = users::NewRegistrationToken { token: Some("once".to_owned()), uses_allowed: Some(1), expires_ms: None };
    world.users.create_registration_token(new).await.unwrap();
    world
        .users
        .create_registration_token(users::NewRegistrationToken {
            token: Some("other".to_owned()),
            uses_allowed: None,
            expires_ms: None,
        })
        .await
        .unwrap();
    let auth = |session: &Value, token: &str| json!({ "type": "m.login.registration_token", "token": token, "session": session });
    let form = |name: &str| json!({ "username": name, "password": password(name) });
    let (_, of_a) = world.ask(None, Method::POST, "/v3/register", Some(form("a"))).await;
    let (_, of_b) = world.ask(None, Method::POST, "/v3/register", Some(form("a"))).await;
    let mut body = form("a");
    body["auth"] = auth(&of_a["session"], "once");
    let (status, _) = world.ask(None, Method::POST, "/v3/register", Some(body)).await;
    assert_eq!(status, 200);
    // Somebody else was faster.
    let mut body = form("a");
    body["auth"] = auth(&of_b["session"], "other");
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(body)).await;
    assert_eq!((status, answer["errcode"].as_str()), (400, Some("M_USER_IN_USE")));
    let mut body = form("b");
    body["auth"] = auth(&of_b["session"], "other");
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(body)).await;
    assert_eq!((status, &answer["user_id"]), (200, &json!("@b:example.org")));
}

#[tokio::test]
async fn a_step_that_cannot_be_read_is_told_the_flows() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let path = "/v3/devices/FIRST";
    let secret = password("alice");
    let identifier = |value: Value| json!({ "type": "m.login.password", "identifier": value, "password": secret });
    for auth in [
        json!("nonsense"),
        json!({ "type": 7 }),
        json!({ "type": "m.login.nonsense" }),
        json!({ "type": "m.login.password" }),
        json!({ "type": "m.login.password", "password": 7, "user": "alice" }),
        identifier(json!("alice")),
        identifier(json!({ "type": "m.id.phone", "country": "GB", "phone": "1" })),
        identifier(json!({ "type": "m.id.user", "user": "no such user \u{0}" })),
    ] {
        let (status, answer) = alice.ask(Method::DELETE, path, Some(json!({ "auth": auth }))).await;
        assert_eq!(status, 401, "{auth}: {answer}");
        assert_eq!(answer["flows"], json!([{ "stages": ["m.login.password"] }]), "{auth}");
        assert!(answer["session"].is_string());
    }
    // As clients wrote it before there were identifiers.
    let old = json!({ "type": "m.login.password", "user": "alice", "password": secret });
    let (status, answer) = alice.ask(Method::DELETE, path, Some(json!({ "auth": old }))).await;
    assert_eq!((status, answer), (200, json!({})));
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
    let world = World::with(by_token).await;
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
