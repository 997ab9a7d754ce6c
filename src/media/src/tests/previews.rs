//! Keeping and forgetting previews.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ruma::server_name;
use serde_json::Value;
use settings::Mebibytes;
use store::{Batch, Fixed, Range, Record};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{World, alice, bob, now_ms};
use crate::{
    Error, Media, PreviewConfig,
    tables::PreviewRow,
    tables::{PreviewExpiry, Previews},
};

/// More than fit into one batch.
const MANY: u64 = 9_000;

fn previews() -> PreviewConfig {
    PreviewConfig {
        url_preview_domain_explicit_allowlist: vec!["*".to_owned()],
        url_preview_max_spider_size: 10_000,
        url_preview_pictures_mb: Mebibytes::of(0),
        ..PreviewConfig::default()
    }
}

async fn kept(media: &Media) -> (usize, usize) {
    let view = media.view().await.unwrap();
    let expiring = view.scan(Range::<PreviewExpiry>::all().limit(MANY as usize + 1)).await.expect("read").rows.len();
    (view.scan(Range::<Previews>::all().limit(MANY as usize + 1)).await.expect("read").rows.len(), expiring)
}

#[tokio::test]
async fn many_previews_expire_at_once() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let expires_ms = now_ms(&world) + 1_000;
    for page in 0..MANY / 1_000 {
        let mut batch = Batch::new();
        for n in page * 1_000..(page + 1) * 1_000 {
            let key = Fixed(*blake3::hash(&n.to_be_bytes()).as_bytes());
            batch.put::<Previews>(&key, &Record(PreviewRow { json: None, expires_ms }));
            batch.put::<PreviewExpiry>(&(expires_ms, key), &());
        }
        media.inner.store.commit(batch).await.expect("committed");
    }
    media.sweep().await.expect("swept");
    assert_eq!(kept(&media).await, (MANY as usize, MANY as usize));
    world.clock.advance(1_000);
    media.sweep().await.expect("swept");
    assert_eq!(kept(&media).await, (0, 0));
}

#[tokio::test]
async fn what_leads_inside_is_refused_and_that_is_remembered_for_a_while() {
    let mut world = World::new();
    let media = world.open(|config| config.previews = Some(previews())).await;
    let inside = ["http://localhost/", "http://127.0.0.1./", "http://[::1]:8008/", "http://user@192.168.0.1/"];
    for url in inside {
        let refused = media.preview(alice(), url).await;
        assert!(matches!(refused, Err(Error::PreviewFailed)), "{url}: {refused:?}");
    }
    let not_allowed = ["file:///etc/passwd", "http://example.org:25/", "nonsense", "data:text/html,x", ""];
    for url in not_allowed.map(str::to_owned).into_iter().chain([format!("http://a/{}", "b".repeat(5_000))]) {
        assert!(matches!(media.preview(alice(), &url).await, Err(Error::PreviewNotAllowed)), "{url}");
    }
    assert_eq!(kept(&media).await, (inside.len(), inside.len()));
    world.clock.advance(Duration::from_secs(60).as_millis() as u64);
    media.sweep().await.expect("swept");
    assert_eq!(kept(&media).await, (0, 0));
}

fn open_web(config: &mut crate::Config) {
    let mut previews = previews();
    previews.ip_range_denylist = net::Guard::default();
    config.previews = Some(previews);
}

/// The smallest GIF.
const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xFF\xFF\xFF,\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;";

/// Serves the picture below `/picture` and a page that names it elsewhere; counts the requests.
async fn web() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.expect("a request");
            }
            let page = b"<title>Page</title><meta property=og:image content=picture>";
            let (kind, body) = match request.starts_with(b"GET /picture") {
                true => ("image/gif", GIF),
                false => ("text/html", &page[..]),
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n", body.len());
            let answer = [head.as_bytes(), b"connection: close\r\n\r\n", body].concat();
            stream.write_all(&answer).await.expect("sent");
        }
    });
    (port, requests)
}

#[tokio::test]
async fn a_page_is_fetched_once_for_all_who_ask_and_without_a_picture_in_quarantine() {
    let (port, requests) = web().await;
    let mut world = World::new();
    let media = world.open(open_web).await;
    let preview = async |user, page: &str| {
        let json = media.preview(user, &format!("http://localhost:{port}/{page}")).await.expect("a preview");
        serde_json::from_str::<Value>(json.get()).expect("JSON")
    };
    // Who goes away makes nobody ask again.
    let gone = format!("http://localhost:{port}/a");
    drop(futures_util::poll!(Box::pin(media.preview(alice(), &gone))));
    let users = [alice(), bob(), alice(), bob()];
    let found = futures_util::future::join_all(users.map(|user| preview(user, "a"))).await;
    assert!(found.iter().all(|preview| *preview == found[0] && preview["og:title"] == "Page"));
    assert_eq!(requests.load(Ordering::Relaxed), 2, "the page and its picture");

    let image = found[0]["og:image"].as_str().and_then(|uri| uri.strip_prefix("mxc://example.org/")).expect("a URI");
    assert_eq!(media.contents(image).await.expect("read"), GIF);
    media.set_quarantined(server_name!("example.org"), image, true).await.expect("quarantined");
    assert_eq!(preview(alice(), "b").await, serde_json::json!({ "og:title": "Page" }));
    world.clock.advance(24 * 60 * 60 * 1000);
    media.sweep().await.expect("swept");
    assert_eq!((world.on_disk().0.len(), kept(&media).await), (0, (0, 0)));
}

#[tokio::test]
async fn pictures_have_a_quota_of_which_each_user_has_a_share() {
    let (port, _) = web().await;
    let mut world = World::new();
    let open = |config: &mut crate::Config| {
        open_web(config);
        // Each picture counts a KiB: four for each user, and thirty-two for all.
        config.previews.as_mut().expect("set").url_preview_pictures_mb = Mebibytes::from_bytes(32 * 1_024);
    };
    let mut page = 0;
    let mut has_picture = async |media: &Media, user: &ruma::UserId| {
        page += 1;
        let json = media.preview(user, &format!("http://localhost:{port}/{page}")).await.expect("a preview");
        let preview: Value = serde_json::from_str(json.get()).expect("JSON");
        assert_eq!(preview["og:title"], "Page");
        preview["og:image"].is_string()
    };
    let media = world.open(open).await;
    let mut given = Vec::new();
    for _ in 0..6 {
        given.push(has_picture(&media, alice()).await);
    }
    assert_eq!(given, [true, true, true, true, false, false]);
    drop(media);
    // What is stored counts after a restart as well.
    let media = world.open(open).await;
    assert!(!has_picture(&media, alice()).await);
    let users: Vec<_> = (0..8).map(|n| ruma::UserId::parse(format!("@u{n}:example.org")).expect("an id")).collect();
    for user in &users[..7] {
        for _ in 0..4 {
            assert!(has_picture(&media, user).await);
        }
    }
    assert!(!has_picture(&media, &users[7]).await, "all are too many");
    world.clock.advance(24 * 60 * 60 * 1000);
    media.sweep().await.expect("swept");
    for user in [alice(), &users[7]] {
        assert!(has_picture(&media, user).await, "there is room again");
    }
}
