//! Module "Third-party networks".

use std::collections::BTreeMap;

use haima_http::Session;
use ruma::api::client::thirdparty::get_protocols::v3::{Request, Response};

use crate::error::Result;

/// `GET /_matrix/client/v3/thirdparty/protocols`: there are none without application services.
pub(crate) async fn get_protocols(_: Session, _: Request) -> Result<Response> {
    Ok(Response::new(BTreeMap::new()))
}
