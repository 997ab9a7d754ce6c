//! The format of events in every room version: what is built can be read, verified and named alike.

use std::collections::{BTreeMap, BTreeSet};

use ruma::serde::Base64;
use ruma::{OwnedEventId, OwnedServerName, RoomVersionId};
use serde_json::{Value, json};

use super::room::{ALICE, BOB, Room, build_error, key, number, user};
use crate::{
    AUTH_EVENTS_MAX, DEPTH_MAX, PREV_EVENTS_MAX, Pdu, PduBuilder, PduError, PublicKeyMap, ReceivedPdu,
    SUPPORTED_ROOM_VERSIONS, Verified, VerifyError, add_signature, canonical::JSON_DEPTH_MAX, countersign,
    create_event_id, redact, reference_hash,
};

fn keys() -> PublicKeyMap {
    let mut keys = PublicKeyMap::new();
    for server in ["a.org", "b.org"] {
        let public = Base64::new(key().public_key().to_vec());
        keys.insert(server.to_owned(), BTreeMap::from([(key().id().to_owned(), public)]));
    }
    keys
}

fn as_value(pdu: &Pdu) -> Value {
    serde_json::from_str(pdu.json().get()).expect("JSON")
}

fn receive(room: &Room, event: &Value) -> Result<ReceivedPdu, PduError> {
    ReceivedPdu::parse(event.to_string().as_bytes(), room.rules)
}

#[test]
fn what_is_built_reads_back() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::new(&version);
        let message = room.event(ALICE, "m.room.message", None, json!({"body": "häi", "n": [1, null, {"b": true}]}));
        room.add(message);
        for pdu in room.events.values() {
            let received = ReceivedPdu::parse(pdu.json().get().as_bytes(), room.rules).expect("format");
            let servers: Vec<OwnedServerName> = received.required_keys().expect("signers").into_keys().collect();
            assert_eq!(servers, [user(ALICE).server_name()]);
            let Ok(Verified::Valid(verified)) = received.verify(&keys()) else {
                panic!("room version {version}: {} isn't valid", pdu.json());
            };
            let stored = Pdu::from_stored(pdu.owned_event_id(), pdu.json().to_owned()).expect("stored");
            for other in [verified, stored] {
                assert_eq!(&other, pdu, "room version {version}");
                assert_eq!(other.room_id(), room.room_id);
                assert_eq!(other.content().get(), pdu.content().get());
                assert_eq!(other.inner.kind, pdu.inner.kind);
                assert_eq!(other.event_type(), pdu.event_type());
                assert_eq!(other.inner.prev_events, pdu.inner.prev_events);
                assert_eq!(other.inner.auth_events, pdu.inner.auth_events);
                assert_eq!(other.state_pair(), pdu.state_pair());
                assert_eq!((other.depth(), other.origin_server_ts()), (pdu.depth(), pdu.origin_server_ts()));
            }
        }
    }
}

#[test]
fn ids_have_the_form_of_their_version() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::new(&version);
        let hash_len = "$".len() + 43;
        for pdu in room.events.values() {
            let id = pdu.event_id().as_str();
            match number(&version) {
                1 | 2 => assert!(id.ends_with(":a.org"), "{id}"),
                3 => assert!(id.len() == hash_len && !id.contains(['-', '_']), "{id}"),
                _ => assert!(id.len() == hash_len && !id.contains(['+', '/']), "{id}"),
            }
            let carries_id = as_value(pdu).get("event_id").is_some();
            assert_eq!(carries_id, number(&version) < 3);
            if number(&version) >= 3 {
                assert_eq!(format!("${}", reference_hash(pdu, room.rules).expect("hash")), id);
            }
        }
        let create = create_event_id(&room.room_id).and_then(|id| room.fetch(&id));
        assert_eq!(create.is_some(), number(&version) >= 12);
        if let Some(create) = create {
            assert_eq!(create.event_type(), "m.room.create");
            assert!(as_value(&create).get("room_id").is_none());
        }
    }
}

#[test]
fn changed_events_are_redacted_or_refused() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::new(&version);
        let message = room.event(ALICE, "m.room.message", None, json!({"body": "hi"}));

        let mut changed = as_value(&message);
        changed["content"]["body"] = "bye".into();
        changed["surprise"] = "?".into();
        let received = receive(&room, &changed).expect("format");
        let Ok(Verified::RedactedHashMismatch(redacted)) = received.verify(&keys()) else {
            panic!("room version {version}");
        };
        assert_eq!(redacted.event_id(), message.event_id());
        assert_eq!(redacted.content().get(), "{}");
        assert!(as_value(&redacted).get("surprise").is_none());

        let mut forged = as_value(&message);
        forged["origin_server_ts"] = 5.into();
        let refused = receive(&room, &forged).expect("format").verify(&keys());
        assert!(matches!(refused, Err(VerifyError::Signature(_))), "room version {version}");
        let no_keys = receive(&room, &as_value(&message)).expect("format").verify(&PublicKeyMap::new());
        assert!(matches!(no_keys, Err(VerifyError::Signature(_))));
    }
}

#[test]
fn numbers_that_are_not_canonical() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::new(&version);
        let mut changed = as_value(&room.event(ALICE, "m.room.message", None, json!({"n": 1})));
        for number_text in ["1.5", "9007199254740992", "-0"] {
            changed["content"]["n"] = "NUMBER".into();
            let text = changed.to_string().replace("\"NUMBER\"", number_text);
            let received = ReceivedPdu::parse(text.as_bytes(), room.rules);
            if number(&version) >= 6 {
                assert!(matches!(received, Err(PduError::Json(_))));
            } else {
                let verified = received.expect("lenient").verify(&keys());
                assert!(matches!(verified, Ok(Verified::RedactedHashMismatch(_))));
            }
        }
    }
}

/// What is built can be read again by all who work on the whole event.
#[test]
fn contents_are_as_deep_as_events_allow() {
    let room = Room::new(&RoomVersionId::V11);
    let nested = |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    let build = |depth: usize| {
        let mut builder = room.builder(ALICE, "m.room.message", None, json!({}));
        builder.content = serde_json::value::RawValue::from_string(nested(depth)).expect("JSON");
        builder.build(room.rules, &key(), user(ALICE).server_name())
    };
    let deep = build(JSON_DEPTH_MAX - 1).expect("valid");
    assert!(receive(&room, &as_value(&deep)).is_ok());
    assert!(redact(&deep, room.rules).is_ok());
    assert!(matches!(build(JSON_DEPTH_MAX), Err(PduError::Json(_))));
}

#[test]
fn unsigned_is_dropped() {
    let room = Room::new(&RoomVersionId::V11);
    let message = room.event(ALICE, "m.room.message", None, json!({"body": "hi"}));
    let mut received = as_value(&message);
    received["unsigned"] = json!({"age": 5, "redacted_because": {}});
    let pdu = receive(&room, &received).expect("format").verify(&keys()).expect("signed").into_pdu();
    assert_eq!(pdu, message);
}

#[test]
fn required_signatures() {
    let room = Room::new(&RoomVersionId::V10);
    let signers = |event: &Value| -> BTreeSet<String> {
        let required = receive(&room, event).expect("format").required_keys().expect("signers");
        required.into_keys().map(|server| server.to_string()).collect()
    };
    let join = json!({"membership": "join", "join_authorised_via_users_server": ALICE});
    let join = room.event(BOB, "m.room.member", Some(BOB), join);
    assert_eq!(signers(&as_value(&join)), BTreeSet::from(["a.org".to_owned(), "b.org".to_owned()]));
    assert!(receive(&room, &as_value(&join)).expect("format").verify(&keys()).is_err());

    let signed = countersign(&join, room.rules, &key(), user(ALICE).server_name()).expect("room for a signature");
    assert_eq!(signed.event_id(), join.event_id());
    let received = receive(&room, &as_value(&signed)).expect("format");
    let required = received.required_keys().expect("signers");
    assert!(required.values().all(|ids| ids.contains("ed25519:1")));
    assert!(matches!(received.verify(&keys()), Ok(Verified::Valid(_))));

    for name in [json!(ALICE), json!(5)] {
        let message = room.event(BOB, "m.room.message", None, json!({"join_authorised_via_users_server": name}));
        assert_eq!(signers(&as_value(&message)), BTreeSet::from(["b.org".to_owned()]));
        let verified = receive(&room, &as_value(&message)).expect("format").verify(&keys());
        assert!(matches!(verified, Ok(Verified::Valid(_))));
    }

    let server = user(BOB).server_name().to_owned();
    let odd = add_signature(&signed, &server, "ed25519:policy_server", "x".to_owned()).expect("room for a signature");
    assert_eq!(as_value(&odd)["signatures"]["b.org"]["ed25519:policy_server"], "x");
}

#[test]
fn broken_formats_are_refused() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::new(&version);
        let good = as_value(&room.event(ALICE, "m.room.topic", Some(""), json!({"topic": "x"})));
        let long = "x".repeat(256);
        let many = |count: usize| vec![good["prev_events"][0].clone(); count];
        let mut cases = vec![
            ("sender", json!("alice")),
            ("sender", json!(null)),
            ("sender", json!(format!("@{long}:a.org"))),
            ("room_id", json!(5)),
            ("room_id", json!("")),
            ("type", json!(long)),
            ("type", json!(null)),
            ("state_key", json!(long)),
            ("state_key", json!(null)),
            ("content", json!([])),
            ("content", json!({"x": "y".repeat(65_536)})),
            ("hashes", json!("x")),
            ("signatures", json!([])),
            ("depth", json!(-1)),
            ("depth", json!("1")),
            ("origin_server_ts", json!("1")),
            ("prev_events", json!({})),
            ("prev_events", json!([5])),
            ("prev_events", json!(["x"])),
            ("prev_events", json!(many(PREV_EVENTS_MAX + 1))),
            ("auth_events", json!(many(AUTH_EVENTS_MAX + 1))),
        ];
        if number(&version) < 3 {
            cases.push(("event_id", json!(5)));
            cases.push(("prev_events", json!(["$x:a.org"])));
        } else {
            cases.push(("prev_events", json!([["$x:a.org", {}]])));
        }
        if let Some(create) = create_event_id(&room.room_id) {
            cases.push(("auth_events", json!([create])));
        }
        assert!(receive(&room, &good).is_ok());
        for (field, value) in cases {
            let mut event = good.clone();
            event[field] = value;
            let result = receive(&room, &event);
            assert!(result.is_err(), "room version {version}: {field} = {}", event[field]);
        }
        for field in
            ["sender", "room_id", "type", "content", "hashes", "signatures", "depth", "prev_events", "auth_events"]
        {
            let mut event = good.clone();
            event.as_object_mut().expect("object").remove(field);
            assert!(receive(&room, &event).is_err(), "room version {version}: no {field}");
        }
    }
}

#[test]
fn size_is_limited_to_the_byte() {
    let room = Room::new(&RoomVersionId::V11);
    let with_body = |length: usize| {
        let builder = room.builder(ALICE, "m.room.message", None, json!({"body": "x".repeat(length)}));
        builder.build(room.rules, &key(), user(ALICE).server_name())
    };
    let empty = with_body(0).expect("small").json().get().len();
    let largest = with_body(65_536 - empty).expect("just right");
    assert_eq!(largest.json().get().len(), 65_536);
    assert!(Pdu::parse(largest.json().get().as_bytes(), room.rules).is_ok());
    assert_eq!(with_body(65_537 - empty).err(), Some(PduError::TooLarge));
    assert_eq!(countersign(&largest, room.rules, &key(), user(BOB).server_name()).err(), Some(PduError::TooLarge));
}

#[test]
fn hashes_beside_references_may_be_anything() {
    let room = Room::new(&RoomVersionId::V1);
    let mut event = as_value(&room.event(ALICE, "m.room.message", None, json!({})));
    let id = event["prev_events"][0][0].clone();
    for hashes in [json!({"sha256": 5}), json!("x"), json!(null), json!([[]])] {
        event["prev_events"] = json!([[id, hashes], [id], [id, {}, "more"]]);
        let pdu = Pdu::parse(event.to_string().as_bytes(), room.rules).expect("format");
        assert_eq!(pdu.prev_events().len(), 3);
        let stored = Pdu::from_stored(pdu.owned_event_id(), pdu.json().to_owned()).expect("stored");
        assert_eq!(stored, pdu);
    }
}

#[test]
fn depth_stops_at_its_limit() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::new(&version);
        room.depth = DEPTH_MAX;
        let message = room.event(ALICE, "m.room.message", None, json!({}));
        assert_eq!(message.depth(), DEPTH_MAX);
        assert!(receive(&room, &as_value(&message)).is_ok());
    }
}

#[test]
fn builders_refuse_what_no_server_would_accept() {
    let room = Room::new(&RoomVersionId::V12);
    let id = OwnedEventId::try_from("$x").expect("valid");
    assert_eq!(build_error(&room, |_| ()), None);
    assert!(build_error(&room, |event| event.room_id = None).is_some());
    assert!(build_error(&room, |event| event.event_type = "m.room.create".to_owned()).is_some());
    assert!(build_error(&room, |event| event.event_type = "x".repeat(256)).is_some());
    assert!(build_error(&room, |event| event.state_key = Some("x".repeat(256))).is_some());
    assert!(build_error(&room, |event| event.prev_events = vec![id.clone(); PREV_EVENTS_MAX + 1]).is_some());
    assert!(build_error(&room, |event| event.auth_events = vec![id.clone(); AUTH_EVENTS_MAX + 1]).is_some());
    assert!(build_error(&room, |event| event.auth_events.extend(create_event_id(&room.room_id))).is_some());
    assert!(build_error(&room, |event| event.origin_server_ts = u64::MAX).is_some());
    let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).expect("JSON");
    assert!(build_error(&room, |event| event.content = raw("[]")).is_some());
    assert!(build_error(&room, |event| event.content = raw(r#"{"a": 1.5}"#)).is_some());
}

#[test]
fn templates_of_other_servers() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::new(&version);
        let mut builder = room.builder(BOB, "m.room.member", Some(BOB), json!({"membership": "join"}));
        for id in builder.prev_events.iter().chain(&builder.auth_events) {
            let hash = reference_hash(&room.events[id], room.rules).expect("hash");
            builder.reference_hashes.insert(id.clone(), hash);
        }
        let join = builder.build(room.rules, &key(), user(BOB).server_name()).expect("valid");
        let mut template = as_value(&join);
        for field in ["hashes", "signatures", "event_id"] {
            template.as_object_mut().expect("object").remove(field);
        }
        template["origin"] = "b.org".into();
        let mut builder = PduBuilder::from_template(template.to_string().as_bytes()).expect("template");
        builder.origin_server_ts = join.origin_server_ts();
        let again = builder.build(room.rules, &key(), user(BOB).server_name()).expect("valid");
        assert_eq!(again, join, "room version {version}");
    }
    assert!(PduBuilder::from_template(b"{}").is_err());
}
