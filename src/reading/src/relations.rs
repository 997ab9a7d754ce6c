//! Which events relate to which: the index from an event to its children, and the endpoint that reads it.
//!
//! Specification: client-server API, "Forming relationships between events", "Relationships API", "Threading".

use std::collections::HashSet;

use event::visibility::Visibility;
use rooms::{
    Direction, RoomsError, StoredEvent, TimelineIndex,
    relations::{Child, RELATION_HOPS_MAX},
};
use ruma::EventId;
use state_tree::EventNum;

use crate::{
    format::{ClientEvent, ClientFormat},
    reader::RoomReader,
    token::TimelineToken,
};

/// Related events returned by one request.
pub const RELATIONS_LIMIT_MAX: usize = 100;

/// Rows of the index that one request looks at. A client that asks for what is rare gets an empty page with
/// a token.
const ROWS_LOOKED_AT_MAX: usize = 2_000;

/// Rows of the index read at once.
const ROWS_PER_SCAN: usize = 250;

/// Which related events are asked for.
#[derive(Clone, Debug, Default)]
pub struct RelationsQuery {
    /// Only this relation.
    pub rel_type: Option<String>,
    /// Only this type of event. Only with `rel_type`.
    pub event_type: Option<String>,
    /// Where to start.
    pub from: Option<TimelineToken>,
    /// Where to stop.
    pub to: Option<TimelineToken>,
    /// Newest first by default.
    pub direction: Direction,
    /// At most this many events, bounded by [`RELATIONS_LIMIT_MAX`].
    pub limit: usize,
    /// Whether to follow relations of related events too, [`RELATION_HOPS_MAX`] steps deep.
    pub recurse: bool,
}

/// Events related to an event.
#[derive(Clone, Debug, Default)]
pub struct RelationsPage {
    /// The events.
    pub chunk: Vec<ClientEvent>,
    /// Where the next page starts, if there is more.
    pub next: Option<TimelineToken>,
    /// Where the page before starts, if this isn't the first.
    pub prev: Option<TimelineToken>,
    /// How deep relations were followed, if that was asked for.
    pub recursion_depth: Option<usize>,
}

impl RelationsQuery {
    fn wants(&self, child: &Child) -> bool {
        self.rel_type.as_ref().is_none_or(|wanted| *wanted == child.rel_type)
            && self.event_type.as_ref().is_none_or(|wanted| *wanted == child.event_type)
    }

    /// The bounds of the indices asked for: strictly above, strictly below.
    fn bounds(&self) -> (Option<TimelineIndex>, Option<TimelineIndex>) {
        let (lower, upper) = match self.direction {
            Direction::Backward => (self.to, self.from),
            Direction::Forward => (self.from, self.to),
        };
        (lower.and_then(TimelineToken::lower), upper.map(TimelineToken::upper))
    }
}

impl RoomReader<'_> {
    /// The events that relate to an event.
    ///
    /// Fails with [`RoomsError::EventNotFound`] if the viewer may not see the event.
    pub async fn relations(&self, event_id: &EventId, query: &RelationsQuery) -> Result<RelationsPage, RoomsError> {
        let (parent, _, _) = self.visible_event(event_id).await?;
        let (children, depth) = match query.recurse {
            true => self.descendants(parent.num, query).await?,
            false => (self.matching_children(parent.num, query).await?, 0),
        };
        let limit = query.limit.clamp(1, RELATIONS_LIMIT_MAX);
        let (shown, last) = self.page_of(children, limit).await?;
        let next = last.map(|index| match query.direction {
            Direction::Backward => TimelineToken::before(index),
            Direction::Forward => TimelineToken::after(index),
        });
        Ok(RelationsPage { chunk: shown, next, prev: query.from, recursion_depth: query.recurse.then_some(depth) })
    }

    /// Formats children until the page is full. Also gives the index of the last one looked at, if there
    /// are more after it.
    async fn page_of(
        &self,
        children: Found,
        limit: usize,
    ) -> Result<(Vec<ClientEvent>, Option<TimelineIndex>), RoomsError> {
        let mut shown = Vec::new();
        let mut rest = children.children.as_slice();
        while shown.len() < limit && !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(limit - shown.len()));
            let nums: Vec<EventNum> = now.iter().map(|child| child.num).collect();
            for delivered in self.deliver(&nums, ClientFormat::room()).await? {
                // A redacted event relates to nothing any more.
                if delivered.meta.redacted_by.is_none() {
                    shown.push(delivered.json);
                }
            }
            rest = later;
            if rest.is_empty() {
                return Ok((shown, children.cut_at));
            }
            if shown.len() >= limit {
                return Ok((shown, now.last().map(|child| child.index)));
            }
        }
        Ok((shown, children.cut_at))
    }

    /// The direct children that the query asks for, in its order.
    async fn matching_children(&self, parent: EventNum, query: &RelationsQuery) -> Result<Found, RoomsError> {
        let limit = query.limit.clamp(1, RELATIONS_LIMIT_MAX);
        let (mut after, mut before) = query.bounds();
        let mut found = Found::default();
        let mut looked_at = 0;
        while looked_at < ROWS_LOOKED_AT_MAX {
            let rows = self.rooms().children(self.view, parent, after, before, query.direction, ROWS_PER_SCAN).await?;
            let full = rows.len() == ROWS_PER_SCAN;
            looked_at += rows.len();
            let last = rows.last().map(|child| child.index);
            found.children.extend(rows.into_iter().filter(|child| query.wants(child)));
            if !full {
                found.cut_at = None;
                return Ok(found);
            }
            // Some to spare, because not all that is found may be seen.
            found.cut_at = last;
            if found.children.len() > 2 * limit {
                return Ok(found);
            }
            match query.direction {
                Direction::Backward => before = last,
                Direction::Forward => after = last,
            }
        }
        Ok(found)
    }

    /// Children, their children and so on, in the query's order, and how deep that went.
    async fn descendants(&self, parent: EventNum, query: &RelationsQuery) -> Result<(Found, usize), RoomsError> {
        let mut known: HashSet<EventNum> = HashSet::from([parent]);
        let mut level = vec![parent];
        let mut found = Found::default();
        let mut depth = 0;
        let mut looked_at = 0;
        while depth < RELATION_HOPS_MAX && !level.is_empty() {
            depth += 1;
            let mut next = Vec::new();
            for num in level {
                let left = ROWS_LOOKED_AT_MAX.saturating_sub(looked_at);
                let rows = self.rooms().children(self.view, num, None, None, Direction::Backward, left).await?;
                looked_at += rows.len();
                for child in rows {
                    if known.insert(child.num) {
                        next.push(child.num);
                        found.children.push(child);
                    }
                }
            }
            level = next;
        }
        // Filters choose from what was found; they don't cut off what lies behind.
        let (after, before) = query.bounds();
        found.children.retain(|child| {
            query.wants(child)
                && after.is_none_or(|after| child.index > after)
                && before.is_none_or(|before| child.index < before)
        });
        found.children.sort_by_key(|child| child.index);
        if query.direction == Direction::Backward {
            found.children.reverse();
        }
        Ok((found, depth))
    }

    /// Whether an event that a viewer sees has a child that a filter asks for.
    pub(crate) async fn has_wanted_relation(
        &self,
        num: EventNum,
        filter: &crate::filter::RoomEventFilter,
    ) -> Result<bool, RoomsError> {
        let children =
            self.rooms().children(self.view, num, None, None, Direction::Backward, ROWS_LOOKED_AT_MAX).await?;
        Ok(children.iter().any(|child| filter.wants_related(&child.rel_type, &child.sender)))
    }

    /// The children that a viewer may see, of those given.
    pub(crate) async fn seen_children(
        &self,
        children: &[&Child],
    ) -> Result<Vec<std::sync::Arc<StoredEvent>>, RoomsError> {
        let nums: Vec<EventNum> = children.iter().map(|child| child.num).collect();
        let pairs = self.rooms().load(self.view, &nums).await?;
        let sights = self.sights(&pairs).await?;
        let mut seen = Vec::new();
        for ((event, meta), sight) in pairs.into_iter().zip(sights) {
            if sight.seen == Visibility::Visible && meta.redacted_by.is_none() {
                seen.push(event);
            }
        }
        Ok(seen)
    }
}

/// What a look into the index found.
#[derive(Debug, Default)]
struct Found {
    children: Vec<Child>,
    /// The index of the last row looked at, if there may be more.
    cut_at: Option<TimelineIndex>,
}
