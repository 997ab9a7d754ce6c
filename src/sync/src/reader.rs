//! What a sync reads with: one view, on behalf of one user.

use std::sync::Arc;

use reading::{Reading, RoomEventFilter, RoomReader, Sight, Viewer, Visibility};
use rooms::{EventMeta, EventNum, Rooms, StoredEvent, TimelineIndex};
use ruma::RoomId;
use state_tree::Root;
use store::{Position, View};

use crate::{SyncError, memo::Memo, tail::TailRange};

/// Events that are read at once by those who are told of them as they come. Longer stretches are each reader's own.
const SHARED_EVENTS_MAX: usize = 16;

/// The type of redactions.
const REDACTION: &str = "m.room.redaction";

/// Reads rooms for one user at one position.
#[derive(Copy, Clone)]
pub(crate) struct Reader<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) reading: &'a Reading,
    /// Shows everything up to `now` and nothing after it.
    pub(crate) view: &'a View,
    /// What others read through it.
    pub(crate) memo: &'a Arc<Memo>,
    /// For whom.
    pub(crate) viewer: Viewer<'a>,
}

/// An event of a timeline that the user may see.
#[derive(Clone, Debug)]
pub(crate) struct SeenEvent {
    pub(crate) index: TimelineIndex,
    pub(crate) event: Arc<StoredEvent>,
    pub(crate) meta: EventMeta,
    pub(crate) sight: Sight,
}

/// What a stretch of a timeline has for a user.
#[derive(Debug)]
pub(crate) struct Seen {
    /// What they want and may see.
    pub(crate) events: Vec<SeenEvent>,
    /// Whether a redaction is in it, wanted or not.
    pub(crate) redacts: bool,
    /// Whether the filter left something out.
    pub(crate) thinned: bool,
}

impl Reader<'_> {
    /// The position that everything is read at.
    pub(crate) fn now(&self) -> Position {
        self.view.position()
    }

    /// A room as the user may read it.
    pub(crate) fn room<'r>(&'r self, room: &'r RoomId) -> RoomReader<'r> {
        self.reading.room(self.view, self.viewer, room)
    }

    /// Those of these events that the user wants and may see, in their order.
    pub(crate) async fn seen(
        &self,
        room: &RoomId,
        events: &[(TimelineIndex, EventNum)],
        filter: &RoomEventFilter,
    ) -> Result<Seen, SyncError> {
        let nums: Vec<EventNum> = events.iter().map(|(_, num)| *num).collect();
        let reader = self.room(room);
        let related = match filter.by_relations() {
            true => Some(reader.wanted(&nums, filter).await?),
            false => None,
        };
        let bodies = self.rooms.events(self.view, &nums).await?;
        let metas = self.metas(&nums).await?;
        let mut indices = Vec::with_capacity(events.len());
        let mut wanted = Vec::with_capacity(events.len());
        let (mut redacts, mut thinned) = (false, false);
        for (((index, _), body), meta) in events.iter().zip(bodies).zip(metas) {
            let Some(body) = body else { continue };
            redacts |= body.pdu.event_type() == REDACTION;
            let is_related = related.as_ref().is_none_or(|related| related.contains(&body.num));
            if is_related && reader.wants(filter, &body, &meta).await? {
                indices.push(*index);
                wanted.push((body, meta));
            } else {
                thinned = true;
            }
        }
        let sights = reader.sights(&wanted).await?;
        let mut seen = Vec::with_capacity(wanted.len());
        for ((index, (event, meta)), sight) in indices.into_iter().zip(wanted).zip(sights) {
            if sight.seen != Visibility::Hidden {
                seen.push(SeenEvent { index, event, meta, sight });
            }
        }
        Ok(Seen { events: seen, redacts, thinned })
    }

    /// What may change about these events.
    pub(crate) async fn metas(&self, nums: &[EventNum]) -> Result<Vec<EventMeta>, SyncError> {
        if nums.len() > SHARED_EVENTS_MAX {
            return Ok(self.rooms.metas(self.view, nums).await?);
        }
        if let Some(metas) = self.memo.metas(nums) {
            return Ok(metas);
        }
        let metas = self.rooms.metas(self.view, nums).await?;
        self.memo.keep(nums, &metas);
        Ok(metas)
    }

    /// These events of a tail, with what may change about them.
    pub(crate) async fn tail_events(
        &self,
        tail: &TailRange,
        nums: &[EventNum],
    ) -> Result<Vec<(TimelineIndex, Arc<StoredEvent>, EventMeta)>, SyncError> {
        if nums.is_empty() {
            return Ok(Vec::new());
        }
        let bodies = self.rooms.events(self.view, nums).await?;
        let metas = self.metas(nums).await?;
        let mut events = Vec::with_capacity(nums.len());
        for (body, meta) in bodies.into_iter().zip(metas) {
            let Some(body) = body else { continue };
            let found = tail.events.iter().find(|(_, event)| event.num == body.num);
            events.extend(found.map(|(position, _)| (TimelineIndex::live(*position), body, meta)));
        }
        Ok(events)
    }

    /// The room's state as this server had it just before an event.
    pub(crate) async fn root_before(&self, room: &RoomId, event: &SeenEvent) -> Result<Root, SyncError> {
        let TimelineIndex { era, major, minor } = event.index;
        if era == 0 || minor != TimelineIndex::LIVE_MINOR {
            // Fetched later: this server never had the state there as its current one.
            return Ok(event.meta.before);
        }
        let before = Position::from_u64(major.get().saturating_sub(1));
        self.root_at(room, before).await
    }

    /// The room's state now; empty if this server doesn't hold the room.
    pub(crate) async fn root_now(&self, room: &RoomId) -> Result<Root, SyncError> {
        let head = self.rooms.head(self.view, room).await?;
        Ok(head.map_or(Root::EMPTY, |head| head.root))
    }

    /// The room's state as this server had it at a position; empty if it didn't hold the room.
    pub(crate) async fn root_at(&self, room: &RoomId, at: Position) -> Result<Root, SyncError> {
        let root = self.rooms.root_at(self.view, room, at).await?;
        Ok(root.unwrap_or(Root::EMPTY))
    }
}
