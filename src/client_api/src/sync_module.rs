//! Module "Syncing".

use bytes::Bytes;
use haima_http::{Guest, JsonBytes, WithQuery};
use ruma::{api::client::sync::sync_events::v3::Request, presence::PresenceState as Asked};
use serde::Deserialize;
use sync::SyncRequest;
use users::PresenceState;

use crate::{ClientApi, error::Result};

/// The filter as it was sent, since not every field of it is in the request's type.
#[derive(Debug, Deserialize)]
pub(crate) struct Query {
    filter: Option<String>,
}

/// `GET /_matrix/client/v3/sync`
pub(crate) async fn sync(api: ClientApi, caller: Guest, req: WithQuery<Request, Query>) -> Result<JsonBytes> {
    let WithQuery { request, query } = req;
    let timeout_ms = request.timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    let response = api.sync.classic(SyncRequest {
        user: &caller.user,
        device: &caller.device,
        since: request.since.as_deref(),
        filter: query.filter.as_deref(),
        full_state: request.full_state,
        set_presence: presence_state(&request.set_presence),
        timeout_ms: timeout_ms.min(api.config.sync_timeout_ms_max),
        use_state_after: request.use_state_after,
    });
    Ok(JsonBytes(Bytes::from(response.await?.to_json()?)))
}

/// Presence as `users` knows it; unknown kinds count as online.
pub(crate) fn presence_state(asked: &Asked) -> PresenceState {
    match asked {
        Asked::Offline => PresenceState::Offline,
        Asked::Unavailable => PresenceState::Unavailable,
        _ => PresenceState::Online,
    }
}
