//! Module "Server discovery".

use std::sync::Arc;

use axum::extract::State;
use haima_http::{Anyone, ApiError, Incoming, Json};
use ruma::{
    api::client::discovery::discover_homeserver::{HomeserverInfo, Request, Response},
    exports::http,
};
use serde_json::{Value, json};

use crate::{Config, error::Result};

/// `GET /.well-known/matrix/client`
pub(crate) async fn get_wellknown(State(config): State<Arc<Config>>, _: Anyone, _: Request) -> Result<Response> {
    let Some(base_url) = &config.well_known.client else {
        return Err(ApiError::not_found("This server doesn't tell where it is").into());
    };
    Ok(Response::new(HomeserverInfo::new(base_url.clone())))
}

/// Asks where other servers reach this one (server-server API, "Server discovery"). Here because it is served beside the
/// clients' document.
pub(crate) struct ServerLocation;

impl Incoming for ServerLocation {
    const METHOD: http::Method = http::Method::GET;

    fn paths() -> Vec<&'static str> {
        vec!["/.well-known/matrix/server"]
    }

    fn read(_: http::Request<&[u8]>, _: &[&str]) -> std::result::Result<Self, ApiError> {
        Ok(Self)
    }
}

/// `GET /.well-known/matrix/server`
pub(crate) async fn get_well_known(
    State(config): State<Arc<Config>>,
    _: Anyone,
    _: ServerLocation,
) -> Result<Json<Value>> {
    let Some(server) = &config.well_known.server else {
        return Err(ApiError::not_found("This server doesn't tell where it is").into());
    };
    Ok(Json(json!({ "m.server": server })))
}
