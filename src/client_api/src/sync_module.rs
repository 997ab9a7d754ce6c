//! Module "Syncing".

use futures_util::future::BoxFuture;
use haima_http::{Class, Guest, JsonBytes, Turn, Waiting, WithQuery};
use parking_lot::Mutex;
use ruma::{UserId, api::client::sync::sync_events::v3::Request, presence::PresenceState as Asked};
use serde::Deserialize;
use sync::{LargeAnswer, SyncError, SyncRequest};
use users::PresenceState;

use crate::{ClientApi, error::Result};

/// What the request's type doesn't hold, or not whole.
#[derive(Debug, Deserialize)]
pub(crate) struct Query {
    /// The filter as it was sent, since not every field of it is in the request's type.
    filter: Option<String>,
    /// `use_state_after` as clients from before Matrix 1.16 ask for it (MSC4222).
    #[serde(rename = "org.matrix.msc4222.use_state_after", default)]
    msc4222_use_state_after: bool,
}

/// `GET /_matrix/client/v3/sync`
pub(crate) async fn sync(api: ClientApi, waiting: Waiting<Guest>, req: WithQuery<Request, Query>) -> Result<JsonBytes> {
    let WithQuery { request, query } = req;
    let Waiting { caller, poll } = waiting;
    let timeout_ms = request.timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    let asked = SyncRequest {
        user: &caller.user,
        device: &caller.device,
        since: request.since.as_deref(),
        filter: query.filter.as_deref(),
        full_state: request.full_state,
        set_presence: presence_state(&request.set_presence),
        timeout_ms: timeout_ms.min(api.config.sync_timeout_ms_max),
        use_state_after: request.use_state_after || query.msc4222_use_state_after,
    };
    let large = Large { api: &api, user: &caller.user, turn: Mutex::default() };
    let mut session = api.users.watch_session(&caller.user, &caller.device);
    let mut response = tokio::select! {
        // What is there is answered without another look at the session.
        biased;
        response = api.sync.classic_with(asked, &large) => response?,
        why = session.end() => return Err(why.into()),
        // Nobody is to wait any more: what there is now.
        () = poll.ended() => Box::pin(api.sync.classic_with(SyncRequest { timeout_ms: 0, ..asked }, &large)).await?,
    };
    session.check_after_wait().await?;
    let turn = large.turn.into_inner();
    if turn.is_some() {
        let rooms = response.rooms.join.len() + response.rooms.leave.len();
        api.gate.limits().charge_user(Class::Sync, &caller.user, rooms as u64);
    }
    if query.msc4222_use_state_after {
        response.name_state_after_as_msc4222();
    }
    let json = JsonBytes::from(response.to_json()?);
    drop(turn);
    Ok(json)
}

/// The turn of a request, taken once its answer turns out to be large.
struct Large<'a> {
    api: &'a ClientApi,
    user: &'a UserId,
    turn: Mutex<Option<Turn>>,
}

impl LargeAnswer for Large<'_> {
    fn begin(&self) -> BoxFuture<'_, std::result::Result<(), SyncError>> {
        Box::pin(async {
            // One thing is asked at a time.
            if self.turn.lock().is_none() {
                let turn = self.api.gate.bulk_turn(self.user).await.map_err(|_| SyncError::Busy)?;
                *self.turn.lock() = Some(turn);
            }
            Ok(())
        })
    }

    fn end(&self) {
        *self.turn.lock() = None;
    }
}

/// Presence as `users` knows it; unknown kinds count as online.
pub(crate) fn presence_state(asked: &Asked) -> PresenceState {
    match asked {
        Asked::Offline => PresenceState::Offline,
        Asked::Unavailable => PresenceState::Unavailable,
        _ => PresenceState::Online,
    }
}
