//! What a request's body may be, at every endpoint that takes one: when it may be missing, and what JSON nobody gets to store.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    ledger::{Row, rows},
    support::{Server, User, encode},
};

/// Operations whose body is the content itself, or has a field that is required: nothing is done without it.
const NEEDED: [&str; 31] = [
    "setAccountData",
    "setAccountDataPerRoom",
    "ban",
    "unban",
    "kick",
    "uploadCrossSigningSignatures",
    "deleteDevices",
    "setRoomAlias",
    "defineFilter",
    "postRoomKeysVersion",
    "putRoomKeysVersion",
    "putRoomKeyBySessionId",
    "putRoomKeysByRoomId",
    "putRoomKeys",
    "queryKeys",
    "claimKeys",
    "setRoomVisibilityOnDirectory",
    "login",
    "changePassword",
    "setPresence",
    "setProfileField",
    "setPushRule",
    "setPushRuleEnabled",
    "setPushRuleActions",
    "refresh",
    "sendMessage",
    "setRoomStateWithKey",
    "upgradeRoom",
    "sendToDevice",
    "setTyping",
    "searchUserDirectory",
];

/// Operations of [`NEEDED`] with user-interactive authentication.
const INTERACTIVE: [&str; 2] = ["deleteDevices", "changePassword"];

/// Operations that are whole without a body: all that is in it is optional, or there is none. With the status of a request without one.
const OPTIONAL: [(&str, u16); 31] = [
    ("deactivateAccount", 401),
    ("createContent", 200),
    ("createRoom", 200),
    ("uploadCrossSigningKeys", 400),
    ("updateDevice", 200),
    ("deleteDevice", 401),
    ("deleteRoomAlias", 404),
    ("inviteUser", 400),
    ("joinRoomById", 200),
    ("joinRoom", 200),
    ("deleteRoomKeysVersion", 404),
    ("deleteRoomKeyBySessionId", 404),
    ("deleteRoomKeysByRoomId", 404),
    ("deleteRoomKeys", 404),
    ("uploadKeys", 200),
    ("knockRoom", 403),
    ("leaveRoom", 200),
    ("forgetRoom", 400),
    ("queryPublicRooms", 200),
    ("generateLoginToken", 401),
    ("logout", 200),
    ("logout_all", 200),
    ("requestOpenIdToken", 200),
    ("deleteProfileField", 200),
    ("deletePushRule", 404),
    ("setReadMarker", 200),
    ("postReceipt", 200),
    ("redactEvent", 200),
    ("register", 401),
    ("setRoomTag", 200),
    ("deleteRoomTag", 200),
];

/// Files, which aren't JSON.
const FILES: [&str; 2] = ["uploadContent", "uploadContentToMXC"];

/// The served endpoints that may have a body.
fn with_bodies() -> Vec<Row<'static>> {
    rows().into_iter().filter(|row| row.is_served() && row.method != "GET" && !FILES.contains(&row.operation)).collect()
}

/// A user with a room and an event in it, to fill in paths with.
struct Place<'s> {
    user: User<'s>,
    room: String,
    event: String,
}

impl<'s> Place<'s> {
    async fn new(server: &'s Server, name: &str) -> Self {
        let user = server.register(name).await;
        let room = user.create_room(json!({})).await;
        let event = user.say(&room, "first", "hello").await;
        Self { user, room, event }
    }

    fn fill(&self, path: &str) -> String {
        let mut filled: Vec<String> = Vec::new();
        for part in path.split('/') {
            let value = match part {
                "{userId}" => &self.user.id,
                "{roomId}" | "{roomIdOrAlias}" => &self.room,
                "{eventId}" => &self.event,
                "{deviceId}" => &self.user.device,
                "{type}" | "{stateKey}" => "org.example.test",
                "{eventType}" => "m.room.test",
                "{txnId}" | "{sessionId}" | "{ruleId}" | "{version}" => "1",
                "{roomAlias}" => "#none:localhost",
                "{keyName}" => "displayname",
                "{kind}" => "content",
                "{tag}" => "m.favourite",
                "{receiptType}" => "m.read",
                other => {
                    assert!(!other.starts_with('{'), "{other} needs an example");
                    filled.push(other.to_owned());
                    continue;
                }
            };
            filled.push(encode(value));
        }
        let query =
            if path.ends_with("/room_keys/keys") || path.contains("/room_keys/keys/") { "?version=1" } else { "" };
        filled.join("/") + query
    }
}

async fn send(server: &Server, place: &Place<'_>, row: &Row<'_>, body: Option<&str>) -> (StatusCode, Value) {
    let method: Method = row.method.parse().expect("a method");
    let mut request = server.raw(method, &place.fill(row.path)).bearer_auth(&place.user.token);
    if let Some(body) = body {
        request = request.header("Content-Type", "application/json").body(body.to_owned());
    }
    let response = request.send().await.expect("an answer");
    let status = response.status();
    (status, response.json().await.unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_body_may_be_missing_where_nothing_in_it_is_needed_and_only_there() {
    let server = Server::start();
    let mut wrong = Vec::new();
    for (number, row) in with_bodies().iter().enumerate() {
        for (kind, body) in [("none", None), ("empty", Some(""))] {
            let place = Place::new(&server, &format!("user-{number}-{kind}")).await;
            let (status, answer) = send(&server, &place, row, body).await;
            let got = (status.as_u16(), answer["errcode"].as_str().unwrap_or(""));
            let is_right = if NEEDED.contains(&row.operation) {
                // Where parameters may have been given in an earlier request it is the field that is missing.
                got == (400, "M_NOT_JSON") || (INTERACTIVE.contains(&row.operation) && got == (400, "M_BAD_JSON"))
            } else {
                let expected = OPTIONAL.iter().find(|(operation, _)| *operation == row.operation);
                let (_, expected) = expected.unwrap_or_else(|| panic!("{}: does it need a body?", row.operation));
                got.0 == *expected && got.1 != "M_NOT_JSON"
            };
            if !is_right {
                wrong.push(format!("{} {kind}: {status} {answer}", row.operation));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_missing_body_changes_nothing() {
    let server = Server::start();
    let place = Place::new(&server, "alice").await;
    let data = format!("/v3/user/{}/account_data/org.example.test", encode(&place.user.id));
    place.user.put(&data, json!({ "precious": true })).await;
    for row in with_bodies().iter().filter(|row| NEEDED.contains(&row.operation)) {
        send(&server, &place, row, None).await;
    }
    assert_eq!(place.user.get(&data).await, json!({ "precious": true }));
    let room = encode(&place.room);
    assert_eq!(place.user.get(&format!("/v3/directory/list/room/{room}")).await["visibility"], "private");
    let messages = place.user.get(&format!("/v3/rooms/{room}/messages?dir=b")).await;
    assert_eq!(messages["chunk"][0]["event_id"], json!(place.event));
}

/// Strict parsers refuse a whole answer for these, and whoever stored one would have silenced others' clients.
#[tokio::test]
async fn json_that_some_parsers_refuse_is_stored_by_nobody() {
    let server = Server::start();
    let place = Place::new(&server, "mallory").await;
    for row in with_bodies() {
        for body in
            [r#"{"x": {"y": "\ud800"}}"#, r#"{"x": 1e999}"#, r#"{"x": [{"y": 1, "y": 2}]}"#, "{\"x\": \"\u{1}\"}"]
        {
            let (status, answer) = send(&server, &place, &row, Some(body)).await;
            let errcode = answer["errcode"].as_str().unwrap_or("");
            assert_eq!(status, StatusCode::BAD_REQUEST, "{} {body}: {answer}", row.operation);
            assert!(["M_NOT_JSON", "M_BAD_JSON"].contains(&errcode), "{} {body}: {answer}", row.operation);
        }
    }
}

#[tokio::test]
async fn nothing_that_one_user_sends_makes_an_answer_to_another_unreadable() {
    let server = Server::start();
    let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    mallory.join(&room).await;
    let since = alice.sync(None).await["next_batch"].as_str().expect("a token").to_owned();
    let at = format!("/v3/rooms/{}", encode(&room));
    for poison in [r#""\ud83d""#, "1e999", r#"{"a": 1, "\u0061": 2}"#] {
        let in_object = format!(r#"{{"x": {poison}}}"#);
        let signed = format!(r#"{{"key": {poison}}}"#);
        for (method, path, body) in [
            (
                Method::PUT,
                "/v3/sendToDevice/org.example/1".to_owned(),
                format!(r#"{{"messages": {{"{}": {{"*": {in_object}}}}}}}"#, alice.id),
            ),
            (
                Method::POST,
                "/v3/keys/upload".to_owned(),
                format!(r#"{{"one_time_keys": {{"org.example:A": {signed}}}}}"#),
            ),
            (
                Method::POST,
                "/v3/keys/upload".to_owned(),
                format!(r#"{{"fallback_keys": {{"org.example:A": {signed}}}}}"#),
            ),
            (
                Method::PUT,
                format!("/v3/profile/{}/org.example.field", encode(&mallory.id)),
                format!(r#"{{"org.example.field": {poison}}}"#),
            ),
            (Method::PUT, format!("{at}/send/org.example/1"), in_object.clone()),
            (Method::PUT, format!("{at}/state/org.example/x"), in_object.clone()),
            (Method::PUT, format!("/v3/user/{}/account_data/org.example", encode(&mallory.id)), in_object.clone()),
            (
                Method::POST,
                "/v3/room_keys/version".to_owned(),
                format!(r#"{{"algorithm": "x", "auth_data": {in_object}}}"#),
            ),
        ] {
            let request = server.raw(method, &format!("/_matrix/client{path}")).bearer_auth(&mallory.token);
            let status = request.body(body.clone()).send().await.expect("an answer").status();
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}");
        }
    }
    // What came is what was well-formed: nothing.
    let answer = alice.sync(Some(&since)).await;
    assert!(answer.get("to_device").is_none() && answer["rooms"].get("join").is_none(), "{answer}");
    let claim = json!({ "one_time_keys": { &mallory.id: { "FIRST": "org.example" } } });
    assert_eq!(alice.post("/v3/keys/claim", claim).await["one_time_keys"], json!({}));
    let profile = alice.get(&format!("/v3/profile/{}", encode(&mallory.id))).await;
    assert!(profile.get("org.example.field").is_none(), "{profile}");
}
