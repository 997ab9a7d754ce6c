//! Paging through a room's events.
//!
//! Specification: client-server API, `GET /rooms/{roomId}/messages`.

use std::collections::BTreeSet;

use rooms::{Direction, MEMBER, RoomsError, TimelineIndex, TimelinePage, TimelineRange};
use ruma::{OwnedUserId, events::room::history_visibility::HistoryVisibility};
use state_tree::{EventNum, Root};
use store::View;

use crate::{
    filter::RoomEventFilter,
    format::{ClientEvent, ClientFormat, Delivered},
    reader::RoomReader,
    token::TimelineToken,
};

/// The most events that one page has.
pub const MESSAGES_LIMIT_MAX: usize = 1_000;

/// Events looked at to fill one page. A filter that hardly anything passes gets an empty page with a token.
const EVENTS_LOOKED_AT_MAX: usize = 5_000;

/// The fewest events read at once, for pages that a filter thins out.
const EVENTS_PER_READ_MIN: usize = 20;

/// Which page of a room's events is asked for.
#[derive(Clone, Debug, Default)]
pub struct MessagesQuery {
    /// Where to start; `None` for the newest (backward) or oldest (forward) event.
    pub from: Option<TimelineToken>,
    /// Where to stop.
    pub to: Option<TimelineToken>,
    /// The direction.
    pub direction: Direction,
    /// At most this many events, bounded by [`MESSAGES_LIMIT_MAX`].
    pub limit: usize,
    /// Which events.
    pub filter: RoomEventFilter,
}

/// A page of a room's events.
#[derive(Clone, Debug)]
pub struct MessagesPage {
    /// The events, in the direction asked for.
    pub chunk: Vec<ClientEvent>,
    /// Where the page starts.
    pub start: TimelineToken,
    /// Where the next page starts; `None` on an empty page with nothing after it.
    pub end: Option<TimelineToken>,
    /// With lazy loading, the member events of the senders.
    pub state: Vec<ClientEvent>,
}

/// The walk along the timeline while a page is filled.
pub(crate) struct Walk {
    range: TimelineRange,
    /// What the viewer gets.
    pub(crate) delivered: Vec<Delivered>,
    /// The index of the last event looked at.
    pub(crate) last: Option<TimelineIndex>,
    /// At most so many of `delivered`.
    limit: usize,
    /// The timeline, or what of it was asked for, ends here.
    done: bool,
}

impl RoomReader<'_> {
    /// A page of a room's events, as the viewer may see them.
    ///
    /// A page ends at a gap in the timeline; the page after it starts by asking other servers for what is
    /// missing. Fails with [`RoomsError::NotJoined`] for those who never were in the room, unless it is world
    /// readable.
    pub async fn messages(&self, query: &MessagesQuery) -> Result<MessagesPage, RoomsError> {
        let root = self.readable_root().await?;
        let start = match (query.from, query.direction) {
            (Some(from), _) => from,
            (None, Direction::Backward) => self.newest_visible().await?,
            (None, Direction::Forward) => TimelineToken::before(TimelineIndex::MIN),
        };
        let nothing = MessagesPage { chunk: Vec::new(), start, end: None, state: Vec::new() };
        if !query.filter.wants_room(self.room) {
            return Ok(nothing);
        }
        // A limit of nothing is none.
        let by_filter = query.filter.limit.filter(|limit| *limit > 0);
        let limit = match by_filter.and_then(|limit| usize::try_from(limit).ok()) {
            Some(limit) => limit.min(query.limit),
            None => query.limit,
        };
        let limit = limit.clamp(1, MESSAGES_LIMIT_MAX);
        let filled = self.fill_before(query.direction, start).await?;
        let reader = self.reading.room(filled.as_ref().unwrap_or(self.view), self.viewer, self.room);
        let walk = reader.walk(query, start, limit).await?;

        // The last page with something on it goes on to an empty one: clients throw away what comes without `end`.
        let ends = walk.done && walk.delivered.is_empty();
        let end = walk.last.filter(|_| !ends).map(|last| match query.direction {
            Direction::Backward => TimelineToken::before(last),
            Direction::Forward => TimelineToken::after(last),
        });
        let state = match query.filter.lazy_load_members {
            true => {
                let at = root_at_newest(&walk.delivered, query.direction).unwrap_or(root);
                reader.lazy_members(at, &walk.delivered).await?
            }
            false => Vec::new(),
        };
        let chunk = walk.delivered.into_iter().map(|delivered| delivered.json).collect();
        Ok(MessagesPage { chunk, start, end, state })
    }

    /// A point after which nothing is visible to a user: now, or when they left if the history visibility is
    /// still the same and shows nothing to strangers. So those who left long ago don't page through what they can't see.
    async fn newest_visible(&self) -> Result<TimelineToken, RoomsError> {
        let now = TimelineToken::at(self.view.position());
        let current = self.rooms().current_state(self.view, self.room).await?;
        let Some((end, then)) = self.left_at().await? else { return Ok(now) };
        if current.history_visibility().await? == HistoryVisibility::WorldReadable {
            return Ok(now);
        }
        let setting = [("m.room.history_visibility", "")];
        if self.state(then).nums_at(&setting).await? != current.nums_at(&setting).await? {
            return Ok(now);
        }
        Ok(TimelineToken::after(end))
    }

    /// If a backward page starts at a gap, asks other servers for what is missing. The view in which the
    /// events are, if any came.
    async fn fill_before(&self, direction: Direction, start: TimelineToken) -> Result<Option<View>, RoomsError> {
        if direction != Direction::Backward {
            return Ok(None);
        }
        let Some(gap) = self.rooms().gap_at(self.view, self.room, start.upper()).await? else { return Ok(None) };
        if !self.rooms().backfill(self.room, &gap).await? {
            return Ok(None);
        }
        Ok(Some(self.reading.inner.store.view().await?))
    }

    /// Reads on from `start` until there are `limit` events, the timeline ends, or enough was looked at.
    pub(crate) async fn walk(
        &self,
        query: &MessagesQuery,
        start: TimelineToken,
        limit: usize,
    ) -> Result<Walk, RoomsError> {
        let range = match query.direction {
            Direction::Backward => TimelineRange {
                after: query.to.and_then(TimelineToken::lower),
                before: Some(start.upper()),
                direction: Direction::Backward,
                limit: 0,
            },
            Direction::Forward => TimelineRange {
                after: start.lower(),
                before: query.to.map(TimelineToken::upper),
                direction: Direction::Forward,
                limit: 0,
            },
        };
        let mut walk = Walk { range, delivered: Vec::new(), last: None, limit, done: false };
        let mut looked_at = 0;
        while walk.delivered.len() < limit && looked_at < EVENTS_LOOKED_AT_MAX {
            walk.range.limit = (limit - walk.delivered.len()).max(EVENTS_PER_READ_MIN);
            let page = self.rooms().timeline(self.view, self.room, walk.range).await?;
            looked_at += page.events.len();
            let stop = page.gap.is_some() || !page.more;
            walk.done = page.gap.is_none() && !page.more;
            self.take(query, page, &mut walk).await?;
            if stop {
                break;
            }
        }
        Ok(walk)
    }

    /// Takes from a stretch of the timeline what the viewer may see and asked for.
    async fn take(&self, query: &MessagesQuery, page: TimelinePage, walk: &mut Walk) -> Result<(), RoomsError> {
        let nums: Vec<EventNum> = page.events.iter().map(|(_, num)| *num).collect();
        let wanted = self.wanted(&nums, &query.filter).await?;
        let delivered = self.deliver(&wanted, ClientFormat::room()).await?;
        let mut delivered = delivered.into_iter().peekable();
        for (index, num) in page.events {
            if walk.delivered.len() == walk.limit {
                // The rest of the stretch belongs to the next page.
                walk.done = false;
                return Ok(());
            }
            walk.last = Some(index);
            match query.direction {
                Direction::Backward => walk.range.before = Some(index),
                Direction::Forward => walk.range.after = Some(index),
            }
            if let Some(event) = delivered.next_if(|delivered| delivered.event.num == num) {
                walk.delivered.push(event);
            }
        }
        Ok(())
    }

    /// Those of the events that a filter lets through.
    pub async fn wanted(&self, nums: &[EventNum], filter: &RoomEventFilter) -> Result<Vec<EventNum>, RoomsError> {
        if *filter == RoomEventFilter::default() {
            return Ok(nums.to_vec());
        }
        let mut wanted = Vec::with_capacity(nums.len());
        for (event, meta) in self.rooms().load(self.view, nums).await? {
            if !self.wants(filter, &event, &meta).await? {
                continue;
            }
            if filter.by_relations() && !self.has_wanted_relation(event.num, filter).await? {
                continue;
            }
            wanted.push(event.num);
        }
        Ok(wanted)
    }

    /// The member events, in the state `root`, of those who sent these events or whom they are about.
    pub(crate) async fn lazy_members(
        &self,
        root: Root,
        delivered: &[Delivered],
    ) -> Result<Vec<ClientEvent>, RoomsError> {
        let mut senders: BTreeSet<OwnedUserId> = BTreeSet::new();
        for delivered in delivered {
            senders.insert(delivered.event.pdu.sender().to_owned());
        }
        let keys: Vec<(&str, &str)> = senders.iter().map(|user| (MEMBER, user.as_str())).collect();
        let nums = self.state(root).nums_at(&keys).await?;
        let events = self.deliver_state(&nums, ClientFormat::members()).await?;
        Ok(events.into_iter().map(|delivered| delivered.json).collect())
    }
}

/// The state at the newest event of a page: members are shown as they were then. `None` if it isn't known.
fn root_at_newest(page: &[Delivered], direction: Direction) -> Option<Root> {
    let newest = match direction {
        Direction::Backward => page.first(),
        Direction::Forward => page.last(),
    };
    newest.map(|event| event.meta.after).filter(|root| !root.is_empty())
}
