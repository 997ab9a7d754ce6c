//! Module "API versions", and the health check of load balancers.

use std::sync::Arc;

use axum::extract::State;
use haima_http::{Anyone, ApiError, Gate, Incoming, Json, StatusCode};
use ruma::{
    api::client::discovery::get_supported_versions,
    exports::http::{Method, Request},
};
use serde_json::{Map, Value, json};
use store::Store;

use crate::error::Result;

/// The versions of the specification that are implemented, but for what `spec/` lists as open.
const VERSIONS: [&str; 22] = [
    "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
    "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];

/// What clients ask for by names from before the specification had it, or from the time between: a client that looks for its
/// flag alone does without the feature otherwise, whatever the versions above say. Only what is served under the names that the flag
/// stands for.
const UNSTABLE_FEATURES: [&str; 14] = [
    "fi.mau.msc2246.stable",
    "org.matrix.e2e_cross_signing",
    "org.matrix.msc2285.stable",
    "org.matrix.msc3391",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3771",
    "org.matrix.msc3773",
    "org.matrix.msc3814",
    "org.matrix.msc3827.stable",
    "org.matrix.msc3916.stable",
    "org.matrix.msc4222",
    "org.matrix.msc4380.stable",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "uk.tcpip.msc4133.stable",
];

/// `GET /_matrix/client/versions`
pub(crate) async fn get_versions(_: Anyone, _: get_supported_versions::Request) -> Result<Json<Value>> {
    let features: Map<String, Value> = UNSTABLE_FEATURES.iter().map(|&name| (name.to_owned(), true.into())).collect();
    Ok(Json(json!({ "versions": VERSIONS, "unstable_features": features })))
}

/// Asks whether the server is well.
pub(crate) struct Health;

impl Incoming for Health {
    const METHOD: Method = Method::GET;

    fn paths() -> Vec<&'static str> {
        vec!["/_haima/health"]
    }

    fn read(_: Request<&[u8]>, _: &[&str]) -> std::result::Result<Self, ApiError> {
        Ok(Self)
    }
}

/// `GET /_haima/health`: 200 while requests are answered and writes taken.
pub(crate) async fn health(
    State(gate): State<Arc<Gate>>,
    State(store): State<Store>,
    _: Anyone,
    _: Health,
) -> Result<Json<Value>> {
    let unwell = |why| Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", why).into());
    if gate.shutdown().is_cancelled() {
        return unwell("The server is about to stop");
    }
    if !store.is_writable() {
        return unwell("The database takes no writes");
    }
    Ok(Json(json!({ "status": "ok" })))
}
