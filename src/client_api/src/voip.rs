//! Module "Voice over IP".

use std::sync::Arc;

use axum::extract::State;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use event::Clock;
use haima_http::{ApiError, Json, Session};
use hmac::{Hmac, KeyInit, Mac};
use ruma::{UserId, api::client::voip::get_turn_server_info::v3::Request};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{
    Config,
    config::{Turn, TurnAccess},
    error::Result,
};

/// `GET /_matrix/client/v3/voip/turnServer`: 404 if no TURN server is configured. An empty object lacks what the specification
/// requires, and an empty list of URIs is an error to the clients that hand it to their browser.
pub(crate) async fn get_turn_server(
    State(config): State<Arc<Config>>,
    State(clock): State<Arc<dyn Clock>>,
    caller: Session,
    _: Request,
) -> Result<Json<Value>> {
    let Some(turn) = config.turn() else {
        return Err(ApiError::not_found("This server has no TURN server").into());
    };
    let (username, password) = credentials(&turn, clock.now_ms() / 1000, &caller.user)?;
    let Turn { uris, ttl_s, .. } = turn;
    Ok(Json(json!({ "username": username, "password": password, "uris": uris, "ttl": ttl_s })))
}

/// Name and password at the TURN server. With a shared secret they are made for the user and hold for a while: the name is the second
/// when they end and the user, the password its HMAC-SHA1 (what TURN servers call the REST API).
fn credentials(turn: &Turn<'_>, now_s: u64, user: &UserId) -> Result<(String, String)> {
    let secret = match turn.access {
        TurnAccess::Account { username, password } => return Ok((username.to_owned(), password.to_owned())),
        TurnAccess::Secret(secret) => secret,
    };
    let username = format!("{}:{user}", now_s.saturating_add(turn.ttl_s));
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).map_err(ApiError::internal)?;
    mac.update(username.as_bytes());
    let password = BASE64.encode(mac.finalize().into_bytes());
    Ok((username, password))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn a_secret_makes_credentials_that_end() {
        let turn = Turn { uris: &[], ttl_s: 60, access: TurnAccess::Secret("north") };
        let (username, password) = credentials(&turn, 1_000, user_id!("@alice:example.org")).unwrap();
        assert_eq!(username, "1060:@alice:example.org");
        assert_eq!(password, "qQC5WU8YvulLp0DO7bBdZ94pL64=");
    }
}
