//! Whether users of another server are in a room, at one state after another.

use ruma::{RoomId, ServerName, events::room::member::MembershipState};
use state_tree::{Entry, EventNum, Root};
use store::View;

use super::{Asker, ServedRoom};
use crate::{
    Rooms, RoomsError,
    tables::JoinedServers,
    types::{MEMBER, Membership},
};

/// Events read at once.
const READ_AT_ONCE_MAX: usize = 1_000;

/// Counts a server's users in the states of a room. It begins with the current one, whose counts are known; every other costs what its
/// members differ in from those of the one before.
pub(super) struct Insight<'a> {
    rooms: &'a Rooms,
    view: &'a View,
    room: &'a RoomId,
    server: &'a ServerName,
    at: Root,
    joined: i64,
    /// Invited users more than in the current state.
    more_invited: i64,
    /// The current state, and the number of invited users in it once it was counted.
    current: (Root, Option<i64>),
}

impl<'a> Insight<'a> {
    pub(super) async fn new(served: &ServedRoom<'a>) -> Result<Self, RoomsError> {
        let ServedRoom { rooms, view, room, asker: Asker { server, .. } } = *served;
        let head = rooms.head(view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        let joined = view.get::<JoinedServers>(&(room, *server)).await?.unwrap_or(0);
        let joined = i64::try_from(joined).unwrap_or(i64::MAX);
        Ok(Self { rooms, view, room, server, at: head.root, joined, more_invited: 0, current: (head.root, None) })
    }

    /// Goes to another state.
    pub(super) async fn move_to(&mut self, root: Root) -> Result<(), RoomsError> {
        if root == self.at {
            return Ok(());
        }
        let source = self.rooms.source(self.view, self.room);
        let changes = self.rooms.tree().diff_type(&source, self.at, root, MEMBER).await?;
        let theirs = changes.iter().filter(|change| self.is_theirs(&change.key.state_key));
        let (old, new): (Vec<_>, Vec<_>) = theirs.map(|change| (change.old, change.new)).unzip();
        for (entries, sign) in [(old, -1), (new, 1)] {
            let entries: Vec<Entry> = entries.into_iter().flatten().collect();
            let (joined, invited) = self.count(&entries).await?;
            self.joined += sign * joined;
            self.more_invited += sign * invited;
        }
        self.at = root;
        Ok(())
    }

    /// Whether one of the server's users is in the room.
    pub(super) fn joined(&self) -> bool {
        self.joined > 0
    }

    /// The memberships of the server's users that decide what it may see; invites only where they are asked for.
    pub(super) async fn memberships(&mut self, invites: bool) -> Result<Vec<MembershipState>, RoomsError> {
        if self.joined() {
            return Ok(vec![MembershipState::Join]);
        }
        if invites && self.invited().await? > 0 {
            return Ok(vec![MembershipState::Invite]);
        }
        Ok(Vec::new())
    }

    async fn invited(&mut self) -> Result<i64, RoomsError> {
        let (root, counted) = self.current;
        let in_current = match counted {
            Some(invited) => invited,
            None => {
                let mut theirs = Vec::new();
                let source = self.rooms.source(self.view, self.room);
                let visit = |user: &str, entry| {
                    if self.is_theirs(user) {
                        theirs.push(entry);
                    }
                };
                self.rooms.tree().visit_range(&source, root, MEMBER, visit).await?;
                let (_, invited) = self.count(&theirs).await?;
                self.current.1 = Some(invited);
                invited
            }
        };
        Ok(in_current + self.more_invited)
    }

    fn is_theirs(&self, user: &str) -> bool {
        user.split_once(':').is_some_and(|(_, server)| server == self.server)
    }

    /// How many of these member events are of somebody who is in the room, and how many of somebody invited.
    async fn count(&self, entries: &[Entry]) -> Result<(i64, i64), RoomsError> {
        let (mut joined, mut invited) = (0, 0);
        for entries in entries.chunks(READ_AT_ONCE_MAX) {
            let nums: Vec<EventNum> = entries.iter().map(|entry| entry.event).collect();
            for event in self.rooms.all_present(self.view, &nums).await? {
                match event.pdu.membership() {
                    Membership::Join => joined += 1,
                    Membership::Invite => invited += 1,
                    Membership::Leave | Membership::Knock | Membership::Ban => {}
                }
            }
        }
        Ok((joined, invited))
    }
}
