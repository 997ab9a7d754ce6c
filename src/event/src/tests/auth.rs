//! Authorisation rules about creation, auth events, senders, aliases and redactions, in every
//! room version.

use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::room::{ALICE, BOB, CAROL, Room, key, number, user};
use crate::auth::{auth_types, check_state_independent, room_version};
use crate::{AuthError, Pdu, PduBuilder, SUPPORTED_ROOM_VERSIONS, redact};

fn build(room: &Room, builder: PduBuilder) -> Pdu {
    let server = builder.sender.server_name().to_owned();
    builder.build(room.rules, &key(), &server).expect("valid")
}

#[test]
fn create_events() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::created(&version, json!({}));
        let create = |change: &dyn Fn(&mut PduBuilder)| {
            let mut content = json!({"room_version": version.as_str()});
            if number(&version) < 11 {
                content["creator"] = ALICE.into();
            }
            let mut builder = room.builder(ALICE, "m.room.create", Some(""), content);
            builder.prev_events.clear();
            if number(&version) >= 12 {
                builder.room_id = None;
            }
            change(&mut builder);
            let create = build(&room, builder);
            check_state_independent(room.rules, &create, |_| None)
        };
        let content = |value: Value| serde_json::value::to_raw_value(&value).expect("JSON");
        assert_eq!(create(&|_| ()), Ok(()));
        assert!(create(&|event| event.prev_events = room.tips.clone()).is_err());
        let unknown = content(json!({"creator": ALICE, "room_version": "org.example.none"}));
        assert!(create(&|event| event.content = unknown.clone()).is_err());
        let no_text = content(json!({"creator": ALICE, "room_version": 1}));
        assert!(create(&|event| event.content = no_text.clone()).is_err());
        let null = content(json!({"creator": ALICE, "room_version": null}));
        assert!(create(&|event| event.content = null.clone()).is_err());
        // A create event that names no version makes a room of version 1; it is valid in itself.
        let unnamed = content(json!({"creator": ALICE}));
        assert_eq!(create(&|event| event.content = unnamed.clone()), Ok(()));
        let without_creator = content(json!({"room_version": version.as_str()}));
        let result = create(&|event| event.content = without_creator.clone());
        assert_eq!(result.is_ok(), number(&version) >= 11, "room version {version}");
        if number(&version) < 12 {
            let elsewhere = OwnedRoomId::try_from("!room:b.org").expect("valid");
            assert!(create(&|event| event.room_id = Some(elsewhere.clone())).is_err());
        }
        let bad_creators =
            content(json!({"creator": ALICE, "room_version": version.as_str(), "additional_creators": ["bob"]}));
        let result = create(&|event| event.content = bad_creators.clone());
        assert_eq!(result.is_ok(), number(&version) < 12);
    }
}

#[test]
fn version_of_a_create_event() {
    let room = Room::created(&RoomVersionId::V9, json!({}));
    let create = room.state(&"m.room.create".into(), "").expect("create");
    assert_eq!(room_version(&create), Some(RoomVersionId::V9));
}

#[test]
fn auth_events_are_those_that_the_selection_names() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::new(&version);
        let topic = room.send(ALICE, "m.room.topic", Some(""), json!({"topic": "x"}));
        let other = Room::created(&version, json!({"other": true}));
        let independent = |builder: PduBuilder| {
            let event = build(&room, builder);
            check_state_independent(room.rules, &event, |id| room.fetch(id).or_else(|| other.fetch(id)))
        };
        let message = || room.builder(ALICE, "m.room.message", None, json!({"body": "hi"}));
        assert_eq!(independent(message()), Ok(()));

        let mut superfluous = message();
        superfluous.auth_events.push(topic.owned_event_id());
        assert!(independent(superfluous).is_err());

        let mut duplicate = message();
        duplicate.auth_events.push(duplicate.auth_events[0].clone());
        assert!(independent(duplicate).is_err());

        let mut unknown = message();
        unknown.auth_events[0] = OwnedEventId::try_from("$unknown:a.org").expect("valid");
        assert!(independent(unknown).is_err());

        // Nothing demands all that the selection names, save the create event.
        let mut nothing = message();
        nothing.auth_events.clear();
        assert_eq!(independent(nothing).is_ok(), number(&version) >= 12, "room version {version}");

        if number(&version) < 12 {
            let mut foreign = message();
            foreign.auth_events = other.tips.clone();
            assert_eq!(independent(foreign), Ok(()), "the same room id");
            let mut elsewhere = message();
            elsewhere.room_id = Some(OwnedRoomId::try_from("!elsewhere:a.org").expect("valid"));
            assert!(independent(elsewhere).is_err());
        } else {
            let mut elsewhere = message();
            elsewhere.room_id = Some(other.room_id.clone());
            assert!(independent(elsewhere).is_err());
        }

        let event = build(&room, message());
        let rejected = check_state_independent(room.rules, &event, |id| {
            let pdu = room.fetch(id)?;
            let power_levels = pdu.event_type() == "m.room.power_levels";
            Some(pdu.with_rejected(power_levels))
        });
        assert!(rejected.is_err());
    }
}

#[test]
fn room_ids_of_version_12_name_an_accepted_create_event() {
    let mut room = Room::new(&RoomVersionId::V12);
    let topic = room.send(ALICE, "m.room.topic", Some(""), json!({"topic": "x"}));
    let mut builder = room.builder(ALICE, "m.room.message", None, json!({}));
    builder.auth_events.clear();
    let good = build(&room, builder.clone());
    let check = |event: &Pdu, rejected: bool| {
        check_state_independent(room.rules, event, |id| Some(room.fetch(id)?.with_rejected(rejected)))
    };
    assert_eq!(check(&good, false), Ok(()));
    assert!(check(&good, true).is_err());
    for id in [topic.event_id().as_str().replacen('$', "!", 1), "!unknown".to_owned()] {
        builder.room_id = Some(OwnedRoomId::try_from(id).expect("valid"));
        assert!(check(&build(&room, builder.clone()), false).is_err());
    }
}

#[test]
fn selection_of_auth_events() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::new(&version);
        let select = |kind: &str, sender: &str, state_key: Option<&str>, content: Value| {
            let content = serde_json::value::to_raw_value(&content).expect("JSON");
            let keys = auth_types(&kind.into(), &user(sender), state_key, &content, room.rules)?;
            let mut keys: Vec<String> = keys.into_iter().map(|(kind, key)| format!("{kind}/{key}")).collect();
            keys.sort();
            Ok::<_, AuthError>(keys)
        };
        let expect = |keys: &[&str]| {
            let mut keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            keys.push("m.room.power_levels/".to_owned());
            if number(&version) < 12 {
                keys.push("m.room.create/".to_owned());
            }
            keys.sort();
            Ok(keys)
        };
        let member = |user: &str| format!("m.room.member/{user}");
        let (alice, bob) = (member(ALICE), member(BOB));
        assert_eq!(select("m.room.create", ALICE, Some(""), json!({})), Ok(Vec::new()));
        assert_eq!(select("m.room.message", ALICE, None, json!({})), expect(&[&alice]));
        let join = json!({"membership": "join", "join_authorised_via_users_server": ALICE});
        let mut keys = vec!["m.room.join_rules/", &bob];
        if number(&version) >= 8 {
            keys.push(&alice);
        }
        assert_eq!(select("m.room.member", BOB, Some(BOB), join), expect(&keys));
        let leave = json!({"membership": "leave"});
        assert_eq!(select("m.room.member", ALICE, Some(BOB), leave), expect(&[&alice, &bob]));
        let invite = json!({"membership": "invite", "third_party_invite": {"signed": {"token": "t", "mxid": BOB}}});
        let keys = ["m.room.join_rules/", "m.room.third_party_invite/t", &alice, &bob];
        assert_eq!(select("m.room.member", ALICE, Some(BOB), invite), expect(&keys));
        assert!(select("m.room.member", ALICE, None, json!({"membership": "join"})).is_err());
        assert!(select("m.room.member", ALICE, Some(ALICE), json!({})).is_err());
    }
}

#[test]
fn rooms_that_do_not_federate() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::created(&version, json!({"m.federate": false}));
        room.member(ALICE, ALICE, "join");
        room.send(ALICE, "m.room.join_rules", Some(""), json!({"join_rule": "public"}));
        assert!(room.allows_member("@amy:a.org", "@amy:a.org", "join"));
        assert!(!room.allows_member(BOB, BOB, "join"));
    }
}

#[test]
fn senders_must_be_joined_and_strong_enough() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::new(&version);
        let message = json!({"body": "hi"});
        assert!(!room.allows(BOB, "m.room.message", None, message.clone()));
        room.member(BOB, BOB, "join");
        assert!(room.allows(BOB, "m.room.message", None, message.clone()));
        assert!(!room.allows(BOB, "m.room.name", Some(""), json!({"name": "x"})));
        assert!(room.allows(ALICE, "m.room.name", Some(""), json!({"name": "x"})));
        let levels = json!({"users": room.users(&[(BOB, 50)]), "events": {"m.room.name": 51, "m.room.message": 50}});
        room.send(ALICE, "m.room.power_levels", Some(""), levels);
        assert!(!room.allows(BOB, "m.room.name", Some(""), json!({"name": "x"})));
        assert!(room.allows(BOB, "m.room.topic", Some(""), json!({"topic": "x"})));
        room.member(CAROL, CAROL, "join");
        assert!(!room.allows(CAROL, "m.room.message", None, message));
        // State keys that are user ids belong to that user.
        assert!(room.allows(BOB, "org.example.note", Some(BOB), json!({})));
        assert!(!room.allows(BOB, "org.example.note", Some(CAROL), json!({})));
        assert!(!room.allows(ALICE, "org.example.note", Some("@"), json!({})));
        assert!(room.allows(BOB, "org.example.note", Some("b"), json!({})));
    }
}

#[test]
fn aliases() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::new(&version);
        let special = number(&version) < 6;
        let aliases = json!({"aliases": ["#x:b.org"]});
        // Up to version 5 a server may always say what its aliases are, even without a member.
        assert_eq!(room.allows(BOB, "m.room.aliases", Some("b.org"), aliases.clone()), special);
        room.member(BOB, BOB, "join");
        assert_eq!(room.allows(BOB, "m.room.aliases", Some("b.org"), aliases.clone()), special);
        assert!(!room.allows(BOB, "m.room.aliases", Some("a.org"), aliases.clone()));
        assert_eq!(room.allows(ALICE, "m.room.aliases", Some("b.org"), aliases.clone()), !special);
        assert_eq!(room.allows(ALICE, "m.room.aliases", None, aliases), !special);
    }
}

#[test]
fn redactions() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::new(&version);
        room.member(BOB, BOB, "join");
        let target = room.send(ALICE, "m.room.message", None, json!({"body": "hi"}));
        let own = room.send(BOB, "m.room.message", None, json!({"body": "hi"}));
        let allows = |sender: &str, target: Option<&Pdu>| {
            let mut builder = room.builder(sender, "m.room.redaction", None, json!({}));
            builder.redacts = target.map(Pdu::owned_event_id);
            room.check(&build(&room, builder)).is_ok()
        };
        // Versions 1 and 2 decide at once; later ones accept the event and decide when they apply it.
        let special = number(&version) < 3;
        assert!(allows(ALICE, Some(&own)));
        assert!(allows(BOB, Some(&own)));
        assert_eq!(allows(BOB, Some(&target)), !special, "room version {version}");
        assert_eq!(allows(BOB, None), !special, "room version {version}");
        assert!(allows(ALICE, None));
        // What it was for was redacted, which nobody holds against it.
        let mut builder = room.builder(BOB, "m.room.redaction", None, json!({"reason": "spam"}));
        builder.redacts = Some(own.owned_event_id());
        let redacted = redact(&build(&room, builder), room.rules).unwrap();
        assert!(room.check(&redacted).is_ok(), "room version {version}");
        // One that names no hash, or none that can be read, never said what it is for.
        for hashes in [json!({}), json!({"sha256": "?"}), json!({"sha256": 1}), json!(null)] {
            let mut object: serde_json::Value = serde_json::from_str(redacted.json().get()).unwrap();
            object["hashes"] = hashes;
            let json = serde_json::value::to_raw_value(&object).unwrap();
            let Ok(unhashed) = Pdu::from_stored(redacted.owned_event_id(), json) else { continue };
            assert!(unhashed.is_redacted_copy().is_err(), "{object}");
            assert_eq!(room.check(&unhashed).is_ok(), !special, "room version {version}: {object}");
        }
    }
}
