//! What a user hasn't read of a room that they are in.

use event::push::PushRules;
use reading::{NewEvents, UnreadCounts, may_count};
use rooms::EventNum;
use ruma::RoomId;
use store::Position;

use crate::{
    SyncError,
    streams::{memberships, receipts, span::Span},
    tail::TailRange,
};

impl Span<'_> {
    /// Counts what is unread of a room, by its number. Reads only the new events that may count, if the counts were asked for lately.
    pub(crate) async fn unread(
        &self,
        room: &RoomId,
        number: u32,
        rules: &PushRules,
    ) -> Result<UnreadCounts, SyncError> {
        let reader = self.reader.room(room);
        let Some((since, tail)) = self.news_since_counted(room, number) else {
            return Ok(reader.unread(rules).await?);
        };
        let may_count = |sender, flags| may_count(rules, flags, sender == Some(self.number));
        let wanted = tail.events.iter().filter(|(_, event)| may_count(event.sender, event.flags));
        let nums: Vec<EventNum> = wanted.map(|(_, event)| event.num).collect();
        let events = self.reader.tail_events(&tail, &nums).await?;
        Ok(reader.unread_with(rules, NewEvents { since, events: &events }).await?)
    }

    /// What happened since unread events were last counted, if that is all in memory and the user didn't read in between.
    fn news_since_counted(&self, room: &RoomId, number: u32) -> Option<(Position, TailRange)> {
        let counted = self.reader.room(room).unread_counted_at()?;
        let hub = &self.inner.hub;
        let unmoved = hub.unmoved_since(self.number, number, &[memberships::MOVED, receipts::OWN_MOVED])?;
        let tail = hub.tail(number, counted, self.reader.now())?;
        (unmoved <= counted && !tail.gaps).then_some((counted, tail))
    }
}
