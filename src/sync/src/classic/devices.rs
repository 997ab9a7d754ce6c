//! What `/sync` tells of keys.
//!
//! Specification: client-server API, "End-to-End Encryption", "Extensions to /sync".

use parking_lot::Mutex;
use store::Position;

use super::{Answer, Paths, Session};
use crate::{
    SyncError, SyncResponse,
    changes::Changes,
    device_lists::{Around, DeviceListReader},
    hub::Published,
    inbox::Inbox,
};

impl Session<'_> {
    /// Adds how many keys the device has left to an answer that is about to be given. Reads only what the inbox doesn't know.
    pub(super) async fn with_key_counts(
        &self,
        mut response: SyncResponse,
        inbox: &Inbox,
        published: &Published,
    ) -> Result<SyncResponse, SyncError> {
        let (user, device) = (self.request.user, self.request.device);
        let now = published.view.position();
        let counts = match inbox.key_counts(device, now) {
            Some(counts) => counts,
            None => {
                let counts = self.inner.users.key_counts(&published.view, user, device).await?;
                inbox.learn_key_counts(device, now, counts.clone());
                counts
            }
        };
        response.device_one_time_keys_count = counts.one_time;
        response.device_unused_fallback_key_types = counts.unused_fallbacks;
        Ok(response)
    }
}

impl Answer<'_> {
    /// The device lists since the client's token, whatever rooms its filter leaves out, and who was met since. A client whose token
    /// is of before a restore has to ask for all keys anew.
    pub(super) async fn around(&self, changes: &Changes, paths: &Paths) -> Result<Around, SyncError> {
        if self.session.request.since.is_none() {
            return Ok(Around::default());
        }
        let inner = self.session.inner;
        let reader = DeviceListReader {
            hub: &inner.hub,
            rooms: &inner.rooms,
            users: &inner.users,
            view: self.reader.view,
            user: self.reader.viewer.user,
            number: self.session.number,
            large_room_members: inner.config.large_room_members as u64,
            counted: Mutex::default(),
            since: self.since.unwrap_or(Position::ZERO),
            until: self.reader.view.position(),
        };
        reader.read(changes, paths.keys().map(|room| &**room).collect()).await
    }
}
