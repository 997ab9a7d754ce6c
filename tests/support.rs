//! Starts the real server in a temporary directory and talks HTTP to it.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    coverage,
    schema::{Answer, Specification},
};

/// How long a server may take to start or stop before a test gives up.
pub const SERVER_PATIENCE: Duration = Duration::from_secs(120);

/// The registration token of every test server.
pub const REGISTRATION_TOKEN: &str = "let-me-in";

/// A running server; killed and removed with its directory when dropped.
pub struct Server {
    dir: TempDir,
    settings: String,
    /// What a shell does before it becomes the server.
    shell: Option<String>,
    process: Option<Child>,
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    http: reqwest::Client,
}

impl Server {
    /// A new server with rate limits off and registration by [`REGISTRATION_TOKEN`].
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// As [`Server::start`], with further lines in `[global]` (and tables after it).
    pub fn start_with(settings: &str) -> Self {
        Self::start_in(None, settings)
    }

    /// As [`Server::start_with`], by a shell that does something first, such as setting limits of the process.
    pub fn start_in(shell: Option<&str>, settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut server = Self {
            dir,
            settings: settings.to_owned(),
            shell: shell.map(str::to_owned),
            process: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log: Arc::default(),
            http: http_client(),
        };
        server.run();
        server
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Other settings from the next start on: lines in `[global]` (and tables after it).
    pub fn set(&mut self, settings: &str) {
        self.settings = settings.to_owned();
    }

    /// A user who is logged in already.
    pub fn user(&self, id: &str, device: &str, token: &str) -> User<'_> {
        User { server: self, id: id.to_owned(), device: device.to_owned(), token: token.to_owned() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory of the database.
    pub fn database_path(&self) -> std::path::PathBuf {
        self.dir.path().join("database")
    }

    /// The directory of uploaded files.
    pub fn media_path(&self) -> std::path::PathBuf {
        self.database_path().join("media")
    }

    /// What the server has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("log").clone()
    }

    /// Writes the configuration and returns its path.
    pub fn write_config(&self) -> std::path::PathBuf {
        let path = self.dir.path().join("conduit.toml");
        let text = format!(
            "[global]\nserver_name = \"localhost\"\ndatabase_path = {database:?}\naddress = \"127.0.0.1\"\nport = {port}\n\
             allow_registration = true\nregistration_token = \"{REGISTRATION_TOKEN}\"\n{settings}\n{limits}\n",
            database = self.dir.path().join("database"),
            port = self.address.port(),
            settings = self.settings,
            limits = if self.settings.contains("rate_limit") { String::new() } else { no_limits() },
        );
        std::fs::write(&path, text).expect("write configuration");
        path
    }

    /// A command line of the binary with this server's configuration.
    pub fn command(&self) -> Command {
        let mut command = haima();
        if let Some(shell) = &self.shell {
            command = Command::new("bash");
            command.args(["-c", &format!("{shell}; exec \"$0\" \"$@\"")]).arg(haima().get_program());
        }
        command.arg("--config").arg(self.write_config());
        command
    }

    fn run(&mut self) {
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start server");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        self.process = Some(child);
        let (sender, receiver) = mpsc::channel();
        let log = self.log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(address) = line.split("listening on ").nth(1) {
                    // The test has given up if nobody listens any more.
                    let address = address.trim().trim_start_matches("https://").trim_start_matches("http://");
                    let _ = sender.send(address.to_owned());
                }
                log.lock().expect("log").push(line);
            }
        });
        match receiver.recv_timeout(SERVER_PATIENCE) {
            Ok(address) => self.address = address.parse().expect("an address"),
            Err(_) => panic!("the server did not start:\n{}", self.log().join("\n")),
        }
    }

    /// The most memory that the process has taken so far, in bytes.
    #[cfg(target_os = "linux")]
    pub fn memory_bytes_max(&self) -> u64 {
        let process = self.process.as_ref().expect("runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().expect("runs")), signal).expect("a signal");
    }

    /// Waits until the log has had a line with this so many times.
    pub fn wait_for_log(&self, text: &str, times: usize) {
        let begun = std::time::Instant::now();
        while self.log().iter().filter(|line| line.contains(text)).count() < times {
            assert!(begun.elapsed() < SERVER_PATIENCE, "{text} was not logged:\n{}", self.log().join("\n"));
            std::thread::yield_now();
        }
    }

    /// Stops the server as an admin would and waits for it.
    pub fn stop(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        kill_process(Pid::from_child(&child), Signal::TERM).expect("a signal");
        let status = child.wait().expect("wait");
        assert!(status.success(), "the server ended with {status}:\n{}", self.log().join("\n"));
    }

    /// Kills the server at once, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// Starts it again on the same port and database.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "stop or kill it first");
        // Connections kept by the old client lead to the old process.
        self.http = http_client();
        self.run();
    }

    /// A request without a token.
    pub async fn request(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.request_as(None, method, path, body).await
    }

    /// A request with a token.
    pub async fn request_as(
        &self,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.raw(method, path);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("an answer");
        let status = response.status();
        let body = response.bytes().await.expect("a body");
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// A request with whatever headers and body.
    pub fn raw(&self, method: Method, path: &str) -> Request {
        Request(self.http.request(method, format!("{}{path}", self.url())))
    }

    /// Registers an account with the registration token.
    pub async fn register(&self, name: &str) -> User<'_> {
        let body = json!({ "username": name, "password": password(name), "device_id": "FIRST" });
        let path = "/_matrix/client/v3/register";
        let (status, answer) = self.request(Method::POST, path, Some(body.clone())).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
        let mut body = body;
        body["auth"] = json!({
            "type": "m.login.registration_token", "token": REGISTRATION_TOKEN, "session": answer["session"],
        });
        let (status, answer) = self.request(Method::POST, path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        User {
            server: self,
            id: answer["user_id"].as_str().expect("user_id").to_owned(),
            device: answer["device_id"].as_str().expect("device_id").to_owned(),
            token: answer["access_token"].as_str().expect("access_token").to_owned(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- server log\n{}", self.log().join("\n"));
        }
    }
}

/// A request whose answer has to fit the specification, if that is given.
pub struct Request(reqwest::RequestBuilder);

impl Request {
    pub fn bearer_auth(self, token: &str) -> Self {
        Self(self.0.bearer_auth(token))
    }

    pub fn header(self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        Self(self.0.header(name.as_ref(), value.as_ref()))
    }

    pub fn json(self, body: &Value) -> Self {
        Self(self.0.json(body))
    }

    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.body(body))
    }

    pub async fn send(self) -> reqwest::Result<reqwest::Response> {
        let Some(specification) = Specification::given() else { return self.0.send().await };
        let (client, request) = self.0.build_split();
        let request = request?;
        let (method, url) = (request.method().clone(), request.url().clone());
        let sent = request.body().and_then(reqwest::Body::as_bytes).map(<[u8]>::to_vec);
        let response = client.execute(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let check = |body| {
            let answer = Answer { method: &method, path: url.path(), status: status.as_u16(), body };
            if let Some(fault) = specification.fault(&answer) {
                panic!("{fault}");
            }
            if let Some(operation) = specification.operation(&method, url.path()) {
                coverage::record(operation, &url, sent.as_deref(), status.as_u16(), body);
            }
        };
        if !content_type.starts_with("application/json") {
            // It may be a file of any length, which the test reads as it likes.
            check(None);
            return Ok(response);
        }
        let bytes = response.bytes().await?;
        check(serde_json::from_slice(&bytes).ok().as_ref());
        let mut response = http::Response::new(bytes);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response.into())
    }
}

/// The binary under test.
pub fn haima() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haima"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CONDUIT_")) {
        command.env_remove(name);
    }
    command
}

fn http_client() -> reqwest::Client {
    reqwest::Client::builder().timeout(SERVER_PATIENCE).build().expect("client")
}

/// What a command printed, and whether it succeeded.
pub fn output(mut command: Command) -> (bool, String) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("utf-8");
    child.stderr.take().expect("piped").read_to_string(&mut text).expect("utf-8");
    (child.wait().expect("wait").success(), text)
}

/// The password of a test account.
pub fn password(name: &str) -> String {
    format!("correct horse {name}")
}

/// All rate limits switched off.
fn no_limits() -> String {
    let (_, after) = include_str!("../conduit.toml").split_once("[global.rate_limit]\n").expect("the table of limits");
    let lines = after.lines().take_while(|line| !line.starts_with('['));
    let kinds = lines.filter_map(|line| line.split_once(" = {")).map(|(kind, _)| kind);
    let lines: Vec<_> = kinds.map(|kind| format!("{kind} = {{ per_second = 0.0 }}")).collect();
    format!("[global.rate_limit]\n{}", lines.join("\n"))
}

/// A logged-in user of a test server.
pub struct User<'s> {
    server: &'s Server,
    /// The user id.
    pub id: String,
    /// The device id.
    pub device: String,
    /// The access token.
    pub token: String,
}

impl User<'_> {
    /// Any request, with whatever answer.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.server.request_as(Some(&self.token), method, path, body).await
    }

    /// A request that must succeed.
    pub async fn ok(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method.clone(), path, body).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        answer
    }

    /// GET below `/_matrix/client`.
    pub async fn get(&self, path: &str) -> Value {
        self.ok(Method::GET, &format!("/_matrix/client{path}"), None).await
    }

    /// POST below `/_matrix/client`.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.ok(Method::POST, &format!("/_matrix/client{path}"), Some(body)).await
    }

    /// PUT below `/_matrix/client`.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.ok(Method::PUT, &format!("/_matrix/client{path}"), Some(body)).await
    }

    /// DELETE below `/_matrix/client`.
    pub async fn delete(&self, path: &str, body: Option<Value>) -> Value {
        self.ok(Method::DELETE, &format!("/_matrix/client{path}"), body).await
    }

    /// A request that must fail: checks status and errcode, and returns the body.
    pub async fn fails(&self, method: Method, path: &str, body: Option<Value>, status: u16, errcode: &str) -> Value {
        let path = format!("/_matrix/client{path}");
        let (got, answer) = self.call(method.clone(), &path, body).await;
        assert_eq!((got.as_u16(), answer["errcode"].as_str()), (status, Some(errcode)), "{method} {path}: {answer}");
        answer
    }

    /// Makes a room and returns its id.
    pub async fn create_room(&self, body: Value) -> String {
        self.post("/v3/createRoom", body).await["room_id"].as_str().expect("room_id").to_owned()
    }

    /// Joins a room by id or alias.
    pub async fn join(&self, room: &str) {
        self.post(&format!("/v3/join/{}", encode(room)), json!({})).await;
    }

    /// Sends a text message and returns the event id.
    pub async fn say(&self, room: &str, txn: &str, text: &str) -> String {
        let path = format!("/v3/rooms/{}/send/m.room.message/{txn}", encode(room));
        let answer = self.put(&path, json!({ "msgtype": "m.text", "body": text })).await;
        answer["event_id"].as_str().expect("event_id").to_owned()
    }

    /// A sync that doesn't wait; the whole answer.
    pub async fn sync(&self, since: Option<&str>) -> Value {
        let since = since.map(|token| format!("&since={token}")).unwrap_or_default();
        self.get(&format!("/v3/sync?timeout=0{since}")).await
    }

    /// Syncs until `found` holds of an answer, from `since`; that answer. Long polls, at most thirty of them.
    pub async fn sync_until(&self, since: &str, found: impl Fn(&Value) -> bool) -> Value {
        let mut since = since.to_owned();
        for _ in 0..30 {
            let answer = self.get(&format!("/v3/sync?timeout=10000&since={since}")).await;
            if found(&answer) {
                return answer;
            }
            since = answer["next_batch"].as_str().expect("next_batch").to_owned();
        }
        panic!("not seen in thirty syncs");
    }
}

/// Percent-encodes a path segment.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
