//! What redaction leaves, in every room version.

use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::room::{ALICE, BOB, CAROL, Room, key, number, user};
use crate::auth::PowerLevels;
use crate::{Pdu, PduBuilder, SUPPORTED_ROOM_VERSIONS, may_redact, redact};

#[track_caller]
fn check(version: &RoomVersionId, kind: &str, content: &Value, expected: &Value) {
    let room = Room::new(version);
    let pdu = room.event(ALICE, kind, Some(""), content.clone());
    let redacted = redact(&pdu, room.rules).expect("redactable");
    let left: Value = serde_json::from_str(redacted.content().get()).expect("JSON");
    assert_eq!(left, *expected, "room version {version}, {kind}");
    let parsed = Pdu::parse(redacted.json().get().as_bytes(), room.rules).expect("format");
    assert_eq!(parsed.event_id(), pdu.event_id(), "the id of {kind} stays in room version {version}");
    assert_eq!(redact(&redacted, room.rules).expect("redactable"), redacted);
}

/// Of `content`, the keys that stay from the given room versions on (up to, if negative).
fn kept(content: &Value, version: u8, keys: &[(&str, i8)]) -> Value {
    let mut left = serde_json::Map::new();
    for (key, from) in keys {
        let version = i8::try_from(version).expect("small");
        let stays = if *from > 0 { version >= *from } else { version <= -*from };
        if stays {
            left.insert((*key).to_owned(), content[*key].clone());
        }
    }
    Value::Object(left)
}

#[test]
fn content_by_type() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let check = |kind: &str, mut content: Value, keys: &[(&str, i8)]| {
            let expected = kept(&content, number(&version), keys);
            content["surprise"] = json!({"x": 1});
            check(&version, kind, &content, &expected);
        };
        check("m.room.message", json!({"body": "hi"}), &[]);
        check("m.room.name", json!({"name": "x"}), &[]);
        check(
            "m.room.member",
            json!({"membership": "join", "displayname": "A", "join_authorised_via_users_server": BOB}),
            &[("membership", 1), ("join_authorised_via_users_server", 9)],
        );
        check("m.room.join_rules", json!({"join_rule": "restricted", "allow": []}), &[("join_rule", 1), ("allow", 8)]);
        let levels = json!({"ban": 1, "events": {}, "events_default": 1, "invite": 1, "kick": 1, "redact": 1,
            "state_default": 1, "users": {}, "users_default": 1, "notifications": {}});
        let always = ["ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"];
        let mut keys: Vec<(&str, i8)> = always.iter().map(|key| (*key, 1)).collect();
        keys.push(("invite", 11));
        check("m.room.power_levels", levels, &keys);
        check("m.room.history_visibility", json!({"history_visibility": "joined"}), &[("history_visibility", 1)]);
        check("m.room.aliases", json!({"aliases": []}), &[("aliases", -5)]);
        check("m.room.redaction", json!({"redacts": "$x", "reason": "y"}), &[("redacts", 11)]);
    }
}

#[test]
fn create_and_third_party_invites() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::created(&version, json!({"surprise": 1}));
        let create = room.events.values().next().expect("create event");
        let redacted = redact(create, room.rules).expect("redactable");
        let content: Value = serde_json::from_str(redacted.content().get()).expect("JSON");
        if number(&version) >= 11 {
            assert_eq!(redacted.content().get(), create.content().get());
        } else {
            assert_eq!(content, json!({"creator": ALICE}));
        }
        assert_eq!(redacted.room_id(), create.room_id());
        let invite =
            json!({"membership": "invite", "third_party_invite": {"display_name": "b", "signed": {"token": "t"}}});
        let expected = if number(&version) >= 11 {
            json!({"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}})
        } else {
            json!({"membership": "invite"})
        };
        check(&version, "m.room.member", &invite, &expected);
    }
}

#[test]
fn top_level_keys() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::new(&version);
        let pdu = room.event(ALICE, "m.room.message", None, json!({"body": "hi"}));
        let mut event: Value = serde_json::from_str(pdu.json().get()).expect("JSON");
        for field in ["origin", "membership", "prev_state", "age", "redacts"] {
            event[field] = "x".into();
        }
        let raw = serde_json::value::to_raw_value(&event).expect("JSON");
        let left = crate::redact_json(&raw, room.rules).expect("redactable");
        let left: Value = serde_json::from_str(left.get()).expect("JSON");
        for field in ["origin", "membership", "prev_state"] {
            assert_eq!(left.get(field).is_some(), number(&version) < 11, "{field} in room version {version}");
        }
        assert!(left.get("age").is_none() && left.get("redacts").is_none());
    }
}

#[test]
fn where_a_redaction_names_its_target() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::new(&version);
        let target = room.send(ALICE, "m.room.message", None, json!({"body": "hi"}));
        let mut builder = room.builder(ALICE, "m.room.redaction", None, json!({"reason": "typo"}));
        builder.redacts = Some(target.owned_event_id());
        let redaction = builder.build(room.rules, &key(), user(ALICE).server_name()).expect("valid");
        assert_eq!(redaction.redacts(room.rules).as_deref(), Some(target.event_id()), "room version {version}");
        let json: Value = serde_json::from_str(redaction.json().get()).expect("JSON");
        assert_eq!(json.get("redacts").is_some(), number(&version) < 11);
        assert_eq!(json["content"].get("redacts").is_some(), number(&version) >= 11);
        let stored = Pdu::from_stored(redaction.owned_event_id(), redaction.json().to_owned()).expect("stored");
        assert_eq!(stored.redacts(room.rules), redaction.redacts(room.rules));
        assert_eq!(target.redacts(room.rules), None);
    }
}

#[test]
fn who_may_redact() {
    for version in [RoomVersionId::V3, RoomVersionId::V11, RoomVersionId::V12] {
        let mut room = Room::new(&version);
        room.member(BOB, BOB, "join");
        let target = room.send(BOB, "m.room.message", None, json!({"body": "hi"}));
        let create = room.state(&"m.room.create".into(), "").expect("create");
        let levels = room.state(&"m.room.power_levels".into(), "");
        let levels = PowerLevels::new(room.rules, &create, levels.as_ref()).expect("levels");
        let by = |sender: &str| {
            let mut builder: PduBuilder = room.builder(sender, "m.room.redaction", None, json!({}));
            builder.redacts = Some(target.owned_event_id());
            let redaction = builder.build(room.rules, &key(), user(sender).server_name()).expect("valid");
            may_redact(room.rules, &redaction, &target, &levels)
        };
        assert!(by(ALICE), "has the power");
        assert!(by(BOB), "is the sender");
        assert!(by("@other:b.org"), "is of the same server");
        assert!(!by(CAROL));
    }
}
