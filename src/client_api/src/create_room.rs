//! Module "Creation".

use std::sync::Arc;

use axum::extract::State;
use flows::{Flows, FlowsError};
use haima_http::{ApiError, Incoming, Session, Unsuspended};
use rooms::{CreateRoom, InitialState, Invitee, Preset, RoomsError};
use ruma::{
    RoomAliasId,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, Response, RoomPreset},
    },
    exports::http::{Method, Request as HttpRequest},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Config, error::Result, room_versions::read_with_version};

/// A state event as the request has it.
#[derive(Deserialize)]
struct StateEvent {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
}

/// The request, with a room version that this server knows.
pub(crate) struct Create(Request);

impl Incoming for Create {
    const METHOD: Method = <Request as Incoming>::METHOD;

    fn paths() -> Vec<&'static str> {
        <Request as Incoming>::paths()
    }

    fn read(request: HttpRequest<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        read_with_version(request, path_args, "room_version", |req: &Request| req.room_version.as_ref()).map(Self)
    }
}

/// `POST /_matrix/client/v3/createRoom`
pub(crate) async fn create_room(
    State(config): State<Arc<Config>>,
    State(flows): State<Flows>,
    caller: Unsuspended<Session>,
    Create(req): Create,
) -> Result<Response> {
    let request = domain_request(&config, &caller, req)?;
    match flows.create_room(request).await {
        Ok(room_id) => Ok(Response::new(room_id)),
        Err(FlowsError::Rooms(RoomsError::AliasTaken)) => Err(bad("M_ROOM_IN_USE", "The alias is in use").into()),
        Err(error) => Err(error.into()),
    }
}

fn bad(errcode: &'static str, message: &str) -> ApiError {
    ApiError::new(haima_http::StatusCode::BAD_REQUEST, errcode, message.to_owned())
}

fn domain_request(config: &Config, caller: &Unsuspended<Session>, req: Request) -> Result<CreateRoom> {
    if !req.invite_3pid.is_empty() {
        return Err(bad("M_THREEPID_DENIED", "This server has no identity server to invite by").into());
    }
    let mut request = CreateRoom::new(caller.user.clone());
    request.version = req.room_version;
    request.visibility = match req.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(ApiError::bad_json("Unknown visibility").into()),
    };
    request.preset = match req.preset {
        None => None,
        Some(RoomPreset::PrivateChat) => Some(Preset::PrivateChat),
        Some(RoomPreset::TrustedPrivateChat) => Some(Preset::TrustedPrivateChat),
        Some(RoomPreset::PublicChat) => Some(Preset::PublicChat),
        Some(_) => return Err(ApiError::bad_json("Unknown preset").into()),
    };
    request.name = req.name;
    request.topic = req.topic;
    request.invites = req.invite.into_iter().map(|user| Invitee::new(user, req.is_direct)).collect();
    request.creation_content = req.creation_content.map(|content| content.into_json());
    request.power_level_content_override = req.power_level_content_override.map(|content| content.into_json());
    if let Some(name) = req.room_alias_name {
        let alias = RoomAliasId::parse(format!("#{name}:{}", config.server_name));
        request.alias = Some(alias.map_err(|error| ApiError::invalid_param(error.to_string()))?);
    }
    for state in req.initial_state {
        let state: StateEvent =
            serde_json::from_str(state.json().get()).map_err(|error| ApiError::bad_json(error.to_string()))?;
        let StateEvent { event_type, state_key, content } = state;
        request.initial_state.push(InitialState { event_type, state_key, content });
    }
    Ok(request)
}
