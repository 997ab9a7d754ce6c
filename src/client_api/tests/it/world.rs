//! A whole server in memory, asked through its router.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{body::Body, response::Response};
use client_api::{Accounts, ClientApi, Config, Domains, router};
use event::{Clock, SystemRandom};
use flows::Flows;
use haima_http::{CancellationToken, Endpoint, Front, Gate, limit};
use http_body_util::BodyExt;
use media::Media;
use reading::Reading;
use rooms::{Ports, Rooms};
use ruma::{
    exports::http::{Method, Request},
    server_name,
};
use serde_json::{Value, json};
use store::Store;
use sync::Sync;
use tempfile::TempDir;
use tower::ServiceExt;
use users::{PasswordConfig, Users};

/// Time that stands still until it is moved.
pub struct Time(AtomicU64);

impl Clock for Time {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The server.
pub struct World {
    pub store: Store,
    pub flows: Flows,
    pub users: Users,
    pub endpoints: Vec<Endpoint>,
    pub time: Arc<Time>,
    pub stop: CancellationToken,
    front: Front,
    _files: TempDir,
}

impl World {
    /// Open registration, no limits.
    pub async fn new() -> Self {
        Self::with(|config| config.allow_registration = true).await
    }

    /// No limits.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_limits(limit::Config::off(), change).await
    }

    pub async fn with_limits(rate_limit: limit::Config, change: impl FnOnce(&mut Config)) -> Self {
        let server = server_name!("example.org").to_owned();
        let store = Store::in_memory(&[rooms::TABLES, reading::TABLES, users::TABLES, flows::TABLES, media::TABLES])
            .await
            .unwrap();
        let time = Arc::new(Time(AtomicU64::new(1_700_000_000_000)));
        let random = Arc::new(SystemRandom);
        let password = PasswordConfig { memory_kib: 8, passes: 1, ..PasswordConfig::default() };
        let users_config = users::Config { password, new_user_displayname: false, ..users::Config::default() };
        let users = Users::open(users_config, store.clone(), time.clone(), random.clone()).await.unwrap();
        let rooms_config = rooms::Config::new(server.clone());
        let ports = Ports::no_federation();
        let rooms = Rooms::open(rooms_config, store.clone(), time.clone(), random.clone(), ports).await.unwrap();
        let reading = Reading::new(rooms, store.clone(), time.clone(), 30 << 20);
        let flows = Flows::new(store.clone(), users.clone(), reading.clone());
        // Nothing waits so long, but for what a test lets wait.
        let sync_config = sync::Config { answer_first_ms: 600_000, ..sync::Config::default() };
        let sync = Sync::start(sync_config, store.clone(), reading.clone(), users.clone(), time.clone()).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let media_config = media::Config::new(server.clone(), files.path().to_owned());
        let media = Media::open(media_config, store.clone(), time.clone(), random.clone()).await.unwrap();
        let mut config = Config::new(server);
        change(&mut config);
        let accounts = Accounts::new(users.clone(), config.admins.clone());
        let http = haima_http::Config { rate_limit, ..haima_http::Config::default() };
        let stop = CancellationToken::new();
        let gate = Arc::new(Gate::new(http, Box::new(accounts), stop.clone()));
        let domains =
            Domains { store: store.clone(), users: users.clone(), reading, flows: flows.clone(), sync, media };
        let api = ClientApi::new(config, gate.clone(), domains, time.clone(), random);
        let (routes, endpoints) = router(api);
        let front = Front::new(&gate, routes);
        Self { store, flows, users, endpoints, time, stop, front, _files: files }
    }

    /// Lets milliseconds pass.
    pub fn pass(&self, ms: u64) {
        self.time.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// A request; the path is that of `/_matrix/client` unless it begins with `/_` or `/.`.
    pub async fn ask(&self, token: Option<&str>, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let uri = if path.starts_with("/_") || path.starts_with("/.") {
            path.to_owned()
        } else {
            format!("/_matrix/client{path}")
        };
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        let response = self.front.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        Self::take(response).await
    }

    /// As [`World::ask`], but the answer is not taken yet.
    pub async fn ask_and_wait(&self, token: &str, method: Method, path: &str, body: Value) -> Response {
        let request = Request::builder().method(method).uri(format!("/_matrix/client{path}"));
        let request = request.header("Authorization", format!("Bearer {token}"));
        self.front.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap()
    }

    /// Takes an answer.
    pub async fn take(response: Response) -> (u16, Value) {
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Registers a user and logs them in.
    pub async fn register(&self, name: &str) -> User<'_> {
        let body = json!({
            "username": name, "password": password(name), "device_id": "FIRST", "auth": { "type": "m.login.dummy" },
        });
        let (status, answer) = self.ask(None, Method::POST, "/v3/register", Some(body)).await;
        assert_eq!(status, 200, "{answer}");
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        User { world: self, id: text("user_id"), token: text("access_token") }
    }
}

/// The password of a test's user.
pub fn password(name: &str) -> String {
    format!("the secret of {name}")
}

/// A logged-in user.
pub struct User<'w> {
    pub world: &'w World,
    pub id: String,
    pub token: String,
}

impl User<'_> {
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        self.world.ask(Some(&self.token), method, path, body).await
    }

    #[track_caller]
    fn checked((status, answer): (u16, Value)) -> Value {
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub async fn get(&self, path: &str) -> Value {
        Self::checked(self.ask(Method::GET, path, None).await)
    }

    pub async fn put(&self, path: &str, body: Value) -> Value {
        Self::checked(self.ask(Method::PUT, path, Some(body)).await)
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        Self::checked(self.ask(Method::POST, path, Some(body)).await)
    }

    pub async fn delete(&self, path: &str) -> Value {
        Self::checked(self.ask(Method::DELETE, path, None).await)
    }

    pub async fn fails(&self, method: Method, path: &str, body: Option<Value>, expected: (u16, &str)) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert_eq!((status, answer["errcode"].as_str().unwrap_or("")), expected, "{path}: {answer}");
        answer
    }

    /// A new room's id, encoded for a path.
    pub async fn create_room(&self, body: Value) -> String {
        let answer = self.post("/v3/createRoom", body).await;
        answer["room_id"].as_str().unwrap().replace('!', "%21")
    }

    pub async fn send(&self, room: &str, txn: &str, text: &str) -> String {
        let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}");
        let answer = self.put(&path, json!({ "msgtype": "m.text", "body": text })).await;
        answer["event_id"].as_str().unwrap().to_owned()
    }
}
