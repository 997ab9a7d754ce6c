//! Nothing that comes from outside makes this crate panic, and every event that passes the format
//! check can be worked with.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use ruma::serde::Base64;
use serde_json::{Value, json};

use super::room::{ALICE, Room, key, user};
use crate::canonical::{Numbers, parse_object, parse_value, to_canonical_string};
use crate::push::{PushContext, PushEvent, PushRules};
use crate::{Pdu, PduBuilder, PublicKeyMap, ReceivedPdu, SUPPORTED_ROOM_VERSIONS, ServerAcl, redact};

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "m.room.create",
            "m.room.member",
            "m.room.power_levels",
            "m.room.redaction",
            "join",
            "invite",
            ALICE,
            "$x:a.org",
            "$x",
            "!x:a.org",
            "!x",
            "a.org",
            "@",
            "$",
            "!",
            "@:",
            "50",
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let key = prop_oneof![
            any::<String>(),
            prop::sample::select(vec![
                "membership",
                "users",
                "third_party_invite",
                "signed",
                "token",
                "mxid",
                "creator",
                "room_version",
                "additional_creators",
                "redacts",
                "body",
                "m.mentions",
                "user_ids",
                "ed25519:1",
                "sha256",
                "a.org",
            ])
            .prop_map(ToOwned::to_owned)
        ];
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn work_with(pdu: &Pdu, room: &Room) {
    let redacted = redact(pdu, room.rules).expect("what has the right format can be redacted");
    assert_eq!(redacted.event_id(), pdu.event_id());
    let _verdict = room.check(pdu);
    let _target = pdu.redacts(room.rules);
    let rules = PushRules::server_default(&user(ALICE));
    let context =
        PushContext { user: &user("@x:y"), display_name: Some(""), member_count: u64::MAX, power_levels: None };
    let _outcome = rules.evaluate(&PushEvent::new(pdu), &context);
    let _acl = ServerAcl::parse(pdu.content()).allows(pdu.sender().server_name());
    let stored = Pdu::from_stored(pdu.owned_event_id(), pdu.json().to_owned()).expect("what was read reads again");
    assert_eq!(&stored, pdu);
    assert_eq!(stored.room_id(), pdu.room_id());
}

proptest! {
    #[test]
    fn text(bytes in vec(any::<u8>(), 0..200)) {
        let _value = parse_value(&bytes, Numbers::Strict);
        let _template = PduBuilder::from_template(&bytes);
        for version in SUPPORTED_ROOM_VERSIONS {
            let _received = ReceivedPdu::parse(&bytes, crate::rules(&version).expect("supported"));
        }
    }

    #[test]
    fn canonical_json_reads_back(value in json_value()) {
        let text = json!({"x": value}).to_string();
        let strict = parse_object(text.as_bytes(), Numbers::Strict);
        let lenient = parse_object(text.as_bytes(), Numbers::Lenient).expect("lenient");
        if let Ok(strict) = strict {
            prop_assert_eq!(&strict, &lenient);
        }
        let canonical = to_canonical_string(&lenient);
        let again = parse_object(canonical.as_bytes(), Numbers::Strict).expect("canonical");
        prop_assert_eq!(again, lenient);
    }

    #[test]
    fn events(
        version in prop::sample::select(SUPPORTED_ROOM_VERSIONS.to_vec()),
        changes in vec((prop::sample::select(vec![
            "type", "sender", "room_id", "event_id", "state_key", "content", "content", "prev_events", "auth_events",
            "depth", "origin_server_ts", "hashes", "signatures", "redacts", "unsigned", "origin", "x",
        ]), json_value()), 0..3),
        kind in prop::sample::select(vec![
            "m.room.create", "m.room.member", "m.room.power_levels", "m.room.redaction", "m.room.aliases",
            "m.room.join_rules", "m.room.message", "m.room.third_party_invite",
        ]),
        has_state_key in any::<bool>(),
    ) {
        let room = Room::new(&version);
        let state_key = has_state_key.then_some(ALICE);
        let good = room.event(ALICE, "m.room.topic", state_key, json!({"membership": "join"}));
        let mut event: Value = serde_json::from_str(good.json().get()).expect("JSON");
        event["type"] = kind.into();
        for (field, value) in changes {
            event[field] = value;
        }
        let Ok(received) = ReceivedPdu::parse(event.to_string().as_bytes(), room.rules) else { return Ok(()) };
        work_with(received.unverified(), &room);
        let _required = received.required_keys();
        let public = Base64::new(key().public_key().to_vec());
        let keys = PublicKeyMap::from([("a.org".to_owned(), [(key().id().to_owned(), public)].into())]);
        if let Ok(verified) = received.verify(&keys) {
            work_with(&verified.into_pdu(), &room);
        }
    }
}
