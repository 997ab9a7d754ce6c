//! Moving a room's head, and every row that follows from it.
//!
//! Memberships, counts of members, joined servers and the log entry derive from the difference of the old and the new
//! current state, never from the event: a resolution may change more than the event did, or something else. If it changes
//! more than a batch should write, the current state follows it in steps, each an advance with a log entry of its own.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, RoomId, UserId};
use state_tree::{Entry, EventNum, Root, StateChange};
use store::{CommitError, Json, Position, Range, Stamp};

use crate::{
    Rooms, RoomsError,
    directory::withdraw_in,
    engine::{append::ATTEMPTS_MAX, extremities::Front, turn::Turn},
    log::{LoggedEvent, RoomAdvanced},
    notable,
    rows::{LoggedMembership, MembershipLogKey},
    tables::{
        BackwardExtremities, Behind, Gaps, JoinedCounts, JoinedServers, JoinedSince, LocalMembers, MembershipLog,
        Memberships, Metas, Roots, StrippedStates, Timeline,
    },
    types::{EventMeta, EventStatus, MEMBER, MemberChange, Membership, MembershipRow, StoredEvent, TimelineIndex},
};

/// The type of the event that makes a room encrypted.
const ENCRYPTION: &str = "m.room.encryption";

/// Keys of the state that one advance changes. The rows that derive from a membership take some 3 KB where all names are as long as
/// they may be, and a batch has room for other things too.
const CHANGES_PER_ADVANCE_MAX: usize = 200;

/// A membership that differs between two states.
struct Moved {
    user: OwnedUserId,
    old: Membership,
    new: Membership,
    /// The member event of the new state.
    event: Option<EventNum>,
}

impl Moved {
    /// By how much it changes the number of those with a membership.
    fn delta(&self, membership: Membership) -> i64 {
        i64::from(self.new == membership) - i64::from(self.old == membership)
    }
}

/// What comes before an event, as far as the head is concerned.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Follows {
    /// The events that it names: their states are part of the state before it, or it is where this server enters the room.
    Named,
    /// Nothing. Another server told the state before it and may have left out what it likes: the states after the events that it
    /// names go on counting, and those that we lack are news when they come.
    Nothing,
}

/// A new event with its place in the room.
pub(crate) struct Placed {
    /// The event, whose body is not stored yet.
    pub(crate) event: Arc<StoredEvent>,
    /// Room state before it.
    pub(crate) before: Root,
    /// Room state after it.
    pub(crate) after: Root,
    /// The meta that it has in the store; the outer `None`: it is new, and nobody else can know it.
    pub(crate) had: Option<Option<EventMeta>>,
    /// A redaction that came before it and applies to it.
    pub(crate) redacted_by: Option<EventNum>,
    /// Events before it of which only the state is known: a gap in the timeline.
    pub(crate) gap: Vec<OwnedEventId>,
    pub(crate) follows: Follows,
}

impl Placed {
    /// What the log tells of it.
    fn logged(&self) -> LoggedEvent {
        let StoredEvent { num, ref pdu, .. } = *self.event;
        let flags = notable::logged_flags(&self.event);
        LoggedEvent {
            num,
            sender: pdu.sender().to_owned(),
            event_type: pdu.event_type().to_owned(),
            flags: if self.redacted_by.is_some() { notable::of_redacted(flags) } else { flags },
            after_gap: !self.gap.is_empty(),
        }
    }
}

impl Rooms {
    /// Queues a turn's batch and waits until it is written, and until the current state has followed the resolved one to the end. It
    /// follows though nobody waits for that any more.
    ///
    /// Fails with a conflict if the batch has to be built again.
    pub(crate) async fn write(&self, turn: Turn, relaxed: bool) -> Result<Position, RoomsError> {
        if !turn.head.is_behind() {
            return Ok(turn.submit(relaxed).await?.await?);
        }
        let (rooms, room) = (self.clone(), turn.room.clone());
        let steps = tokio::spawn(async move {
            let position = turn.submit(relaxed).await?.await?;
            rooms.catch_up(&room).await?;
            Ok(position)
        });
        steps.await.map_err(|_| RoomsError::Busy)?
    }

    /// Lets the states follow that were on their way when the program ended.
    pub(crate) async fn catch_up_all(&self) -> Result<(), RoomsError> {
        let view = self.inner.store.view().await?;
        for (room, ()) in view.scan_all(Range::<Behind>::all()).await? {
            let room = room.into_inner();
            if let Err(error) = self.catch_up(&room).await {
                // What is wrong with one room keeps nobody from the others.
                tracing::error!(room.id = %room, "the current state can't follow the resolved one: {error}");
            }
        }
        Ok(())
    }

    /// Lets a room's current state, and the rows that derive from it, follow the resolved state to the end.
    pub(crate) async fn catch_up(&self, room: &RoomId) -> Result<(), RoomsError> {
        let mut failed = 0;
        while failed < ATTEMPTS_MAX {
            let mut turn = self.turn(room).await?;
            if !turn.head.is_behind() {
                return Ok(());
            }
            turn.move_root(None, turn.head.resolved).await?;
            match turn.submit(true).await?.await {
                Ok(_) => {}
                Err(CommitError::Conflict) => failed += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Err(RoomsError::Busy)
    }
}

impl Turn {
    /// Puts an event of this turn into the room and moves the head to `front`, whose states resolve to `resolved`.
    pub(crate) async fn place(&mut self, placed: &Placed, front: Front, resolved: Root) -> Result<(), RoomsError> {
        let event = &placed.event;
        crate::events::put_body(&mut self.batch, event);
        let stamp = self.move_root(Some(placed), resolved).await?;

        let index = TimelineIndex::live(stamp.into());
        let meta = EventMeta {
            status: EventStatus::Accepted,
            before: placed.before,
            after: placed.after,
            index: Some(index),
            redacted_by: placed.redacted_by,
            has_relations: placed.had.iter().flatten().any(|meta| meta.has_relations),
            state_fetched: placed.follows == Follows::Nothing,
        };
        if let Some(had) = &placed.had {
            self.batch.expect::<Metas>(&event.num, had.as_ref());
        }
        if !placed.gap.is_empty() {
            self.batch.put::<Gaps>(&(&self.room, index), &Json(placed.gap.clone()));
            for (num, meta) in event.prev.iter().zip(self.rooms.metas(&self.view, &event.prev).await?) {
                if placed.follows == Follows::Named && meta.after.is_empty() {
                    self.batch.put::<BackwardExtremities>(num, &());
                }
            }
        }
        self.batch.put::<Metas>(&event.num, &meta);
        self.batch.put::<Timeline>(&(&self.room, index), &event.num);

        self.set_front(front, resolved);
        self.index(event, index, placed.redacted_by).await?;
        self.redact_target(event, placed.before).await
    }

    /// Makes `resolved` the current state, or what is a step on the way to it, with the log entry and the rows that derive from
    /// the change.
    pub(crate) async fn move_root(&mut self, placed: Option<&Placed>, resolved: Root) -> Result<Stamp, RoomsError> {
        let old_root = self.head.root;
        let (root, changes) = self.next_state(placed.map(|placed| &placed.event), resolved).await?;
        let moved = self.moved_members(&changes).await?;
        let gone = moved.iter().filter(|change| change.old == Membership::Join && change.new != Membership::Join);
        self.gone.extend(gone.map(|change| change.user.clone()));
        let mut members = Vec::new();
        for change in moved.iter().filter(|change| change.old != change.new && self.rooms.is_local(&change.user)) {
            members.push(MemberChange { user: change.user.clone(), old: change.old, new: change.new });
        }
        let servers = self.count_servers(&moved).await?;
        let encryption = changes.iter().find(|change| change.key.as_key() == (ENCRYPTION, ""));
        let entry = RoomAdvanced {
            room: self.room.clone(),
            event: placed.map(Placed::logged),
            old_root: (root != old_root).then_some(old_root),
            root,
            members,
            servers,
            encrypted: encryption.map(|change| change.new.is_some()),
        };
        let stamp = self.batch.log(&entry);
        self.last_stamp = Some(stamp);
        self.head.resolved = resolved;
        if root != old_root {
            self.batch.put::<Roots>(&(&self.room, stamp), &root);
            self.write_members(&moved, stamp);
            self.count_members(&moved, stamp);
            self.head.root = root;
        }
        Ok(stamp)
    }

    /// The state that follows the current one, with what changes: `resolved`, if one batch can hold what derives from that.
    async fn next_state(
        &mut self,
        event: Option<&Arc<StoredEvent>>,
        resolved: Root,
    ) -> Result<(Root, Vec<StateChange>), RoomsError> {
        let root = self.head.root;
        if root == resolved {
            return Ok((root, Vec::new()));
        }
        let (mut changes, all) = self.diff(root, resolved, CHANGES_PER_ADVANCE_MAX).await?;
        if all {
            return Ok((resolved, changes));
        }
        // A room is none without its create event, and who reads an event looks for it in the state.
        let mut wanted = vec![("m.room.create", "")];
        if let Some(event) = event
            && let Some(state_key) = event.pdu.state_key()
        {
            wanted.push((event.pdu.event_type(), state_key));
        }
        let (olds, news) = (self.entries(root, &wanted).await?, self.entries(resolved, &wanted).await?);
        for ((key, old), new) in wanted.into_iter().zip(olds).zip(news) {
            if old != new && !changes.iter().any(|change| change.key.as_key() == key) {
                changes.push(StateChange { key: key.into(), old, new });
            }
        }
        let applied: Vec<_> = changes.iter().map(|change| (change.key.as_key(), change.new)).collect();
        Ok((self.apply(root, &applied).await?, changes))
    }

    async fn moved_members(&self, changes: &[StateChange]) -> Result<Vec<Moved>, RoomsError> {
        let mut moved = Vec::new();
        for change in changes {
            if &*change.key.event_type != MEMBER {
                continue;
            }
            // A state key that isn't a user id can't be one of a member that counts.
            let Ok(user) = UserId::parse(&*change.key.state_key) else { continue };
            moved.push(Moved {
                user,
                old: self.membership_of(change.old).await?,
                new: self.membership_of(change.new).await?,
                event: change.new.map(|entry| entry.event),
            });
        }
        Ok(moved)
    }

    async fn membership_of(&self, entry: Option<Entry>) -> Result<Membership, RoomsError> {
        match entry {
            Some(entry) => Ok(self.event(entry.event).await?.pdu.membership()),
            None => Ok(Membership::Leave),
        }
    }

    /// The rows of this server's own users.
    fn write_members(&mut self, moved: &[Moved], stamp: Stamp) {
        for change in moved.iter().filter(|change| self.rooms.is_local(&change.user)) {
            let Moved { ref user, old, new: membership, event } = *change;
            let key = (user, &self.room);
            let row = MembershipRow { membership, event, position: stamp.into(), forgotten: false };
            self.batch.put::<Memberships>(&key, &row);
            // Also where only the event changed (a profile): readers take the current event from here.
            let log_key = MembershipLogKey { user, position: stamp, room: &self.room };
            self.batch.put::<MembershipLog>(&log_key, &LoggedMembership { membership, event, forgotten: false });
            if old == membership {
                continue;
            }
            let member = (&self.room, user);
            if membership == Membership::Join {
                self.batch.put::<JoinedSince>(&key, &stamp);
                self.batch.put::<LocalMembers>(&member, &membership);
            } else if old == Membership::Join {
                self.batch.delete::<LocalMembers>(&member);
            }
            self.batch.delete::<StrippedStates>(&key);
        }
    }

    /// The counts in the head.
    fn count_members(&mut self, moved: &[Moved], stamp: Stamp) {
        let mut joined = 0;
        let mut invited = 0;
        for change in moved {
            joined += change.delta(Membership::Join);
            invited += change.delta(Membership::Invite);
        }
        self.head.joined_count = self.head.joined_count.saturating_add_signed(joined);
        if joined != 0 {
            self.batch.put::<JoinedCounts>(&(&self.room, stamp), &self.head.joined_count);
            if self.head.joined_count == 0 {
                // Nobody is left to let others in.
                withdraw_in(&mut self.batch, &self.room);
            }
        }
        self.head.invited_count = self.head.invited_count.saturating_add_signed(invited);
    }

    /// The counts of joined members of each server. Gives the servers that have some and had none, or the other way round.
    async fn count_servers(&mut self, moved: &[Moved]) -> Result<Vec<(OwnedServerName, bool)>, RoomsError> {
        let mut by_server: BTreeMap<OwnedServerName, i64> = BTreeMap::new();
        for change in moved.iter().filter(|change| change.delta(Membership::Join) != 0) {
            *by_server.entry(change.user.server_name().to_owned()).or_default() += change.delta(Membership::Join);
        }
        let mut turned = Vec::new();
        for (server, delta) in by_server {
            let before = self.joined_of(&server).await?;
            let count = before.saturating_add_signed(delta);
            if count == 0 {
                self.batch.delete::<JoinedServers>(&(&self.room, &server));
            } else {
                self.batch.put::<JoinedServers>(&(&self.room, &server), &count);
            }
            if (before == 0) != (count == 0) {
                turned.push((server.clone(), count != 0));
            }
            self.servers.insert(server, count);
        }
        Ok(turned)
    }
}
