//! Module "Presence".

use std::time::Duration;

use axum::extract::State;
use haima_http::{ApiError, Session};
use rooms::Rooms;
use ruma::{
    api::client::presence::{get_presence as get, set_presence as set},
    presence::PresenceState as Shown,
};
use store::Store;
use users::{PresenceState, Users};

use crate::{error::Result, require_self, sync::presence_state};

/// `PUT /_matrix/client/v3/presence/{userId}/status`
pub(crate) async fn set_presence(
    State(users): State<Users>,
    caller: Session,
    req: set::v3::Request,
) -> Result<set::v3::Response> {
    require_self(&caller, &req.user_id)?;
    if !matches!(req.presence, Shown::Offline | Shown::Online | Shown::Unavailable) {
        return Err(ApiError::bad_json("Unknown presence state").into());
    }
    let state = presence_state(&req.presence);
    users.presence().set(&caller.user, &caller.device, state, req.status_msg.as_deref()).await?;
    Ok(set::v3::Response::new())
}

/// `GET /_matrix/client/v3/presence/{userId}/status`
pub(crate) async fn get_presence(
    State(store): State<Store>,
    State(users): State<Users>,
    State(rooms): State<Rooms>,
    caller: Session,
    req: get::v3::Request,
) -> Result<get::v3::Response> {
    let view = store.view().await?;
    if caller.user != req.user_id && !rooms.shares_room(&view, &caller.user, &req.user_id).await? {
        return Err(ApiError::forbidden("You may not see this user's presence").into());
    }
    let Some(info) = users.presence().get_one(&req.user_id) else {
        return Ok(get::v3::Response::new(Shown::Offline));
    };
    let mut response = get::v3::Response::new(match info.state {
        PresenceState::Offline => Shown::Offline,
        PresenceState::Unavailable => Shown::Unavailable,
        PresenceState::Online => Shown::Online,
    });
    response.status_msg = info.status_msg;
    response.currently_active = Some(info.currently_active);
    response.last_active_ago = info.last_active_ago_ms.map(Duration::from_millis);
    Ok(response)
}
