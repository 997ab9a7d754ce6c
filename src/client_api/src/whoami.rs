//! Module "Current account information".

use haima_http::Guest;
use ruma::api::client::account::whoami::v3::{Request, Response};

use crate::{ClientApi, error::Result};

/// `GET /_matrix/client/v3/account/whoami`
pub(crate) async fn get_token_owner(_: ClientApi, caller: Guest, _: Request) -> Result<Response> {
    let mut response = Response::new(caller.user.clone(), caller.guest);
    response.device_id = Some(caller.device.clone());
    Ok(response)
}
