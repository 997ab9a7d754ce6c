//! Account data and presence in `/sync`.

use std::collections::{BTreeSet, HashMap};

use reading::ClientEvent;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use users::{AccountDataRow, PresenceInfo, PresenceState};

use super::Answer;
use crate::{SyncError, changes::Changes, device_lists::UserSet};

/// Account data by room; that of the account under `None`.
pub(super) type AccountData = HashMap<Option<OwnedRoomId>, Vec<ClientEvent>>;

#[derive(Serialize)]
struct DataEvent<'a> {
    content: &'a RawValue,
    #[serde(rename = "type")]
    event_type: &'a str,
}

#[derive(Serialize)]
struct PresenceEvent<'a> {
    content: PresenceContent<'a>,
    sender: &'a UserId,
    #[serde(rename = "type")]
    event_type: &'static str,
}

#[derive(Serialize)]
struct PresenceContent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    currently_active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active_ago: Option<u64>,
    presence: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_msg: Option<&'a str>,
}

impl Answer<'_> {
    /// The account data that changed and that the client wants.
    pub(super) async fn account_data(&self, changes: &Changes) -> Result<AccountData, SyncError> {
        let mut data = AccountData::new();
        if !changes.account_data {
            return Ok(data);
        }
        let users = &self.session.inner.users;
        let (view, user) = (self.reader.view, self.reader.viewer.user);
        let rows = match self.since {
            None => users.account_data_all(view, user).await?,
            Some(since) => users.account_data_since(view, user, since, self.reader.now()).await?,
        };
        for row in rows {
            if self.wants(row.room.as_deref(), &row.event_type) {
                data.entry(row.room.clone()).or_default().push(data_event(&row)?);
            }
        }
        Ok(data)
    }

    /// All account data of a room that the client sees for the first time, though this is not its first sync.
    pub(super) async fn room_account_data(&self, room: &RoomId) -> Result<Vec<ClientEvent>, SyncError> {
        let users = &self.session.inner.users;
        let mut events = Vec::new();
        for row in users.account_data_of_room(self.reader.view, self.reader.viewer.user, room).await? {
            if self.wants(Some(room), &row.event_type) {
                events.push(data_event(&row)?);
            }
        }
        Ok(events)
    }

    fn wants(&self, room: Option<&RoomId>, event_type: &str) -> bool {
        let filter = &self.session.filter;
        match room {
            None => filter.account_data.wants_type(event_type),
            Some(room) => filter.room.wants_account_data(room, event_type),
        }
    }

    /// Presence of those whose presence changed; of those whom the client knows nothing of, because they were met since or because
    /// its token is of another run of the server, if there is something to say.
    pub(super) fn presence(&self, changes: &Changes, mut met: UserSet) -> Result<Vec<ClientEvent>, SyncError> {
        let filter = &self.session.filter;
        if !filter.wants_presence() {
            return Ok(Vec::new());
        }
        if !met.is_empty() {
            let hub = &self.session.inner.hub;
            let around = hub.presence_around(self.session.number);
            let sees =
                |user: &UserId| hub.residents.known_user(user).is_some_and(|user| around.binary_search(&user).is_ok());
            met.retain(|user| sees(user));
        }
        // In order, each once.
        let mut users: BTreeSet<&UserId> = changes.presence.iter().chain(&met).map(|user| &**user).collect();
        users.retain(|user| filter.wants_presence_of(user) && !self.reader.viewer.ignored.contains(*user));
        let mut events = Vec::new();
        for info in self.session.inner.users.presence().get(users) {
            let news = match self.presence_since {
                // The client may know what they were when they were last met.
                Some(_) if met.contains(&info.user_id) => info.sequence > 0,
                Some(since) => info.sequence > since,
                None => info.state != PresenceState::Offline || info.status_msg.is_some(),
            };
            if !news {
                continue;
            }
            events.push(presence_event(&info)?);
        }
        Ok(events)
    }
}

fn data_event(row: &AccountDataRow) -> Result<ClientEvent, SyncError> {
    to_event(&DataEvent { content: &row.content, event_type: &row.event_type })
}

fn presence_event(info: &PresenceInfo) -> Result<ClientEvent, SyncError> {
    let presence = match info.state {
        PresenceState::Online => "online",
        PresenceState::Unavailable => "unavailable",
        PresenceState::Offline => "offline",
    };
    let online = info.state == PresenceState::Online;
    let content = PresenceContent {
        currently_active: online.then_some(info.currently_active),
        last_active_ago: info.last_active_ago_ms,
        presence,
        status_msg: info.status_msg.as_deref(),
    };
    to_event(&PresenceEvent { content, sender: &info.user_id, event_type: "m.presence" })
}

/// Writes an event out.
pub(super) fn to_event(event: &impl Serialize) -> Result<ClientEvent, SyncError> {
    Ok(to_raw_value(event)?.into())
}
