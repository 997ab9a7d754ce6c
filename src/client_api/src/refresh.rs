//! Module "Refreshing access tokens".

use std::time::Duration;

use axum::extract::State;
use haima_http::Anyone;
use ruma::api::client::session::refresh_token::v3::{Request, Response};
use users::Users;

use crate::error::Result;

/// `POST /_matrix/client/v3/refresh`
pub(crate) async fn refresh(State(users): State<Users>, _: Anyone, req: Request) -> Result<Response> {
    let issued = users.refresh(&req.refresh_token).await?;
    let mut response = Response::new(issued.access_token);
    response.refresh_token = issued.refresh_token;
    response.expires_in_ms = issued.expires_in_ms.map(Duration::from_millis);
    Ok(response)
}
