//! Relations between events, as their contents say them, and the rows by which the children of an event are found.
//!
//! Specification: client-server API, "Forming relationships between events".

use ruma::{OwnedEventId, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;
use state_tree::EventNum;
use store::{Batch, Range, View};

use crate::{
    Rooms, RoomsError,
    rows::{RelationKey, RelationRow, ThreadReply},
    tables::{Relations, ThreadReplies},
    timeline::Direction,
    types::{StoredEvent, TimelineIndex},
};

/// The relation of an edit to what it edits.
pub const REPLACE: &str = "m.replace";

/// The relation of an event in a thread to the thread's root.
pub const THREAD: &str = "m.thread";

/// The relation of a reaction to what it is a reaction to.
pub const ANNOTATION: &str = "m.annotation";

/// The relation without a meaning of its own.
pub const REFERENCE: &str = "m.reference";

/// Steps from an event that are followed: by `recurse`, and to find the thread that an event is in.
pub const RELATION_HOPS_MAX: usize = 3;

/// The child's side of a relation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelatesTo {
    /// `rel_type`.
    pub rel_type: String,
    /// The event that it relates to.
    pub parent: OwnedEventId,
    /// `key`, where it is a text: what an annotation says.
    pub key: Option<String>,
}

/// One row of the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Child {
    /// Its place in the timeline.
    pub index: TimelineIndex,
    /// The event.
    pub num: EventNum,
    /// How it relates to its parent.
    pub rel_type: String,
    /// Its type.
    pub event_type: String,
    /// Who sent it.
    pub sender: String,
}

/// What an event relates to, if its content says so as specified.
pub fn relates_to(content: &RawValue) -> Option<RelatesTo> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(rename = "m.relates_to", borrow)]
        relates_to: Relation<'a>,
    }
    #[derive(Deserialize)]
    struct Relation<'a> {
        rel_type: String,
        event_id: OwnedEventId,
        #[serde(borrow)]
        key: Option<&'a RawValue>,
    }
    // Most events don't mention it at all: a search in the text costs less than reading it.
    if !content.get().contains("m.relates_to") {
        return None;
    }
    let content: Content<'_> = serde_json::from_str(content.get()).ok()?;
    let Relation { rel_type, event_id, key } = content.relates_to;
    let key = key.and_then(|key| serde_json::from_str(key.get()).ok());
    Some(RelatesTo { rel_type, parent: event_id, key })
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
    let sender = event.pdu.sender().as_str();
    let row = RelationRow { rel_type: relation.rel_type.as_str(), event_type: event.pdu.event_type(), sender };
    batch.put::<Relations>(&RelationKey { parent, index, child: event.num }, &row);
    if relation.rel_type == THREAD && event.pdu.state_key().is_none() {
        let reply = ThreadReply { root: parent, event: event.num, sender };
        batch.put::<ThreadReplies>(&(event.pdu.room_id(), index), &reply);
    }
}

/// Takes an event that lost its content out of the index of its parent.
pub(crate) fn remove(batch: &mut Batch, event: &StoredEvent, index: TimelineIndex, parent: EventNum) {
    batch.delete::<Relations>(&RelationKey { parent, index, child: event.num });
    batch.delete::<ThreadReplies>(&(event.pdu.room_id(), index));
}

impl Rooms {
    /// Rows of the index of one event.
    pub async fn children(
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
        for (RelationKey { index, child, .. }, row) in view.scan::<Relations>(rows).await?.rows {
            let RelationRow { rel_type, event_type, sender } = row;
            children.push(Child { index, num: child, rel_type, event_type, sender });
        }
        Ok(children)
    }

    /// The root of the thread that an event is in: what it, or what it relates to a few steps away, relates
    /// to by `m.thread`. `None` for the main timeline.
    ///
    /// By what was sent: a redaction takes nothing out of its thread and leaves what follows it there.
    pub async fn thread_of(&self, view: &View, event: &StoredEvent) -> Result<Option<OwnedEventId>, RoomsError> {
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

    /// Checks that a message doesn't begin a thread at an event that itself relates to another ("Validation of `m.thread`
    /// relationships").
    ///
    /// Fails with [`RoomsError::BadRelation`].
    pub(crate) async fn check_thread_root(
        &self,
        room: &RoomId,
        relation: Option<&RelatesTo>,
    ) -> Result<(), RoomsError> {
        let Some(relation) = relation.filter(|relation| relation.rel_type == THREAD) else { return Ok(()) };
        let root = self.event_by_id(&self.inner.store.view().await?, &relation.parent).await?;
        let root = root.filter(|root| root.pdu.room_id() == room);
        if root.is_some_and(|root| relates_to(root.pdu.as_received().content()).is_some()) {
            return Err(RoomsError::BadRelation("an event that relates to another can't begin a thread".to_owned()));
        }
        Ok(())
    }
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
