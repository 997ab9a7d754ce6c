//! The command line, discovery, and what an admin sees at start.

use std::process::Stdio;

use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{SERVER_PATIENCE, Server, haima, output};

#[test]
fn a_bad_configuration_is_refused_with_key_and_line() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("conduit.toml");
    std::fs::write(&path, "[global]\nserver_name = \"localhost\"\nprot = 7\n").expect("write");
    for command in ["check-config", "serve"] {
        let mut haima = haima();
        haima.arg("--config").arg(&path).arg(command);
        let (success, text) = output(haima);
        assert!(!success);
        assert!(text.contains("conduit.toml:3: prot: unknown key"), "{text}");
    }
    let mut haima = haima();
    haima.arg("check-config").env("CONDUIT_CONFIG", dir.path().join("none.toml"));
    let (success, text) = output(haima);
    assert!(!success && text.contains("none.toml"), "{text}");
}

#[test]
fn the_default_configuration_is_printed_and_good() {
    let mut generate = haima();
    generate.arg("generate-config");
    let (success, text) = output(generate);
    assert!(success);
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("conduit.toml");
    std::fs::write(&path, text).expect("write");
    let mut check = haima();
    check.arg("--config").arg(&path).arg("check-config");
    let (success, text) = output(check);
    assert!(success, "{text}");
}

#[tokio::test]
async fn the_first_account_needs_the_token_from_the_log() {
    let mut server = Server::start_with("log = \"info\"");
    let token =
        |log: Vec<String>| log.iter().find_map(|line| Some(line.split("with the token ").nth(1)?.trim().to_owned()));
    let first = token(server.log()).expect("a token is logged");
    let register = "/_matrix/client/v3/register";
    let body = json!({ "username": "admin", "password": "a very good one" });
    let (_, asked) = server.request(Method::POST, register, Some(body.clone())).await;
    let with = |token: &str| {
        let mut body = body.clone();
        body["auth"] = json!({ "type": "m.login.registration_token", "token": token, "session": asked["session"] });
        body
    };
    let (status, answer) = server.request(Method::POST, register, Some(with(&first))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let mut second = with(&first);
    second["username"] = json!("another");
    let (status, _) = server.request(Method::POST, register, Some(second)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "the token works once");
    server.stop();
    let before = server.log().len();
    server.restart();
    assert!(token(server.log().split_off(before)).is_none(), "there is an account now");
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_ends_in_order() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut server = Server::start();
    server.stop();
    let mut command = server.command();
    command.env("CONDUIT_PORT", taken.local_addr().expect("an address").port().to_string());
    let output = command.output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(text.trim().lines().next_back().expect("a line").starts_with("haima: "), "{text}");
}

#[tokio::test]
async fn a_server_whose_log_nobody_reads_goes_on_and_stops() {
    let mut server = Server::start();
    server.stop();
    let mut command = tokio::process::Command::from(server.command());
    command.env("CONDUIT_PORT", "0").env("CONDUIT_LOG", "debug").kill_on_drop(true);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let address = loop {
        let line = lines.next_line().await.expect("a log").expect("a line");
        if let Some((_, address)) = line.split_once("listening on ") {
            break address.to_owned();
        }
    };
    drop(lines);
    for _ in 0..3 {
        let answer = reqwest::get(format!("{address}/_matrix/client/versions")).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let id = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("runs");
    kill_process(id, Signal::TERM).expect("a signal");
    let ended = tokio::time::timeout(SERVER_PATIENCE, child.wait()).await;
    assert!(ended.expect("it stops").expect("waited").success());
}

#[tokio::test]
async fn accounts_are_made_on_the_command_line() {
    let mut server = Server::start();
    server.stop();
    let mut create = server.command();
    create.args(["create-user", "alice", "--admin"]);
    let mut child =
        create.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().expect("start");
    use std::io::Write;
    child.stdin.take().expect("piped").write_all(b"a very good one\n").expect("write");
    let result = child.wait_with_output().expect("wait");
    assert!(result.status.success());
    assert!(String::from_utf8_lossy(&result.stdout).contains("@alice:localhost"));
    server.restart();
    let body = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "a very good one",
    });
    let (status, _) = server.request(Method::POST, "/_matrix/client/v3/login", Some(body)).await;
    assert_eq!(status, StatusCode::OK);
}

#[test]
fn another_server_name_is_refused() {
    let mut server = Server::start();
    server.stop();
    let mut command = server.command();
    command.env("CONDUIT_SERVER_NAME", "other.example");
    let (success, text) = output(command);
    assert!(!success);
    assert!(text.contains("server_name") && text.contains("localhost") && text.contains("other.example"), "{text}");
}

#[tokio::test]
async fn clients_discover_the_server() {
    let server = Server::start_with(
        "[global.well_known]\nclient = \"https://matrix.example.org\"\nserver = \"matrix.example.org:443\"\n\
         support_email = \"help@example.org\"\nsupport_role = \"m.role.admin\"\n",
    );
    let (_, client) = server.request(Method::GET, "/.well-known/matrix/client", None).await;
    assert_eq!(client["m.homeserver"]["base_url"], "https://matrix.example.org");
    let (_, other) = server.request(Method::GET, "/.well-known/matrix/server", None).await;
    assert_eq!(other, json!({ "m.server": "matrix.example.org:443" }));
    let (_, support) = server.request(Method::GET, "/.well-known/matrix/support", None).await;
    assert_eq!(support["contacts"][0]["email_address"], "help@example.org");
    let (_, versions) = server.request(Method::GET, "/_matrix/client/versions", None).await;
    assert!(versions["versions"].as_array().expect("versions").contains(&json!("v1.11")));
    let features =
        ["org.matrix.e2e_cross_signing", "org.matrix.msc3391", "org.matrix.msc3440.stable", "uk.tcpip.msc4133.stable"];
    for feature in features {
        assert_eq!(versions["unstable_features"][feature], true, "{feature}");
    }
    let (status, _) = server.request(Method::GET, "/_haima/health", None).await;
    assert_eq!(status, StatusCode::OK);

    let plain = Server::start();
    let (status, _) = plain.request(Method::GET, "/.well-known/matrix/client", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let alice = plain.register("alice").await;
    let capabilities = alice.get("/v3/capabilities").await;
    let rooms = &capabilities["capabilities"]["m.room_versions"];
    assert_eq!(rooms["available"]["12"], "stable");
    assert_eq!(rooms["available"].as_object().expect("versions").len(), 12);
    assert_eq!(rooms["default"], "12");
}

#[tokio::test]
async fn what_element_asks_for_at_log_in_is_answered() {
    let server = Server::start();
    let alice = server.register("alice").await;
    for path in [
        "/versions",
        "/v3/login",
        "/v3/capabilities",
        "/v3/pushrules/",
        "/v3/thirdparty/protocols",
        "/v3/joined_rooms",
        "/v3/devices",
        "/v3/account/whoami",
        "/v3/profile/@alice:localhost",
    ] {
        alice.get(path).await;
    }
    let filter = json!({ "room": { "state": { "lazy_load_members": true } } });
    alice.post("/v3/user/@alice:localhost/filter", filter).await;
    for old in ["/r0/sync?timeout=0", "/v3/sync?timeout=0", "/r0/joined_rooms", "/r0/pushrules/"] {
        alice.get(old).await;
    }
}

#[test]
fn tls_is_served_by_the_binary_and_a_new_certificate_without_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let certs = dir.path().join("cert.pem");
    let key = dir.path().join("key.pem");
    let make = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
        std::fs::write(&certs, made.cert.pem()).expect("write");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("write");
        reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("certificate")
    };
    let first = make();
    let server = Server::start_with(&format!("[global.tls]\ncerts = {certs:?}\nkey = {key:?}\n"));
    let address = server.url().trim_start_matches("http://").to_owned();
    let port = address.rsplit(':').next().expect("port").to_owned();
    // Whether who trusts this certificate alone gets an answer.
    let is_served = |certificate: &reqwest::Certificate| {
        let client = reqwest::blocking::Client::builder()
            .tls_certs_only([certificate.clone()])
            .resolve("localhost", address.parse().expect("address"))
            .build()
            .expect("client");
        let answer = client.get(format!("https://localhost:{port}/_matrix/client/versions")).send();
        answer.is_ok_and(|answer| answer.status().is_success())
    };
    assert!(is_served(&first));
    let second = make();
    assert!(is_served(&first) && !is_served(&second));
    server.signal(Signal::HUP);
    server.wait_for_log("the certificate was read anew", 1);
    assert!(!is_served(&first) && is_served(&second));
    std::fs::write(&key, "nonsense").expect("write");
    server.signal(Signal::HUP);
    server.wait_for_log("the certificate can't be read anew", 1);
    assert!(is_served(&second));
}

#[cfg(unix)]
#[tokio::test]
async fn what_the_server_keeps_is_not_for_others() {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    fn modes(path: &Path, found: &mut Vec<(String, u32)>) {
        let metadata = fs::metadata(path).expect("metadata");
        found.push((path.display().to_string(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            for entry in fs::read_dir(path).expect("a directory") {
                modes(&entry.expect("an entry").path(), found);
            }
        }
    }
    let mut server = Server::start();
    let alice = server.register("alice").await;
    crate::media::upload(&server, &alice, "", "text/plain", b"kept").await;
    let mut found = Vec::new();
    modes(&server.database_path(), &mut found);
    assert!(found.len() > 5);
    for (path, mode) in found {
        assert_eq!(mode & 0o077, 0, "{path}: {mode:o}");
    }
    // The test's configuration has a secret, and is as open as its directory lets it be.
    let warns = |log: Vec<String>| log.iter().any(|line| line.contains("others on this machine can read secrets"));
    let path = server.database_path();
    server.stop();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    fs::set_permissions(path.with_file_name("conduit.toml"), fs::Permissions::from_mode(0o644)).expect("set");
    let before = server.log().len();
    server.restart();
    assert!(warns(server.log().split_off(before)));
    assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o750);
}

#[tokio::test]
async fn requests_are_logged_at_a_level_of_their_own_without_secrets() {
    let path = "/_matrix/client/v3/profile/%40alice%3Alocalhost/displayname";
    for (level, refused, served) in
        [("info", false, false), ("info,requests=info", true, false), ("info,requests=debug", true, true)]
    {
        let server = Server::start_with(&format!("log = {level:?}"));
        let alice = server.register("alice").await;
        let wrong = json!({ "displayname": 7 });
        let (status, _) = alice.call(Method::PUT, &format!("{path}?secret=geheim"), Some(wrong)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        alice.put("/v3/profile/@alice:localhost/displayname", json!({ "displayname": "geheim" })).await;
        let (status, _) = server.request(Method::GET, "/_matrix/nonsense?access_token=geheim", None).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        if refused {
            // The last of them.
            server.wait_for_log("/_matrix/nonsense", 1);
        }
        let log: Vec<_> = server.log().into_iter().filter(|line| line.contains("requests:")).collect();
        let has = |parts: &[&str]| log.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        let route = "route=\"/_matrix/client/v3/profile/{user_id}/{field}\"";
        let of_alice = "user=\"@alice:localhost\"";
        assert_eq!(
            has(&["INFO", "method=PUT", route, "status=400", "errcode=\"M_INVALID_PARAM\"", "ms=", of_alice]),
            refused,
            "{log:?}"
        );
        assert_eq!(has(&["INFO", "status=404", "/_matrix/nonsense"]), refused, "{log:?}");
        assert_eq!(has(&["DEBUG", "method=PUT", route, "status=200", of_alice]), served, "{log:?}");
        let told = log.join("\n");
        assert!(!told.contains("geheim") && !told.contains(&alice.token), "{told}");
    }
}
