//! The members of a room.
//!
//! Specification: client-server API, `GET /rooms/{roomId}/members` and `/joined_members`.

use event::Pdu;
use rooms::{MEMBER, Membership, RoomsError, membership_of};
use ruma::{OwnedUserId, UserId, events::room::history_visibility::HistoryVisibility};
use serde::Deserialize;
use state_tree::Root;

use crate::{
    format::{ClientEvent, ClientFormat},
    reader::RoomReader,
    token::TimelineToken,
    visibility::Sight,
};

/// Members that are read together.
const MEMBERS_PER_READ: usize = 1_000;

/// Which members are asked for. If both fields are given, members that fit either of them.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct MembersQuery {
    /// When: a token of the timeline; now if it isn't given.
    pub at: Option<TimelineToken>,
    /// Only those with this membership.
    pub membership: Option<Membership>,
    /// Only those without this membership.
    pub not_membership: Option<Membership>,
}

impl MembersQuery {
    fn wants(&self, membership: Membership) -> bool {
        match (self.membership, self.not_membership) {
            (None, None) => true,
            (Some(wanted), None) => membership == wanted,
            (None, Some(unwanted)) => membership != unwanted,
            (Some(wanted), Some(unwanted)) => membership == wanted || membership != unwanted,
        }
    }
}

/// A joined member as `/joined_members` shows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinedMember {
    /// Who.
    pub user: OwnedUserId,
    /// Their name in the room.
    pub display_name: Option<String>,
    /// Their picture in the room, an `mxc:` URI.
    pub avatar_url: Option<String>,
}

impl RoomReader<'_> {
    /// The member events of a room, for somebody who may read its state.
    ///
    /// Fails with [`RoomsError::NotJoined`] for those who never were in the room, unless it is world readable.
    pub async fn members(&self, query: MembersQuery) -> Result<Vec<ClientEvent>, RoomsError> {
        let state = self.state(self.root_for_members(query.at).await?);
        let mut found = Vec::new();
        let mut start: Box<str> = "".into();
        loop {
            let (nums, next) = state.page(MEMBER, &start, MEMBERS_PER_READ).await?;
            for (event, meta) in self.rooms().load(self.view, &nums).await? {
                if query.wants(membership_of(Some(&event))) {
                    let format = ClientFormat::members();
                    found.push(self.client_event(&event, &meta, Sight::OF_STATE, format).await?);
                }
            }
            match next {
                Some(next) => start = next,
                None => return Ok(found),
            }
        }
    }

    /// The joined members of a room with their names and pictures, for one of them.
    ///
    /// Fails with [`RoomsError::NotJoined`] for everybody else.
    pub async fn joined_profiles(&self) -> Result<Vec<JoinedMember>, RoomsError> {
        let state = self.rooms().current_state(self.view, self.room).await?;
        if !self.rooms().is_joined(self.view, self.viewer.user, self.room).await? {
            return Err(RoomsError::NotJoined);
        }
        let mut members = Vec::new();
        let mut start: Box<str> = "".into();
        loop {
            let (nums, next) = state.page(MEMBER, &start, MEMBERS_PER_READ).await?;
            for event in self.rooms().shown(self.view, &nums).await? {
                if Membership::of(&event) == Membership::Join {
                    members.extend(profile(&event));
                }
            }
            match next {
                Some(next) => start = next,
                None => return Ok(members),
            }
        }
    }

    /// The state whose members a user gets: at a token only for those who are in the room and may look so far back.
    async fn root_for_members(&self, at: Option<TimelineToken>) -> Result<Root, RoomsError> {
        let readable = self.readable_root().await?;
        let Some(at) = at else { return Ok(readable) };
        if !self.rooms().is_joined(self.view, self.viewer.user, self.room).await? {
            return Ok(readable);
        }
        let position = at.position().min(self.view.position());
        let then = self.rooms().root_at(self.view, self.room, position).await?.unwrap_or(Root::EMPTY);
        let member = self.state(then).membership(self.viewer.user).await?;
        let may_look = match self.state(then).history_visibility().await? {
            _ if member == Membership::Join => true,
            HistoryVisibility::Joined => false,
            HistoryVisibility::Invited => member == Membership::Invite,
            _ => true,
        };
        Ok(if may_look { then } else { readable })
    }
}

fn profile(event: &Pdu) -> Option<JoinedMember> {
    #[derive(Deserialize, Default)]
    struct Content {
        #[serde(default)]
        displayname: serde_json::Value,
        #[serde(default)]
        avatar_url: serde_json::Value,
    }
    // What other servers send may be of any shape: a member whose key is no user's isn't listed, and what doesn't fit in
    // content isn't shown.
    let Ok(user) = UserId::parse(event.state_key()?) else { return None };
    let content = event.content_as::<Content>().unwrap_or_default();
    Some(JoinedMember {
        user,
        display_name: content.displayname.as_str().map(str::to_owned),
        avatar_url: content.avatar_url.as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_conditions_make_an_or() {
        let query = |membership, not_membership| MembersQuery { at: None, membership, not_membership };
        let both = query(Some(Membership::Ban), Some(Membership::Leave));
        assert!(both.wants(Membership::Ban));
        assert!(both.wants(Membership::Join));
        assert!(!both.wants(Membership::Leave));
        assert!(query(None, Some(Membership::Leave)).wants(Membership::Knock));
        assert!(!query(Some(Membership::Join), None).wants(Membership::Knock));
    }
}
