//! Module "Capabilities negotiation".

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use event::SUPPORTED_ROOM_VERSIONS;
use haima_http::{Json, Session};
use rooms::Rooms;
use ruma::api::client::discovery::get_capabilities::v3::Request;
use serde_json::{Value, json};

use crate::{Config, error::Result};

/// `GET /_matrix/client/v3/capabilities`
pub(crate) async fn get_capabilities(
    State(config): State<Arc<Config>>,
    State(rooms): State<Rooms>,
    _: Session,
    _: Request,
) -> Result<Json<Value>> {
    let available: BTreeMap<_, _> = SUPPORTED_ROOM_VERSIONS.iter().map(|version| (version, "stable")).collect();
    let passwords = config.login_with_password;
    Ok(Json(json!({ "capabilities": {
        "m.change_password": { "enabled": passwords },
        "m.room_versions": { "default": rooms.default_room_version(), "available": available },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.profile_fields": { "enabled": true },
        "m.3pid_changes": { "enabled": false },
        "m.get_login_token": { "enabled": passwords },
        "m.forget_forced_upon_leave": { "enabled": false },
    }})))
}
