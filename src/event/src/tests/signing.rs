//! The specification's examples of canonical JSON, hashes and signatures (appendices).

use ruma::serde::Base64;
use ruma::serde::base64::Standard;
use ruma::{CanonicalJsonObject, RoomVersionId, ServerName};
use serde_json::json;

use crate::canonical::{JSON_DEPTH_MAX, Numbers, parse_object, parse_value, to_canonical_string};
use crate::sign::hash_and_sign;
use crate::{PolicyServer, RoomVersionRules, SigningKey, countersign};

use super::room::{ALICE, Room};

fn test_key() -> SigningKey {
    // Its last character has bits beyond the 32 bytes, which a strict decoder refuses.
    let seed = Base64::<Standard>::parse("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").expect("base64");
    SigningKey::from_seed(&seed.into_inner().try_into().expect("32 bytes"), "1").expect("valid version")
}

fn object(text: &str) -> CanonicalJsonObject {
    parse_object(text.as_bytes(), Numbers::Strict).expect("canonical JSON")
}

fn domain() -> &'static ServerName {
    <&ServerName>::try_from("domain").expect("valid")
}

#[test]
fn canonical_json_examples() {
    let check = |input: &str, expected: &str| assert_eq!(to_canonical_string(&object(input)), expected);
    check("{}", "{}");
    check(r#"{"one": 1, "two": "Two"}"#, r#"{"one":1,"two":"Two"}"#);
    check(r#"{"b": "2", "a": "1"}"#, r#"{"a":"1","b":"2"}"#);
    check(
        r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {
            "display_name": "John Doe", "three_pids": [
                {"medium": "email", "address": "john.doe@example.org"},
                {"medium": "msisdn", "address": "123456789"}]}}}"#,
        r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
    );
    check(r#"{"a": "日本語"}"#, r#"{"a":"日本語"}"#);
    check(r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#);
    check(r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#);
    check(r#"{"a": null}"#, r#"{"a":null}"#);
    // Only what must be is escaped, in its shortest form.
    check(
        r#"{"a": "\u0000\u0008\u000c\n\r\t\u001f\/\u007f\"\\"}"#,
        "{\"a\":\"\\u0000\\b\\f\\n\\r\\t\\u001f/\u{7f}\\\"\\\\\"}",
    );
    // Beyond the basic plane, code points and UTF-16 sort differently.
    check(r#"{"😀": 1, "ﬀ": 2}"#, r#"{"ﬀ":2,"😀":1}"#);
    check(r#"{"a": 9007199254740991, "b": -9007199254740991}"#, r#"{"a":9007199254740991,"b":-9007199254740991}"#);
}

#[test]
fn what_is_not_canonical_json() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let too_deep = deep(JSON_DEPTH_MAX + 1);
    let refused = [
        r#"{"a": 9007199254740992}"#,
        r#"{"a": -9007199254740992}"#,
        r#"{"a": 18446744073709551616}"#,
        r#"{"a": 1.0}"#,
        r#"{"a": 1e3}"#,
        r#"{"a": -0}"#,
        r#"{"a": 1, "a": 1}"#,
        r#"{"a": {"b": 1, "\u0062": 2}}"#,
        r#"{"a": "\ud800"}"#,
        r#"{"a": 01}"#,
        r#"{"a": NaN}"#,
        r#"{"a": 1} x"#,
        r#"{"a": 1"#,
        "",
        "\u{feff}{}",
        &too_deep,
    ];
    for text in refused {
        assert!(parse_value(text.as_bytes(), Numbers::Strict).is_err(), "{text}");
    }
    assert!(parse_value(b"\"\xff\"", Numbers::Strict).is_err());
    assert!(parse_value(deep(JSON_DEPTH_MAX).as_bytes(), Numbers::Strict).is_ok());
    assert!(parse_object(b"[]", Numbers::Strict).is_err());
    assert!(parse_object(br#"{"a": 1.5, "b": 1e400}"#, Numbers::Lenient).is_err(), "out of range of a double");
    assert!(parse_object(br#"{"a": 1.5, "b": -0, "c": 99999999999999999999}"#, Numbers::Lenient).is_ok());
}

#[test]
fn json_signing() {
    let check = |input: &str, signature: &str| {
        let mut value = object(input);
        test_key().sign_json(domain(), &mut value).expect("signed");
        let value = serde_json::to_value(value).expect("JSON");
        assert_eq!(value["signatures"], json!({"domain": {"ed25519:1": signature}}));
    };
    check("{}", "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ");
    check(
        r#"{"one": 1, "two": "Two"}"#,
        "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
    );
}

#[test]
fn event_signing() {
    let check = |input: &str, hash: &str, signature: &str| {
        let mut value = object(input);
        hash_and_sign(&mut value, &RoomVersionRules::V1, &test_key(), domain()).expect("signed");
        let value = serde_json::to_value(value).expect("JSON");
        assert_eq!(value["hashes"], json!({"sha256": hash}));
        assert_eq!(value["signatures"], json!({"domain": {"ed25519:1": signature}}));
    };
    check(
        r#"{"room_id": "!x:domain", "sender": "@a:domain", "origin": "domain", "origin_server_ts": 1000000,
            "signatures": {}, "hashes": {}, "type": "X", "content": {}, "prev_events": [], "auth_events": [],
            "depth": 3, "unsigned": {"age_ts": 1000000}}"#,
        "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
        "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
    );
    check(
        r#"{"content": {"body": "Here is the message content"}, "event_id": "$0:domain", "origin": "domain",
            "origin_server_ts": 1000000, "type": "m.room.message", "room_id": "!r:domain", "sender": "@u:domain",
            "signatures": {}, "unsigned": {"age_ts": 1000000}}"#,
        "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
        "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
    );
}

#[test]
fn keys_round_trip() {
    let key = test_key();
    assert_eq!((key.id(), key.version()), ("ed25519:1", "1"));
    assert_eq!(key.server_key_id().as_str(), key.id());
    let again = SigningKey::from_seed(&key.seed(), key.version()).expect("valid version");
    assert_eq!(again.public_key(), key.public_key());
    for version in ["", "a:b", "a b", "é"] {
        assert!(SigningKey::from_seed(&[1; 32], version).is_err(), "{version:?}");
    }
    let generated = SigningKey::generate(&crate::SystemRandom);
    assert_eq!(generated.version().len(), 6);
    assert!(!format!("{generated:?}").contains(&generated.public_key_base64()));
}

#[test]
fn policy_servers_sign_what_they_recommend() {
    let mut room = Room::new(&RoomVersionId::V11);
    let policy = SigningKey::from_seed(&[5; 32], "policy_server").expect("valid version");
    let content = json!({"via": "policy.org", "public_keys": {"ed25519": policy.public_key_base64()}});
    let named = room.send(ALICE, "m.room.policy", Some(""), content);
    let message = room.event(ALICE, "m.room.message", None, json!({"body": "hi"}));
    let server = PolicyServer::of(&named).expect("a policy server");
    assert!(PolicyServer::of(&message).is_none());
    assert!(PolicyServer::exempts(&named) && !PolicyServer::exempts(&message));
    assert_eq!(server.server_name(), "policy.org");
    assert!(server.verify(&message, room.rules).is_err());
    let signed = countersign(&message, room.rules, &policy, server.server_name()).expect("signed");
    assert_eq!(server.verify(&signed, room.rules), Ok(()));
    let other = SigningKey::from_seed(&[6; 32], "policy_server").expect("valid version");
    let forged = countersign(&message, room.rules, &other, server.server_name()).expect("signed");
    assert!(server.verify(&forged, room.rules).is_err());
    assert_eq!(server.verify(&named, room.rules), Ok(()));
    for content in [json!({}), json!({"via": "policy.org"}), json!({"via": "policy.org", "public_keys": {"x": "y"}})] {
        let event = room.event(ALICE, "m.room.policy", Some(""), content);
        assert!(PolicyServer::of(&event).is_none());
    }
}
