//! Module "API versions", and the health check of load balancers.

use haima_http::{Anyone, ApiError, Incoming, Json, StatusCode};
use ruma::{
    api::client::discovery::get_supported_versions,
    exports::http::{Method, Request},
};
use serde_json::{Value, json};

use crate::{ClientApi, error::Result};

/// The versions of the specification that are implemented, but for what `spec/` lists as open.
const VERSIONS: [&str; 22] = [
    "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
    "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];

/// `GET /_matrix/client/versions`
pub(crate) async fn get_versions(_: ClientApi, _: Anyone, _: get_supported_versions::Request) -> Result<Json<Value>> {
    Ok(Json(json!({ "versions": VERSIONS, "unstable_features": { "org.matrix.msc3814": true } })))
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
pub(crate) async fn health(api: ClientApi, _: Anyone, _: Health) -> Result<Json<Value>> {
    let unwell = |why| Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", why).into());
    if api.gate.shutdown().is_cancelled() {
        return unwell("The server is about to stop");
    }
    if !api.store.is_writable() {
        return unwell("The database takes no writes");
    }
    Ok(Json(json!({ "status": "ok" })))
}
