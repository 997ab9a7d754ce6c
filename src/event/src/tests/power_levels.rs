//! Authorisation rules about power levels, in every room version.

use serde_json::{Value, json};

use super::room::{ALICE, BOB, CAROL, Room, number, user};
use crate::SUPPORTED_ROOM_VERSIONS;
use crate::auth::{PowerLevel, PowerLevels};

fn room_with_moderator(version: &ruma::RoomVersionId) -> Room {
    let mut room = Room::new(version);
    room.member(BOB, BOB, "join");
    room.member(CAROL, CAROL, "join");
    let levels = base(&room);
    room.send(ALICE, "m.room.power_levels", Some(""), levels);
    room
}

/// Bob at 50 may change power levels.
fn base(room: &Room) -> Value {
    json!({"users": room.users(&[(BOB, 50)]), "users_default": 0, "ban": 60,
        "events": {"m.room.power_levels": 50, "m.room.name": 60, "m.room.topic": 40},
        "notifications": {"room": 60, "x": 50}})
}

#[test]
fn nobody_changes_what_is_above_them() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = room_with_moderator(&version);
        let allows = |sender: &str, change: &dyn Fn(&mut Value)| {
            let mut levels = base(&room);
            change(&mut levels);
            room.allows(sender, "m.room.power_levels", Some(""), levels)
        };
        assert!(allows(BOB, &|_| ()));
        assert!(!allows(CAROL, &|_| ()));
        assert!(allows(BOB, &|levels| levels["users"][CAROL] = 50.into()));
        assert!(!allows(BOB, &|levels| levels["users"][CAROL] = 51.into()));
        assert!(allows(BOB, &|levels| levels["users"][BOB] = 40.into()), "themselves down");
        assert!(!allows(BOB, &|levels| levels["users"][BOB] = 60.into()), "themselves up");
        if number(&version) < 12 {
            assert!(!allows(BOB, &|levels| levels["users"][ALICE] = 50.into()));
            assert!(allows(ALICE, &|levels| levels["users"][ALICE] = 50.into()));
        }
        assert!(allows(ALICE, &|levels| levels["users"][BOB] = 0.into()));
        assert!(!allows(BOB, &|levels| levels["ban"] = 50.into()), "is above");
        assert!(allows(BOB, &|levels| levels["kick"] = 10.into()));
        assert!(!allows(BOB, &|levels| levels["kick"] = 51.into()));
        assert!(!allows(BOB, &|levels| levels["events"]["m.room.name"] = 50.into()), "is above");
        assert!(!allows(BOB, &|levels| levels["events"]["m.room.topic"] = 51.into()));
        assert!(allows(BOB, &|levels| levels["events"]["m.room.topic"] = 50.into()));
        assert!(allows(BOB, &|levels| {
            levels["events"].as_object_mut().expect("object").remove("m.room.topic");
        }));
        assert!(!allows(BOB, &|levels| {
            levels["events"].as_object_mut().expect("object").remove("m.room.name");
        }));
        // Levels of notifications are guarded from version 6 on.
        let unguarded = number(&version) < 6;
        assert_eq!(
            allows(BOB, &|levels| levels["notifications"]["room"] = 10.into()),
            unguarded,
            "room version {version}"
        );
        assert_eq!(allows(BOB, &|levels| levels["notifications"]["x"] = 51.into()), unguarded);
        assert!(allows(BOB, &|levels| levels["notifications"]["x"] = 20.into()));
    }
}

#[test]
fn equals_do_not_demote_each_other() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::new(&version);
        room.member(BOB, BOB, "join");
        let levels = |carol: i64| json!({"users": room.users(&[(BOB, 100), (CAROL, carol)])});
        let (equal, lower) = (levels(100), levels(0));
        room.send(ALICE, "m.room.power_levels", Some(""), equal);
        assert!(!room.allows(BOB, "m.room.power_levels", Some(""), lower.clone()));
        // A creator is above every number where the version says so.
        assert_eq!(room.allows(ALICE, "m.room.power_levels", Some(""), lower), number(&version) >= 12);
    }
}

#[test]
fn how_numbers_are_written() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = room_with_moderator(&version);
        let allows = |field: &str, value: Value| {
            let mut levels = base(&room);
            levels[field] = value;
            room.allows(ALICE, "m.room.power_levels", Some(""), levels)
        };
        let strings = number(&version) < 10;
        for text in ["50", " 50 ", "+50", "-50", "00050", " -00050 "] {
            assert_eq!(allows("kick", json!(text)), strings, "{text:?} in room version {version}");
            assert_eq!(allows("events", json!({"m.room.power_levels": text})), strings);
            assert_eq!(allows("users", json!({ALICE: "100", BOB: text})), strings, "users: {text:?}");
        }
        for value in [json!("x"), json!(""), json!(null), json!([1]), json!({}), json!(true)] {
            assert!(!allows("kick", value.clone()), "{value} in room version {version}");
            assert!(!allows("users", json!({BOB: value})));
        }
        assert!(!allows("users", json!({"bob": 50})), "not a user id");
        assert!(!allows("users", json!([])));
    }
}

#[test]
fn creators_of_version_12() {
    let mut room = Room::created(&ruma::RoomVersionId::V12, json!({"additional_creators": [BOB]}));
    room.member(ALICE, ALICE, "join");
    room.send(ALICE, "m.room.join_rules", Some(""), json!({"join_rule": "public"}));
    room.member(BOB, BOB, "join");
    room.member(CAROL, CAROL, "join");
    room.send(ALICE, "m.room.power_levels", Some(""), json!({"users": {CAROL: 9_007_199_254_740_991i64}}));
    for creator in [ALICE, BOB] {
        let levels = json!({"users": {creator: 100}});
        assert!(!room.allows(ALICE, "m.room.power_levels", Some(""), levels), "creators aren't named");
        assert!(room.allows(creator, "m.room.power_levels", Some(""), json!({"users": {CAROL: 0}})));
        assert!(!room.allows_member(CAROL, creator, "leave"), "nobody is above a creator");
        assert!(room.allows_member(creator, CAROL, "leave"));
    }
    assert!(!room.allows_member(ALICE, BOB, "leave"), "creators are equals");
}

#[test]
fn levels_read_once() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = room_with_moderator(&version);
        let create = room.state(&"m.room.create".into(), "").expect("create");
        let event = room.state(&"m.room.power_levels".into(), "");
        let levels = PowerLevels::new(room.rules, &create, event.as_ref()).expect("levels");
        let (alice, bob, carol) = (user(ALICE), user(BOB), user(CAROL));
        let expected =
            if number(&version) >= 12 { PowerLevel::Infinite } else { PowerLevel::from(ruma::Int::from(100)) };
        assert!(levels.user(&alice) == expected);
        assert!(levels.user(&bob) == PowerLevel::from(ruma::Int::from(50)));
        assert!(levels.may_send(&bob, &"m.room.topic".into(), Some("")));
        assert!(!levels.may_send(&bob, &"m.room.name".into(), Some("")));
        assert!(levels.may_send(&carol, &"m.room.message".into(), None));
        assert!(levels.may_kick(&bob, &carol) && !levels.may_kick(&bob, &alice) && !levels.may_ban(&bob, &carol));
        assert!(levels.may_redact_others(&bob) && !levels.may_redact_others(&carol));
        assert!(levels.may_invite(&carol));
        assert_eq!(levels.for_notification("room"), ruma::Int::from(60));
        assert_eq!(levels.for_notification("other"), ruma::Int::from(50));

        // Without the event the creator has 100 (or all), everybody else nothing.
        let levels = PowerLevels::new(room.rules, &create, None).expect("levels");
        assert!(levels.user(&alice) == expected);
        assert!(levels.user(&bob) == PowerLevel::from(ruma::Int::from(0)));
    }
}
