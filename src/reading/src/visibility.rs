//! Who may see which event: what a viewer's sight of events depends on, read once for many events.
//!
//! Specification: client-server API, "Room History Visibility" and "Ignoring Users". The decision itself
//! is [`event::visibility::for_user`]; every reader of events goes through here.

use std::sync::Arc;

use event::visibility::{Viewing, Visibility, for_user, history_visibility};
use rooms::{EventMeta, EventStatus, Membership, RoomsError, StoredEvent, TimelineIndex, membership_of};
use ruma::{
    EventId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};
use state_tree::Root;

use crate::reader::RoomReader;

/// How many earlier memberships are looked at to find when a user was last in a room.
const MEMBERSHIPS_LOOKED_AT_MAX: usize = 32;

/// A viewer's relation to an event.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Sight {
    /// How much of the event the viewer gets.
    pub seen: Visibility,
    /// The viewer's membership at the event, including what the event changed. `None` where it isn't worth
    /// finding out.
    pub membership: Option<Membership>,
}

impl Sight {
    /// The sight of an event of a state that the viewer may read. The membership at each would cost more than all the rest of it.
    pub const OF_STATE: Self = Self { seen: Visibility::Visible, membership: None };
}

/// What visibility depends on in one state of the room.
#[derive(Clone, Debug)]
struct Facts {
    history: HistoryVisibility,
    membership: Membership,
}

/// The facts of the states that were looked at; neighbouring events share theirs.
type Memo = Vec<(Root, Facts)>;

/// Until when the viewer was in the room, as far as it has been found out.
#[derive(Copy, Clone)]
enum LastJoin {
    Unknown,
    /// Joined now.
    Lasting,
    /// The user left with the event at this index, which left this state behind.
    EndedAt(TimelineIndex, Root),
    Never,
}

impl RoomReader<'_> {
    /// How the viewer sees each of these events of a room.
    pub async fn sights(&self, events: &[(Arc<StoredEvent>, EventMeta)]) -> Result<Vec<Sight>, RoomsError> {
        let mut memo = Memo::new();
        let mut last_join = LastJoin::Unknown;
        let mut sights = Vec::with_capacity(events.len());
        for (event, meta) in events {
            if event.pdu.room_id() != self.room {
                // Its states are another room's.
                sights.push(Sight { seen: Visibility::Hidden, membership: None });
                continue;
            }
            let facts = self.facts(meta.before, &mut memo).await?;
            let membership = match event.pdu.is_state("m.room.member", self.viewer.user.as_str()) {
                true => membership_of(Some(event)),
                false => facts.membership,
            };
            let mut seen = Visibility::Hidden;
            if meta.status == EventStatus::Accepted {
                let joined_later = (facts.history == HistoryVisibility::Shared || sets_shared(event))
                    && facts.membership != Membership::Join
                    && self.joined_after(meta.index, &mut last_join).await?;
                let sender = event.pdu.sender();
                seen = for_user(
                    event.pdu.as_received(),
                    &Viewing {
                        user: self.viewer.user,
                        history: facts.history,
                        membership: membership_state(facts.membership),
                        joined_later,
                        ignores_sender: self.viewer.ignored.contains(sender),
                        sender_erased: self.viewer.erased.contains(sender),
                    },
                );
            }
            sights.push(Sight { seen, membership: Some(membership) });
        }
        Ok(sights)
    }

    /// Whether the user was in the room at some time after the event with this index.
    async fn joined_after(&self, index: Option<TimelineIndex>, last_join: &mut LastJoin) -> Result<bool, RoomsError> {
        if matches!(last_join, LastJoin::Unknown) {
            *last_join = self.last_join().await?;
        }
        Ok(match last_join {
            LastJoin::Lasting => true,
            LastJoin::EndedAt(end, _) => index.is_some_and(|index| index < *end),
            LastJoin::Unknown | LastJoin::Never => false,
        })
    }

    /// The index of the event that ended the time that a user was last in the room, and the state after it; `None` if they are in the room or
    /// never were.
    pub(crate) async fn left_at(&self) -> Result<Option<(TimelineIndex, Root)>, RoomsError> {
        match self.last_join().await? {
            LastJoin::EndedAt(end, root) => Ok(Some((end, root))),
            LastJoin::Lasting | LastJoin::Never | LastJoin::Unknown => Ok(None),
        }
    }

    /// Finds out until when the user was in the room by going back through their member events.
    async fn last_join(&self) -> Result<LastJoin, RoomsError> {
        let Some(row) = self.rooms().membership(self.view, self.viewer.user, self.room).await? else {
            return Ok(LastJoin::Never);
        };
        if row.membership == Membership::Join {
            return Ok(LastJoin::Lasting);
        }
        let mut num = row.event;
        for _ in 0..MEMBERSHIPS_LOOKED_AT_MAX {
            let Some(end) = num else { return Ok(LastJoin::Never) };
            let meta = self.rooms().meta(self.view, end).await?;
            let before = self.state(meta.before).member(self.viewer.user).await?;
            if membership_of(before.as_deref()) == Membership::Join {
                return Ok(meta.index.map_or(LastJoin::Never, |index| LastJoin::EndedAt(index, meta.after)));
            }
            num = before.map(|event| event.num);
        }
        Ok(LastJoin::Never)
    }

    /// What visibility depends on in the state `root`.
    async fn facts(&self, root: Root, memo: &mut Memo) -> Result<Facts, RoomsError> {
        if let Some((_, facts)) = memo.iter().rev().find(|(known, _)| *known == root) {
            return Ok(facts.clone());
        }
        let history = self.state(root).history_visibility().await?;
        let membership = match self.viewer.joined_in {
            Some(known) if known == root => Membership::Join,
            _ => self.state(root).membership(self.viewer.user).await?,
        };
        let facts = Facts { history, membership };
        memo.push((root, facts.clone()));
        Ok(facts)
    }

    /// The state of a room that the user may read: the current one for members and where history is
    /// world readable; for those who left, the one that they left behind.
    ///
    /// Fails with [`RoomsError::RoomNotFound`], or with [`RoomsError::NotJoined`] for strangers.
    pub async fn readable_root(&self) -> Result<Root, RoomsError> {
        let head = self.rooms().head(self.view, self.room).await?.ok_or(RoomsError::RoomNotFound)?;
        let row = self.rooms().membership(self.view, self.viewer.user, self.room).await?;
        if row.is_some_and(|row| row.membership == Membership::Join) {
            return Ok(head.root);
        }
        if self.state(head.root).history_visibility().await? == HistoryVisibility::WorldReadable {
            return Ok(head.root);
        }
        let mut num = row.filter(|row| !row.forgotten).and_then(|row| row.event);
        for _ in 0..MEMBERSHIPS_LOOKED_AT_MAX {
            let Some(end) = num else { break };
            let meta = self.rooms().meta(self.view, end).await?;
            let before = self.state(meta.before).member(self.viewer.user).await?;
            if membership_of(before.as_deref()) == Membership::Join {
                return Ok(meta.after);
            }
            num = before.map(|event| event.num);
        }
        Err(RoomsError::NotJoined)
    }

    /// Loads an event of a room that the viewer may see, whole or redacted.
    ///
    /// Fails with [`RoomsError::EventNotFound`] alike if there is none and if it is hidden.
    pub async fn visible_event(&self, event_id: &EventId) -> Result<(Arc<StoredEvent>, EventMeta, Sight), RoomsError> {
        let event = self.rooms().event_by_id(self.view, event_id).await?;
        // That there is such an event elsewhere is nobody's business here.
        let event = event.filter(|event| event.pdu.room_id() == self.room).ok_or(RoomsError::EventNotFound)?;
        self.check_not_forgotten().await?;
        let meta = self.rooms().meta(self.view, event.num).await?;
        let pair = [(event, meta)];
        let sight = self.sights(&pair).await?;
        let [(event, meta)] = pair;
        match sight.as_slice() {
            [sight] if sight.seen != Visibility::Hidden => Ok((event, meta, *sight)),
            _ => Err(RoomsError::EventNotFound),
        }
    }

    /// Fails with [`RoomsError::EventNotFound`] if the user has forgotten the room, and it isn't one that everybody may read.
    async fn check_not_forgotten(&self) -> Result<(), RoomsError> {
        if self.rooms().membership(self.view, self.viewer.user, self.room).await?.is_none_or(|row| !row.forgotten) {
            return Ok(());
        }
        let head = self.rooms().head(self.view, self.room).await?.ok_or(RoomsError::EventNotFound)?;
        match self.state(head.root).history_visibility().await? {
            HistoryVisibility::WorldReadable => Ok(()),
            _ => Err(RoomsError::EventNotFound),
        }
    }
}

/// Whether an event makes the room's history one that later members may read: then they may read it too.
fn sets_shared(event: &StoredEvent) -> bool {
    // Every redaction leaves it.
    event.pdu.is_state("m.room.history_visibility", "")
        && history_visibility(Some(event.pdu.as_received())) == HistoryVisibility::Shared
}

fn membership_state(membership: Membership) -> MembershipState {
    match membership {
        Membership::Leave => MembershipState::Leave,
        Membership::Invite => MembershipState::Invite,
        Membership::Knock => MembershipState::Knock,
        Membership::Join => MembershipState::Join,
        Membership::Ban => MembershipState::Ban,
    }
}
