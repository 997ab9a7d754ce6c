//! Module "Syncing".

use std::{fmt::Display, str::FromStr, sync::Arc};

use ::sync::{LargeAnswer, Sync, SyncError, SyncRequest};
use axum::extract::State;
use futures_util::future::BoxFuture;
use haima_http::{ApiError, Class, Gate, Guest, Incoming, JsonBytes, Turn, Waiting, query_pairs};
use parking_lot::Mutex;
use ruma::{
    UserId,
    api::{Metadata, client::sync::sync_events::v3::Request, path_builder::PathBuilder},
    exports::http::{self, Method},
    presence::PresenceState as SetPresence,
};
use store::Position;
use users::{PresenceState, Users};

use crate::error::Result;

/// A request for `/sync`. `ruma`'s type of it takes a kilobyte, and thousands wait; and not every field of a filter is in it.
#[derive(Debug, Default)]
pub(crate) struct SyncQuery {
    since: Option<String>,
    filter: Option<String>,
    full_state: bool,
    set_presence: SetPresence,
    timeout_ms: u64,
    use_state_after: bool,
    /// `use_state_after` as clients from before Matrix 1.16 ask for it (MSC4222).
    msc4222_use_state_after: bool,
}

impl Incoming for SyncQuery {
    const METHOD: Method = <Request as Metadata>::METHOD;

    fn paths() -> Vec<&'static str> {
        Request::PATH_BUILDER.all_paths().collect()
    }

    fn read(request: http::Request<&[u8]>, _: &[&str]) -> std::result::Result<Self, ApiError> {
        let mut query = Self::default();
        // By hand: no other query comes as often, and a parser for all kinds of queries takes several times as long.
        for (name, value) in query_pairs(&request) {
            match &*name {
                "since" => query.since = Some(value.into_owned()),
                "filter" => query.filter = Some(value.into_owned()),
                "full_state" => query.full_state = parse(&name, &value)?,
                "set_presence" => query.set_presence = (&*value).into(),
                "timeout" => query.timeout_ms = parse(&name, &value)?,
                "use_state_after" => query.use_state_after = parse(&name, &value)?,
                "org.matrix.msc4222.use_state_after" => query.msc4222_use_state_after = parse(&name, &value)?,
                _ => {}
            }
        }
        Ok(query)
    }
}

fn parse<T: FromStr<Err: Display>>(name: &str, value: &str) -> std::result::Result<T, ApiError> {
    value.parse().map_err(|error: T::Err| ApiError::invalid_param(format!("{name}: {error}")))
}

/// `GET /_matrix/client/v3/sync`
#[expect(clippy::manual_async_fn, reason = "thousands wait, and an async fn keeps twice what it was given")]
pub(crate) fn sync(
    State(gate): State<Arc<Gate>>,
    State(users): State<Users>,
    State(sync): State<Sync>,
    waiting: Waiting<Guest>,
    query: SyncQuery,
) -> impl Future<Output = Result<JsonBytes>> + Send {
    async move {
        let Waiting { caller, poll } = &waiting;
        let request = SyncRequest {
            user: &caller.user,
            device: &caller.device,
            since: query.since.as_deref(),
            filter: query.filter.as_deref(),
            full_state: query.full_state,
            set_presence: presence_state(&query.set_presence),
            timeout_ms: query.timeout_ms,
            use_state_after: query.use_state_after || query.msc4222_use_state_after,
        };
        let large = Large { gate: &gate, user: &caller.user, turn: Mutex::default() };
        let mut session = users.watch_session(&caller.user, &caller.device, Position::from_u64(caller.known_at));
        let mut response = tokio::select! {
            // What is there is answered without another look at the session.
            biased;
            response = sync.classic_with(request, &large) => response?,
            why = session.end() => return Err(why.into()),
            // Nobody is to wait any more: what there is now.
            () = poll.ended() => Box::pin(sync.classic_with(SyncRequest { timeout_ms: 0, ..request }, &large)).await?,
        };
        session.check_after_wait().await?;
        let turn = large.turn.into_inner();
        if turn.is_some() {
            let rooms = response.rooms.join.len() + response.rooms.leave.len();
            gate.limits().charge_user(Class::Sync, &caller.user, rooms as u64);
        }
        if query.msc4222_use_state_after {
            response.name_state_after_as_msc4222();
        }
        let json = JsonBytes::from(response.to_json()?);
        drop(turn);
        Ok(json)
    }
}

/// The turn of a request, taken once its answer turns out to be large.
struct Large<'a> {
    gate: &'a Gate,
    user: &'a UserId,
    turn: Mutex<Option<Turn>>,
}

impl LargeAnswer for Large<'_> {
    fn begin(&self) -> BoxFuture<'_, std::result::Result<(), SyncError>> {
        Box::pin(async {
            // One thing is asked at a time.
            if self.turn.lock().is_none() {
                let turn = self.gate.bulk_turn(self.user).await.map_err(|_| SyncError::Busy)?;
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
pub(crate) fn presence_state(asked: &SetPresence) -> PresenceState {
    match asked {
        SetPresence::Offline => PresenceState::Offline,
        SetPresence::Unavailable => PresenceState::Unavailable,
        _ => PresenceState::Online,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> std::result::Result<SyncQuery, ApiError> {
        let request = http::Request::builder().uri(format!("/_matrix/client/v3/sync?{query}"));
        SyncQuery::read(request.body(&[][..]).unwrap(), &[])
    }

    #[test]
    fn a_query_is_read_and_what_it_has_besides_is_passed_over() {
        let query =
            read("since=s1_2&filter=%7B%22room%22%3A+%7B%7D%7D&timeout=30000&full_state=true&set_presence=offline&_=5");
        let query = query.unwrap();
        assert_eq!((query.since.as_deref(), query.filter.as_deref()), (Some("s1_2"), Some(r#"{"room": {}}"#)));
        assert_eq!((query.timeout_ms, query.full_state, query.use_state_after), (30_000, true, false));
        assert_eq!(query.set_presence, SetPresence::Offline);
        let nothing = read("").unwrap();
        assert_eq!((nothing.since, nothing.timeout_ms, nothing.set_presence), (None, 0, SetPresence::Online));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (query, name) in [("timeout=soon", "timeout"), ("timeout=-1", "timeout"), ("full_state=1", "full_state")] {
            let error = read(query).unwrap_err();
            assert_eq!(error.errcode(), "M_INVALID_PARAM");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
