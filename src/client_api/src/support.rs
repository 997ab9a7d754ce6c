//! Module "Server contact discovery".

use std::sync::Arc;

use axum::extract::State;
use haima_http::{Anyone, ApiError};
use ruma::api::client::discovery::discover_support::{Request, Response};

use crate::{Config, error::Result};

/// `GET /.well-known/matrix/support`
pub(crate) async fn get_wellknown_support(
    State(config): State<Arc<Config>>,
    _: Anyone,
    _: Request,
) -> Result<Response> {
    let told = &config.well_known;
    let contact = told.contact();
    if contact.is_none() && told.support_page.is_none() {
        return Err(ApiError::not_found("This server has no contacts").into());
    }
    let mut response = Response::with_contacts(contact.into_iter().collect());
    response.support_page.clone_from(&told.support_page);
    Ok(response)
}
