//! Joining, leaving, inviting, kicking, banning, knocking, forgetting.
//!
//! Specification: client-server API, "Room membership", "Restricted rooms", "Knocking on rooms", "Leaving rooms".

use ruma::{OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use store::{Batch, CommitError, View};

use crate::{
    Rooms, RoomsError,
    engine::append::{ATTEMPTS_MAX, Draft, Sent, nothing},
    json::to_json,
    log::MembershipMoved,
    ports::RemoteError,
    rows::{LoggedMembership, MembershipLogKey},
    state::StateView,
    tables::{MembershipLog, Memberships, Metas},
    types::{MEMBER, Membership, MembershipRow},
};

/// Rooms named by the allow rules of one restricted room that are looked at.
const ALLOW_RULES_MAX: usize = 100;

/// Local members that are looked at to find one who may authorise a join.
const AUTHORISERS_MAX: usize = 1_000;

/// What the server decides in a member event, and no client.
const AUTHORISED_VIA: &str = "join_authorised_via_users_server";

/// The join rules of a room, as far as they are read here.
#[derive(Deserialize)]
struct JoinRules {
    join_rule: String,
    #[serde(default)]
    allow: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct AllowRule {
    #[serde(rename = "type")]
    kind: String,
    room_id: ruma::OwnedRoomId,
}

/// The content of a member event: what is given, with the membership and without what only the server may say.
pub(crate) fn member_content(given: Option<&RawValue>, membership: &str) -> Result<Map<String, Value>, RoomsError> {
    let mut content = given.map(object).transpose()?.unwrap_or_default();
    set_membership(&mut content, membership);
    Ok(content)
}

/// The fields of a content that a user gives.
pub(crate) fn object(content: &RawValue) -> Result<Map<String, Value>, RoomsError> {
    let content = serde_json::from_str(content.get());
    content.map_err(|_| RoomsError::BadEvent("the content of an event must be an object".to_owned()))
}

/// The content of every stored event is an object.
fn unreadable(error: serde_json::Error) -> RoomsError {
    RoomsError::corrupt(format!("a member event: {error}"))
}

fn set_membership(content: &mut Map<String, Value>, membership: &str) {
    content.remove(AUTHORISED_VIA);
    content.insert("membership".to_owned(), membership.into());
}

impl Rooms {
    /// Whether joining the room takes another server's help: this server doesn't hold it, or isn't in it any more while
    /// others are.
    pub async fn needs_remote_join(&self, view: &View, room: &RoomId) -> Result<bool, RoomsError> {
        let Some(head) = self.head(view, room).await? else { return Ok(true) };
        Ok(head.joined_count > 0 && !self.is_server_joined(view, room, self.server_name()).await?)
    }

    async fn check_held(&self, view: &View, room: &RoomId) -> Result<(), RoomsError> {
        if self.head(view, room).await?.is_none() {
            return Err(RoomsError::RoomNotFound);
        }
        if self.needs_remote_join(view, room).await? {
            let servers = self.joined_servers(view, room).await?;
            let server = servers.into_iter().next().map_or(self.server_name().to_owned(), |(server, _)| server);
            return Err(RemoteError::NotReachable(server).into());
        }
        Ok(())
    }

    /// Joins a local user to a room that this server is in. `content` is the member event's, a profile for example.
    ///
    /// Joining again with the same content changes nothing.
    pub async fn join(&self, user: &UserId, room: &RoomId, content: Option<&RawValue>) -> Result<Sent, RoomsError> {
        let view = self.inner.store.view().await?;
        self.check_held(&view, room).await?;
        let content = member_content(content, "join")?;
        if let Some(sent) = self.same_membership(&view, room, user, &content).await? {
            return Ok(sent);
        }
        let content = self.content_of_own_membership(room, user, content).await?;
        self.set_member(room, user, user, to_json(&content)?).await
    }

    /// Changes the content of a joined user's member event, for a profile that changed; `false` if they aren't in the room (any
    /// more).
    pub async fn update_member(
        &self,
        user: &UserId,
        room: &RoomId,
        change: impl Fn(&mut Map<String, Value>) + Send + Sync,
    ) -> Result<bool, RoomsError> {
        for _ in 0..ATTEMPTS_MAX {
            let view = self.inner.store.view().await?;
            let Some(row) = self.membership(&view, user, room).await? else { return Ok(false) };
            let (Membership::Join, Some(event)) = (row.membership, row.event) else { return Ok(false) };
            let meta = self.meta(&view, event).await?;
            let member = self.shown_event(&view, &*self.present(&view, event).await?, &meta).await?;
            let mut content: Map<String, Value> = member.content_as().map_err(unreadable)?;
            change(&mut content);
            set_membership(&mut content, "join");
            if self.same_membership(&view, room, user, &content).await?.is_some() {
                return Ok(true);
            }
            let draft = Draft::state(user, MEMBER, user.as_str(), to_json(&content)?);
            // Who leaves at this moment must not be brought back, nor what is redacted.
            let unmoved = |batch: &mut Batch| {
                batch.expect::<Memberships>(&(user, room), Some(&row));
                batch.expect::<Metas>(&event, Some(&meta));
            };
            match self.append(room, &draft, None, &unmoved).await {
                Ok(_) => return Ok(true),
                Err(RoomsError::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        Err(RoomsError::Busy)
    }

    /// The answer to setting a membership that is so already.
    async fn same_membership(
        &self,
        view: &View,
        room: &RoomId,
        user: &UserId,
        content: &Map<String, Value>,
    ) -> Result<Option<Sent>, RoomsError> {
        let Some(event) = self.current_state(view, room).await?.shown(MEMBER, user.as_str()).await? else {
            return Ok(None);
        };
        let mut old: Map<String, Value> = event.content_as().map_err(unreadable)?;
        // How somebody once got in is no reason to tell everybody again.
        old.remove(AUTHORISED_VIA);
        if old != *content {
            return Ok(None);
        }
        Ok(Some(Sent { event_id: event.owned_event_id(), position: view.position() }))
    }

    /// The content of a member event that a user sets for themselves, with the server's word where a restricted room needs it.
    pub(crate) async fn content_of_own_membership(
        &self,
        room: &RoomId,
        user: &UserId,
        mut content: Map<String, Value>,
    ) -> Result<Map<String, Value>, RoomsError> {
        content.remove(AUTHORISED_VIA);
        if content.get("membership").and_then(Value::as_str) == Some("join") {
            let view = self.inner.store.view().await?;
            if let Some(authoriser) = self.join_authoriser(&view, room, user).await? {
                content.insert(AUTHORISED_VIA.to_owned(), authoriser.as_str().into());
            }
        }
        Ok(content)
    }

    /// Who on this server lets a user into a restricted room. `None` if nobody has to: the room isn't restricted, or the user is
    /// invited or joined.
    ///
    /// Fails with [`RoomsError::Forbidden`] if no allow rule holds, with [`RoomsError::UnableToAuthoriseJoin`] if this server
    /// can't tell, and with [`RoomsError::UnableToGrantJoin`] if nobody here may let them in.
    pub async fn join_authoriser(
        &self,
        view: &View,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Option<OwnedUserId>, RoomsError> {
        let rules = self.rules(view, room).await?;
        let state = self.current_state(view, room).await?;
        if !rules.authorization.restricted_join_rule {
            return Ok(None);
        }
        let Some(event) = state.shown("m.room.join_rules", "").await? else {
            return Ok(None);
        };
        let Ok(join_rules) = event.content_as::<JoinRules>() else { return Ok(None) };
        if !matches!(&*join_rules.join_rule, "restricted" | "knock_restricted") {
            return Ok(None);
        }
        match state.membership(user).await? {
            Membership::Join | Membership::Invite => return Ok(None),
            Membership::Ban => return Err(RoomsError::forbidden("you are banned from the room")),
            Membership::Leave | Membership::Knock => {}
        }
        self.check_allow_rules(view, &join_rules, user).await?;
        self.local_inviter(state).await?.map(Some).ok_or(RoomsError::UnableToGrantJoin)
    }

    async fn check_allow_rules(&self, view: &View, join_rules: &JoinRules, user: &UserId) -> Result<(), RoomsError> {
        let mut unknown = false;
        for rule in join_rules.allow.iter().take(ALLOW_RULES_MAX) {
            let Ok(rule) = serde_json::from_str::<AllowRule>(rule.get()) else { continue };
            if rule.kind != "m.room_membership" {
                continue;
            }
            if !self.is_server_joined(view, &rule.room_id, self.server_name()).await? {
                unknown = true;
            } else if self.current_state(view, &rule.room_id).await?.membership(user).await? == Membership::Join {
                return Ok(());
            }
        }
        if unknown {
            return Err(RoomsError::UnableToAuthoriseJoin);
        }
        Err(RoomsError::forbidden("you are in none of the rooms whose members may join"))
    }

    /// A local member with the power to invite.
    async fn local_inviter(&self, state: StateView<'_>) -> Result<Option<OwnedUserId>, RoomsError> {
        let levels = state.power_levels().await?;
        let members = self.local_members(state.view, state.room).await?;
        Ok(members.into_iter().take(AUTHORISERS_MAX).find(|member| levels.may_invite(member)))
    }

    /// Takes a local user out of a room; also declines an invite and takes back a knock.
    ///
    /// Leaving a room that one has left changes nothing.
    pub async fn leave(&self, user: &UserId, room: &RoomId, content: Option<&RawValue>) -> Result<(), RoomsError> {
        let view = self.inner.store.view().await?;
        let Some(row) = self.membership(&view, user, room).await? else { return Err(RoomsError::NotJoined) };
        match row.membership {
            Membership::Leave => return Ok(()),
            Membership::Ban => return Err(RoomsError::forbidden("you are banned from the room")),
            Membership::Invite | Membership::Knock | Membership::Join => {}
        }
        if !self.is_in_state(&view, room, user).await? {
            let batch = moved_membership((user, room), Some(row), Membership::Leave, false, Batch::new());
            return match self.inner.store.commit(batch).await {
                Ok(_) => Ok(()),
                Err(CommitError::Conflict) => Err(RoomsError::Busy),
                Err(error) => Err(error.into()),
            };
        }
        let content = to_json(&member_content(content, "leave")?)?;
        self.set_member(room, user, user, content).await.map(|_| ())
    }

    /// Whether what this server holds of a room tells of a user's being in it, invited or knocking. If it doesn't, the room goes on
    /// elsewhere, and an event built on what is held here, which is of the past or nothing, would be none of the room's.
    async fn is_in_state(&self, view: &View, room: &RoomId, user: &UserId) -> Result<bool, RoomsError> {
        if self.needs_remote_join(view, room).await? {
            return Ok(false);
        }
        Ok(match self.current_state(view, room).await?.membership(user).await? {
            Membership::Join | Membership::Invite | Membership::Knock => true,
            Membership::Leave | Membership::Ban => false,
        })
    }

    /// Invites a user. `content` is the member event's: reason, profile, `is_direct`.
    pub async fn invite(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        content: Option<&RawValue>,
    ) -> Result<Sent, RoomsError> {
        let content = to_json(&member_content(content, "invite")?)?;
        if !self.is_local(target) {
            return self.invite_remote(sender, room, target, content).await;
        }
        self.set_member(room, sender, target, content).await
    }

    /// Takes another user out of a room. They must be in it, invited or knocking.
    pub async fn kick(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<Sent, RoomsError> {
        let view = self.inner.store.view().await?;
        self.check_joined(&view, room, sender).await?;
        match self.current_state(&view, room).await?.membership(target).await? {
            Membership::Join | Membership::Invite | Membership::Knock => {}
            Membership::Leave | Membership::Ban => {
                return Err(RoomsError::forbidden("the user is not in the room"));
            }
        }
        self.set_member(room, sender, target, with_reason("leave", reason)?).await
    }

    /// Bans a user.
    pub async fn ban(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<Sent, RoomsError> {
        self.check_joined(&self.inner.store.view().await?, room, sender).await?;
        self.set_member(room, sender, target, with_reason("ban", reason)?).await
    }

    /// Lifts a ban.
    pub async fn unban(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<Sent, RoomsError> {
        let view = self.inner.store.view().await?;
        self.check_joined(&view, room, sender).await?;
        if self.current_state(&view, room).await?.membership(target).await? != Membership::Ban {
            return Err(RoomsError::NotBanned);
        }
        self.set_member(room, sender, target, with_reason("leave", reason)?).await
    }

    /// Asks to be invited.
    pub async fn knock(&self, user: &UserId, room: &RoomId, content: Option<&RawValue>) -> Result<Sent, RoomsError> {
        let view = self.inner.store.view().await?;
        self.check_held(&view, room).await?;
        let rules = self.rules(&view, room).await?;
        if !rules.authorization.knocking {
            return Err(RoomsError::forbidden("the room's version knows no knocking"));
        }
        self.set_member(room, user, user, to_json(&member_content(content, "knock")?)?).await
    }

    /// Forgets a room: a user who is not in it no longer sees its history.
    pub async fn forget(&self, user: &UserId, room: &RoomId) -> Result<(), RoomsError> {
        let decide = |view: View| async move {
            let Some(row) = self.membership(&view, user, room).await? else { return Err(RoomsError::NotJoined) };
            match row.membership {
                Membership::Leave | Membership::Ban if row.forgotten => return Ok((Batch::new(), ())),
                Membership::Leave | Membership::Ban => {}
                Membership::Invite | Membership::Knock | Membership::Join => {
                    return Err(RoomsError::StillInRoom);
                }
            }
            Ok((moved_membership((user, room), Some(row), row.membership, true, Batch::new()), ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Sets a member event.
    pub(crate) async fn set_member(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        content: Box<RawValue>,
    ) -> Result<Sent, RoomsError> {
        let draft = Draft::state(sender, MEMBER, target.as_str(), content);
        self.append(room, &draft, None, &nothing).await
    }
}

fn with_reason(membership: &str, reason: Option<&str>) -> Result<Box<RawValue>, RoomsError> {
    let mut content = member_content(None, membership)?;
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), reason.into());
    }
    to_json(&content)
}

/// Adds to a batch a membership row that doesn't follow from a room's state.
pub(crate) fn moved_membership(
    (user, room): (&UserId, &RoomId),
    old: Option<MembershipRow>,
    membership: Membership,
    forgotten: bool,
    mut batch: Batch,
) -> Batch {
    let key = (user, room);
    batch.expect::<Memberships>(&key, old.as_ref());
    let entry = MembershipMoved { user: user.to_owned(), room: room.to_owned(), membership, forgotten };
    let stamp = batch.log(&entry);
    // The row keeps the last event that is held, which tells when the user was in the room. To sync, the event of another membership is
    // none of this one.
    let event = old.and_then(|row| row.event);
    let event_of_this = old.filter(|row| row.membership == membership).and_then(|row| row.event);
    batch.put::<Memberships>(&key, &MembershipRow { membership, event, position: stamp.into(), forgotten });
    let change = LoggedMembership { membership, event: event_of_this, forgotten };
    batch.put::<MembershipLog>(&MembershipLogKey { user, position: stamp, room }, &change);
    if matches!(membership, Membership::Leave | Membership::Ban) {
        batch.delete::<crate::tables::StrippedStates>(&key);
    }
    batch
}
