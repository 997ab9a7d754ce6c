//! Keeping and forgetting previews.

use std::time::Duration;

use store::{Batch, Fixed, Range, Record};

use super::{World, alice, now_ms};
use crate::{
    Error, Media, PreviewConfig, PreviewLists,
    preview::PreviewRow,
    tables::{PreviewExpiry, Previews},
};

/// More than fit into one batch.
const MANY: u64 = 9_000;

fn previews() -> PreviewConfig {
    PreviewConfig {
        lists: PreviewLists { domain: vec!["*".to_owned()], ..PreviewLists::default() },
        page_bytes_max: 10_000,
        client: net::Config {
            guard: net::Guard::parse(net::DENIED_DEFAULT).expect("networks"),
            connect_ms_max: 1_000,
            request_ms_max: 1_000,
            user_agent: "Haima".to_owned(),
        },
    }
}

async fn kept(media: &Media) -> (usize, usize) {
    let view = media.view();
    let expiring = view.scan(Range::<PreviewExpiry>::all().limit(MANY as usize + 1)).await.expect("read").len();
    (view.scan(Range::<Previews>::all().limit(MANY as usize + 1)).await.expect("read").len(), expiring)
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
