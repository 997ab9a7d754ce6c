//! The content repository.

use std::time::Duration;

use axum::http::Method;
use serde_json::json;

use crate::world::World;

/// Less than who waits for a file is willing to wait, and more than an answer at once takes.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn who_waits_for_a_file_is_answered_when_the_server_ends() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let (_, created) = alice.ask(Method::POST, "/_matrix/media/v1/create", Some(json!({}))).await;
    let file = created["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("a URI");
    let path = format!("/v1/media/download/{file}?timeout_ms=20000");
    let waiting = tokio::time::timeout(PATIENCE, alice.ask(Method::GET, &path, None));
    let (answered, ()) = tokio::join!(waiting, async { world.stop.cancel() });
    let (status, answer) = answered.expect("doesn't wait on");
    assert_eq!((status, &answer["errcode"]), (504, &json!("M_NOT_YET_UPLOADED")));
}
