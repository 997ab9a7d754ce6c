//! The content repository against those who mean harm, and those who go away in the middle.

use std::{collections::BTreeMap, sync::Arc};

use reqwest::{Method, StatusCode};
use serde_json::json;
use testkit::plain_webp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    media::{content, get, png, text, upload},
    support::{Server, User, encode},
};

/// More than the buffers of sockets hold, in bytes: who has sent that much knows that most of it was read.
const PART_BYTES: usize = 32 << 20;

fn names(path: std::path::PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(path).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

/// The names of all stored files, and of those that are being received.
fn stored(server: &Server) -> (Vec<String>, Vec<String>) {
    let blobs = server.media_path().join("blobs");
    let blobs = names(blobs.clone()).into_iter().flat_map(|directory| names(blobs.join(directory)));
    (blobs.collect(), names(server.media_path().join("temp")))
}

/// Sends the first half of a file and gives the connection.
async fn upload_half(server: &Server, user: &User<'_>) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        user.token,
        2 * PART_BYTES,
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&vec![7; PART_BYTES]).await.expect("sent");
    stream
}

#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_nothing() {
    let mut server = Server::start_with("max_request_size = 134217728");
    let token = {
        let alice = server.register("alice").await;
        upload(&server, &alice, "", "text/plain", b"kept").await;
        let half = upload_half(&server, &alice).await;
        assert_eq!(stored(&server).1.len(), 1);
        drop(half);
        alice.token.clone()
    };
    // The server ends when all it does has ended.
    server.stop();
    assert_eq!((stored(&server).0.len(), stored(&server).1.len()), (1, 0));

    server.restart();
    let whoami = server.request_as(Some(&token), Method::GET, "/_matrix/client/v3/account/whoami", None).await;
    assert_eq!(whoami.0, StatusCode::OK);
    let half = {
        let alice = server.register("alice2").await;
        upload_half(&server, &alice).await
    };
    assert_eq!(stored(&server).1.len(), 1);
    server.kill();
    drop(half);
    assert_eq!(stored(&server).1.len(), 1);
    server.restart();
    assert_eq!((stored(&server).0.len(), stored(&server).1.len()), (1, 0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_does_not_grow_with_files() {
    const MIB: u64 = 1 << 20;
    let server = Server::start_with("max_request_size = 134217728");
    let alice = server.register("alice").await;
    let mut bytes = content(1 << 20);
    let round = async |bytes: &[u8]| {
        let file = upload(&server, &alice, "", "video/mp4", bytes).await;
        let path = format!("/_matrix/client/v1/media/download/{file}");
        let whole = get(&server, &alice, &path, &[]).await.bytes().await.expect("a body");
        assert!(whole == bytes, "all of it");
        let half = format!("bytes={}-", bytes.len() / 2);
        let part = get(&server, &alice, &path, &[("range", &half)]).await.bytes().await.expect("a body");
        assert_eq!(part.len(), bytes.len() - bytes.len() / 2);
        alice.fails(Method::GET, &format!("/v1/media/thumbnail/{file}?width=9&height=9"), None, 400, "M_UNKNOWN").await;
        server.memory_bytes_max()
    };
    let small = round(&bytes).await;
    bytes = bytes.repeat(64);
    let large = round(&bytes).await;
    // Whoever held the file would need 64 MiB more.
    assert!(large - small < 16 * MIB, "{} MiB with 1 MiB, {} MiB with 64 MiB", small / MIB, large / MIB);
}

#[tokio::test]
async fn images_that_are_bombs_are_refused_as_too_large() {
    let server = Server::start();
    let alice = server.register("alice").await;
    // A header that promises 65,536 times 65,536 pixels, with its checksum.
    let mut huge_png = png(8, 8);
    huge_png.splice(16..33, [0, 1, 0, 0, 0, 1, 0, 0, 8, 6, 0, 0, 0, 0x6C, 0x84, 0x30, 0xE3]);
    let mut huge_gif = b"GIF89a\xFF\xFF\xFF\xFF\x80\0\0\0\0\0\xFF\xFF\xFF".to_vec();
    huge_gif.extend(b",\0\0\0\0\xFF\xFF\xFF\xFF\0\x02\x02\x44\x01\0;");
    for (name, bomb) in [("PNG", huge_png), ("GIF", huge_gif)] {
        let file = upload(&server, &alice, "", "image/png", &bomb).await;
        for side in [96, 4_000] {
            let path = format!("/_matrix/client/v1/media/thumbnail/{file}?width={side}&height={side}&animated=true");
            let (status, answer) = alice.call(Method::GET, &path, None).await;
            assert_eq!((status.as_u16(), &answer["errcode"]), (413, &json!("M_TOO_LARGE")), "{name}: {answer}");
        }
        let path = format!("/_matrix/client/v1/media/download/{file}");
        assert_eq!(get(&server, &alice, &path, &[]).await.bytes().await.expect("a body"), bomb);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn decoding_pictures_stays_within_its_memory() {
    const MIB: u64 = 1 << 20;
    let server = Server::start();
    let alice = server.register("alice").await;
    let huge = upload(&server, &alice, "", "image/webp", &plain_webp(8_000, 8_000)).await;
    let large = upload(&server, &alice, "", "image/webp", &plain_webp(3_600, 3_600)).await;
    let bob = server.register("bob").await;
    let ask = async |user: &User<'_>, file: &str, side: u32| {
        let path = format!("/_matrix/client/v1/media/thumbnail/{file}?width={side}&height={side}");
        get(&server, user, &path, &[]).await.status().as_u16()
    };
    let before = server.memory_bytes_max();
    // Decoding the one would take 430 MiB, and the other 90.
    let asked = [(&huge, 96, 413), (&large, 32, 200), (&large, 320, 200), (&huge, 320, 413), (&large, 640, 200)];
    for (number, (file, side, status)) in asked.into_iter().enumerate() {
        // Two at once: nobody has more than one decoder.
        let answers = tokio::join!(ask(&alice, file, side), ask(&bob, &large, 800 + number as u32));
        assert_eq!(answers, (status, 200), "{side}");
    }
    let taken = server.memory_bytes_max() - before;
    assert!(taken < 150 * MIB, "{} MiB", taken / MIB);
}

#[tokio::test]
async fn thumbnails_that_have_to_be_made_are_limited() {
    let limits = "allow_legacy_media = true\n[global.rate_limit]\nthumbnail = { per_second = 0.001, burst = 2 }";
    let server = Server::start_with(limits);
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let file = upload(&server, &alice, "", "image/png", &png(900, 900)).await;
    let ask = async |user: &User<'_>, side: u32| {
        let path = format!("/_matrix/client/v1/media/thumbnail/{file}?width={side}&height={side}");
        get(&server, user, &path, &[]).await.status().as_u16()
    };
    assert_eq!([ask(&alice, 32).await, ask(&alice, 96).await], [200, 200]);
    assert_eq!([ask(&alice, 320).await, ask(&alice, 640).await], [429, 429]);
    assert_eq!([ask(&alice, 32).await, ask(&alice, 96).await], [200, 200], "made before");
    assert_eq!([ask(&bob, 320).await, ask(&alice, 320).await], [200, 200], "made by another");
    let legacy = |side: u32| format!("/_matrix/media/v3/thumbnail/{file}?width={side}&height={side}");
    for (side, status) in [(640, 200), (800, 200), (801, 429), (640, 200)] {
        let answer = server.raw(Method::GET, &legacy(side)).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{side}");
    }
}

#[tokio::test]
async fn guests_look_at_files_and_do_no_more() {
    let server = Server::start_with("allow_guest_registration = true");
    let alice = server.register("alice").await;
    let file = upload(&server, &alice, "", "text/plain", b"text").await;
    let (_, guest) = server.request(Method::POST, "/_matrix/client/v3/register?kind=guest", Some(json!({}))).await;
    let token = guest["access_token"].as_str().expect("a token");
    let ask = async |method: Method, path: &str| {
        let (status, answer) = server.request_as(Some(token), method, path, None).await;
        (status.as_u16(), answer["errcode"].as_str().unwrap_or("").to_owned())
    };
    for path in [format!("download/{file}"), format!("download/{file}/name.txt")] {
        assert_eq!(ask(Method::GET, &format!("/_matrix/client/v1/media/{path}")).await.0, 200);
    }
    let thumbnail = format!("/_matrix/client/v1/media/thumbnail/{file}?width=9&height=9");
    assert_eq!(ask(Method::GET, &thumbnail).await, (400, "M_UNKNOWN".to_owned()), "not an image");
    let forbidden = [
        (Method::GET, "/_matrix/client/v1/media/config"),
        (Method::GET, "/_matrix/client/v1/media/preview_url?url=http://example.org"),
        (Method::GET, "/_matrix/media/v3/config"),
        (Method::POST, "/_matrix/media/v3/upload"),
        (Method::POST, "/_matrix/media/v1/create"),
    ];
    for (method, path) in forbidden {
        assert_eq!(ask(method, path).await, (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned()), "{path}");
    }
}

/// Serves these answers, whole with their headers, by path; `/endless` never ends.
async fn web(answers: BTreeMap<&'static str, Vec<u8>>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, answers.clone()));
        }
    });
    port
}

async fn answer(mut stream: TcpStream, answers: Arc<BTreeMap<&'static str, Vec<u8>>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8(request).expect("text");
    let path = request.split(' ').nth(1).unwrap_or("");
    if path != "/endless" {
        // The other side may have gone.
        drop(stream.write_all(answers.get(path).map_or(&b""[..], Vec::as_slice)).await);
        return;
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<title>Endless</title>";
    let mut sent = stream.write_all(head.as_bytes()).await;
    while sent.is_ok() {
        sent = stream.write_all(&[b'x'; 10_000]).await;
    }
}

fn answer_of(kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n");
    [head.as_bytes(), b"\r\n", body].concat()
}

fn page(body: &str) -> Vec<u8> {
    answer_of("text/html", body.as_bytes())
}

fn redirect(to: &str) -> Vec<u8> {
    let head = "HTTP/1.1 302 Found\r\ncontent-length: 0\r\nconnection: close\r\n";
    format!("{head}location: {to}\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn hostile_pages_are_refused_or_cut() {
    let with_image = |path: &str| page(&format!("<title>Page</title><meta property=og:image content='{path}'>"));
    let mut huge_png = png(8, 8);
    huge_png.splice(16..33, [0, 1, 0, 0, 0, 1, 0, 0, 8, 6, 0, 0, 0, 0x6C, 0x84, 0x30, 0xE3]);
    let attributes: String = (0..100_000).map(|n| format!("{n:x} ")).collect();
    let bomb = [
        &b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-encoding: gzip\r\ncontent-length: 20\r\n\r\n"[..],
        &[0x1F; 20],
    ];
    let port = web(BTreeMap::from([
        ("/around", redirect("/around")),
        ("/inside", redirect("http://169.254.169.254/latest/meta-data/")),
        ("/mapped", redirect("http://[::ffff:169.254.169.254]/")),
        ("/translated", redirect("http://[64:ff9b::a9fe:a9fe]/")),
        ("/file", redirect("file:///etc/passwd")),
        ("/password", redirect("http://user:secret@localhost/")),
        ("/mail", redirect("http://localhost:25/")),
        ("/denied", redirect("http://denied.example/")),
        ("/deep", page(&format!("{}<title>Deep</title>", "<div>".repeat(40_000)))),
        ("/attributes", page(&format!("<title>Before</title><p {attributes}><meta property=og:type content=after>"))),
        ("/gzip", bomb.concat()),
        ("/bomb", with_image("/bomb.png")),
        ("/bomb.png", answer_of("image/png", &huge_png)),
        ("/large", with_image("/large.png")),
        ("/large.png", b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 9999999999\r\n\r\n".to_vec()),
        ("/leads-inside", with_image("http://169.254.169.254/picture.png")),
        ("/no-image", with_image("/deep")),
    ]))
    .await;
    let server = Server::start_with(
        "url_preview_domain_explicit_allowlist = [\"*\"]\nurl_preview_domain_explicit_denylist = [\"denied.example\"]\n\
         ip_range_denylist = [\"169.254.0.0/16\"]",
    );
    let alice = server.register("alice").await;
    let preview = |path: &str| {
        let url = encode(&format!("http://localhost:{port}{path}"));
        format!("/v1/media/preview_url?url={url}")
    };
    for path in ["/around", "/inside", "/mapped", "/translated", "/file", "/password", "/mail", "/denied", "/absent"] {
        alice.fails(Method::GET, &preview(path), None, 502, "M_UNKNOWN").await;
    }
    for (path, title) in [("/endless", "Endless"), ("/deep", "Deep"), ("/attributes", "Before")] {
        let found = alice.get(&preview(path)).await;
        assert_eq!((&found["og:title"], found.get("og:type")), (&json!(title), None), "{path}");
    }
    assert_eq!(alice.get(&preview("/gzip")).await.get("og:title"), None);
    for path in ["/bomb", "/large", "/leads-inside", "/no-image"] {
        assert_eq!(alice.get(&preview(path)).await, json!({ "og:title": "Page" }), "{path}");
    }
    assert_eq!((stored(&server).0.len(), stored(&server).1.len()), (0, 0));
    let config = get(&server, &alice, "/_matrix/client/v1/media/config", &[]).await;
    assert_eq!((config.status(), text(&config, "content-type")), (StatusCode::OK, "application/json"));
}
