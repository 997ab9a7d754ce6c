//! Filters of `/sync`.
//!
//! Specification: client-server API, "Filtering".

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use reading::{EventForm, RoomEventFilter, null_as_default};
use ruma::{OwnedRoomId, RoomId, UserId};
use serde::Deserialize;
use users::AccountDataRow;

use crate::{SyncError, format::Form};

/// Longest inline filter that is read, in bytes.
pub const FILTER_BYTES_MAX: usize = 64 * 1024;

/// Filters that are kept parsed: as many as there are kinds of clients in use.
const PARSED_MAX: NonZeroUsize = NonZeroUsize::new(128).unwrap();
/// Longer filters, in bytes, are parsed for each request.
const PARSED_BYTES_MAX: usize = 2 * 1024;

/// Parsed filters by their JSON: clients of one kind have the same, and each asks with it again and again. What waits shares them.
pub(crate) struct ParsedFilters {
    all: Arc<Filter>,
    parsed: Mutex<LruCache<Box<str>, Arc<Filter>>>,
}

impl ParsedFilters {
    pub(crate) fn new() -> Self {
        Self { all: Arc::default(), parsed: Mutex::new(LruCache::new(PARSED_MAX)) }
    }

    /// The filter that lets everything pass.
    pub(crate) fn all(&self) -> Arc<Filter> {
        self.all.clone()
    }

    /// As [`Filter::parse`].
    pub(crate) fn parse(&self, json: &str) -> Result<Arc<Filter>, SyncError> {
        if let Some(filter) = self.parsed.lock().get(json) {
            return Ok(filter.clone());
        }
        let filter = Arc::new(Filter::parse(json)?);
        if json.len() <= PARSED_BYTES_MAX {
            self.parsed.lock().put(json.into(), filter.clone());
        }
        Ok(filter)
    }
}

/// What of a sync a client wants.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Filter {
    /// Paths of the fields of events to return, with dots; all if absent.
    #[serde(default)]
    pub event_fields: Option<Vec<String>>,
    /// The form of room events.
    #[serde(default, deserialize_with = "null_as_default")]
    pub event_format: EventFormat,
    /// Whose presence to return.
    #[serde(default, deserialize_with = "null_as_default")]
    pub presence: RoomEventFilter,
    /// Which account data that belongs to no room to return.
    #[serde(default, deserialize_with = "null_as_default")]
    pub account_data: RoomEventFilter,
    /// What of rooms to return.
    #[serde(default, deserialize_with = "null_as_default")]
    pub room: RoomFilter,
}

/// The form in which room events are returned.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventFormat {
    /// For clients.
    #[default]
    Client,
    /// As servers exchange them.
    Federation,
}

/// What of rooms a client wants.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct RoomFilter {
    /// Only these rooms.
    #[serde(default)]
    pub rooms: Option<Vec<OwnedRoomId>>,
    /// None of these rooms.
    #[serde(default, deserialize_with = "null_as_default")]
    pub not_rooms: Vec<OwnedRoomId>,
    /// Rooms that were left before as well.
    #[serde(default, deserialize_with = "null_as_default")]
    pub include_leave: bool,
    /// Typing and receipts.
    #[serde(default, deserialize_with = "null_as_default")]
    pub ephemeral: RoomEventFilter,
    /// State.
    #[serde(default, deserialize_with = "null_as_default")]
    pub state: RoomEventFilter,
    /// Messages and changes of state.
    #[serde(default, deserialize_with = "null_as_default")]
    pub timeline: RoomEventFilter,
    /// The user's own data about rooms.
    #[serde(default, deserialize_with = "null_as_default")]
    pub account_data: RoomEventFilter,
}

impl Filter {
    /// Reads a filter from JSON.
    ///
    /// # Errors
    ///
    /// [`SyncError::BadFilter`] if it is not a filter, or longer than [`FILTER_BYTES_MAX`].
    pub fn parse(json: &str) -> Result<Self, SyncError> {
        if json.len() > FILTER_BYTES_MAX {
            return Err(SyncError::BadFilter("too long".to_owned()));
        }
        if !json.trim_start().starts_with('{') {
            return Err(SyncError::BadFilter("not an object".to_owned()));
        }
        serde_json::from_str(json).map_err(|error| SyncError::BadFilter(error.to_string()))
    }

    /// Whether presence of this user is wanted.
    pub(super) fn wants_presence_of(&self, user: &UserId) -> bool {
        wants_sender(&self.presence, user)
    }

    /// Whether account data is wanted, of a room or of the account.
    pub(super) fn wants_account_data(&self, row: &AccountDataRow) -> bool {
        match &row.room {
            None => self.account_data.wants_type(&row.event_type),
            Some(room) => self.room.wants_account_data(room, &row.event_type),
        }
    }

    /// The form of room events.
    pub(super) fn form(&self) -> Form<'_> {
        let form = match self.event_format {
            EventFormat::Client => EventForm::Client,
            EventFormat::Federation => EventForm::Federation,
        };
        Form { form, fields: self.event_fields.as_deref() }
    }

    /// Whether presence is wanted at all.
    pub(super) fn wants_presence(&self) -> bool {
        self.presence.wants_type("m.presence")
    }
}

impl RoomFilter {
    /// Whether anything about this room is wanted.
    pub(super) fn wants_room(&self, room: &RoomId) -> bool {
        if self.not_rooms.iter().any(|other| other == room) {
            return false;
        }
        let Some(rooms) = &self.rooms else {
            return true;
        };
        rooms.iter().any(|wanted| wanted == room)
    }

    /// Whether this kind of ephemeral event of a room is wanted.
    pub(super) fn wants_ephemeral(&self, room: &RoomId, event_type: &str) -> bool {
        self.ephemeral.wants_room(room) && self.ephemeral.wants_type(event_type)
    }

    /// Whether this kind of account data of a room is wanted.
    pub(super) fn wants_account_data(&self, room: &RoomId, event_type: &str) -> bool {
        self.account_data.wants_room(room) && self.account_data.wants_type(event_type)
    }
}

fn wants_sender(filter: &RoomEventFilter, sender: &UserId) -> bool {
    if filter.not_senders.iter().any(|other| other == sender) {
        return false;
    }
    let Some(senders) = &filter.senders else {
        return true;
    };
    senders.iter().any(|wanted| wanted == sender)
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    #[test]
    fn all_fields_are_read() {
        let filter = Filter::parse(
            r#"{"event_fields": ["content.body"], "event_format": "federation",
                "presence": {"not_senders": ["@b:h"], "types": ["m.*"]},
                "account_data": {"not_types": ["*"]},
                "room": {"rooms": ["!a:h", "!b:h"], "not_rooms": ["!b:h"], "include_leave": true,
                    "ephemeral": {"types": ["m.typing"], "not_rooms": ["!c:h"]},
                    "account_data": {"types": []},
                    "state": {"lazy_load_members": true, "include_redundant_members": true},
                    "timeline": {"limit": 5, "unread_thread_notifications": true}}}"#,
        )
        .unwrap();
        assert_eq!(filter.event_format, EventFormat::Federation);
        assert!(filter.wants_presence());
        assert!(filter.wants_presence_of(user_id!("@a:h")));
        assert!(!filter.wants_presence_of(user_id!("@b:h")));
        let room = &filter.room;
        assert!(room.wants_room(room_id!("!a:h")));
        assert!(!room.wants_room(room_id!("!b:h")));
        assert!(!room.wants_room(room_id!("!c:h")));
        assert!(room.wants_ephemeral(room_id!("!a:h"), "m.typing"));
        assert!(!room.wants_ephemeral(room_id!("!a:h"), "m.receipt"));
        assert!(!room.wants_ephemeral(room_id!("!c:h"), "m.typing"));
        assert!(!room.wants_account_data(room_id!("!a:h"), "m.tag"));
        assert!(room.state.lazy_load_members && room.state.include_redundant_members);
        assert_eq!(room.timeline.limit, Some(5));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for json in ["", "[]", r#"{"room": 1}"#, r#"{"event_format": "xml"}"#] {
            assert!(matches!(Filter::parse(json), Err(SyncError::BadFilter(_))), "{json}");
        }
        assert_eq!(Filter::parse("{}").unwrap(), Filter::default());
        let nulls = r#"{"event_format": null, "presence": null, "room": {"not_rooms": null, "timeline": null}}"#;
        assert_eq!(Filter::parse(nulls).unwrap(), Filter::default());
    }
}
