//! What readers look up and what has to be written in the batch of the event: events by their time, by what they relate to, and those
//! that notify.

use state_tree::EventNum;

use crate::{
    RoomsError,
    engine::turn::Turn,
    notable, relations,
    rows::TimestampKey,
    tables::Timestamps,
    types::{StoredEvent, TimelineIndex},
};

/// The longest relation type that is indexed, in bytes. Event types have the same limit.
const REL_TYPE_BYTES_MAX: usize = 255;

impl Turn {
    /// Puts an event with its place in the timeline into the indices; one that is redacted already is found by its time alone.
    pub(crate) async fn index(
        &mut self,
        event: &StoredEvent,
        index: TimelineIndex,
        redacted_by: Option<EventNum>,
    ) -> Result<(), RoomsError> {
        let time = TimestampKey { room: &self.room, origin_server_ts: event.pdu.origin_server_ts(), index };
        self.batch.put::<Timestamps>(&time, &event.num);
        if redacted_by.is_some() {
            return Ok(());
        }
        self.relate(event, index).await?;
        // What came late to fill a gap notifies nobody.
        if index.is_live() {
            notable::prepare(&mut self.batch, event, index, self.rooms.is_local(event.pdu.sender()));
        }
        Ok(())
    }

    /// Takes an event that lost its content out of the indices that its content put it into.
    pub(crate) async fn unindex(&mut self, event: &StoredEvent, index: TimelineIndex) -> Result<(), RoomsError> {
        if index.is_live() {
            notable::remove(&mut self.batch, event, index, self.rooms.is_local(event.pdu.sender()));
        }
        if let Some(relation) = relations::relates_to(event.pdu.as_received().content())
            && let Some(parent) = self.rooms.num(&self.view, &relation.parent).await?
        {
            relations::remove(&mut self.batch, event, index, parent);
        }
        Ok(())
    }

    /// Puts a new event into the index of the event that it relates to.
    async fn relate(&mut self, event: &StoredEvent, index: TimelineIndex) -> Result<(), RoomsError> {
        let Some(relation) = relations::relates_to(event.pdu.as_received().content()) else { return Ok(()) };
        if relation.rel_type.len() > REL_TYPE_BYTES_MAX || relation.parent == event.pdu.event_id() {
            return Ok(());
        }
        let parent = self.num_or_new(&relation.parent).await?;
        if let Some(stored) = self.rooms.event(&self.view, parent).await?
            && stored.pdu.room_id() != &*self.room
        {
            return Ok(());
        }
        relations::prepare(&mut self.batch, event, index, &relation, parent);
        if !self.meta(parent).await?.has_relations {
            self.change_meta(parent, |meta| meta.has_relations = true).await?;
        }
        Ok(())
    }
}
