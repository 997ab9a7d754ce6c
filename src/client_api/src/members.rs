//! Module "Getting events for a room": members.

use std::collections::BTreeMap;

use axum::extract::State;
use haima_http::{ApiError, Guest, Json, Session};
use reading::{MembersQuery, Reading, Viewer};
use rooms::Membership;
use ruma::{
    OwnedUserId,
    api::client::membership::{get_member_events as members, joined_members as joined},
    events::room::member::MembershipState,
};
use serde::Serialize;
use store::Store;
use users::Users;

use crate::{
    asker::Asker,
    error::Result,
    events::{Events, optional_token},
};

/// The answer of `/members`.
#[derive(Serialize)]
pub(crate) struct Members {
    chunk: Events,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/members`
pub(crate) async fn get_members_by_room(
    State(store): State<Store>,
    State(users): State<Users>,
    State(reading): State<Reading>,
    caller: Guest,
    req: members::v3::Request,
) -> Result<Json<Members>> {
    let query = MembersQuery {
        at: optional_token(req.at.as_deref())?,
        membership: req.membership.as_ref().map(membership).transpose()?,
        not_membership: req.not_membership.as_ref().map(membership).transpose()?,
    };
    let asker = Asker::begin(&store, &users, &caller).await?;
    let chunk = asker.room(&reading, &req.room_id).members(query).await?;
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
    State(store): State<Store>,
    State(reading): State<Reading>,
    caller: Session,
    req: joined::v3::Request,
) -> Result<Json<Joined>> {
    let view = store.view().await?;
    let members = reading.room(&view, Viewer::new(&caller.user), &req.room_id).joined_profiles().await?;
    let mut joined = BTreeMap::new();
    for member in members {
        joined.insert(member.user, Member { display_name: member.display_name, avatar_url: member.avatar_url });
    }
    Ok(Json(Joined { joined }))
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
