//! Counting: what is new since the last time, by the rows of `notable` or by each event.

use std::sync::Arc;

use event::{
    auth::PowerLevels,
    push::{PushContext, PushEvent, PushRules},
};
use rooms::{
    EventMeta, MEMBER, Membership, Receipt, RoomsError, StoredEvent, TimelineIndex,
    notable::{self, HIGHLIGHTS, MENTIONS, NOTIFIES, Notability, REDACTS, RELATES, SENT},
    rows::NotableRow,
    tables::{JoinedCounts, JoinedSince, Notable, Timeline},
};
use ruma::OwnedEventId;
use serde::Deserialize;
use state_tree::{EventNum, Root};
use store::{Batch, Pending, Position, Range, Record, View};

use super::{
    NewEvents, UNREAD_EVENTS_LOOKED_AT_MAX, UnreadCounts,
    tally::{self, Marks, Tally},
};
use crate::{
    Reading,
    reader::{RoomReader, Viewer},
    tables::{Unread, UnreadKey},
};

/// A tally is stored when so many events were looked at since it last was: no more has to be done again
/// after a restart.
const UNSTORED_EVENTS_MAX: usize = 100;

/// An event that may notify.
struct Candidate {
    at: Position,
    num: EventNum,
    flags: u8,
    sender: String,
    thread: Option<OwnedEventId>,
}

impl Candidate {
    /// Where it isn't judged by the default rules, each user's own decide. `None` for events that came late and fill a gap:
    /// nobody is told of them as of news.
    fn of(event: &StoredEvent, meta: &EventMeta, by_default: bool) -> Option<Self> {
        let at = live_position(meta.index?)?;
        let Notability { mut flags, relates, thread } = notable::notability(event).clone();
        if meta.redacted_by.is_some() {
            flags = notable::of_redacted(flags);
        } else if !by_default {
            flags |= MENTIONS;
        }
        if relates {
            flags |= RELATES;
        }
        let sender = event.pdu.sender().as_str().to_owned();
        Some(Self { at, num: event.num, flags, sender, thread })
    }
}

/// The position of an event that came as news.
fn live_position(index: TimelineIndex) -> Option<Position> {
    (index == TimelineIndex::live(index.major)).then_some(index.major)
}

/// What rules ask about the room at an event.
struct Room {
    display_name: Option<String>,
    power_levels: Option<PowerLevels>,
}

/// What was read of the room while events were counted.
#[derive(Default)]
struct Asked {
    /// The state that was looked at last, and what was found; neighbouring events share theirs.
    room: Option<(Root, Room)>,
    /// The number of members from a position on.
    joined: Option<(Position, u64)>,
}

/// Whether an event may count for a user with these rules, who sent it or not, by what the log tells of it
/// ([`rooms::LoggedEvent::flags`]). What can't need not be read.
pub fn may_count(rules: &PushRules, flags: u8, is_own: bool) -> bool {
    notable::concerns(flags, is_own) || !rules.is_server_default()
}

impl Reading {
    /// Counts what a user hasn't read, in all rooms that they are in, and stores it, so that it stays what it is when
    /// their push rules, or whom they ignore, change afterwards.
    pub async fn settle_unread(&self, view: &View, viewer: &Viewer<'_>, rules: &PushRules) -> Result<(), RoomsError> {
        let mut written = Vec::new();
        for room in self.rooms.joined_rooms(view, viewer.user).await? {
            let reader = self.room(view, *viewer, &room);
            let key = reader.tally_key();
            let Some(mut tally) = reader.tally(&key, rules).await? else { continue };
            let last = self.rooms.last_position(view, &room).await?;
            if last.is_some_and(|last| last > tally.stored_to.major) {
                written.push(reader.submit_tally(&mut tally).await?);
            }
            self.inner.tallies.insert(key, Arc::new(tally));
        }
        for written in written {
            written.await?;
        }
        Ok(())
    }
}

impl RoomReader<'_> {
    /// What a user hasn't read of a room, by the rules that are theirs now.
    ///
    /// Costs what happened since the last time that this was asked, and at most
    /// [`UNREAD_EVENTS_LOOKED_AT_MAX`] events. Users who aren't joined have nothing unread, and what ignored
    /// users send doesn't notify.
    pub async fn unread(&self, rules: &PushRules) -> Result<UnreadCounts, RoomsError> {
        let key = self.tally_key();
        match self.tally(&key, rules).await? {
            Some(tally) => Ok(self.keep_tally(key, tally).await),
            None => {
                self.reading.inner.tallies.remove(&key);
                Ok(UnreadCounts::default())
            }
        }
    }

    /// The tally of one who is in the room, up to now.
    async fn tally(&self, key: &tally::Key, rules: &PushRules) -> Result<Option<Tally>, RoomsError> {
        let row = self.rooms().membership(self.view, self.viewer.user, self.room).await?;
        let Some(row) = row.filter(|row| row.membership == Membership::Join) else { return Ok(None) };
        let receipts = self.rooms().receipts_of(self.view, self.viewer.user, self.room).await?;
        let mut known = match self.reading.inner.tallies.get(key) {
            Some(tally) => Some(Arc::unwrap_or_clone(tally)),
            None => self.stored_tally().await?,
        };
        if let Some(tally) = &known
            && row.position > tally.counted_to.major
            && self.joined_since().await? > tally.counted_to
        {
            // Of an earlier stay: what was unread then doesn't matter any more.
            known = None;
        }
        let mut tally = match known {
            Some(tally) => tally,
            None => Tally::new(self.joined_since().await?),
        };
        let newest_receipt = receipts.iter().map(|receipt| receipt.position).max().unwrap_or_default();
        if tally.marks.as_of != newest_receipt {
            let mut marks = self.marks(&receipts).await?;
            marks.as_of = newest_receipt;
            tally.mark(marks);
        }
        tally.checked_at = self.view.position();
        let now = TimelineIndex::after_position(self.view.position());
        if now <= tally.counted_to
            || self.rooms().last_position(self.view, self.room).await?.is_none_or(|last| last <= tally.counted_to.major)
        {
            return Ok(Some(tally));
        }
        let after = tally.uncounted_from();
        let candidates = match rules.is_server_default() {
            true => self.notable_events(after, now).await?,
            false => self.all_events(after, now).await?,
        };
        self.count_new(rules, &mut tally, candidates).await?;
        tally.counted_to = now;
        Ok(Some(tally))
    }

    /// The position at which a user's counts of a room were last right, if they are in memory.
    pub fn unread_counted_at(&self) -> Option<Position> {
        let tally = self.reading.inner.tallies.get(&self.tally_key())?;
        Some(tally.checked_at.min(tally.counted_to.major))
    }

    /// The same as [`RoomReader::unread`], for one who follows the log and so knows what is new: costs no reads if the
    /// counts were asked for lately.
    pub async fn unread_with(&self, rules: &PushRules, new: NewEvents<'_>) -> Result<UnreadCounts, RoomsError> {
        let key = self.tally_key();
        let known = self.reading.inner.tallies.get(&key).filter(|tally| tally.checked_at >= new.since);
        let Some(known) = known else {
            return self.unread(rules).await;
        };
        let mut tally = Arc::unwrap_or_clone(known);
        let now = TimelineIndex::after_position(self.view.position());
        if now > tally.counted_to {
            let by_default = rules.is_server_default();
            let after = tally.uncounted_from();
            let mut candidates = Vec::new();
            for (index, event, meta) in new.events {
                let Some(candidate) = Candidate::of(event, meta, by_default) else { continue };
                let is_own = event.pdu.sender() == self.viewer.user;
                if *index > after && notable::concerns(candidate.flags, is_own) {
                    candidates.push(candidate);
                }
            }
            self.count_new(rules, &mut tally, candidates).await?;
            tally.checked_at = self.view.position();
            tally.counted_to = now;
        }
        Ok(self.keep_tally(key, tally).await)
    }

    /// What tallies are kept by.
    fn tally_key(&self) -> tally::Key {
        (self.viewer.user.to_owned(), self.room.to_owned())
    }

    /// Keeps a tally for the next time. Gives its counts.
    async fn keep_tally(&self, key: tally::Key, mut tally: Tally) -> UnreadCounts {
        let counts = tally.counts();
        if tally.unstored >= UNSTORED_EVENTS_MAX
            && let Err(error) = self.submit_tally(&mut tally).await
        {
            // It can be counted again.
            tracing::debug!(user = %self.viewer.user, room = %self.room, %error, "unread counts not stored: {error}");
        }
        self.reading.inner.tallies.insert(key, Arc::new(tally));
        counts
    }

    /// Adds the events to the tally that notify the user.
    async fn count_new(
        &self,
        rules: &PushRules,
        tally: &mut Tally,
        candidates: Vec<Candidate>,
    ) -> Result<(), RoomsError> {
        tally.unstored += candidates.len();
        let mut asked = Asked::default();
        for candidate in candidates {
            if candidate.flags & REDACTS != 0
                && let Some(at) = self.redacted_at(candidate.num).await?
            {
                tally.remove(at);
            }
            // An own message of any kind is as good as a receipt ("Marking notifications as read").
            if candidate.sender == self.viewer.user.as_str() {
                if candidate.flags & (SENT | NOTIFIES) != 0 {
                    tally.sent_to(self.thread_of_candidate(&candidate).await?.as_ref());
                }
                continue;
            }
            if candidate.flags & (NOTIFIES | MENTIONS) == 0
                || self.viewer.ignored.iter().any(|ignored| *ignored == candidate.sender)
            {
                continue;
            }
            let outcome = if candidate.flags & MENTIONS != 0 {
                self.evaluate(rules, &candidate, &mut asked).await?
            } else {
                Some(candidate.flags & HIGHLIGHTS != 0)
            };
            if let Some(highlighted) = outcome {
                let thread = self.thread_of_candidate(&candidate).await?;
                tally.add(candidate.at, thread, highlighted);
            }
        }
        Ok(())
    }

    /// Where the event stands that a redaction applies to.
    async fn redacted_at(&self, num: EventNum) -> Result<Option<Position>, RoomsError> {
        let Some(redaction) = self.rooms().event(self.view, num).await? else { return Ok(None) };
        let target = redaction.pdu.as_received().redacts(self.rooms().rules(self.view, self.room).await?);
        let Some(target) = target else { return Ok(None) };
        let Some(target) = self.rooms().num(self.view, &target).await? else { return Ok(None) };
        let meta = self.rooms().meta(self.view, target).await?;
        Ok(meta.index.filter(|_| meta.redacted_by.is_some()).and_then(live_position))
    }

    /// The newest events that notify somebody by the default rules, oldest first.
    async fn notable_events(&self, after: TimelineIndex, now: TimelineIndex) -> Result<Vec<Candidate>, RoomsError> {
        let rows = Range::<Notable>::prefix(&(self.room,))
            .after(&(self.room, after))
            .before(&(self.room, now))
            .reverse()
            .limit(UNREAD_EVENTS_LOOKED_AT_MAX);
        let mut candidates = Vec::new();
        for ((_, index), row) in self.view.scan::<Notable>(rows).await?.rows {
            let NotableRow { flags, event, sender, thread } = row;
            let thread = OwnedEventId::try_from(thread).ok();
            candidates.push(Candidate { at: index.major, num: event, flags, sender, thread });
        }
        candidates.reverse();
        Ok(candidates)
    }

    /// The newest events of any kind, oldest first; each is to be judged by the user's own rules.
    async fn all_events(&self, after: TimelineIndex, now: TimelineIndex) -> Result<Vec<Candidate>, RoomsError> {
        let rows = Range::<Timeline>::prefix(&(self.room,))
            .after(&(self.room, after))
            .before(&(self.room, now))
            .reverse()
            .limit(UNREAD_EVENTS_LOOKED_AT_MAX);
        let mut found = self.view.scan::<Timeline>(rows).await?.rows;
        found.reverse();
        let nums: Vec<EventNum> = found.iter().map(|(_, num)| *num).collect();
        let events = self.rooms().load(self.view, &nums).await?;
        let mut candidates = Vec::new();
        for (event, meta) in events {
            candidates.extend(Candidate::of(&event, &meta, false));
        }
        Ok(candidates)
    }

    async fn thread_of_candidate(&self, candidate: &Candidate) -> Result<Option<OwnedEventId>, RoomsError> {
        if candidate.thread.is_some() || candidate.flags & RELATES == 0 {
            return Ok(candidate.thread.clone());
        }
        match self.rooms().event(self.view, candidate.num).await? {
            Some(event) => self.rooms().thread_of(self.view, &event).await,
            None => Ok(None),
        }
    }

    /// Whether an event notifies the user by these rules, and if so whether it is highlighted.
    async fn evaluate(
        &self,
        rules: &PushRules,
        candidate: &Candidate,
        asked: &mut Asked,
    ) -> Result<Option<bool>, RoomsError> {
        let Some(event) = self.rooms().event(self.view, candidate.num).await? else { return Ok(None) };
        let before = self.rooms().meta(self.view, candidate.num).await?.before;
        let member_count = self.joined_count_at(candidate.at, asked).await?;
        let known = asked.room.take().filter(|(root, _)| *root == before);
        let about = match known {
            Some((_, about)) => about,
            None => self.about(before, TimelineIndex::live(candidate.at)).await?,
        };
        let context = PushContext {
            user: self.viewer.user,
            display_name: about.display_name.as_deref(),
            member_count,
            power_levels: about.power_levels.as_ref(),
        };
        // It isn't redacted, or it wouldn't be a candidate.
        let outcome = rules.evaluate(&PushEvent::new(event.pdu.as_received()), &context);
        asked.room = Some((before, about));
        Ok(outcome.filter(|outcome| outcome.notify).map(|outcome| outcome.highlight))
    }

    /// What rules ask about the state before an event, and what had been redacted of it by then.
    async fn about(&self, root: Root, at: TimelineIndex) -> Result<Room, RoomsError> {
        #[derive(Deserialize)]
        struct Member {
            displayname: Option<String>,
        }
        let state = self.state(root);
        let member = state.shown_then(at, MEMBER, self.viewer.user.as_str()).await?;
        let display_name = member.and_then(|member| member.content_as::<Member>().ok()?.displayname);
        let create = state.shown_then(at, "m.room.create", "").await?;
        let levels = state.shown_then(at, "m.room.power_levels", "").await?;
        let rules = self.rooms().rules(self.view, self.room).await?;
        // Levels that nobody can read let nobody notify the whole room.
        let power_levels = create.and_then(|create| PowerLevels::new(rules, &create, levels.as_deref()).ok());
        Ok(Room { display_name, power_levels })
    }

    /// How many were joined once the event at a position had come.
    async fn joined_count_at(&self, at: Position, asked: &mut Asked) -> Result<u64, RoomsError> {
        if let Some((since, count)) = asked.joined
            && since <= at
        {
            return Ok(count);
        }
        let newest = asked.joined.is_none();
        let through = if newest { self.view.position() } else { at };
        let rows = Range::<JoinedCounts>::prefix(&(self.room,)).through(&(self.room, through)).reverse();
        let found = self.view.first::<JoinedCounts>(rows).await?;
        let (since, count) = found.map_or((Position::ZERO, 0), |((_, since), count)| (since, count));
        if !newest {
            return Ok(count);
        }
        asked.joined = Some((since, count));
        if since <= at { Ok(count) } else { Box::pin(self.joined_count_at(at, asked)).await }
    }

    /// The index of the change with which the user joined: earlier events aren't counted.
    async fn joined_since(&self) -> Result<TimelineIndex, RoomsError> {
        let began = self.view.get::<JoinedSince>(&(self.viewer.user, self.room)).await?;
        Ok(began.map_or(TimelineIndex::MIN, TimelineIndex::live))
    }

    async fn marks(&self, receipts: &[Receipt]) -> Result<Marks, RoomsError> {
        let mut marks = Marks::default();
        for receipt in receipts {
            let Some(num) = self.rooms().num(self.view, &receipt.event).await? else { continue };
            if let Some(index) = self.rooms().meta(self.view, num).await?.index {
                marks.add(receipt, index);
            }
        }
        Ok(marks)
    }

    async fn stored_tally(&self) -> Result<Option<Tally>, RoomsError> {
        let stored =
            self.view.get::<Unread>(&UnreadKey { user: self.viewer.user, room: self.room, thread: "" }).await?;
        Ok(stored.map(|Record(stored)| Tally::from_stored(stored)))
    }

    /// Stores a tally, without waiting for the disk.
    async fn submit_tally(&self, tally: &mut Tally) -> Result<Pending, RoomsError> {
        let mut batch = Batch::new();
        batch.put::<Unread>(
            &UnreadKey { user: self.viewer.user, room: self.room, thread: "" },
            &Record(tally.to_stored()),
        );
        batch.relaxed();
        (tally.unstored, tally.stored_to) = (0, tally.counted_to);
        Ok(self.reading.inner.store.submit(batch).await?)
    }
}
