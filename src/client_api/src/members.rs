//! Module "Getting events for a room": single events, state, members.

use std::collections::BTreeMap;

use bytes::Bytes;
use haima_http::{ApiError, Guest, Json, JsonBytes, Session};
use reading::{ClientEvent, ClientFormat, MembersQuery};
use rooms::Membership;
use ruma::{
    OwnedUserId,
    api::client::{
        membership::{get_member_events as members, joined_members as joined},
        room::get_room_event as one,
        state::{
            get_state_event_for_key::{self as state_event, v3::StateEventFormat},
            get_state_events as state,
        },
    },
    events::room::member::MembershipState,
};
use serde::Serialize;

use crate::{
    ClientApi,
    asker::Asker,
    error::Result,
    events::{Events, optional_token},
};

/// `GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}`
pub(crate) async fn get_one_room_event(api: ClientApi, caller: Guest, req: one::v3::Request) -> Result<JsonBytes> {
    let asker = Asker::begin(&api, &caller).await?;
    let event = api.reading.one_event(&asker.view, &asker.viewer(), &req.room_id, &req.event_id).await?;
    Ok(raw(&event))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub(crate) async fn get_room_state_with_key(
    api: ClientApi,
    caller: Guest,
    req: state_event::v3::Request,
) -> Result<JsonBytes> {
    let asker = Asker::begin(&api, &caller).await?;
    let (view, room) = (&asker.view, &req.room_id);
    let root = api.reading.readable_root(view, asker.user(), room).await?;
    let event_type = req.event_type.to_string();
    let event = api.rooms.state_event(view, room, root, &event_type, &req.state_key).await?;
    let event = event.ok_or(ApiError::not_found("The room has no such state"))?;
    let shown = api.reading.deliver_state(view, &asker.viewer(), &[event.num], ClientFormat::state()).await?;
    let shown = shown.into_iter().next().ok_or(ApiError::not_found("The room has no such state"))?;
    if req.format == StateEventFormat::Event {
        return Ok(raw(&shown.json));
    }
    Ok(JsonBytes(Bytes::from(content(&shown.json)?)))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state`
pub(crate) async fn get_room_state(api: ClientApi, caller: Guest, req: state::v3::Request) -> Result<Json<Events>> {
    let asker = Asker::begin(&api, &caller).await?;
    Ok(Json(Events(api.reading.current_state(&asker.view, &asker.viewer(), &req.room_id).await?)))
}

/// The answer of `/members`.
#[derive(Serialize)]
pub(crate) struct Members {
    chunk: Events,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/members`
pub(crate) async fn get_members_by_room(
    api: ClientApi,
    caller: Guest,
    req: members::v3::Request,
) -> Result<Json<Members>> {
    let query = MembersQuery {
        at: optional_token(req.at.as_deref())?,
        membership: req.membership.as_ref().map(membership).transpose()?,
        not_membership: req.not_membership.as_ref().map(membership).transpose()?,
    };
    let asker = Asker::begin(&api, &caller).await?;
    let chunk = api.reading.members(&asker.view, &asker.viewer(), &req.room_id, query).await?;
    Ok(Json(Members { chunk: Events(chunk) }))
}

/// A member as `/joined_members` shows them.
#[derive(Serialize)]
pub(crate) struct Member {
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

/// The answer of `/joined_members`.
#[derive(Serialize)]
pub(crate) struct Joined {
    joined: BTreeMap<OwnedUserId, Member>,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/joined_members`
pub(crate) async fn get_joined_members_by_room(
    api: ClientApi,
    caller: Session,
    req: joined::v3::Request,
) -> Result<Json<Joined>> {
    let members = api.reading.joined_profiles(&api.store.view(), &caller.user, &req.room_id).await?;
    let mut joined = BTreeMap::new();
    for member in members {
        joined.insert(member.user, Member { display_name: member.display_name, avatar_url: member.avatar_url });
    }
    Ok(Json(Joined { joined }))
}

fn raw(event: &ClientEvent) -> JsonBytes {
    JsonBytes(Bytes::copy_from_slice(event.get().as_bytes()))
}

/// The content of an event.
fn content(event: &ClientEvent) -> Result<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        content: &'a serde_json::value::RawValue,
    }
    let event: Content<'_> = serde_json::from_str(event.get()).map_err(ApiError::internal)?;
    Ok(event.content.get().as_bytes().to_vec())
}

fn membership(asked: &MembershipState) -> Result<Membership> {
    match asked {
        MembershipState::Join => Ok(Membership::Join),
        MembershipState::Leave => Ok(Membership::Leave),
        MembershipState::Invite => Ok(Membership::Invite),
        MembershipState::Knock => Ok(Membership::Knock),
        MembershipState::Ban => Ok(Membership::Ban),
        _ => Err(ApiError::invalid_param("Unknown membership").into()),
    }
}
