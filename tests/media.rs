//! The content repository.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Server, User, encode, password};

/// Uploads a file and gives its path below `download/` and `thumbnail/`.
pub async fn upload(server: &Server, user: &User<'_>, query: &str, content_type: &str, bytes: &[u8]) -> String {
    let request = server.raw(Method::POST, &format!("/_matrix/media/v3/upload{query}"));
    let request = request.bearer_auth(&user.token).header(header::CONTENT_TYPE, content_type).body(bytes.to_vec());
    let answer = request.send().await.expect("an answer");
    let status = answer.status();
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("a URI").to_owned()
}

/// GET with a token.
pub async fn get(server: &Server, user: &User<'_>, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = server.raw(Method::GET, path).bearer_auth(&user.token);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

pub fn text<'r>(answer: &'r reqwest::Response, name: &str) -> &'r str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// Bytes that don't repeat soon.
pub fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

#[tokio::test]
async fn files_are_uploaded_and_downloaded() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    for len in [0, 1_000, 3_000_000] {
        let bytes = content(len);
        let file = upload(&server, &alice, "?filename=a%20%E6%B5%B7.png", "image/png", &bytes).await;
        let path = format!("/_matrix/client/v1/media/download/{file}");
        let answer = get(&server, &bob, &path, &[("accept-encoding", "gzip")]).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(text(&answer, "content-type"), "image/png");
        let disposition = "inline; filename=\"a _.png\"; filename*=UTF-8''a%20%E6%B5%B7.png";
        assert_eq!(text(&answer, "content-disposition"), disposition);
        assert_eq!(text(&answer, "content-length"), len.to_string());
        assert_eq!(text(&answer, "cross-origin-resource-policy"), "cross-origin");
        assert_eq!(text(&answer, "x-content-type-options"), "nosniff");
        assert!(text(&answer, "content-security-policy").starts_with("sandbox; default-src 'none';"));
        assert!(text(&answer, "cache-control").contains("immutable"));
        assert_eq!(text(&answer, "content-encoding"), "");
        assert_eq!(answer.bytes().await.expect("a body"), bytes);

        let named = get(&server, &bob, &format!("{path}/other.html"), &[]).await;
        assert_eq!(text(&named, "content-disposition"), "inline; filename=\"other.html\"");
        assert_eq!(server.request(Method::GET, &path, None).await.0, StatusCode::UNAUTHORIZED);
    }
    let page = upload(&server, &alice, "", "text/html", b"<script>alert(1)</script>").await;
    let answer = get(&server, &bob, &format!("/_matrix/client/v1/media/download/{page}"), &[]).await;
    assert_eq!((text(&answer, "content-type"), text(&answer, "content-disposition")), ("text/html", "attachment"));

    bob.fails(Method::GET, "/v1/media/download/localhost/none", None, 404, "M_NOT_FOUND").await;
    bob.fails(Method::GET, "/v1/media/download/example.org/none", None, 404, "M_NOT_FOUND").await;
    bob.fails(Method::GET, "/v1/media/download/localhost/..%2F..%2Fetc", None, 400, "M_INVALID_PARAM").await;
}

#[tokio::test]
async fn parts_of_files_are_downloaded() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bytes = content(300_000);
    let file = upload(&server, &alice, "", "video/mp4", &bytes).await;
    let path = format!("/_matrix/client/v1/media/download/{file}");
    let part = get(&server, &alice, &path, &[("range", "bytes=100000-200000")]).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(text(&part, "content-range"), "bytes 100000-200000/300000");
    let etag = text(&part, "etag").to_owned();
    assert_eq!(part.bytes().await.expect("a body"), bytes[100_000..=200_000]);
    let end = get(&server, &alice, &path, &[("range", "bytes=-7"), ("if-range", &etag)]).await;
    assert_eq!(end.bytes().await.expect("a body"), bytes[299_993..]);
    let whole = get(&server, &alice, &path, &[("range", "bytes=-7"), ("if-range", "\"other\"")]).await;
    assert_eq!((whole.status(), whole.content_length()), (StatusCode::OK, Some(300_000)));
    let beyond = get(&server, &alice, &path, &[("range", "bytes=300000-")]).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(text(&beyond, "content-range"), "bytes */300000");
    assert_eq!(text(&beyond, "access-control-allow-origin"), "*");
    assert_eq!(beyond.json::<Value>().await.expect("JSON")["errcode"], "M_INVALID_PARAM");
    let known = get(&server, &alice, &path, &[("if-none-match", &etag)]).await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(known.bytes().await.expect("a body").len(), 0);
}

#[tokio::test]
async fn uploads_can_be_announced() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let create = "/_matrix/media/v1/create";
    let created = alice.ok(Method::POST, create, Some(json!({}))).await;
    assert!(created["unused_expires_at"].is_u64(), "{created}");
    let file = created["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("a URI");
    let early = format!("/v1/media/download/{file}?timeout_ms=0");
    bob.fails(Method::GET, &early, None, 504, "M_NOT_YET_UPLOADED").await;

    let put = async |user: &User<'_>, file: &str| {
        let request = server.raw(Method::PUT, &format!("/_matrix/media/v3/upload/{file}"));
        let answer = request.bearer_auth(&user.token).body("content").send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON")["errcode"].clone())
    };
    assert_eq!(put(&bob, file).await, (403, json!("M_FORBIDDEN")));
    assert_eq!(put(&alice, "localhost/none").await, (404, json!("M_NOT_FOUND")));
    let path = format!("/_matrix/client/v1/media/download/{file}");
    let (waited, uploaded) = tokio::join!(get(&server, &bob, &path, &[]), put(&alice, file));
    assert_eq!(uploaded, (200, Value::Null));
    assert_eq!(text(&waited, "content-type"), "application/octet-stream");
    assert_eq!(waited.text().await.expect("a body"), "content");
    assert_eq!(put(&alice, file).await, (409, json!("M_CANNOT_OVERWRITE_MEDIA")));

    for _ in 0..5 {
        alice.ok(Method::POST, create, Some(json!({}))).await;
    }
    let (status, refused) = alice.call(Method::POST, create, Some(json!({}))).await;
    assert_eq!((status.as_u16(), &refused["errcode"]), (429, &json!("M_LIMIT_EXCEEDED")));
}

#[tokio::test]
async fn the_size_of_uploads_is_told_and_enforced() {
    let server = Server::start_with("max_request_size = 200000\nmedia_user_quota_mb = 1");
    let alice = server.register("alice").await;
    assert_eq!(alice.get("/v1/media/config").await, json!({ "m.upload.size": 200_000 }));
    assert_eq!(alice.ok(Method::GET, "/_matrix/media/v3/config", None).await, json!({ "m.upload.size": 200_000 }));
    let send = async |body: reqwest::Body| {
        let request = server.raw(Method::POST, "/_matrix/media/v3/upload").bearer_auth(&alice.token);
        let answer = request.body(body).send().await.expect("an answer");
        let status = answer.status().as_u16();
        let answer: Value = answer.json().await.expect("JSON");
        (status, answer["errcode"].clone(), answer["info_uri"].clone())
    };
    assert_eq!(send(content(200_001).into()).await, (413, json!("M_TOO_LARGE"), Value::Null));
    for at in 0..5_u8 {
        assert_eq!(send(vec![at; 200_000].into()).await, (200, Value::Null, Value::Null));
    }
    let exceeded = (403, json!("M_USER_LIMIT_EXCEEDED"), json!("https://localhost/"));
    assert_eq!(send(vec![9; 200_000].into()).await, exceeded);
    assert_eq!(server.request(Method::POST, "/_matrix/media/v3/upload", None).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn files_without_a_token_are_a_choice() {
    let frozen = Server::start();
    let alice = frozen.register("alice").await;
    let file = upload(&frozen, &alice, "", "text/plain", b"text").await;
    let thumbnail = format!("thumbnail/{file}?width=96&height=96");
    for path in [format!("download/{file}"), format!("download/{file}/name"), thumbnail] {
        let (status, answer) = frozen.request(Method::GET, &format!("/_matrix/media/v3/{path}"), None).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (404, &json!("M_NOT_FOUND")));
    }

    let open = Server::start_with("allow_legacy_media = true");
    let alice = open.register("alice").await;
    let file = upload(&open, &alice, "?filename=a.txt", "text/plain", b"text").await;
    let image = upload(&open, &alice, "", "image/png", &png(100, 100)).await;
    for version in ["r0", "v3"] {
        let answer = open.raw(Method::GET, &format!("/_matrix/media/{version}/download/{file}")).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(text(&answer, "content-disposition"), "inline; filename=\"a.txt\"");
        assert_eq!(answer.text().await.expect("a body"), "text");
        let path = format!("/_matrix/media/{version}/download/{file}/b.txt");
        let answer = open.raw(Method::GET, &path).send().await.expect("an answer");
        assert_eq!(text(&answer, "content-disposition"), "inline; filename=\"b.txt\"");
        let path = format!("/_matrix/media/{version}/thumbnail/{image}?width=32&height=32&method=crop");
        let answer = open.raw(Method::GET, &path).send().await.expect("an answer");
        assert_eq!((answer.status(), text(&answer, "content-type")), (StatusCode::OK, "image/jpeg"));
    }
}

/// A PNG of one colour, made by hand: its pixels are stored uncompressed.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let checksum = |bytes: &[u8]| {
        let step = |crc: u32| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
        !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
    };
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        png.extend((data.len() as u32).to_be_bytes());
        let content = [kind, data].concat();
        png.extend(&content);
        png.extend(checksum(&content).to_be_bytes());
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    chunk(b"IHDR", &header);
    let pixels = vec![0_u8; ((width + 1) * height) as usize];
    let mut zlib = vec![0x78, 0x01];
    let blocks = pixels.chunks(0xFFFF).count();
    for (at, block) in pixels.chunks(0xFFFF).enumerate() {
        zlib.push(u8::from(at + 1 == blocks));
        zlib.extend((block.len() as u16).to_le_bytes());
        zlib.extend((!(block.len() as u16)).to_le_bytes());
        zlib.extend(block);
    }
    let sum = (pixels.len() as u32 % 65_521) << 16 | 1;
    zlib.extend(sum.to_be_bytes());
    chunk(b"IDAT", &zlib);
    chunk(b"IEND", b"");
    png
}

#[tokio::test]
async fn thumbnails_are_made_and_found_again() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let file = upload(&server, &alice, "?filename=secret.png", "image/png", &png(1_000, 700)).await;
    let path = format!("/_matrix/client/v1/media/thumbnail/{file}");
    let mut etags = Vec::new();
    for _ in 0..2 {
        let made = get(&server, &alice, &format!("{path}?width=100&height=70&method=scale"), &[]).await;
        assert_eq!(made.status(), StatusCode::OK);
        assert_eq!(text(&made, "content-type"), "image/jpeg");
        assert_eq!(text(&made, "content-disposition"), "inline; filename=\"thumbnail.jpeg\"");
        etags.push(text(&made, "etag").to_owned());
        assert!(made.bytes().await.expect("a body").len() < 20_000);
    }
    assert_eq!(etags[0], etags[1]);
    let original = get(&server, &alice, &format!("{path}?width=1000&height=700"), &[]).await;
    assert_eq!(original.bytes().await.expect("a body"), png(1_000, 700));

    let text_file = upload(&server, &alice, "", "image/png", b"no image").await;
    let fails = async |file: &str, query: &str, status, errcode| {
        let path = format!("/v1/media/thumbnail/{file}?{query}");
        alice.fails(Method::GET, &path, None, status, errcode).await;
    };
    fails(&text_file, "width=96&height=96", 400, "M_UNKNOWN").await;
    fails(&file, "width=-1&height=96", 400, "M_INVALID_PARAM").await;
    fails(&file, "height=96", 400, "M_MISSING_PARAM").await;
    fails("localhost/none", "width=96&height=96", 404, "M_NOT_FOUND").await;
}

/// Serves a page that names a picture, and counts the requests.
async fn web(picture: Vec<u8>) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let page = b"<title>Seahorses</title><meta property='og:image' content='/picture'>";
            let (kind, body) = match request.get(..8) {
                Some(b"GET /pic") => ("image/png", &picture[..]),
                _ => ("text/html; charset=utf-8", &page[..]),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            // The other side may have gone.
            drop(stream.write_all(&[head.as_bytes(), body].concat()).await);
        }
    });
    (port, requests)
}

#[tokio::test]
async fn pages_are_previewed_where_the_admin_allows_it() {
    let (port, requests) = web(png(30, 20)).await;
    let page = encode(&format!("http://localhost:{port}/page"));
    let path = format!("/v1/media/preview_url?url={page}");
    let off = Server::start();
    let alice = off.register("alice").await;
    alice.fails(Method::GET, &path, None, 403, "M_FORBIDDEN").await;

    let guarded = Server::start_with("url_preview_domain_explicit_allowlist = [\"localhost\"]");
    let alice = guarded.register("alice").await;
    alice.fails(Method::GET, &path, None, 502, "M_UNKNOWN").await;
    assert_eq!(requests.load(Ordering::Relaxed), 0, "this machine is not asked");

    let settings = "url_preview_domain_explicit_allowlist = [\"localhost\"]\nip_range_denylist = []";
    let open = Server::start_with(settings);
    let alice = open.register("alice").await;
    let preview = alice.get(&path).await;
    assert_eq!(preview["og:title"], "Seahorses");
    assert_eq!((&preview["og:image:width"], &preview["og:image:type"]), (&json!(30), &json!("image/png")));
    let image = preview["og:image"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("a URI");
    let answer = get(&open, &alice, &format!("/_matrix/client/v1/media/download/{image}"), &[]).await;
    assert_eq!(answer.bytes().await.expect("a body"), png(30, 20));
    let legacy = alice.ok(Method::GET, &format!("/_matrix/media/v3/preview_url?url={page}"), None).await;
    assert_eq!(legacy, preview);
    assert_eq!(requests.load(Ordering::Relaxed), 2, "kept for a while");
    let other = encode(&format!("http://127.0.0.1:{port}/page"));
    alice.fails(Method::GET, &format!("/v1/media/preview_url?url={other}"), None, 403, "M_FORBIDDEN").await;
    alice.fails(Method::GET, "/v1/media/preview_url?url=nonsense", None, 403, "M_FORBIDDEN").await;
    alice.fails(Method::GET, "/v1/media/preview_url", None, 400, "M_MISSING_PARAM").await;
}

#[tokio::test]
async fn files_outlive_their_uploaders() {
    let server = Server::start();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let file = upload(&server, &alice, "", "text/plain", b"part of a conversation").await;
    let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" },
        "password": password("alice") });
    alice.post("/v3/account/deactivate", json!({ "auth": auth, "erase": true })).await;
    let answer = get(&server, &bob, &format!("/_matrix/client/v1/media/download/{file}"), &[]).await;
    assert_eq!(answer.text().await.expect("a body"), "part of a conversation");
}

#[tokio::test]
async fn acknowledged_files_survive_a_kill() {
    let mut server = Server::start();
    let bytes = content(400_000);
    let (token, files) = {
        let alice = server.register("alice").await;
        let announced = alice.ok(Method::POST, "/_matrix/media/v1/create", Some(json!({}))).await;
        let announced = announced["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("a URI");
        let uploads = (0..20_usize).map(|n| upload(&server, &alice, "", "text/plain", &bytes[n..]));
        let mut files = futures_util::future::join_all(uploads).await;
        let put = server.raw(Method::PUT, &format!("/_matrix/media/v3/upload/{announced}"));
        let put = put.bearer_auth(&alice.token).body(bytes[20..].to_vec()).send().await.expect("an answer");
        assert_eq!(put.status(), StatusCode::OK);
        files.push(announced.to_owned());
        (alice.token.clone(), files)
    };
    server.kill();
    server.restart();
    for (n, file) in files.iter().enumerate() {
        let request = server.raw(Method::GET, &format!("/_matrix/client/v1/media/download/{file}"));
        let answer = request.bearer_auth(&token).send().await.expect("an answer");
        assert_eq!(answer.bytes().await.expect("a body"), bytes[n..], "file {n}");
    }
}
