//! Which events notify everybody who isn't mentioned in them, by the default push rules.
//!
//! The default rules ask about a user only where an event mentions somebody; everything else about it can be
//! judged once, when it is stored. So a user with the default rules is counted from these rows alone.

use std::sync::LazyLock;

use event::{
    Pdu,
    push::{PushContext, PushEvent, PushRules},
};
use ruma::{EventId, OwnedEventId, UserId, user_id};
use serde::Deserialize;
use serde_json::value::RawValue;
use store::Batch;

use crate::{
    relations::{self, RelatesTo, THREAD},
    rows::NotableRow,
    tables::Notable,
    types::{REDACTION, StoredEvent, TimelineIndex},
};

/// The event notifies everybody.
pub const NOTIFIES: u8 = 1;
/// And is highlighted for everybody.
pub const HIGHLIGHTS: u8 = 2;
/// The event mentions users or the room: each user's rules decide.
pub const MENTIONS: u8 = 4;
/// The event relates to another one, which may be in a thread.
pub const RELATES: u8 = 8;

/// The event is a message of any kind: who sends one has read what was before it.
pub const SENT: u8 = 16;

/// The event is a redaction: what it redacts counts no more.
pub const REDACTS: u8 = 32;

/// A user whom no event mentions; the domain can't exist.
static NOBODY: LazyLock<&UserId> = LazyLock::new(|| user_id!("@nobody:nowhere.invalid"));

/// The rules that a user has who never changed any. They are equal for all users.
static DEFAULT_RULES: LazyLock<PushRules> = LazyLock::new(|| PushRules::server_default(&NOBODY));

/// What the default rules make of an event; 0 if it concerns nobody.
pub(crate) fn flags(event: &Pdu) -> u8 {
    let mut flags = 0;
    let context = PushContext { user: &NOBODY, display_name: None, member_count: u64::MAX, power_levels: None };
    if let Some(outcome) = DEFAULT_RULES.evaluate(&PushEvent::new(event), &context)
        && outcome.notify
    {
        flags |= NOTIFIES;
        if outcome.highlight {
            flags |= HIGHLIGHTS;
        }
    }
    if event.state_key().is_none() && mentions(event.content()) {
        flags |= MENTIONS;
    }
    flags
}

/// Whether `m.mentions` names anybody.
fn mentions(content: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.mentions")]
        mentions: Option<serde_json::Value>,
    }
    if !content.get().contains("m.mentions") {
        return false;
    }
    let Ok(content) = serde_json::from_str::<Content>(content.get()) else { return false };
    let Some(mentions) = content.mentions else { return false };
    let users = mentions.get("user_ids").and_then(|users| users.as_array());
    let room = mentions.get("room").and_then(serde_json::Value::as_bool);
    users.is_some_and(|users| !users.is_empty()) || room == Some(true)
}

/// What never changes of how an event counts.
#[derive(Clone, Debug)]
pub struct Notability {
    /// What the default rules make of it, and whether it was [`SENT`] or [`REDACTS`]; 0 if it concerns nobody.
    pub flags: u8,
    /// Whether it relates to another event without being in a thread by its own word.
    pub relates: bool,
    /// The root of the thread that it says it is in.
    pub thread: Option<OwnedEventId>,
}

/// How an event counts; worked out once for all users.
pub fn notability(event: &StoredEvent) -> &Notability {
    event.notability.get_or_init(|| {
        // Redacted events aren't counted.
        let pdu = event.pdu.as_received();
        let (relates, thread) = match relation_of(pdu) {
            Some(relation) if relation.rel_type == THREAD => (false, Some(relation.parent)),
            other => (other.is_some(), None),
        };
        let sent = if event.pdu.state_key().is_none() { SENT } else { 0 };
        let redacts = if event.pdu.event_type() == REDACTION { REDACTS } else { 0 };
        Notability { flags: flags(pdu) | sent | redacts, relates, thread }
    })
}

/// What the log tells of an event: its flags, and whether it relates to another.
pub(crate) fn logged_flags(event: &StoredEvent) -> u8 {
    let Notability { flags, relates, .. } = *notability(event);
    if relates { flags | RELATES } else { flags }
}

/// Whether an event with these flags concerns a user with the default rules, its sender or another.
pub fn concerns(flags: u8, is_sender: bool) -> bool {
    // That it relates to another says where it counts, not whether.
    let flags = flags & !RELATES;
    if is_sender { flags != 0 } else { flags & !SENT != 0 }
}

/// Puts an event into the index of what notifies, if it does, or tells of a local user (for whom alone is counted) that
/// they have read.
pub(crate) fn prepare(batch: &mut Batch, event: &StoredEvent, index: TimelineIndex, is_local: bool) {
    put(batch, event, index, notability(event).flags, is_local);
}

/// What is left of the flags of an event that lost its content.
pub fn of_redacted(flags: u8) -> u8 {
    flags & (SENT | REDACTS)
}

fn put(batch: &mut Batch, event: &StoredEvent, index: TimelineIndex, flags: u8, is_local: bool) {
    if !concerns(flags, is_local) {
        return;
    }
    let Notability { relates, thread, .. } = notability(event);
    let flags = if *relates { flags | RELATES } else { flags };
    let thread = thread.as_deref().map_or("", EventId::as_str);
    let row = NotableRow { flags, event: event.num, sender: event.pdu.sender().as_str(), thread };
    batch.put::<Notable>(&(event.pdu.room_id(), index), &row);
}

/// Takes an event out that lost its content. That its sender had read when they sent it stays so, and so does what it redacted.
pub(crate) fn remove(batch: &mut Batch, event: &StoredEvent, index: TimelineIndex, is_local: bool) {
    batch.delete::<Notable>(&(event.pdu.room_id(), index));
    put(batch, event, index, of_redacted(notability(event).flags), is_local);
}

/// The relation of an event that isn't state; relations of state events don't put them into threads.
pub fn relation_of(event: &Pdu) -> Option<RelatesTo> {
    if event.state_key().is_some() {
        return None;
    }
    relations::relates_to(event.content())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event_type: &str, state_key: Option<&str>, content: serde_json::Value, expected: u8) {
        let mut json = serde_json::json!({
            "type": event_type, "content": content, "sender": "@a:h", "room_id": "!r:h", "depth": 1,
            "origin_server_ts": 1, "prev_events": [], "auth_events": [],
        });
        if let Some(key) = state_key {
            json["state_key"] = key.into();
        }
        let json = RawValue::from_string(json.to_string()).expect("JSON");
        let pdu = Pdu::from_stored(ruma::owned_event_id!("$e:h"), json).expect("an event");
        assert_eq!(flags(&pdu), expected, "{event_type} {content}", content = pdu.content().get());
    }

    #[test]
    fn the_default_rules_decide() {
        let text = serde_json::json!({ "msgtype": "m.text", "body": "hi" });
        check("m.room.message", None, text, NOTIFIES);
        check("m.room.encrypted", None, serde_json::json!({}), NOTIFIES);
        let notice = serde_json::json!({ "msgtype": "m.notice", "body": "beep" });
        check("m.room.message", None, notice, 0);
        let edit = serde_json::json!({
            "msgtype": "m.text", "body": "* hi",
            "m.relates_to": { "rel_type": "m.replace", "event_id": "$o:h" }
        });
        check("m.room.message", None, edit, 0);
        let mention = serde_json::json!({
            "msgtype": "m.text", "body": "hi", "m.mentions": { "user_ids": ["@b:h"] }
        });
        check("m.room.message", None, mention, NOTIFIES | MENTIONS);
        let nobody = serde_json::json!({ "msgtype": "m.text", "body": "hi", "m.mentions": {} });
        check("m.room.message", None, nobody, NOTIFIES);
        let reaction = serde_json::json!({
            "m.relates_to": { "rel_type": "m.annotation", "event_id": "$o:h", "key": "x" }
        });
        check("m.reaction", None, reaction, 0);
        check("m.room.member", Some("@a:h"), serde_json::json!({ "membership": "join" }), 0);
        check("m.room.tombstone", Some(""), serde_json::json!({}), NOTIFIES | HIGHLIGHTS);
    }
}
