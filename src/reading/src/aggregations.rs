//! What the events that relate to an event sum up to, as it stands in `unsigned.m.relations`.
//!
//! Specification: client-server API, "Aggregations of child events", "Event replacements", "Threading",
//! "Reference relations". Annotations aren't aggregated.

use std::sync::Arc;

use rooms::{
    Direction, EventMeta, RoomsError, StoredEvent,
    json::to_json,
    relations::{Child, REFERENCE, REPLACE, THREAD, relates_to},
};
use ruma::{EventId, UserId};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use state_tree::EventNum;

use crate::{
    format::{Aggregations, ClientEvent, ClientFormat},
    reader::{RoomReader, Viewer},
};

/// Children of one event that are summed up: the newest. Counts stop there.
const CHILDREN_SUMMED_UP_MAX: usize = 5_000;

/// Edits of one event among which the newest is looked for.
const EDITS_LOOKED_AT_MAX: usize = 100;

/// References to one event that are listed.
const REFERENCES_LISTED_MAX: usize = 100;

/// Newest events of a thread that are tried until one may be seen.
const LATEST_TRIED_MAX: usize = 20;

#[derive(Serialize, Default)]
struct Bundle<'a> {
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    reference: Option<References<'a>>,
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    replace: Option<&'a RawValue>,
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<Thread>,
}

#[derive(Serialize)]
struct References<'a> {
    chunk: Vec<Reference<'a>>,
}

#[derive(Serialize)]
struct Reference<'a> {
    event_id: &'a EventId,
}

/// `m.thread`.
#[derive(Serialize)]
struct Thread {
    count: u64,
    current_user_participated: bool,
    latest_event: Box<RawValue>,
}

impl RoomReader<'_> {
    /// The bundle of an event, if any of its children is summed up in one.
    pub(crate) async fn aggregate(
        &self,
        event: &StoredEvent,
        meta: &EventMeta,
        format: ClientFormat,
    ) -> Result<Option<Box<RawValue>>, RoomsError> {
        let limit = CHILDREN_SUMMED_UP_MAX;
        let mut children = self.rooms().children(self.view, event.num, None, None, Direction::Backward, limit).await?;
        children.retain(|child| !is_ignored(&self.viewer, &child.sender));
        // An edit would bring back what the redaction of the original took away; its thread lives on.
        let edit = match meta.redacted_by {
            None => self.newest_edit(event, &children, format).await?,
            Some(_) => None,
        };
        let references = self.references(&children).await?;
        let thread = match format.aggregations {
            Aggregations::All => self.thread_summary(event, &children, format).await?,
            Aggregations::NoThreads | Aggregations::None => None,
        };
        if edit.is_none() && references.is_empty() && thread.is_none() {
            return Ok(None);
        }
        let mut chunk = Vec::with_capacity(references.len());
        for reference in &references {
            chunk.push(Reference { event_id: reference.pdu.event_id() });
        }
        let reference = (!chunk.is_empty()).then_some(References { chunk });
        to_json(&Bundle { reference, replace: edit.as_deref(), thread }).map(Some)
    }

    /// The edit that counts: of those that are valid the one with the latest timestamp, then the greatest id.
    async fn newest_edit(
        &self,
        original: &StoredEvent,
        children: &[Child],
        format: ClientFormat,
    ) -> Result<Option<ClientEvent>, RoomsError> {
        let (sender, event_type) = (original.pdu.sender().as_str(), original.pdu.event_type());
        let mut edits = Vec::new();
        for child in children {
            if child.rel_type == REPLACE && child.sender == sender && child.event_type == event_type {
                edits.push(child);
            }
        }
        edits.truncate(EDITS_LOOKED_AT_MAX);
        // It isn't redacted, or it would have no edits.
        let relation = relates_to(original.pdu.as_received().content());
        let is_edit = relation.is_some_and(|relation| relation.rel_type == REPLACE);
        if edits.is_empty() || is_edit {
            return Ok(None);
        }
        let seen = self.seen_children(&edits).await?;
        let valid = seen.into_iter().filter(|edit| is_valid_edit(edit));
        let newest = valid.max_by(|a, b| {
            let by_time = a.pdu.origin_server_ts().cmp(&b.pdu.origin_server_ts());
            by_time.then_with(|| a.pdu.event_id().cmp(b.pdu.event_id()))
        });
        let Some(edit) = newest else { return Ok(None) };
        let format = ClientFormat { aggregations: Aggregations::None, ..format };
        self.one_child(&edit, format).await
    }

    /// The events that refer to one by `m.reference`, oldest first.
    async fn references(&self, children: &[Child]) -> Result<Vec<Arc<StoredEvent>>, RoomsError> {
        let mut references: Vec<&Child> = Vec::new();
        for child in children {
            if child.rel_type == REFERENCE {
                references.push(child);
            }
        }
        references.truncate(REFERENCES_LISTED_MAX);
        references.reverse();
        self.seen_children(&references).await
    }

    /// The thread below its root.
    async fn thread_summary(
        &self,
        root: &StoredEvent,
        children: &[Child],
        format: ClientFormat,
    ) -> Result<Option<Thread>, RoomsError> {
        // An event that relates to another one can't be the root of a thread, redacted or not.
        if relates_to(root.pdu.as_received().content()).is_some() {
            return Ok(None);
        }
        let replies: Vec<&Child> = children.iter().filter(|child| child.rel_type == THREAD).collect();
        let participated = took_part(self.viewer.user, root, &replies);
        for reply in replies.iter().take(LATEST_TRIED_MAX) {
            let seen = self.seen_children(&[reply]).await?;
            let Some(latest) = seen.first() else { continue };
            let format = ClientFormat { aggregations: Aggregations::NoThreads, ..format };
            let Some(json) = self.one_child(latest, format).await? else { continue };
            return Ok(Some(Thread {
                count: replies.len() as u64,
                current_user_participated: participated,
                latest_event: (*json).to_owned(),
            }));
        }
        Ok(None)
    }

    /// Formats one child as its viewer sees it.
    async fn one_child(&self, child: &StoredEvent, format: ClientFormat) -> Result<Option<ClientEvent>, RoomsError> {
        let nums: [EventNum; 1] = [child.num];
        let delivered = self.deliver(&nums, format).await?;
        Ok(delivered.into_iter().next().map(|delivered| delivered.json))
    }
}

/// Whether a user is the sender of a thread's root or of an event in it.
pub(crate) fn took_part(user: &UserId, root: &StoredEvent, replies: &[&Child]) -> bool {
    root.pdu.sender() == user || replies.iter().any(|reply| reply.sender == user.as_str())
}

/// Whether the viewer ignores the sender of a child.
pub(crate) fn is_ignored(viewer: &Viewer<'_>, sender: &str) -> bool {
    sender != viewer.user.as_str() && viewer.ignored.iter().any(|ignored| ignored == sender)
}

/// What can be told about an edit that isn't redacted from itself: it isn't state and brings the new content (which in an
/// encrypted event is out of sight).
fn is_valid_edit(edit: &StoredEvent) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.new_content")]
        new_content: Option<IgnoredAny>,
    }
    if edit.pdu.state_key().is_some() {
        return false;
    }
    if edit.pdu.event_type() == "m.room.encrypted" {
        return true;
    }
    edit.pdu.as_received().content_as::<Content>().is_ok_and(|content| content.new_content.is_some())
}
