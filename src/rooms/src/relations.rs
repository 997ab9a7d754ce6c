//! Which events relate to which: the index from an event to its children, and the endpoint that reads it.
//!
//! Specification: client-server API, "Forming relationships between events", "Relationships API", "Threading".

use std::collections::HashSet;

use event::visibility::Visibility;
use ruma::{EventId, OwnedEventId, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;
use state_tree::EventNum;
use store::{Batch, Range, View};

use crate::{
    Rooms, RoomsError,
    format::{ClientEvent, ClientFormat},
    tables::{Relations, ThreadReplies},
    timeline::{Direction, TimelineToken},
    types::{StoredEvent, TimelineIndex},
    visibility::Viewer,
};

/// The relation of an edit to what it edits.
pub(crate) const REPLACE: &str = "m.replace";
/// The relation of an event in a thread to the thread's root.
pub(crate) const THREAD: &str = "m.thread";
/// The relation without a meaning of its own.
pub(crate) const REFERENCE: &str = "m.reference";

/// Steps from an event that are followed: by `recurse`, and to find the thread that an event is in.
pub const RELATION_HOPS_MAX: usize = 3;

/// Related events returned by one request.
pub const RELATIONS_LIMIT_MAX: usize = 100;

/// Rows of the index that one request looks at. A client that asks for what is rare gets an empty page with
/// a token.
const ROWS_LOOKED_AT_MAX: usize = 2_000;

/// Rows of the index read at once.
const ROWS_PER_SCAN: usize = 250;

/// The child's side of a relation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RelatesTo {
    /// `rel_type`.
    pub(crate) rel_type: String,
    /// The event that it relates to.
    pub(crate) parent: OwnedEventId,
}

/// One row of the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Child {
    pub(crate) index: TimelineIndex,
    pub(crate) num: EventNum,
    pub(crate) rel_type: String,
    pub(crate) event_type: String,
    pub(crate) sender: String,
}

/// What an event relates to, if its content says so as specified.
pub(crate) fn relates_to(content: &RawValue) -> Option<RelatesTo> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Relation,
    }
    #[derive(Deserialize)]
    struct Relation {
        rel_type: String,
        event_id: OwnedEventId,
    }
    // Most events don't mention it at all: a search in the text costs less than reading it.
    if !content.get().contains("m.relates_to") {
        return None;
    }
    let content: Content = serde_json::from_str(content.get()).ok()?;
    Some(RelatesTo { rel_type: content.relates_to.rel_type, parent: content.relates_to.event_id })
}

/// Puts an event into the index of its parent, whose number is given. The caller sets
/// [`crate::EventMeta::has_relations`] of the parent.
pub(crate) fn prepare(
    batch: &mut Batch,
    event: &StoredEvent,
    index: TimelineIndex,
    relation: &RelatesTo,
    parent: EventNum,
) {
    let row = (relation.rel_type.clone(), event.pdu.event_type().to_owned(), event.pdu.sender().as_str().to_owned());
    batch.put::<Relations>(&(parent, index, event.num), &row);
    if relation.rel_type == THREAD && event.pdu.state_key().is_none() {
        let reply = (parent, event.num, event.pdu.sender().as_str().to_owned());
        batch.put::<ThreadReplies>(&(event.pdu.room_id(), index), &reply);
    }
}

/// Takes an event that lost its content out of the index of its parent.
pub(crate) fn remove(batch: &mut Batch, event: &StoredEvent, index: TimelineIndex, parent: EventNum) {
    batch.delete::<Relations>(&(parent, index, event.num));
    batch.delete::<ThreadReplies>(&(event.pdu.room_id(), index));
}

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

impl Rooms {
    /// The events that relate to an event.
    ///
    /// Fails with [`RoomsError::EventNotFound`] if the viewer may not see the event.
    pub async fn relations(
        &self,
        view: &View,
        viewer: &Viewer<'_>,
        room: &RoomId,
        event_id: &EventId,
        query: &RelationsQuery,
    ) -> Result<RelationsPage, RoomsError> {
        let (parent, _, _) = self.visible_event(view, viewer, room, event_id).await?;
        let (children, depth) = match query.recurse {
            true => self.descendants(view, parent.num, query).await?,
            false => (self.matching_children(view, parent.num, query).await?, 0),
        };
        let limit = query.limit.clamp(1, RELATIONS_LIMIT_MAX);
        let (shown, last) = self.page_of(view, viewer, room, children, limit).await?;
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
        view: &View,
        viewer: &Viewer<'_>,
        room: &RoomId,
        children: Found,
        limit: usize,
    ) -> Result<(Vec<ClientEvent>, Option<TimelineIndex>), RoomsError> {
        let mut shown = Vec::new();
        let mut rest = children.children.as_slice();
        while shown.len() < limit && !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(limit - shown.len()));
            let nums: Vec<EventNum> = now.iter().map(|child| child.num).collect();
            for delivered in self.deliver(view, viewer, room, &nums, ClientFormat::room()).await? {
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
    async fn matching_children(
        &self,
        view: &View,
        parent: EventNum,
        query: &RelationsQuery,
    ) -> Result<Found, RoomsError> {
        let limit = query.limit.clamp(1, RELATIONS_LIMIT_MAX);
        let (mut after, mut before) = query.bounds();
        let mut found = Found::default();
        let mut looked_at = 0;
        while looked_at < ROWS_LOOKED_AT_MAX {
            let rows = self.children(view, parent, after, before, query.direction, ROWS_PER_SCAN).await?;
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
    async fn descendants(
        &self,
        view: &View,
        parent: EventNum,
        query: &RelationsQuery,
    ) -> Result<(Found, usize), RoomsError> {
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
                let rows = self.children(view, num, None, None, Direction::Backward, left).await?;
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

    /// Rows of the index of one event.
    pub(crate) async fn children(
        &self,
        view: &View,
        parent: EventNum,
        after: Option<TimelineIndex>,
        before: Option<TimelineIndex>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Child>, RoomsError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut rows = Range::<Relations>::prefix(&(parent,)).limit(limit);
        if let Some(after) = after {
            rows = rows.after(&(parent, after));
        }
        if let Some(before) = before {
            rows = rows.before(&(parent, before));
        }
        if direction == Direction::Backward {
            rows = rows.reverse();
        }
        let mut children = Vec::new();
        for ((_, index, num), (rel_type, event_type, sender)) in view.scan::<Relations>(rows).await?.rows {
            children.push(Child { index, num, rel_type, event_type, sender });
        }
        Ok(children)
    }

    /// The root of the thread that an event is in: what it, or what it relates to a few steps away, relates
    /// to by `m.thread`. `None` for the main timeline.
    ///
    /// By what was sent: a redaction takes nothing out of its thread and leaves what follows it there.
    pub(crate) async fn thread_of(&self, view: &View, event: &StoredEvent) -> Result<Option<OwnedEventId>, RoomsError> {
        let mut content = event.pdu.as_received().content().to_owned();
        for _ in 0..RELATION_HOPS_MAX {
            let Some(relation) = relates_to(&content) else { return Ok(None) };
            if relation.rel_type == THREAD {
                return Ok(Some(relation.parent));
            }
            let Some(parent) = self.event_by_id(view, &relation.parent).await? else { return Ok(None) };
            if parent.pdu.room_id() != event.pdu.room_id() {
                return Ok(None);
            }
            content = parent.pdu.as_received().content().to_owned();
        }
        Ok(None)
    }

    /// Whether an event that a viewer sees has a child that a filter asks for.
    pub(crate) async fn has_wanted_relation(
        &self,
        view: &View,
        num: EventNum,
        filter: &crate::filter::RoomEventFilter,
    ) -> Result<bool, RoomsError> {
        let children = self.children(view, num, None, None, Direction::Backward, ROWS_LOOKED_AT_MAX).await?;
        Ok(children.iter().any(|child| filter.wants_related(&child.rel_type, &child.sender)))
    }

    /// The children that a viewer may see, of those given.
    pub(crate) async fn seen_children(
        &self,
        view: &View,
        viewer: &Viewer<'_>,
        room: &RoomId,
        children: &[&Child],
    ) -> Result<Vec<std::sync::Arc<StoredEvent>>, RoomsError> {
        let nums: Vec<EventNum> = children.iter().map(|child| child.num).collect();
        let pairs = self.load(view, &nums).await?;
        let sights = self.sights(view, viewer, room, &pairs).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<RelatesTo> {
        relates_to(&RawValue::from_string(text.to_owned()).expect("JSON"))
    }

    #[test]
    fn only_whole_relations_count() {
        let whole = read(r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$a:h"}}"#);
        assert_eq!(whole.map(|relation| relation.rel_type), Some("m.thread".to_owned()));
        for text in [
            r#"{}"#,
            r#"{"body":"m.relates_to"}"#,
            r#"{"m.relates_to":{"m.in_reply_to":{"event_id":"$a:h"}}}"#,
            r#"{"m.relates_to":{"rel_type":"m.thread"}}"#,
            r#"{"m.relates_to":{"rel_type":1,"event_id":"$a:h"}}"#,
            r#"{"m.relates_to":[]}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
