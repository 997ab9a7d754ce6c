//! What becomes of a room's power levels when the room gets another version.

use ruma::OwnedUserId;
use serde_json::{Map, Value};

use crate::engine::create::TOMBSTONE_LEVEL;

const TOMBSTONE: &str = "m.room.tombstone";
const STATE_DEFAULT: i64 = 50;

/// Fields that hold one level.
const SINGLE: [&str; 7] = ["ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"];
/// Fields that hold levels by name.
const BY_NAME: [&str; 3] = ["events", "notifications", "users"];

/// Makes integers of the numbers that old room versions allow as text; what is no number goes.
pub(super) fn make_integers(levels: &mut Map<String, Value>) {
    for field in SINGLE {
        if let Some(level) = levels.get(field) {
            match integer(level) {
                Some(level) => levels.insert(field.to_owned(), level.into()),
                None => levels.remove(field),
            };
        }
    }
    for field in BY_NAME {
        let Some(named) = levels.get_mut(field) else { continue };
        let Some(named) = named.as_object_mut() else {
            levels.remove(field);
            continue;
        };
        named.retain(|_, level| integer(level).is_some());
        for level in named.values_mut() {
            *level = integer(level).unwrap_or_default().into();
        }
    }
}

fn integer(level: &Value) -> Option<i64> {
    match level {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_i64(),
    }
}

/// The highest level that is named anywhere, 0 if none is.
pub(super) fn highest(levels: &Map<String, Value>) -> i64 {
    let mut highest = 0;
    for field in SINGLE {
        highest = highest.max(levels.get(field).and_then(Value::as_i64).unwrap_or(0));
    }
    for field in BY_NAME {
        let named = levels.get(field).and_then(Value::as_object);
        for level in named.into_iter().flat_map(Map::values) {
            highest = highest.max(level.as_i64().unwrap_or(0));
        }
    }
    highest
}

/// For a version whose creators stand above all numbers: they may not have one, and tombstones need more than other state.
pub(super) fn for_privileged<'a>(levels: &mut Map<String, Value>, creators: impl Iterator<Item = &'a OwnedUserId>) {
    if let Some(users) = levels.get_mut("users").and_then(Value::as_object_mut) {
        for creator in creators {
            users.remove(creator.as_str());
        }
    }
    let of_state = levels.get("state_default").and_then(Value::as_i64).unwrap_or(STATE_DEFAULT);
    let events = levels.entry("events").or_insert_with(|| Value::Object(Map::new()));
    let Some(events) = events.as_object_mut() else { return };
    let of_tombstones = events.get(TOMBSTONE).and_then(Value::as_i64);
    if of_tombstones.is_none_or(|level| level <= of_state) {
        events.insert(TOMBSTONE.to_owned(), TOMBSTONE_LEVEL.max(of_state.saturating_add(1)).into());
    }
}

/// For a version where all power is a number: those who stood above all numbers get the highest.
pub(super) fn for_numbered(levels: &mut Map<String, Value>, old_creators: &[String], highest: i64) {
    let users = levels.entry("users").or_insert_with(|| Value::Object(Map::new()));
    let Some(users) = users.as_object_mut() else { return };
    for creator in old_creators {
        users.insert(creator.clone(), highest.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn text_becomes_integers() {
        let mut levels =
            map(json!({ "ban": " 60", "kick": "much", "users": { "@a:h": "100", "@b:h": [] }, "events": 5 }));
        make_integers(&mut levels);
        assert_eq!(Value::Object(levels.clone()), json!({ "ban": 60, "users": { "@a:h": 100 } }));
        assert_eq!(highest(&levels), 100);
    }

    #[test]
    fn tombstones_need_more_than_state_where_creators_are_privileged() {
        for (levels, expected) in [
            (json!({}), 150),
            (json!({ "events": { "m.room.tombstone": 50 } }), 150),
            (json!({ "events": { "m.room.tombstone": 100 } }), 100),
            (json!({ "state_default": 200 }), 201),
        ] {
            let mut levels = map(levels);
            for_privileged(&mut levels, [].into_iter());
            assert_eq!(levels["events"][TOMBSTONE], expected);
        }
    }
}
