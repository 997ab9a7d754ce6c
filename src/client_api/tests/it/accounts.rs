//! Registration, login, tokens, devices.

use ruma::exports::http::Method;
use serde_json::{Value, json};

use crate::world::{World, password};

fn login(name: &str) -> Value {
    json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": name }, "password": password("alice") })
}

#[tokio::test]
async fn the_first_account_needs_the_token_of_the_log() {
    let world = World::with(|_| ()).await;
    let token = world.users.bootstrap_token().await.unwrap().unwrap();
    let register = |name: &str| {
        let auth = json!({ "type": "m.login.registration_token", "token": token });
        json!({ "username": name, "password": password(name), "auth": auth })
    };
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(register("alice"))).await;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(register("bob"))).await;
    assert_eq!((status, answer["errcode"].as_str()), (403, Some("M_FORBIDDEN")));
}

#[tokio::test]
async fn names_are_checked_before_authentication() {
    let world = World::new().await;
    world.register("alice").await;
    for (name, errcode) in [("alice", "M_USER_IN_USE"), ("Ümlaut", "M_INVALID_USERNAME"), ("a b", "M_INVALID_USERNAME")]
    {
        let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(json!({ "username": name }))).await;
        assert_eq!((status, answer["errcode"].as_str()), (400, Some(errcode)), "{name}");
    }
    let weak = json!({ "username": "bob", "password": "x" });
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(weak)).await;
    assert_eq!((status, answer["errcode"].as_str()), (400, Some("M_WEAK_PASSWORD")));
}

#[tokio::test]
async fn a_name_is_picked_for_who_names_none() {
    let world = World::new().await;
    let body = json!({ "password": password("x"), "auth": { "type": "m.login.dummy" }, "inhibit_login": true });
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["user_id"].as_str().unwrap().ends_with(":example.org"));
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
}

#[tokio::test]
async fn logins() {
    let world = World::with(|config| {
        config.allow_registration = true;
        config.well_known.client = Some("https://matrix.example.org".to_owned());
    })
    .await;
    let alice = world.register("alice").await;
    let mut body = login("alice");
    body["device_id"] = json!("SECOND");
    body["initial_device_display_name"] = json!("Phone");
    let (status, answer) = world.ask(None, Method::POST, "/v3/login", Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["well_known"]["m.homeserver"]["base_url"], "https://matrix.example.org");
    assert_eq!((&answer["user_id"], &answer["device_id"]), (&json!(alice.id), &json!("SECOND")));
    let old_style = json!({ "type": "m.login.password", "user": "alice", "password": password("alice") });
    assert_eq!(world.ask(None, Method::POST, "/r0/login", Some(old_style)).await.0, 200);
    for (body, status, errcode) in [
        (login("bob"), 403, "M_FORBIDDEN"),
        (login("@alice:elsewhere.example"), 403, "M_FORBIDDEN"),
        (json!({ "type": "m.login.password", "password": "x" }), 400, "M_MISSING_PARAM"),
        (json!({ "type": "m.login.sso" }), 400, "M_UNKNOWN"),
        (json!({ "type": "m.login.token", "token": "x" }), 403, "M_FORBIDDEN"),
        (json!({}), 400, "M_BAD_JSON"),
    ] {
        let (got, answer) = world.ask(None, Method::POST, "/v3/login", Some(body)).await;
        assert_eq!((got, answer["errcode"].as_str().unwrap_or("")), (status, errcode), "{answer}");
    }
    let devices = alice.get("/v3/devices").await;
    assert_eq!(devices["devices"].as_array().unwrap().len(), 3);
    assert_eq!(alice.get("/v3/devices/SECOND").await["display_name"], "Phone");
    alice.put("/v3/devices/SECOND", json!({ "display_name": "Old phone" })).await;
    assert_eq!(alice.get("/v3/devices/SECOND").await["display_name"], "Old phone");
    alice.fails(Method::GET, "/v3/devices/NONE", None, (404, "M_NOT_FOUND")).await;
    alice.fails(Method::PUT, "/v3/devices/NONE", Some(json!({ "display_name": "x" })), (404, "M_NOT_FOUND")).await;
}

#[tokio::test]
async fn a_client_logs_in_another() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let identifier = json!({ "type": "m.id.user", "user": "alice" });
    let auth = json!({ "type": "m.login.password", "identifier": identifier, "password": password("alice") });
    let token = alice.post("/v1/login/get_token", json!({ "auth": auth })).await;
    assert!(token["expires_in_ms"].as_u64().unwrap() > 0);
    let body = json!({ "type": "m.login.token", "token": token["login_token"] });
    let (status, answer) = world.ask(None, Method::POST, "/v3/login", Some(body.clone())).await;
    assert_eq!((status, &answer["user_id"]), (200, &json!(alice.id)));
    assert_eq!(world.ask(None, Method::POST, "/v3/login", Some(body)).await.0, 403);
}

#[tokio::test]
async fn guests() {
    let world = World::with(|config| config.allow_guest_registration = true).await;
    let (status, answer) = world.ask(None, Method::POST, "/v3/register?kind=guest", Some(json!({}))).await;
    assert_eq!(status, 200, "{answer}");
    let token = answer["access_token"].as_str();
    let (_, who) = world.ask(token, Method::GET, "/v3/account/whoami", None).await;
    assert_eq!(who["is_guest"], true);
    let (status, answer) = world.ask(token, Method::POST, "/v3/createRoom", Some(json!({}))).await;
    assert_eq!((status, answer["errcode"].as_str()), (403, Some("M_GUEST_ACCESS_FORBIDDEN")));
    // What the specification lets guests do of encryption, and what it doesn't.
    let (status, counts) = world.ask(token, Method::POST, "/v3/keys/upload", Some(json!({}))).await;
    assert_eq!((status, counts), (200, json!({ "one_time_key_counts": { "signed_curve25519": 0 } })));
    for (method, path) in [
        (Method::GET, "/v3/keys/changes?from=s1_1_1_1_1_0_1&to=s1_1_1_1_1_0_1"),
        (Method::GET, "/v3/voip/turnServer"),
        (Method::GET, "/v3/room_keys/version"),
        (Method::POST, "/v3/keys/signatures/upload"),
    ] {
        let body = (method == Method::POST).then(|| json!({}));
        let (status, answer) = world.ask(token, method, path, body).await;
        assert_eq!((status, answer["errcode"].as_str()), (403, Some("M_GUEST_ACCESS_FORBIDDEN")), "{path}");
    }
    let closed = World::new().await;
    assert_eq!(closed.ask(None, Method::POST, "/v3/register?kind=guest", Some(json!({}))).await.0, 403);
}

#[tokio::test]
async fn locked_accounts_can_only_log_out() {
    let world = World::with(|config| config.allow_registration = true).await;
    let admin = world.register("admin").await;
    let alice = world.register("alice").await;
    let admin_id = <&ruma::UserId>::try_from(&*admin.id).unwrap();
    let alice_id = <&ruma::UserId>::try_from(&*alice.id).unwrap();
    world.users.set_admin(admin_id, true).await.unwrap();
    world.users.set_flag(admin_id, alice_id, users::AccountFlag::Suspended, true).await.unwrap();
    alice.fails(Method::POST, "/v3/createRoom", Some(json!({})), (403, "M_USER_SUSPENDED")).await;
    alice.get("/v3/sync").await;
    world.users.set_flag(admin_id, alice_id, users::AccountFlag::Locked, true).await.unwrap();
    let answer = alice.fails(Method::GET, "/v3/sync", None, (401, "M_USER_LOCKED")).await;
    assert_eq!(answer["soft_logout"], true);
    alice.post("/v3/logout", json!({})).await;
}

#[tokio::test]
async fn a_changed_password_logs_out_others() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let (_, second) = world.ask(None, Method::POST, "/v3/login", Some(login("alice"))).await;
    let identifier = json!({ "type": "m.id.user", "user": "alice" });
    let auth = json!({ "type": "m.login.password", "identifier": identifier, "password": password("alice") });
    let body = json!({ "new_password": "another secret", "auth": auth });
    alice.post("/v3/account/password", body).await;
    alice.get("/v3/account/whoami").await;
    let second = second["access_token"].as_str();
    assert_eq!(world.ask(second, Method::GET, "/v3/account/whoami", None).await.0, 401);
    assert_eq!(world.ask(None, Method::POST, "/v3/login", Some(login("alice"))).await.0, 403);
}

#[tokio::test]
async fn deactivation_ends_everything() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let bob = world.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.post(&format!("/v3/rooms/{room}/join"), json!({})).await;
    let identifier = json!({ "type": "m.id.user", "user": "alice" });
    let auth = json!({ "type": "m.login.password", "identifier": identifier, "password": password("alice") });
    let answer = alice.post("/v3/account/deactivate", json!({ "auth": auth })).await;
    assert_eq!(answer["id_server_unbind_result"], "success");
    alice.fails(Method::GET, "/v3/account/whoami", None, (401, "M_UNKNOWN_TOKEN")).await;
    world.flows.finish_jobs().await;
    let joined = bob.get(&format!("/v3/rooms/{room}/joined_members")).await;
    assert_eq!(joined["joined"].as_object().unwrap().keys().collect::<Vec<_>>(), [&bob.id]);
    let (status, answer) = world.ask(None, Method::POST, "/v3/login", Some(login("alice"))).await;
    assert_eq!(status, 403, "{answer}");
    let (status, answer) = world.ask(None, Method::GET, "/v3/register/available?username=alice", None).await;
    assert_eq!((status, answer["errcode"].as_str()), (400, Some("M_USER_IN_USE")));
}

#[tokio::test]
async fn a_registration_is_whole_or_refused() {
    let world = World::new().await;
    let auth = json!({ "type": "m.login.dummy" });
    let body = json!({ "username": "bob", "auth": auth });
    let (status, answer) = world.ask(None, Method::POST, "/v3/register", Some(body)).await;
    assert_eq!((status, answer["errcode"].as_str()), (400, Some("M_MISSING_PARAM")));
    let body = json!({ "username": "bob", "password": password("bob"), "auth": auth });
    let (status, answer) = world.ask(None, Method::POST, "/v3/register?kind=robot", Some(body)).await;
    assert_eq!((status, answer["errcode"].as_str()), (400, Some("M_INVALID_PARAM")));
}

#[tokio::test]
async fn what_is_unknown_of_a_device_is_null() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let (status, session) = world.ask(None, Method::POST, "/v3/login", Some(login("alice"))).await;
    assert_eq!(status, 200, "{session}");
    let device = session["device_id"].as_str().unwrap();
    let path = format!("/v3/devices/{device}");
    let expected = json!({
        "device_id": device, "display_name": "Unknown client", "last_seen_ip": null, "last_seen_ts": null,
    });
    assert_eq!(alice.get(&path).await, expected);
    let all = alice.get("/v3/devices").await;
    assert!(all["devices"].as_array().unwrap().contains(&expected), "{all}");
}

#[tokio::test]
async fn a_poll_ends_with_its_session() {
    let world = World::new().await;
    let admin = users::NewAccount {
        user_id: ruma::owned_user_id!("@admin:example.org"),
        password: None,
        kind: users::Kind::User,
        admin: true,
        origin: users::Origin::Administrator,
        display_name: None,
        login: None,
    };
    let admin = world.users.create_account(admin).await.unwrap().user_id;
    for (name, expected) in
        [("locked", "M_USER_LOCKED"), ("deactivated", "M_UNKNOWN_TOKEN"), ("logged-out", "M_UNKNOWN_TOKEN")]
    {
        let user = world.register(name).await;
        let id = ruma::UserId::parse(&user.id).unwrap();
        let since = user.get("/v3/sync?timeout=0").await["next_batch"].as_str().unwrap().to_owned();
        // Longer than any test waits.
        let path = format!("/v3/sync?timeout=250000&since={since}");
        let poll = user.fails(Method::GET, &path, None, (401, expected));
        let end = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            match name {
                "locked" => world.users.set_flag(&admin, &id, users::AccountFlag::Locked, true).await.unwrap(),
                "deactivated" => world.flows.deactivate(&id, users::Erasure::Keep).await.unwrap(),
                _ => world.users.delete_devices(&id, &["FIRST".into()]).await.unwrap(),
            }
        };
        tokio::join!(poll, end);
    }
}
