//! The threads of a room.
//!
//! Specification: client-server API, `GET /rooms/{roomId}/threads`.
//!
//! Replies are listed by room in the order of the timeline. A thread stands where its newest reply is; the
//! older replies are passed over.

use std::collections::HashSet;

use rooms::{
    Direction, RoomsError, StoredEvent, TimelineIndex,
    relations::{Child, THREAD, relates_to},
    rows::ThreadReply,
    tables::ThreadReplies,
};
use state_tree::EventNum;
use store::Range;

use crate::{
    aggregations::{is_ignored, took_part},
    format::{ClientEvent, ClientFormat},
    reader::RoomReader,
    token::TimelineToken,
};

/// Threads that one page has at most.
pub const THREADS_LIMIT_MAX: usize = 100;

/// Replies that are looked at for one page.
const REPLIES_LOOKED_AT_MAX: usize = 2_000;

/// Replies read together.
const REPLIES_PER_SCAN: usize = 100;

/// Replies of one thread among which one of the viewer's is looked for.
const REPLIES_SEARCHED_MAX: usize = 5_000;

/// Which threads are asked for.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum ThreadsInclude {
    /// All.
    #[default]
    All,
    /// Those in which the viewer takes part.
    Participated,
}

/// A page of a room's threads, the one with the newest reply first.
#[derive(Clone, Debug, Default)]
pub struct ThreadsPage {
    /// The roots, with their aggregations.
    pub chunk: Vec<ClientEvent>,
    /// Where the next page starts, if there is more.
    pub next: Option<TimelineToken>,
}

impl RoomReader<'_> {
    /// A page of the threads of a room that the viewer may see.
    pub async fn threads(
        &self,
        include: ThreadsInclude,
        from: Option<TimelineToken>,
        limit: usize,
    ) -> Result<ThreadsPage, RoomsError> {
        self.readable_root().await?;
        let limit = limit.clamp(1, THREADS_LIMIT_MAX);
        let mut before = from.unwrap_or(TimelineToken::at(self.view.position())).upper();
        let mut page = ThreadsPage::default();
        let mut passed: HashSet<EventNum> = HashSet::new();
        let mut looked_at = 0;
        while looked_at < REPLIES_LOOKED_AT_MAX {
            let rows = Range::<ThreadReplies>::prefix(&(self.room,))
                .before(&(self.room, before))
                .reverse()
                .limit(REPLIES_PER_SCAN);
            let replies = self.view.scan::<ThreadReplies>(rows).await?;
            looked_at += replies.rows.len();
            for ((_, index), ThreadReply { root, sender, .. }) in replies.rows {
                before = index;
                if is_ignored(&self.viewer, &sender) || !passed.insert(root) {
                    continue;
                }
                if let Some(root) = self.thread_at(root, index, include).await? {
                    page.chunk.push(root);
                }
                if page.chunk.len() == limit {
                    page.next = Some(TimelineToken::before(index));
                    return Ok(page);
                }
            }
            if replies.next.is_none() {
                return Ok(page);
            }
        }
        page.next = Some(TimelineToken::before(before));
        Ok(page)
    }

    /// The root of a thread if the reply at `index` is the newest one in it that counts.
    async fn thread_at(
        &self,
        root: EventNum,
        index: TimelineIndex,
        include: ThreadsInclude,
    ) -> Result<Option<ClientEvent>, RoomsError> {
        if self.has_newer_reply(root, index).await? {
            return Ok(None);
        }
        let Some(event) = self.rooms().event(self.view, root).await? else { return Ok(None) };
        if event.pdu.room_id() != self.room || relates_to(event.pdu.as_received().content()).is_some() {
            return Ok(None);
        }
        let wanted = include == ThreadsInclude::All || self.participates(&event).await?;
        if !wanted {
            return Ok(None);
        }
        if is_ignored(&self.viewer, event.pdu.sender().as_str()) {
            // The thread is there for the viewer, what the ignored user wrote isn't.
            let meta = self.rooms().meta(self.view, root).await?;
            return self.redacted_for_viewer(&event, &meta).await.map(Some);
        }
        let delivered = self.deliver(&[root], ClientFormat::room()).await?;
        Ok(delivered.into_iter().next().map(|delivered| delivered.json))
    }

    async fn has_newer_reply(&self, root: EventNum, index: TimelineIndex) -> Result<bool, RoomsError> {
        let newer = self
            .rooms()
            .children(self.view, root, Some(index), None, Direction::Backward, REPLIES_SEARCHED_MAX)
            .await?;
        Ok(newer.iter().any(|child| child.rel_type == THREAD && !is_ignored(&self.viewer, &child.sender)))
    }

    async fn participates(&self, root: &StoredEvent) -> Result<bool, RoomsError> {
        let limit = REPLIES_SEARCHED_MAX;
        let children = self.rooms().children(self.view, root.num, None, None, Direction::Backward, limit).await?;
        let replies: Vec<&Child> = children.iter().filter(|child| child.rel_type == THREAD).collect();
        Ok(took_part(self.viewer.user, root, &replies))
    }
}
