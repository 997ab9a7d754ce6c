//! Rooms that the user left.

use reading::ClientEvent;
use ruma::RoomId;
use store::Position;

use super::{
    Answer,
    response::{Events, LeftRoom, StateUpdate},
};
use crate::{
    SyncError,
    room_view::RoomRange,
    streams::{Memberships, memberships::Step},
};

impl Answer<'_> {
    /// What to say about a room that the user was in up to an end; of which the client knows nothing, if they joined since.
    pub(super) async fn left(
        &self,
        room: &RoomId,
        (end, fresh): (Position, bool),
        last: Step,
        account_data: Vec<ClientEvent>,
    ) -> Result<LeftRoom, SyncError> {
        let since = self.span.since_position().filter(|_| !fresh);
        let range = RoomRange::up_to_end(&self.span, room, (since, end), self.wishes.full_state).await?;
        let told = self.tell(room, &range, None).await?;
        let mut update = LeftRoom { state: told.state, timeline: told.timeline, ..LeftRoom::default() };
        update.account_data.events = account_data;
        if last.position > end {
            // A ban after the leave, say.
            update.timeline.events.extend(self.own_member_event(room, last).await?);
        }
        Ok(update)
    }

    /// What to say about a room that the user isn't in and wasn't: the end of an invite, a knock or a hope.
    pub(super) async fn refused(&self, room: &RoomId, last: Step) -> Result<LeftRoom, SyncError> {
        let mut update = LeftRoom::default();
        if self.wishes.use_state_after {
            update.state = StateUpdate::After(Events::default());
        }
        update.timeline.events.extend(self.own_member_event(room, last).await?);
        Ok(update)
    }

    async fn own_member_event(&self, room: &RoomId, step: Step) -> Result<Option<ClientEvent>, SyncError> {
        let filter = &self.wishes.filter;
        let seen = Memberships::own_event(&self.span, room, step, &filter.room.timeline).await?;
        Ok(self.span.reader.timeline_events(room, seen.as_slice(), false, filter.form()).await?.pop())
    }
}
