//! Registration, log-in, tokens, passwords, deactivation.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{REGISTRATION_TOKEN, Server, User, password};

const REGISTER: &str = "/_matrix/client/v3/register";
const LOGIN: &str = "/_matrix/client/v3/login";

fn login_body(user: &str, password: &str) -> serde_json::Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
    })
}

#[tokio::test]
async fn registration_asks_for_the_token_and_gives_a_session() {
    let server = Server::start();
    let (status, answer) = server.request(Method::POST, REGISTER, Some(json!({ "username": "alice" }))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer["flows"], json!([{ "stages": ["m.login.registration_token"] }]));
    let session = answer["session"].as_str().expect("session").to_owned();

    let attempt = |token: &str, session: &str| {
        json!({
            "username": "alice", "password": password("alice"),
            "auth": { "type": "m.login.registration_token", "token": token, "session": session },
        })
    };
    let (status, answer) = server.request(Method::POST, REGISTER, Some(attempt("wrong", &session))).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_FORBIDDEN")), "{answer}");
    let (status, answer) =
        server.request(Method::POST, REGISTER, Some(attempt(REGISTRATION_TOKEN, "no such session"))).await;
    assert!(status.is_client_error(), "{answer}");
    let (status, answer) = server.request(Method::POST, REGISTER, Some(attempt(REGISTRATION_TOKEN, &session))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["user_id"], "@alice:localhost");
    assert!(answer["access_token"].is_string() && answer["device_id"].is_string());

    let (_, available) = server.request(Method::GET, &format!("{REGISTER}/available?username=bob"), None).await;
    assert_eq!(available["available"], true);
    let (status, taken) = server.request(Method::GET, &format!("{REGISTER}/available?username=alice"), None).await;
    assert_eq!((status, taken["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_USER_IN_USE")));
    let (status, bad) = server.request(Method::GET, &format!("{REGISTER}/available?username=A%20b"), None).await;
    assert_eq!((status, bad["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_INVALID_USERNAME")));

    let validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token=";
    let (_, answer) = server.request(Method::GET, &format!("{validity}{REGISTRATION_TOKEN}"), None).await;
    assert_eq!(answer["valid"], true);
    let (_, answer) = server.request(Method::GET, &format!("{validity}nonsense"), None).await;
    assert_eq!(answer["valid"], false);
}

/// Web clients ask every two seconds how far a registration is while somebody looks for the token.
#[tokio::test]
async fn a_sign_up_costs_one_unit_of_the_limit_of_registration() {
    let server = Server::start_with("[global.rate_limit]\nregistration = { per_second = 0.001, burst = 3 }");
    let register = async |body: &serde_json::Value| server.request(Method::POST, REGISTER, Some(body.clone())).await;
    for name in ["alice", "bob"] {
        let mut body = json!({ "username": name, "password": password(name) });
        let (status, answer) = register(&body).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
        let session = answer["session"].clone();
        body["auth"] = json!({ "session": session });
        for _ in 0..5 {
            assert_eq!(register(&body).await, (StatusCode::UNAUTHORIZED, answer.clone()));
        }
        body["auth"] = json!({ "type": "m.login.registration_token", "token": REGISTRATION_TOKEN, "session": session });
        let (status, answer) = register(&body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    // Asking after one's session tells nothing about names, and guesses count.
    let mut body = json!({ "username": "carol", "password": password("carol"), "auth": { "session": "none" } });
    let (status, answer) = register(&body).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_UNKNOWN")));
    body["auth"] = json!({ "type": "m.login.registration_token", "token": "guess" });
    let (status, answer) = register(&body).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_FORBIDDEN")));
    for token in ["guess", REGISTRATION_TOKEN] {
        body["auth"]["token"] = json!(token);
        let (status, answer) = register(&body).await;
        assert_eq!((status, answer["errcode"].as_str()), (StatusCode::TOO_MANY_REQUESTS, Some("M_LIMIT_EXCEEDED")));
    }
}

#[tokio::test]
async fn new_users_and_their_devices_have_names() {
    let server = Server::start_with("new_user_displayname_suffix = \"🌊\"");
    let alice = server.register("alice").await;
    assert_eq!(alice.get(&format!("/v3/profile/{}", alice.id)).await, json!({ "displayname": "alice 🌊" }));
    let body = login_body("alice", &password("alice"));
    let login = server.raw(Method::POST, LOGIN).header("User-Agent", "matrix-nio/0.25").json(&body);
    let answer: serde_json::Value = login.send().await.expect("an answer").json().await.expect("JSON");
    let device = answer["device_id"].as_str().expect("a device");
    assert_eq!(alice.get(&format!("/v3/devices/{device}")).await["display_name"], "matrix-nio");
    for device in alice.get("/v3/devices").await["devices"].as_array().expect("devices") {
        assert!(device["display_name"].is_string(), "{device}");
    }

    let server = Server::start_with("new_user_displayname = false");
    let bob = server.register("bob").await;
    assert_eq!(bob.get(&format!("/v3/profile/{}", bob.id)).await, json!({}));
}

#[tokio::test]
async fn a_token_in_whose_place_there_is_another_is_a_soft_logout() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let mut body = login_body("alice", &password("alice"));
    body["device_id"] = json!(alice.device);
    body["refresh_token"] = json!(true);
    let (_, first) = server.request(Method::POST, LOGIN, Some(body)).await;
    let refresh = json!({ "refresh_token": first["refresh_token"] });
    let path = "/_matrix/client/v3/refresh";
    let (status, second) = server.request(Method::POST, path, Some(refresh.clone())).await;
    assert_eq!(status, StatusCode::OK);
    let who = async |token: &serde_json::Value| {
        server.request_as(token.as_str(), Method::GET, "/_matrix/client/v3/account/whoami", None).await
    };
    let (status, _) = who(&second["access_token"]).await;
    assert_eq!(status, StatusCode::OK);
    let (status, answer) = server.request(Method::POST, path, Some(refresh)).await;
    assert_eq!((status, &answer["soft_logout"]), (StatusCode::UNAUTHORIZED, &json!(true)), "{answer}");
    for token in [&json!(alice.token), &first["access_token"]] {
        let (status, answer) = who(token).await;
        assert_eq!((status, &answer["soft_logout"]), (StatusCode::UNAUTHORIZED, &json!(true)), "{answer}");
    }
    server.request_as(second["access_token"].as_str(), Method::POST, "/_matrix/client/v3/logout", None).await;
    for token in [&json!(alice.token), &first["access_token"], &second["access_token"]] {
        let (status, answer) = who(token).await;
        assert_eq!((status, &answer["soft_logout"]), (StatusCode::UNAUTHORIZED, &json!(false)), "{answer}");
    }
}

#[tokio::test]
async fn accounts_have_no_third_party_ids() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let answer = alice.get("/v3/account/3pid").await;
    assert_eq!(answer, json!({ "threepids": [] }));
    let (status, _) = server.request(Method::GET, "/_matrix/client/v3/account/3pid", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn registration_without_login_gives_no_token() {
    let server = Server::start();
    let body = json!({ "username": "quiet", "password": password("quiet"), "inhibit_login": true });
    let (_, answer) = server.request(Method::POST, REGISTER, Some(body.clone())).await;
    let mut body = body;
    body["auth"] =
        json!({ "type": "m.login.registration_token", "token": REGISTRATION_TOKEN, "session": answer["session"] });
    let (status, answer) = server.request(Method::POST, REGISTER, Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["user_id"], "@quiet:localhost");
    assert!(answer.get("access_token").is_none());
}

#[tokio::test]
async fn open_registration_has_the_dummy_stage() {
    let server = Server::start_with(
        "yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse = true\n\
         allow_guest_registration = true",
    );
    // The test configuration always has a token; open registration is shown by guests here.
    let (status, answer) = server.request(Method::POST, &format!("{REGISTER}?kind=guest"), Some(json!({}))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let token = answer["access_token"].as_str().expect("token");
    let (_, who) = server.request_as(Some(token), Method::GET, "/_matrix/client/v3/account/whoami", None).await;
    assert_eq!(who["is_guest"], true);
    let (status, answer) =
        server.request_as(Some(token), Method::POST, "/_matrix/client/v3/createRoom", Some(json!({}))).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::FORBIDDEN, Some("M_GUEST_ACCESS_FORBIDDEN")));
}

#[tokio::test]
async fn log_in_and_out() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let (_, flows) = server.request(Method::GET, LOGIN, None).await;
    let types: Vec<_> = flows["flows"].as_array().expect("flows").iter().map(|flow| flow["type"].clone()).collect();
    assert!(types.contains(&json!("m.login.password")), "{flows}");

    for user in ["alice", "@alice:localhost"] {
        let (status, answer) = server.request(Method::POST, LOGIN, Some(login_body(user, &password("alice")))).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["user_id"], "@alice:localhost");
        assert_ne!(answer["device_id"], json!(alice.device));
    }
    for (user, secret) in [("alice", "wrong"), ("nobody", "wrong"), ("@alice:elsewhere.example", "wrong")] {
        let (status, answer) = server.request(Method::POST, LOGIN, Some(login_body(user, secret))).await;
        assert_eq!((status, answer["errcode"].as_str()), (StatusCode::FORBIDDEN, Some("M_FORBIDDEN")), "{user}");
    }

    let who = alice.get("/v3/account/whoami").await;
    assert_eq!((&who["user_id"], &who["device_id"]), (&json!(alice.id), &json!("FIRST")));
    assert_ne!(who["is_guest"], true);
    alice.post("/v3/logout", json!({})).await;
    alice.fails(Method::GET, "/v3/account/whoami", None, 401, "M_UNKNOWN_TOKEN").await;
}

#[tokio::test]
async fn log_out_everywhere_ends_every_token() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let (_, second) = server.request(Method::POST, LOGIN, Some(login_body("alice", &password("alice")))).await;
    alice.post("/v3/logout/all", json!({})).await;
    for token in [alice.token.as_str(), second["access_token"].as_str().expect("token")] {
        let (status, _) = server.request_as(Some(token), Method::GET, "/_matrix/client/v3/account/whoami", None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn refresh_tokens_rotate() {
    let server = Server::start();
    server.register("alice").await;
    let mut body = login_body("alice", &password("alice"));
    body["refresh_token"] = json!(true);
    let (_, login) = server.request(Method::POST, LOGIN, Some(body)).await;
    assert!(login["expires_in_ms"].as_u64().expect("expiry") > 0);
    let refresh = |token: &serde_json::Value| json!({ "refresh_token": token });
    let path = "/_matrix/client/v3/refresh";
    let (status, next) = server.request(Method::POST, path, Some(refresh(&login["refresh_token"]))).await;
    assert_eq!(status, StatusCode::OK, "{next}");
    let whoami = "/_matrix/client/v3/account/whoami";
    let (status, who) = server.request_as(next["access_token"].as_str(), Method::GET, whoami, None).await;
    assert_eq!((status, &who["device_id"]), (StatusCode::OK, &login["device_id"]));
    // Once the new tokens are used, the old ones are dead.
    let (status, answer) = server.request(Method::POST, path, Some(refresh(&login["refresh_token"]))).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_UNKNOWN_TOKEN")));
    let (status, _) = server.request_as(login["access_token"].as_str(), Method::GET, whoami, None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

/// Goes through user-interactive authentication with the password, which must be asked for.
async fn confirm(
    user: &User<'_>,
    name: &str,
    method: Method,
    path: &str,
    body: serde_json::Value,
) -> serde_json::Value {
    let url = format!("/_matrix/client{path}");
    let (status, answer) = user.call(method.clone(), &url, Some(body.clone())).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    assert_eq!(answer["flows"], json!([{ "stages": ["m.login.password"] }]));
    let mut body = body;
    body["auth"] = json!({
        "type": "m.login.password", "session": answer["session"], "password": password(name),
        "identifier": { "type": "m.id.user", "user": user.id },
    });
    user.ok(method, &url, Some(body)).await
}

#[tokio::test]
async fn a_changed_password_ends_other_sessions() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let (_, other) = server.request(Method::POST, LOGIN, Some(login_body("alice", &password("alice")))).await;
    confirm(&alice, "alice", Method::POST, "/v3/account/password", json!({ "new_password": "another good one" })).await;
    alice.get("/v3/account/whoami").await;
    let whoami = "/_matrix/client/v3/account/whoami";
    let (status, _) = server.request_as(other["access_token"].as_str(), Method::GET, whoami, None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = server.request(Method::POST, LOGIN, Some(login_body("alice", &password("alice")))).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = server.request(Method::POST, LOGIN, Some(login_body("alice", "another good one"))).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_deactivated_account_is_gone_from_its_rooms_and_cannot_log_in() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    confirm(&bob, "bob", Method::POST, "/v3/account/deactivate", json!({})).await;
    bob.fails(Method::GET, "/v3/account/whoami", None, 401, "M_UNKNOWN_TOKEN").await;
    let (status, answer) = server.request(Method::POST, LOGIN, Some(login_body("bob", &password("bob")))).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::FORBIDDEN, Some("M_USER_DEACTIVATED")));
    let since = alice.sync(None).await["next_batch"].as_str().expect("token").to_owned();
    let joined = alice.get(&format!("/v3/rooms/{room}/joined_members")).await;
    if joined["joined"].get(&bob.id).is_some() {
        alice
            .sync_until(&since, |answer| {
                answer.to_string().contains("\"membership\":\"leave\"") && answer.to_string().contains("@bob:localhost")
            })
            .await;
    }
    let (status, answer) = server.request(Method::GET, &format!("{REGISTER}/available?username=bob"), None).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_USER_IN_USE")));
}

#[tokio::test]
async fn erased_users_are_hidden_from_those_who_come_later() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    bob.say(&room, "1", "a secret of the deep").await;
    confirm(&bob, "bob", Method::POST, "/v3/account/deactivate", json!({ "erase": true })).await;
    carol.join(&room).await;
    let history = format!("/v3/rooms/{room}/messages?dir=b&limit=50");
    assert!(alice.get(&history).await["chunk"].to_string().contains("a secret of the deep"), "who saw it still does");
    assert!(!carol.get(&history).await["chunk"].to_string().contains("a secret of the deep"));
    assert!(!carol.sync(None).await.to_string().contains("a secret of the deep"));
}

#[tokio::test]
async fn tokens_are_taken_from_header_or_query() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let path = format!("/_matrix/client/v3/account/whoami?access_token={}", alice.token);
    let (status, _) = server.request(Method::GET, &path, None).await;
    assert_eq!(status, StatusCode::OK);
    let (status, answer) = server.request(Method::GET, "/_matrix/client/v3/account/whoami", None).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_MISSING_TOKEN")));
    let (status, answer) =
        server.request_as(Some("made up"), Method::GET, "/_matrix/client/v3/account/whoami", None).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_UNKNOWN_TOKEN")));
}

#[tokio::test]
async fn a_login_token_logs_another_device_in() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let made = confirm(&alice, "alice", Method::POST, "/v1/login/get_token", json!({})).await;
    let body = json!({ "type": "m.login.token", "token": made["login_token"] });
    let (status, answer) = server.request(Method::POST, LOGIN, Some(body.clone())).await;
    assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!(alice.id)), "{answer}");
    let (status, _) = server.request(Method::POST, LOGIN, Some(body)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "it works once");
}
