//! The event nearest to a point in time.
//!
//! Specification: client-server API, `GET /rooms/{roomId}/timestamp_to_event`.

use event::visibility::Visibility;
use rooms::{Direction, RoomsError, tables::Timestamps};
use ruma::OwnedEventId;
use state_tree::EventNum;
use store::Range;

use crate::reader::RoomReader;

/// Events looked at together.
const EVENTS_PER_SCAN: usize = 20;

/// Events looked at in search of one that the viewer may see.
const EVENTS_LOOKED_AT_MAX: usize = 1_000;

impl RoomReader<'_> {
    /// The event that the viewer may see with the nearest timestamp at or after (forward), or at or before
    /// (backward), `timestamp_ms`; its id and timestamp, in Unix ms.
    pub async fn event_by_timestamp(
        &self,
        timestamp_ms: u64,
        direction: Direction,
    ) -> Result<Option<(OwnedEventId, u64)>, RoomsError> {
        self.readable_root().await?;
        let mut range = Range::<Timestamps>::prefix(&(self.room,));
        range = match direction {
            Direction::Forward => range.from(&(self.room, timestamp_ms)),
            Direction::Backward => range.through(&(self.room, timestamp_ms)).reverse(),
        };
        range = range.limit(EVENTS_PER_SCAN);
        for _ in 0..EVENTS_LOOKED_AT_MAX / EVENTS_PER_SCAN {
            let page = self.view.scan::<Timestamps>(range).await?;
            let nums: Vec<EventNum> = page.rows.iter().map(|(_, num)| *num).collect();
            let events = self.rooms().load(self.view, &nums).await?;
            let sights = self.sights(&events).await?;
            for ((event, _), sight) in events.iter().zip(sights) {
                if sight.seen != Visibility::Hidden {
                    return Ok(Some((event.pdu.owned_event_id(), event.pdu.origin_server_ts())));
                }
            }
            let Some(next) = page.next else { return Ok(None) };
            range = next;
        }
        Ok(None)
    }
}
