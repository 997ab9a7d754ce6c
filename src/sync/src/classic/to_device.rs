//! Messages to the device in `/sync`.
//!
//! Specification: client-server API, "Send-to-Device messaging", "Extensions to /sync".

use store::Position;

use super::Answer;
use crate::{SyncError, SyncResponse, Token, changes::Changes};

impl Answer<'_> {
    /// Adds the messages that wait for the device, as many as one answer holds, and returns up to where it then has them: `now`,
    /// unless more wait.
    pub(super) async fn to_device(
        &self,
        changes: &Changes,
        since: Option<&Token>,
        response: &mut SyncResponse,
    ) -> Result<Position, SyncError> {
        let after = since.map_or(Position::ZERO, |since| Position::from_u64(since.to_device));
        let all = self.reader.now().max(after);
        if !changes.to_device {
            return Ok(all);
        }
        let request = &self.session.request;
        let users = &self.session.inner.users;
        let page = users.to_device_messages(request.user, request.device, after, self.reader.now()).await?;
        response.to_device.events = page.events.into_iter().map(Into::into).collect();
        Ok(match page.last {
            Some(last) if page.more => last,
            _ => all,
        })
    }
}
