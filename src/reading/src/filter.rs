//! Filters of room events.
//!
//! Specification: client-server API, "Filtering" (`RoomEventFilter`), and MSC3440 for the two fields about
//! relations. One matcher serves `/messages`, `/context` and `/sync`.

use rooms::{Envelope, EventMeta, RoomsError, Shown, StoredEvent};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

use crate::reader::RoomReader;

/// Which room events a client wants.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RoomEventFilter {
    /// The most events to return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Only events by these users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub senders: Option<Vec<OwnedUserId>>,
    /// No events by these users.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub not_senders: Vec<OwnedUserId>,
    /// Only events of these types; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// No events of these types; `*` stands for any characters.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub not_types: Vec<String>,
    /// Only events in these rooms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<OwnedRoomId>>,
    /// No events in these rooms.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub not_rooms: Vec<OwnedRoomId>,
    /// Only events with (true) or without (false) a `url` in their content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains_url: Option<bool>,
    /// Only the member events that the returned events need.
    #[serde(default, deserialize_with = "null_as_default")]
    pub lazy_load_members: bool,
    /// Member events even if the client has had them.
    #[serde(default, deserialize_with = "null_as_default")]
    pub include_redundant_members: bool,
    /// Unread counts by thread; `/sync` only.
    #[serde(default, deserialize_with = "null_as_default")]
    pub unread_thread_notifications: bool,
    /// Only events to which an event by one of these users relates.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub related_by_senders: Vec<OwnedUserId>,
    /// Only events to which an event relates in one of these ways.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub related_by_rel_types: Vec<String>,
}

/// Reads `null` like an absent field, as some clients write it.
///
/// # Errors
/// What can't be read as `T` either.
pub fn null_as_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl RoomEventFilter {
    /// Whether events of this room are wanted at all.
    pub fn wants_room(&self, room: &RoomId) -> bool {
        if self.not_rooms.iter().any(|other| other == room) {
            return false;
        }
        self.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|wanted| wanted == room))
    }

    /// Whether the event is wanted, judged by all but its content. The room is not looked at
    /// ([`RoomEventFilter::wants_room`]), nor are relations ([`RoomEventFilter::by_relations`]).
    fn wants_envelope(&self, event: &Envelope) -> bool {
        self.wants_type(event.event_type()) && self.wants_sender(event.sender().as_str())
    }

    /// Whether events of this type are wanted.
    pub fn wants_type(&self, event_type: &str) -> bool {
        if self.not_types.iter().any(|pattern| matches(pattern, event_type)) {
            return false;
        }
        let Some(types) = &self.types else { return true };
        types.iter().any(|pattern| matches(pattern, event_type))
    }

    fn wants_sender(&self, sender: &str) -> bool {
        if self.not_senders.iter().any(|other| other == sender) {
            return false;
        }
        self.senders.as_ref().is_none_or(|senders| senders.iter().any(|wanted| wanted == sender))
    }

    fn wants_url(&self, event: &Shown) -> bool {
        let Some(wanted) = self.contains_url else { return true };
        // Content that doesn't read as an object has no `url`.
        let has_url = event.content_as::<UrlProbe>().is_ok_and(|content| content.url);
        has_url == wanted
    }

    /// Whether an event's relations decide about it as well.
    pub fn by_relations(&self) -> bool {
        !self.related_by_senders.is_empty() || !self.related_by_rel_types.is_empty()
    }

    /// Whether this relation to an event makes the event wanted: one child must fit both lists.
    pub fn wants_related(&self, rel_type: &str, sender: &str) -> bool {
        let sender_fits =
            self.related_by_senders.is_empty() || self.related_by_senders.iter().any(|wanted| wanted == sender);
        let type_fits =
            self.related_by_rel_types.is_empty() || self.related_by_rel_types.iter().any(|wanted| wanted == rel_type);
        sender_fits && type_fits
    }
}

impl RoomReader<'_> {
    /// Whether a filter wants an event, judged by what counts of it.
    pub async fn wants(
        &self,
        filter: &RoomEventFilter,
        event: &StoredEvent,
        meta: &EventMeta,
    ) -> Result<bool, RoomsError> {
        if !filter.wants_envelope(&event.pdu) {
            return Ok(false);
        }
        if filter.contains_url.is_none() {
            return Ok(true);
        }
        Ok(filter.wants_url(&self.rooms().shown_event(self.view, event, meta).await?))
    }
}

/// Whether the content has a key `url`, whatever its value.
#[derive(Deserialize)]
struct UrlProbe {
    #[serde(default, deserialize_with = "present")]
    url: bool,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Ok(true)
}

/// Whether `pattern`, in which `*` stands for any number of characters, matches all of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, mut rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    // Between two stars the leftmost match is as good as any other.
    while let Some((piece, after)) = rest.split_once('*') {
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
        rest = after;
    }
    text.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The plain definition of the wildcard.
    fn matches_slowly(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| matches_slowly(rest, &text[at..])),
            Some((byte, rest)) => text.first() == Some(byte) && matches_slowly(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn wildcards_match_as_defined(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            let expected = matches_slowly(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(&pattern, &text), expected);
        }
    }

    fn filter(json: serde_json::Value) -> RoomEventFilter {
        serde_json::from_value(json).expect("a filter")
    }

    #[test]
    fn exclusion_goes_before_inclusion() {
        let types = filter(serde_json::json!({ "types": ["m.*"], "not_types": ["m.room.*er"] }));
        assert!(types.wants_type("m.room.message"));
        assert!(!types.wants_type("m.room.member"));
        assert!(!types.wants_type("org.example"));

        let none = filter(serde_json::json!({ "types": [] }));
        assert!(!none.wants_type("m.room.message"));

        let rooms = filter(serde_json::json!({ "rooms": ["!a:h", "!b:h"], "not_rooms": ["!b:h"] }));
        assert!(rooms.wants_room(ruma::room_id!("!a:h")));
        assert!(!rooms.wants_room(ruma::room_id!("!b:h")));
        assert!(!rooms.wants_room(ruma::room_id!("!c:h")));

        let senders = filter(serde_json::json!({ "senders": ["@a:h", "@b:h"], "not_senders": ["@b:h"] }));
        assert!(senders.wants_sender("@a:h"));
        assert!(!senders.wants_sender("@b:h"));
        assert!(!senders.wants_sender("@c:h"));
    }

    #[test]
    fn one_child_must_fit_sender_and_type() {
        let both = filter(serde_json::json!({
            "related_by_senders": ["@a:h"], "related_by_rel_types": ["m.thread"]
        }));
        assert!(both.by_relations());
        assert!(both.wants_related("m.thread", "@a:h"));
        assert!(!both.wants_related("m.thread", "@b:h"));
        assert!(!both.wants_related("m.replace", "@a:h"));
        assert!(!RoomEventFilter::default().by_relations());
    }

    #[test]
    fn null_is_nothing() {
        let filter = filter(serde_json::json!({
            "limit": null, "types": null, "not_types": null, "not_senders": null, "lazy_load_members": null
        }));
        assert_eq!(filter, RoomEventFilter::default());
    }

    #[test]
    fn a_url_counts_whatever_its_value() {
        let probe = |text| serde_json::from_str::<UrlProbe>(text).is_ok_and(|content| content.url);
        assert!(probe(r#"{"url":null}"#));
        assert!(probe(r#"{"url":"mxc://h/a","body":"x"}"#));
        assert!(!probe(r#"{"body":"url"}"#));
    }
}
