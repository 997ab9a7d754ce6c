//! Module "Server contact discovery".

use haima_http::{Anyone, ApiError};
use ruma::api::client::discovery::discover_support::{Request, Response};

use crate::{ClientApi, error::Result};

/// `GET /.well-known/matrix/support`
pub(crate) async fn get_wellknown_support(api: ClientApi, _: Anyone, _: Request) -> Result<Response> {
    let config = &api.config;
    if config.support_contacts.is_empty() && config.support_page.is_none() {
        return Err(ApiError::not_found("This server has no contacts").into());
    }
    let mut response = Response::with_contacts(config.support_contacts.clone());
    response.support_page = config.support_page.clone();
    Ok(response)
}
