//! Counting: what is new since the last time, by the rows of `notable` or by each event.

use std::sync::Arc;

use event::{
    auth::PowerLevels,
    push::{PushContext, PushEvent, PushRules},
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use store::{Batch, Position, Range, Record, View};

use super::{
    NewEvents, UNREAD_EVENTS_LOOKED_AT_MAX, UnreadCounts,
    notable::{self, DEFAULT_RULES, HIGHLIGHTS, MENTIONS, NOTIFIES, Notability, RELATES, SENT},
    tally::{Marks, Tally},
};
use crate::{
    Rooms, RoomsError,
    receipts::Receipt,
    tables::{Notable, Timeline, Unread},
    types::{EventNum, Membership, StoredEvent, TimelineIndex},
    visibility::{Viewer, membership_of},
};

/// A tally is stored when so many events were looked at since it last was: no more has to be done again
/// after a restart.
const UNSTORED_EVENTS_MAX: usize = 100;

/// Member events that are followed back to find when the user joined.
const PROFILE_CHANGES_LOOKED_AT_MAX: usize = 32;

/// An event that may notify.
struct Candidate {
    index: TimelineIndex,
    num: EventNum,
    flags: u8,
    sender: String,
    thread: Option<OwnedEventId>,
}

impl Candidate {
    /// Where it isn't judged by the default rules, each user's own decide.
    fn of(event: &StoredEvent, index: TimelineIndex, by_default: bool) -> Self {
        let Notability { mut flags, relates, thread } = notable::notability(event).clone();
        if relates {
            flags |= RELATES;
        }
        if !by_default {
            flags |= MENTIONS;
        }
        let sender = event.pdu.sender().as_str().to_owned();
        Self { index, num: event.num, flags, sender, thread }
    }
}

/// What rules ask about the room, read when the first event needs it.
struct Room {
    display_name: Option<String>,
    member_count: u64,
    power_levels: Option<PowerLevels>,
}

impl Rooms {
    /// What a user hasn't read of a room, by the rules that are theirs now.
    ///
    /// Costs what happened since the last time that this was asked, and at most
    /// [`UNREAD_EVENTS_LOOKED_AT_MAX`] events. Users who aren't joined have nothing unread, and what ignored
    /// users send doesn't notify.
    pub async fn unread(
        &self,
        view: &View,
        viewer: &Viewer<'_>,
        room: &RoomId,
        rules: &PushRules,
    ) -> Result<UnreadCounts, RoomsError> {
        let key = (viewer.user.to_owned(), room.to_owned());
        let row = self.membership(view, viewer.user, room).await?;
        let Some(row) = row.filter(|row| row.membership == Membership::Join) else {
            self.inner.reads.tallies.remove(&key);
            return Ok(UnreadCounts::default());
        };
        let receipts = self.receipts_of(view, viewer.user, room).await?;
        let mut known = match self.inner.reads.tallies.get(&key) {
            Some(tally) => Some(tally),
            None => self.stored_tally(view, viewer.user, room).await?.map(Arc::new),
        };
        if let Some(tally) = &known
            && row.position > tally.counted_to.major
            && self.joined_at(view, viewer.user, room).await? > tally.counted_to
        {
            // Of an earlier stay: what was unread then doesn't matter any more.
            known = None;
        }
        let now = TimelineIndex::after_position(view.position());
        let newest_receipt = receipts.iter().map(|receipt| receipt.position).max().unwrap_or_default();
        if let Some(tally) = &known
            && tally.marks.as_of == newest_receipt
            && self.last_position(view, room).await?.is_none_or(|last| last <= tally.counted_to.major)
        {
            let mut tally = Tally::clone(tally);
            tally.checked_at = view.position();
            let counts = tally.counts();
            self.inner.reads.tallies.insert(key, Arc::new(tally));
            return Ok(counts);
        }
        let mut tally = match known {
            Some(tally) => Arc::unwrap_or_clone(tally),
            None => Tally::new(self.joined_at(view, viewer.user, room).await?),
        };
        if tally.marks.as_of != newest_receipt {
            let mut marks = self.marks(view, &receipts).await?;
            marks.as_of = newest_receipt;
            tally.mark(marks);
        }
        tally.checked_at = view.position();
        if now > tally.counted_to {
            let after = tally.uncounted_from();
            let candidates = match *rules == *DEFAULT_RULES {
                true => self.notable_events(view, room, after, now).await?,
                false => self.all_events(view, room, after, now).await?,
            };
            self.count_new(view, viewer, room, rules, (&mut tally, candidates)).await?;
            tally.counted_to = now;
        }
        Ok(self.keep_tally(key, tally).await)
    }

    /// The position at which a user's counts of a room were last right, if they are in memory.
    pub fn unread_counted_at(&self, user: &UserId, room: &RoomId) -> Option<Position> {
        let tally = self.inner.reads.tallies.get(&(user.to_owned(), room.to_owned()))?;
        Some(tally.checked_at.min(tally.counted_to.major))
    }

    /// The same as [`Rooms::unread`], for one who follows the log and so knows what is new: costs no reads if the
    /// counts were asked for lately.
    pub async fn unread_with(
        &self,
        view: &View,
        viewer: &Viewer<'_>,
        room: &RoomId,
        rules: &PushRules,
        new: NewEvents<'_>,
    ) -> Result<UnreadCounts, RoomsError> {
        let key = (viewer.user.to_owned(), room.to_owned());
        let known = self.inner.reads.tallies.get(&key).filter(|tally| tally.checked_at >= new.since);
        let Some(known) = known else {
            return self.unread(view, viewer, room, rules).await;
        };
        let mut tally = Arc::unwrap_or_clone(known);
        let now = TimelineIndex::after_position(view.position());
        if now > tally.counted_to {
            let by_default = *rules == *DEFAULT_RULES;
            let after = tally.uncounted_from();
            let mut candidates = Vec::new();
            for (index, event, meta) in new.events {
                let counts = *index > after && meta.redacted_by.is_none();
                let is_own = event.pdu.sender() == viewer.user;
                if counts && (!by_default || notable::concerns(notable::notability(event).flags, is_own)) {
                    candidates.push(Candidate::of(event, *index, by_default));
                }
            }
            self.count_new(view, viewer, room, rules, (&mut tally, candidates)).await?;
            tally.checked_at = view.position();
            tally.counted_to = now;
        }
        Ok(self.keep_tally(key, tally).await)
    }

    /// Keeps a tally for the next time. Gives its counts.
    async fn keep_tally(&self, key: (OwnedUserId, OwnedRoomId), mut tally: Tally) -> UnreadCounts {
        let counts = tally.counts();
        if tally.unstored >= UNSTORED_EVENTS_MAX {
            tally.unstored = 0;
            self.store_tally(&key.0, &key.1, &tally).await;
        }
        self.inner.reads.tallies.insert(key, Arc::new(tally));
        counts
    }

    /// Adds the events to the tally that notify the user.
    async fn count_new(
        &self,
        view: &View,
        viewer: &Viewer<'_>,
        room: &RoomId,
        rules: &PushRules,
        (tally, candidates): (&mut Tally, Vec<Candidate>),
    ) -> Result<(), RoomsError> {
        tally.unstored += candidates.len();
        let mut asked = None;
        for candidate in candidates {
            let is_own = candidate.sender == viewer.user.as_str();
            // An own message of any kind is as good as a receipt ("Marking notifications as read").
            let counts = if is_own {
                candidate.flags & (SENT | NOTIFIES) != 0
            } else {
                notable::concerns(candidate.flags, false)
            };
            if !counts {
                continue;
            }
            let thread = self.thread_of_candidate(view, &candidate).await?;
            if is_own {
                tally.sent_to(thread.as_ref());
                continue;
            }
            let ignored = viewer.ignored.iter().any(|ignored| *ignored == candidate.sender);
            if ignored {
                continue;
            }
            let outcome = if candidate.flags & MENTIONS != 0 {
                self.evaluate(view, viewer.user, room, rules, candidate.num, &mut asked).await?
            } else {
                (candidate.flags & NOTIFIES != 0).then_some(candidate.flags & HIGHLIGHTS != 0)
            };
            if let Some(highlighted) = outcome {
                tally.add(candidate.index, thread, highlighted);
            }
        }
        Ok(())
    }

    /// The newest events that notify somebody by the default rules, oldest first.
    async fn notable_events(
        &self,
        view: &View,
        room: &RoomId,
        after: TimelineIndex,
        now: TimelineIndex,
    ) -> Result<Vec<Candidate>, RoomsError> {
        let rows = Range::<Notable>::prefix(&(room,))
            .after(&(room, after))
            .before(&(room, now))
            .reverse()
            .limit(UNREAD_EVENTS_LOOKED_AT_MAX);
        let mut candidates = Vec::new();
        for ((_, index), (flags, num, sender, thread)) in view.scan::<Notable>(rows).await?.rows {
            let thread = OwnedEventId::try_from(thread).ok();
            candidates.push(Candidate { index, num, flags, sender, thread });
        }
        candidates.reverse();
        Ok(candidates)
    }

    /// The newest events of any kind, oldest first; each is to be judged by the user's own rules.
    async fn all_events(
        &self,
        view: &View,
        room: &RoomId,
        after: TimelineIndex,
        now: TimelineIndex,
    ) -> Result<Vec<Candidate>, RoomsError> {
        let rows = Range::<Timeline>::prefix(&(room,))
            .after(&(room, after))
            .before(&(room, now))
            .reverse()
            .limit(UNREAD_EVENTS_LOOKED_AT_MAX);
        let mut found = view.scan::<Timeline>(rows).await?.rows;
        found.reverse();
        let nums: Vec<EventNum> = found.iter().map(|(_, num)| *num).collect();
        let events = self.load(view, &nums).await?;
        let mut candidates = Vec::new();
        for (event, meta) in events {
            let Some(index) = meta.index else { continue };
            if meta.redacted_by.is_some() {
                continue;
            }
            candidates.push(Candidate::of(&event, index, false));
        }
        Ok(candidates)
    }

    async fn thread_of_candidate(
        &self,
        view: &View,
        candidate: &Candidate,
    ) -> Result<Option<OwnedEventId>, RoomsError> {
        if candidate.thread.is_some() || candidate.flags & RELATES == 0 {
            return Ok(candidate.thread.clone());
        }
        match self.event(view, candidate.num).await? {
            Some(event) => self.thread_of(view, &event).await,
            None => Ok(None),
        }
    }

    /// Whether an event notifies the user by these rules, and if so whether it is highlighted.
    async fn evaluate(
        &self,
        view: &View,
        user: &UserId,
        room: &RoomId,
        rules: &PushRules,
        num: EventNum,
        asked: &mut Option<Room>,
    ) -> Result<Option<bool>, RoomsError> {
        let Some(event) = self.event(view, num).await? else { return Ok(None) };
        let about = match asked {
            Some(about) => about,
            None => asked.insert(self.about(view, user, room).await?),
        };
        let context = PushContext {
            user,
            display_name: about.display_name.as_deref(),
            member_count: about.member_count,
            power_levels: about.power_levels.as_ref(),
        };
        let outcome = rules.evaluate(&PushEvent::new(&event.pdu), &context);
        Ok(outcome.filter(|outcome| outcome.notify).map(|outcome| outcome.highlight))
    }

    async fn about(&self, view: &View, user: &UserId, room: &RoomId) -> Result<Room, RoomsError> {
        #[derive(Deserialize)]
        struct Member {
            displayname: Option<String>,
        }
        let head = self.head(view, room).await?.ok_or(RoomsError::RoomNotFound)?;
        let member = self.member_event(view, room, head.root, user).await?;
        let display_name =
            member.and_then(|member| member.pdu.content_as::<Member>().ok()).and_then(|content| content.displayname);
        let create = self.state_event(view, room, head.root, "m.room.create", "").await?;
        let levels = self.state_event(view, room, head.root, "m.room.power_levels", "").await?;
        let rules = self.rules(view, room).await?;
        let power_levels = create.and_then(|create| {
            let levels = levels.as_deref().map(|levels| &levels.pdu);
            PowerLevels::new(rules, &create.pdu, levels).ok()
        });
        Ok(Room { display_name, member_count: head.joined_count, power_levels })
    }

    /// The index of the event with which the user's present stay began: earlier events aren't counted.
    async fn joined_at(&self, view: &View, user: &UserId, room: &RoomId) -> Result<TimelineIndex, RoomsError> {
        let mut joined_at = TimelineIndex::MIN;
        let mut num = self.membership(view, user, room).await?.and_then(|row| row.event);
        for _ in 0..PROFILE_CHANGES_LOOKED_AT_MAX {
            let Some(member) = num else { break };
            let meta = self.meta(view, member).await?;
            joined_at = meta.index.unwrap_or(joined_at);
            let before: Option<Arc<StoredEvent>> = self.member_event(view, room, meta.before, user).await?;
            if membership_of(before.as_deref()) != Membership::Join {
                break;
            }
            num = before.map(|event| event.num);
        }
        Ok(joined_at)
    }

    async fn marks(&self, view: &View, receipts: &[Receipt]) -> Result<Marks, RoomsError> {
        let mut marks = Marks::default();
        for receipt in receipts {
            let Some(num) = self.num(view, &receipt.event).await? else { continue };
            if let Some(index) = self.meta(view, num).await?.index {
                marks.add(receipt, index);
            }
        }
        Ok(marks)
    }

    async fn stored_tally(&self, view: &View, user: &UserId, room: &RoomId) -> Result<Option<Tally>, RoomsError> {
        let stored = view.get::<Unread>(&(user, room, "")).await?;
        Ok(stored.map(|Record(stored)| Tally::from_stored(stored)))
    }

    /// Stores a tally. It can be counted again, so nobody waits for it and a failure does no harm.
    async fn store_tally(&self, user: &UserId, room: &RoomId, tally: &Tally) {
        let mut batch = Batch::new();
        batch.put::<Unread>(&(user, room, ""), &Record(tally.to_stored()));
        batch.relaxed();
        if let Err(error) = self.inner.store.submit(batch).await {
            tracing::debug!(%user, %room, %error, "unread counts not stored: {error}");
        }
    }
}
