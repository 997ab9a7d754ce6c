//! Who is in which room: the rows about this server's users, and members by the state.

use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::value::RawValue;
use state_tree::EventNum;
use store::{Json, Position, Range, View};

use crate::{
    Rooms, RoomsError,
    rows::LoggedMembership,
    state::{StateView, source},
    tables::{JoinedServers, LocalMembers, MembershipLog, Memberships, StrippedStates},
    types::{MEMBER, Membership, MembershipLogRow, MembershipRow, StoredEvent},
};

/// Rows read at once where everything of a prefix is wanted.
const PAGE_ROWS: usize = 1_000;

/// Stripped state of a room that this server doesn't hold, and its member event at the end.
pub type StrippedState = Vec<Box<RawValue>>;

/// The membership that a member event gives; none counts as having left.
pub fn membership_of(event: Option<&StoredEvent>) -> Membership {
    event.map_or(Membership::Leave, |event| event.pdu.membership())
}

impl Rooms {
    /// A local user's present membership of a room; `None` if they never had any.
    pub async fn membership(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Option<MembershipRow>, RoomsError> {
        Ok(view.get::<Memberships>(&(user, room)).await?)
    }

    /// A local user's present membership of every room that they have or had to do with, by room id.
    pub async fn memberships(
        &self,
        view: &View,
        user: &UserId,
    ) -> Result<Vec<(OwnedRoomId, MembershipRow)>, RoomsError> {
        let rows = view.scan_all(Range::<Memberships>::prefix(&(user,)).limit(PAGE_ROWS)).await?;
        Ok(rows.into_iter().map(|((_, room), row)| (room.into_inner(), row)).collect())
    }

    /// The rooms that a local user is joined to, by room id.
    pub async fn joined_rooms(&self, view: &View, user: &UserId) -> Result<Vec<OwnedRoomId>, RoomsError> {
        let residents = self.residents();
        let rooms = match residents.known_user(user) {
            Some(user) => residents.rooms_of(user, view.position()),
            None => residents.is_filled(view.position()).then(Vec::new),
        };
        if let Some(rooms) = rooms {
            let mut rooms: Vec<_> = rooms.into_iter().filter_map(|room| residents.room_id(room).cloned()).collect();
            rooms.sort_unstable();
            return Ok(rooms);
        }
        let rows = self.memberships(view, user).await?;
        let joined = rows.into_iter().filter(|(_, row)| row.membership == Membership::Join);
        Ok(joined.map(|(room, _)| room).collect())
    }

    /// The rooms among some that a local user is or was in, from the one after `after` on, that they are joined to; and where to go
    /// on, if there are more.
    pub async fn joined_rooms_page(
        &self,
        view: &View,
        user: &UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<(Vec<OwnedRoomId>, Option<OwnedRoomId>), RoomsError> {
        let mut range = Range::<Memberships>::prefix(&(user,)).limit(limit);
        if let Some(after) = after {
            range = range.after(&(user, after));
        }
        let page = view.scan(range).await?;
        let next = page.rows.last().filter(|_| page.next.is_some()).map(|((_, room), _)| room.clone().into_inner());
        let joined = page.rows.into_iter().filter(|(_, row)| row.membership == Membership::Join);
        Ok((joined.map(|((_, room), _)| room.into_inner()).collect(), next))
    }

    /// The changes of a local user's memberships after `since` and up to `until`, in order.
    pub async fn membership_log(
        &self,
        view: &View,
        user: &UserId,
        since: Position,
        until: Position,
    ) -> Result<Vec<(Position, MembershipLogRow)>, RoomsError> {
        let range = Range::<MembershipLog>::prefix(&(user,)).after(&(user, since)).through(&(user, until));
        let mut found = Vec::new();
        for (key, LoggedMembership { membership, event, forgotten }) in view.scan_all(range.limit(PAGE_ROWS)).await? {
            let row = MembershipLogRow { room: key.room.into_inner(), membership, event, forgotten };
            found.push((key.position, row));
        }
        Ok(found)
    }

    /// The local users joined to a room, by user id.
    pub async fn local_members(&self, view: &View, room: &RoomId) -> Result<Vec<OwnedUserId>, RoomsError> {
        let residents = self.residents();
        let members = match residents.known_room(room) {
            Some(room) => residents.members_at(room, view.position()),
            None => residents.is_filled(view.position()).then(Vec::new),
        };
        if let Some(members) = members {
            let mut users: Vec<_> = members.into_iter().filter_map(|user| residents.user_id(user).cloned()).collect();
            users.sort_unstable();
            return Ok(users);
        }
        let rows = view.scan_all(Range::<LocalMembers>::prefix(&(room,)).limit(PAGE_ROWS)).await?;
        Ok(rows.into_iter().map(|((_, user), _)| user.into_inner()).collect())
    }

    /// A page of all rooms with their joined local users, those after `after`; empty only at the end.
    pub async fn all_local_members(
        &self,
        view: &View,
        after: Option<&(OwnedRoomId, OwnedUserId)>,
        limit: usize,
    ) -> Result<Vec<(OwnedRoomId, OwnedUserId)>, RoomsError> {
        let mut range = Range::<LocalMembers>::all().limit(limit);
        if let Some((room, user)) = after {
            range = range.after(&(room, user));
        }
        let rows = view.scan(range).await?.rows;
        Ok(rows.into_iter().map(|((room, user), _)| (room.into_inner(), user.into_inner())).collect())
    }

    /// Whether a local user and another are joined to a room together.
    pub async fn shares_room(&self, view: &View, local: &UserId, other: &UserId) -> Result<bool, RoomsError> {
        let rooms = self.joined_rooms(view, local).await?;
        if self.is_local(other) {
            let theirs = self.joined_rooms(view, other).await?;
            return Ok(rooms.iter().any(|room| theirs.binary_search(room).is_ok()));
        }
        for room in rooms {
            if self.is_server_joined(view, &room, other.server_name()).await?
                && self.current_state(view, &room).await?.membership(other).await? == Membership::Join
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The users joined to a room now, by user id.
    pub async fn joined_members(&self, view: &View, room: &RoomId) -> Result<Vec<OwnedUserId>, RoomsError> {
        let members = self.current_state(view, room).await?.members(Membership::Join).await?;
        Ok(members.into_iter().map(|(user, _)| user).collect())
    }

    /// The servers with users joined to a room, with how many.
    pub async fn joined_servers(&self, view: &View, room: &RoomId) -> Result<Vec<(OwnedServerName, u64)>, RoomsError> {
        let rows = view.scan_all(Range::<JoinedServers>::prefix(&(room,)).limit(PAGE_ROWS)).await?;
        Ok(rows.into_iter().map(|((_, server), joined)| (server.into_inner(), joined)).collect())
    }

    /// Whether a server has users joined to a room.
    pub async fn is_server_joined(&self, view: &View, room: &RoomId, server: &ServerName) -> Result<bool, RoomsError> {
        let residents = self.residents();
        let known = match residents.known_room(room) {
            Some(room) => residents.is_server_joined(room, server, view.position()),
            None => residents.is_filled(view.position()).then_some(false),
        };
        match known {
            Some(joined) => Ok(joined),
            None => Ok(view.contains::<JoinedServers>(&(room, server)).await?),
        }
    }

    /// The stripped state that came with an invite to, or a knock on, a room that this server doesn't hold.
    pub async fn stripped_state(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Option<StrippedState>, RoomsError> {
        let stored = view.get::<StrippedStates>(&(user, room)).await?;
        Ok(stored.map(|Json(events)| events))
    }

    /// Whether the user is joined to the room.
    pub async fn is_joined(&self, view: &View, user: &UserId, room: &RoomId) -> Result<bool, RoomsError> {
        let row = self.membership(view, user, room).await?;
        Ok(row.is_some_and(|row| row.membership == Membership::Join))
    }

    /// Fails with [`RoomsError::NotJoined`] unless the local user is joined.
    pub async fn check_joined(&self, view: &View, room: &RoomId, user: &UserId) -> Result<(), RoomsError> {
        match self.membership(view, user, room).await? {
            Some(row) if row.membership == Membership::Join => Ok(()),
            _ => Err(RoomsError::NotJoined),
        }
    }
}

impl StateView<'_> {
    /// A user's member event.
    pub async fn member(&self, user: &UserId) -> Result<Option<Arc<StoredEvent>>, RoomsError> {
        self.event(MEMBER, user.as_str()).await
    }

    /// The membership of any user.
    pub async fn membership(&self, user: &UserId) -> Result<Membership, RoomsError> {
        Ok(membership_of(self.member(user).await?.as_deref()))
    }

    /// All users with a given membership, with their member events, by user id.
    pub async fn members(&self, membership: Membership) -> Result<Vec<(OwnedUserId, EventNum)>, RoomsError> {
        let entries = self.rooms.inner.tree.range(&source(self.view, self.room), self.root, MEMBER).await?;
        let mut found = Vec::new();
        for page in entries.chunks(PAGE_ROWS) {
            let nums: Vec<EventNum> = page.iter().map(|(_, entry)| entry.event).collect();
            for ((state_key, _), event) in page.iter().zip(self.rooms.all_present(self.view, &nums).await?) {
                let Ok(user) = UserId::parse(&**state_key) else { continue };
                if event.pdu.membership() == membership {
                    found.push((user, event.num));
                }
            }
        }
        Ok(found)
    }
}
