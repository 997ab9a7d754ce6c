//! Module "Server discovery".

use haima_http::{Anyone, ApiError};
use ruma::api::client::discovery::discover_homeserver::{HomeserverInfo, Request, Response};

use crate::{ClientApi, error::Result};

/// `GET /.well-known/matrix/client`
pub(crate) async fn get_wellknown(api: ClientApi, _: Anyone, _: Request) -> Result<Response> {
    let Some(base_url) = &api.config.well_known_client else {
        return Err(ApiError::not_found("This server doesn't tell where it is").into());
    };
    Ok(Response::new(HomeserverInfo::new(base_url.clone())))
}
