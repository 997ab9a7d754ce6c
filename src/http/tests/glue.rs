//! The glue as an API crate uses it: requests in, answers out, without a network.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, extract::State};
use futures_util::{FutureExt, future::BoxFuture};
use haima_http::{
    AnyAccount, Anyone, ApiError, ApiResult, Authenticate, CancellationToken, Class, Config, Content, Front, Gate,
    Guest, Interactive, Json, JsonBytes, Networks, Origin, Peer, Routes, Session, Unsuspended,
    limit::{self, Limits, Rate},
};
use http_body_util::BodyExt;
use ruma::{
    api::client::{
        account::whoami, keys::get_keys, membership::join_room_by_id, message::send_message_event,
        profile::get_display_name, state::send_state_event, typing::create_typing_event,
    },
    device_id,
    exports::http::{Method, Request, StatusCode},
    owned_event_id, user_id,
};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Accounts by token: `alice`, `guest`, `locked` and `suspended`.
struct Tokens;

impl Authenticate for Tokens {
    fn authenticate<'a>(&'a self, token: &'a str, _: &'a Origin) -> BoxFuture<'a, Result<AnyAccount, ApiError>> {
        let account = AnyAccount {
            user: user_id!("@alice:example.org").to_owned(),
            device: device_id!("PHONE").to_owned(),
            guest: token == "guest",
            admin: false,
            locked: token == "locked",
            suspended: token == "suspended",
            known_at: 0,
        };
        let known = ["alice", "guest", "locked", "suspended"].contains(&token);
        Box::pin(async move { if known { Ok(account) } else { Err(ApiError::unknown_token(false)) } })
    }
}

async fn who(session: Session, _: whoami::v3::Request) -> ApiResult<whoami::v3::Response> {
    Ok(whoami::v3::Response::new(session.user.clone(), session.guest))
}

async fn display_name(_: Anyone, req: get_display_name::v3::Request) -> ApiResult<Json<Value>> {
    Ok(Json(json!({ "user": req.user_id, "filler": "x".repeat(5_000) })))
}

async fn join(_: Unsuspended<Guest>, req: join_room_by_id::v3::Request) -> ApiResult<join_room_by_id::v3::Response> {
    Ok(join_room_by_id::v3::Response::new(req.room_id))
}

async fn state(_: Session, req: Interactive<send_state_event::v3::Request>) -> ApiResult<Json<Value>> {
    Ok(Json(json!({ "key": req.request()?.state_key, "print": req.fingerprint().parameters.to_vec() })))
}

async fn message(
    _: Session,
    Content(_): Content<send_message_event::v3::Request>,
) -> ApiResult<send_message_event::v3::Response> {
    Ok(send_message_event::v3::Response::new(owned_event_id!("$a")))
}

async fn typing(_: Session, _: create_typing_event::v3::Request) -> ApiResult<create_typing_event::v3::Response> {
    Ok(create_typing_event::v3::Response::new())
}

async fn fail(_: Anyone, _: ruma::api::client::discovery::get_supported_versions::Request) -> ApiResult<Json<()>> {
    panic!("a bug")
}

fn front(rate_limit: limit::Config) -> Front {
    let config = Config { rate_limit, upload_bytes_max: 1_000, ..Config::default() };
    let gate = Arc::new(Gate::new(config, Box::new(Tokens), CancellationToken::new()));
    let routes = Routes::new((), gate.clone())
        .on("getTokenOwner", Class::Read, who)
        .on("getDisplayName", Class::Read, display_name)
        .on("joinRoomById", Class::Join, join)
        .on("setRoomStateWithKey", Class::Message, state)
        .on("sendMessage", Class::Message, message)
        .on("setTyping", Class::Write, typing)
        .on("getVersions", Class::Free, fail);
    let (router, _) = routes.finish();
    Front::new(&gate, router)
}

async fn send(front: &Front, method: Method, uri: &str, token: Option<&str>, body: &str) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(uri);
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let response = front.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

#[track_caller]
fn check((status, body): (StatusCode, Value), expected: u16, errcode: &str) {
    assert_eq!((status.as_u16(), body["errcode"].as_str().unwrap_or("")), (expected, errcode), "{body}");
}

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const JOIN: &str = "/_matrix/client/v3/rooms/!a:example.org/join";
const STATE: &str = "/_matrix/client/v3/rooms/!a:example.org/state/m.room.name/";

#[tokio::test]
async fn a_token_is_needed_and_must_be_known() {
    let front = front(limit::Config::off());
    check(send(&front, Method::GET, WHOAMI, None, "").await, 401, "M_MISSING_TOKEN");
    check(send(&front, Method::GET, WHOAMI, Some("nobody"), "").await, 401, "M_UNKNOWN_TOKEN");
    check(send(&front, Method::GET, WHOAMI, Some("alice"), "").await, 200, "");
    let in_query = format!("{WHOAMI}?a=b&access_token=alice");
    check(send(&front, Method::GET, &in_query, None, "").await, 200, "");
    check(send(&front, Method::GET, "/_matrix/client/r0/account/whoami", Some("alice"), "").await, 200, "");
}

#[tokio::test]
async fn who_may_call_is_the_callers_type() {
    let front = front(limit::Config::off());
    check(send(&front, Method::GET, WHOAMI, Some("guest"), "").await, 403, "M_GUEST_ACCESS_FORBIDDEN");
    check(send(&front, Method::POST, JOIN, Some("guest"), "{}").await, 200, "");
    check(send(&front, Method::POST, JOIN, Some("suspended"), "{}").await, 403, "M_USER_SUSPENDED");
    let (status, body) = send(&front, Method::POST, JOIN, Some("locked"), "{}").await;
    assert_eq!(body["soft_logout"], true);
    check((status, body), 401, "M_USER_LOCKED");
}

#[tokio::test]
async fn bodies_are_checked() {
    let front = front(limit::Config::off());
    for (body, status, errcode) in [
        ("", 200, ""),
        ("{}", 200, ""),
        ("{", 400, "M_NOT_JSON"),
        ("{\"reason\": 1, ", 400, "M_NOT_JSON"),
        ("nonsense", 400, "M_NOT_JSON"),
        ("{\"reason\": 1}", 400, "M_BAD_JSON"),
        ("[]", 400, "M_BAD_JSON"),
    ] {
        check(send(&front, Method::POST, JOIN, Some("alice"), body).await, status, errcode);
    }
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    let deep = format!("{{\"x\":{deep}}}");
    check(send(&front, Method::POST, JOIN, Some("alice"), &deep).await, 400, "M_BAD_JSON");
    let large = format!("{{\"reason\": \"{}\"}}", "x".repeat(2_000));
    check(send(&front, Method::POST, JOIN, Some("alice"), &large).await, 413, "M_TOO_LARGE");
}

#[tokio::test]
async fn a_body_may_be_missing_where_it_is_not_the_content_and_no_field_is_required() {
    let front = front(limit::Config::off());
    check(send(&front, Method::POST, JOIN, Some("alice"), "").await, 200, "");
    let name = "/_matrix/client/v3/rooms/!a:example.org/send/m.room.message/1";
    check(send(&front, Method::PUT, name, Some("alice"), "").await, 400, "M_NOT_JSON");
    check(send(&front, Method::PUT, name, Some("alice"), "{}").await, 200, "");
    let typing = "/_matrix/client/v3/rooms/!a:example.org/typing/@alice:example.org";
    check(send(&front, Method::PUT, typing, Some("alice"), "").await, 400, "M_NOT_JSON");
    check(send(&front, Method::PUT, typing, Some("alice"), "{}").await, 400, "M_BAD_JSON");
}

#[tokio::test]
async fn invalid_utf8_is_not_json() {
    let front = front(limit::Config::off());
    let request = Request::builder().method(Method::POST).uri(JOIN).header("Authorization", "Bearer alice");
    let request = request.body(Body::from(b"{\"reason\": \"\xff\"}".to_vec())).unwrap();
    let response = front.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.windows(10).any(|w| w == b"M_NOT_JSON"));
}

#[tokio::test]
async fn path_arguments_are_decoded_and_checked() {
    let front = front(limit::Config::off());
    let path = |user: &str| format!("/_matrix/client/v3/profile/{user}/displayname");
    let (status, body) = send(&front, Method::GET, &path("%40bob%3Aexample.org"), None, "").await;
    assert_eq!((status, body["user"].as_str()), (StatusCode::OK, Some("@bob:example.org")));
    check(send(&front, Method::GET, &path("bob"), None, "").await, 400, "M_INVALID_PARAM");
    check(send(&front, Method::GET, &path("%ff"), None, "").await, 400, "M_INVALID_PARAM");
    let long = format!("@{}:example.org", "a".repeat(255));
    check(send(&front, Method::GET, &path(&long), None, "").await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let front = front(limit::Config::off());
    check(send(&front, Method::GET, "/_matrix/client/v3/nonsense", None, "").await, 404, "M_UNRECOGNIZED");
    check(send(&front, Method::GET, "/", None, "").await, 404, "M_UNRECOGNIZED");
    check(send(&front, Method::PATCH, WHOAMI, Some("alice"), "").await, 405, "M_UNRECOGNIZED");
    // A pre-flight request runs nothing, whatever it is for.
    let (status, _) = send(&front, Method::OPTIONS, JOIN, None, "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_panic_is_answered() {
    let front = front(limit::Config::off());
    check(send(&front, Method::GET, "/_matrix/client/versions", None, "").await, 500, "M_UNKNOWN");
}

#[tokio::test]
async fn limits_refuse_and_say_for_how_long() {
    let limits = limit::Config { join: Rate { per_second: 0.5, burst: 2 }, ..limit::Config::off() };
    let front = front(limits);
    for _ in 0..2 {
        check(send(&front, Method::POST, JOIN, Some("alice"), "{}").await, 200, "");
    }
    let request = Request::builder().method(Method::POST).uri(JOIN).header("Authorization", "Bearer alice");
    let response = front.clone().oneshot(request.body(Body::from("{}")).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(body["errcode"], "M_LIMIT_EXCEEDED");
    assert_eq!(seconds, body["retry_after_ms"].as_u64().unwrap().div_ceil(1000));
    // Other classes are counted on their own.
    check(send(&front, Method::GET, WHOAMI, Some("alice"), "").await, 200, "");
}

#[tokio::test]
async fn who_needs_no_token_is_counted_by_it_all_the_same() {
    let front = front(limit::Config { anonymous: Rate { per_second: 0.5, burst: 1 }, ..limit::Config::off() });
    let uri = "/_matrix/client/v3/profile/@bob:example.org/displayname";
    for (token, expected) in [(None, 200), (None, 429), (Some("nobody"), 429), (Some("alice"), 200)] {
        let (status, body) = send(&front, Method::GET, uri, token, "").await;
        assert_eq!(status.as_u16(), expected, "{body}");
    }
}

#[tokio::test]
async fn a_fingerprint_leaves_out_auth_and_the_order_of_fields() {
    let front = front(limit::Config::off());
    let mut prints = Vec::new();
    for body in [r#"{"a":1,"b":2}"#, r#"{"b":2,"auth":{"session":"x"},"a":1}"#, r#"{"a":1,"b":3}"#] {
        let path = format!("{STATE}x");
        let (status, body) = send(&front, Method::PUT, &path, Some("alice"), body).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        prints.push(body["print"].clone());
    }
    assert_eq!(prints[0], prints[1]);
    assert_ne!(prints[0], prints[2]);
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_ask() {
    let front = front(limit::Config::off());
    let uri = "/_matrix/client/v3/profile/@bob:example.org/displayname";
    let request = Request::builder().uri(uri).header("Accept-Encoding", "gzip").body(Body::empty()).unwrap();
    let response = front.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
    let response = front.oneshot(request).await.unwrap();
    assert!(!response.headers().contains_key("content-encoding"));
}

#[tokio::test(start_paused = true)]
async fn buckets_fill_again_and_addresses_are_counted_apart() {
    let config = limit::Config { login: Rate { per_second: 1.0, burst: 1 }, ..limit::Config::off() };
    let limits = Limits::new(&config);
    let first: IpAddr = [192, 0, 2, 1].into();
    let second: IpAddr = [192, 0, 2, 2].into();
    assert!(limits.check_address(Class::Login, first).is_ok());
    assert!(limits.check_address(Class::Login, first).is_err());
    assert!(limits.check_address(Class::Login, second).is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(limits.check_address(Class::Login, first).is_ok());
    // One customer has a network of 64 bits.
    assert!(limits.check_address(Class::Login, "2001:db8::1".parse().unwrap()).is_ok());
    assert!(limits.check_address(Class::Login, "2001:db8::2".parse().unwrap()).is_err());
    assert!(limits.check_address(Class::Login, "2001:db8:0:1::1".parse().unwrap()).is_ok());
}

#[tokio::test]
async fn who_guesses_tokens_is_limited_and_others_are_not() {
    let front = front(limit::Config { anonymous: Rate { per_second: 0.001, burst: 3 }, ..limit::Config::off() });
    for _ in 0..3 {
        check(send(&front, Method::GET, WHOAMI, Some("nobody"), "").await, 401, "M_UNKNOWN_TOKEN");
    }
    check(send(&front, Method::GET, WHOAMI, Some("nobody"), "").await, 429, "M_LIMIT_EXCEEDED");
    check(send(&front, Method::GET, WHOAMI, Some("alice"), "").await, 200, "");
}

/// Tells when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn reading_ends_when_its_client_goes_away_whatever_the_method_and_writing_does_not() {
    async fn hang(State(flag): State<Arc<AtomicBool>>, _: Session, _: get_keys::v3::Request) -> ApiResult<Json<()>> {
        let _dropped = Dropped(flag);
        std::future::pending().await
    }
    for (class, ends) in [(Class::Read, true), (Class::Bulk, true), (Class::Search, true), (Class::Write, false)] {
        let config = Config { rate_limit: limit::Config::off(), ..Config::default() };
        let gate = Arc::new(Gate::new(config, Box::new(Tokens), CancellationToken::new()));
        let flag = Arc::new(AtomicBool::new(false));
        let (router, _) = Routes::new(flag.clone(), gate.clone()).on("queryKeys", class, hang).finish();
        let request = Request::builder().method(Method::POST).uri("/_matrix/client/v3/keys/query");
        let request = request.header("Authorization", "Bearer alice").body(Body::from("{\"device_keys\":{}}")).unwrap();
        let mut call = Box::pin(Front::new(&gate, router).oneshot(request));
        assert!(call.as_mut().now_or_never().is_none());
        // What was spawned runs on, if it was.
        tokio::task::yield_now().await;
        drop(call);
        assert_eq!(flag.load(Ordering::Relaxed), ends, "{class:?}");
    }
}

#[tokio::test]
async fn a_large_answer_costs_more_than_a_small_one() {
    async fn keys(_: Session, _: get_keys::v3::Request) -> ApiResult<JsonBytes> {
        Ok(JsonBytes(vec![b' '; 1 << 20].into()))
    }
    let rate_limit = limit::Config { read: Rate { per_second: 0.001, burst: 40 }, ..limit::Config::off() };
    let config = Config { rate_limit, ..Config::default() };
    let gate = Arc::new(Gate::new(config, Box::new(Tokens), CancellationToken::new()));
    let routes = Routes::new((), gate.clone()).on("queryKeys", Class::Bulk, keys);
    let front = Front::new(&gate, routes.on("getTokenOwner", Class::Read, who).finish().0);
    let query = "/_matrix/client/v3/keys/query";
    for _ in 0..2 {
        check(send(&front, Method::POST, query, Some("alice"), "{\"device_keys\":{}}").await, 200, "");
    }
    check(send(&front, Method::POST, query, Some("alice"), "{\"device_keys\":{}}").await, 429, "M_LIMIT_EXCEEDED");
    check(send(&front, Method::GET, WHOAMI, Some("alice"), "").await, 429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn the_clients_address_is_the_word_of_proxies_that_are_trusted() {
    for (proxy, expected) in [("10.0.0.0/8", "203.0.113.7"), ("10.9.0.0/16", "10.0.0.1")] {
        let config = Config { trusted_proxies: Networks::parse([proxy]).unwrap(), ..Config::default() };
        let gate = Arc::new(Gate::new(config, Box::new(Tokens), CancellationToken::new()));
        let (router, _) = Routes::new((), gate.clone()).on("getVersions", Class::Free, address).finish();
        let request = Request::builder().uri("/_matrix/client/versions");
        let mut request =
            request.header("X-Forwarded-For", "198.51.100.1, 203.0.113.7, 10.1.1.1").body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(SocketAddr::from(([10, 0, 0, 1], 4711))));
        let response = Front::new(&gate, router).oneshot(request).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), json!(expected));
    }
}

async fn address(
    caller: Anyone,
    _: ruma::api::client::discovery::get_supported_versions::Request,
) -> ApiResult<Json<Value>> {
    Ok(Json(json!(caller.origin.address)))
}
