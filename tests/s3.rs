//! The content repository in a bucket: of a server in this process, or of one that the environment names (see
//! [`testkit::s3`]).

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use testkit::s3::{Asked, Fault, S3};
use tokio::io::AsyncWriteExt;

use crate::{
    media::{content, get, png, text, upload},
    support::{Server, User, haima, output},
};

/// Longest time for a sweep at the start.
const SWEEP_PATIENCE: Duration = Duration::from_secs(60);

const MIB: usize = 1 << 20;

/// The table `media_s3`.
fn table(s3: &S3) -> String {
    format!(
        "[global.media_s3]\nbucket = {:?}\nendpoint = {:?}\nregion = {:?}\naccess_key = {:?}\nsecret_key = {:?}\nprefix = {:?}\n",
        s3.bucket, s3.endpoint, s3.region, s3.access_key, s3.secret_key, s3.prefix
    )
}

/// A server with these settings that keeps its files in a bucket.
fn start(s3: &S3, settings: &str) -> Server {
    Server::start_with(&format!("max_request_size = 60000000\n{settings}\n{}", table(s3)))
}

fn download(file: &str) -> String {
    format!("/_matrix/client/v1/media/download/{file}")
}

/// GET with a token after a restart.
async fn fetch(server: &Server, token: &str, path: &str, range: Option<&str>) -> (StatusCode, Vec<u8>) {
    let mut request = server.raw(Method::GET, path).bearer_auth(token);
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let answer = request.send().await.expect("an answer");
    (answer.status(), answer.bytes().await.expect("a body").to_vec())
}

fn count(asked: &[Asked], words: &[&str]) -> usize {
    asked.iter().filter(|asked| words.iter().all(|word| asked.line.contains(word))).count()
}

#[tokio::test]
async fn files_in_a_bucket_survive_a_kill_and_go_with_the_last_name() {
    let s3 = S3::start();
    let mut server = start(&s3, "");
    let large = content(50 * MIB);
    let picture = png(1_000, 700);
    let (token, files) = {
        let alice = server.register("alice").await;
        let mut files = Vec::new();
        for bytes in [&large[..], &picture, b"small", b"small"] {
            files.push(upload(&server, &alice, "", "image/png", bytes).await);
        }
        (alice.token.clone(), files)
    };
    assert_eq!(s3.objects().await.len(), 3, "equal files are one object");
    server.kill();
    server.restart();
    let contents: [&[u8]; 4] = [&large, &picture, b"small", b"small"];
    for (file, bytes) in files.iter().zip(contents) {
        let (status, body) = fetch(&server, &token, &download(file), None).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body == bytes, "{file}");
    }
    let (status, part) = fetch(&server, &token, &download(&files[0]), Some("bytes=30000000-30000099")).await;
    assert_eq!((status, &part[..]), (StatusCode::PARTIAL_CONTENT, &large[30_000_000..30_000_100]));
    let path = format!("/_matrix/client/v1/media/thumbnail/{}?width=100&height=70&method=scale", files[1]);
    let (status, thumbnail) = fetch(&server, &token, &path, None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(fetch(&server, &token, &path, None).await, (StatusCode::OK, thumbnail), "kept");
    assert_eq!(s3.objects().await.len(), 4, "the thumbnail too");
}

#[tokio::test]
async fn retention_removes_objects() {
    let s3 = S3::start();
    let mut server = start(&s3, "media_retention_mb = 1");
    let (token, old, new) = {
        let alice = server.register("alice").await;
        let old = upload(&server, &alice, "", "text/plain", &content(2 * MIB)).await;
        let new = upload(&server, &alice, "", "text/plain", b"new").await;
        (alice.token.clone(), old, new)
    };
    assert_eq!(s3.objects().await.len(), 2);
    server.stop();
    // A server sweeps when it has started.
    server.restart();
    let swept = async { while s3.objects().await.len() > 1 {} };
    tokio::time::timeout(SWEEP_PATIENCE, swept).await.expect("swept");
    assert_eq!(fetch(&server, &token, &download(&old), None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(fetch(&server, &token, &download(&new), None).await, (StatusCode::OK, b"new".to_vec()));
}

#[tokio::test]
async fn a_bucket_that_refuses_is_an_error_at_start_that_names_the_setting() {
    let s3 = S3::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("conduit.toml");
    let table = table(&s3);
    let refused = |from: &str, to: &str, setting: &str| {
        let database = directory.path().join("database");
        let changed = table.replace(&format!("{from:?}"), &format!("{to:?}"));
        assert_ne!(changed, table);
        let text = format!("[global]\nserver_name = \"localhost\"\nport = 0\ndatabase_path = {database:?}\n{changed}");
        std::fs::write(&path, text).expect("written");
        let mut command = haima();
        command.arg("--config").arg(&path);
        let (success, text) = output(command);
        assert!(!success, "{setting}");
        let line = text.lines().find(|line| line.contains("media_s3")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains(setting), "{setting}: {text}");
    };
    refused(&s3.bucket, "absent", "bucket");
    refused(&s3.access_key, "GK31c2f218a2e44f485b94239e", "access_key");
    refused(&s3.secret_key, "wrong", "secret_key");
    refused(&s3.endpoint, "s3.example.org", "endpoint");
}

#[tokio::test]
async fn while_the_bucket_is_down_rooms_go_on_and_files_are_refused_clearly() {
    let s3 = S3::start();
    s3.fail(&[], Fault::HangUp);
    let server = start(&s3, "");
    assert!(server.log().iter().any(|line| line.contains("media_s3")), "the log says so at the start");
    let alice = server.register("alice").await;
    s3.heal();
    let file = upload(&server, &alice, "", "text/plain", b"before").await;
    for fault in [Fault::HangUp, Fault::Refuse(500)] {
        s3.fail(&[], fault);
        let room = alice.create_room(serde_json::json!({})).await;
        alice.say(&room, "1", "works").await;
        let path = download(&file);
        alice.fails(Method::GET, path.trim_start_matches("/_matrix/client"), None, 503, "M_UNKNOWN").await;
        let request = server.raw(Method::POST, "/_matrix/media/v3/upload").bearer_auth(&alice.token);
        let answer = request.body("during").send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(answer["errcode"], "M_UNKNOWN");
        assert_eq!(answer["error"], "The storage of files can't be used at the moment");
        s3.heal();
        let answer = get(&server, &alice, &path, &[]).await;
        assert_eq!(answer.text().await.expect("a body"), "before");
        upload(&server, &alice, "", "text/plain", b"after").await;
    }
}

#[tokio::test]
async fn an_upload_that_its_client_breaks_off_never_reaches_the_bucket() {
    let s3 = S3::start();
    let server = start(&s3, "");
    let alice = server.register("alice").await;
    s3.take_asked();
    let address = server.url().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connected");
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        alice.token,
        20 * MIB
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&content(10 * MIB)).await.expect("sent");
    drop(stream);
    let file = upload(&server, &alice, "", "text/plain", b"whole").await;
    let answer = get(&server, &alice, &download(&file), &[]).await;
    assert_eq!(text(&answer, "content-length"), "5");
    let asked = s3.take_asked();
    assert_eq!((count(&asked, &["PUT "]), count(&asked, &["POST "])), (1, 0), "{asked:?}");
    assert_eq!(s3.objects().await.len(), 1);
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_large_file_gives_its_parts_up_when_it_starts_again() {
    let s3 = S3::start();
    let mut server = start(&s3, "");
    let token = server.register("alice").await.token;
    s3.fail(&["partNumber=3"], Fault::Hold);
    let request = server.raw(Method::POST, "/_matrix/media/v3/upload").bearer_auth(&token);
    let sending = tokio::spawn(request.body(content(20 * MIB)).send());
    s3.held().await;
    server.kill();
    assert!(sending.await.expect("ended").is_err(), "nothing was acknowledged");
    s3.take_asked();
    s3.heal();
    server.restart();
    assert_eq!(count(&s3.take_asked(), &["DELETE ", "?uploadId="]), 1);
    assert_eq!(s3.objects().await, [] as [String; 0]);
}

/// The memory of a server that has sent and fetched a file is bounded, whatever the file's size.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_does_not_grow_with_the_size_of_files() {
    let s3 = S3::start();
    let server = start(&s3, "");
    let alice = server.register("alice").await;
    let round = async |alice: &User<'_>, len: usize| {
        let file = upload(&server, alice, "", "video/mp4", &content(len)).await;
        let mut answer = get(&server, alice, &download(&file), &[]).await;
        let mut bytes = 0;
        while let Some(piece) = answer.chunk().await.expect("a piece") {
            bytes += piece.len();
        }
        assert_eq!(bytes, len);
        server.memory_bytes_max()
    };
    let small = round(&alice, MIB).await;
    let large = round(&alice, 50 * MIB).await;
    let grown = large.saturating_sub(small) / MIB as u64;
    assert!(grown < 30, "{grown} MiB for a file of 50 MiB, from {small} to {large} bytes");
}
