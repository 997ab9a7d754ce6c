//! Push rules: the default ones, and every kind and condition.

use ruma::RoomVersionId;
use ruma::push::Ruleset;
use serde_json::{Value, json};

use super::room::{ALICE, BOB, CAROL, Room, user};
use crate::Pdu;
use crate::auth::PowerLevels;
use crate::push::{GLOB_LEN_MAX, PushContext, PushEvent, PushOutcome, PushRules, is_pattern_too_long};

struct World {
    room: Room,
    levels: PowerLevels,
    members: u64,
}

impl World {
    fn new() -> Self {
        let mut room = Room::new(&RoomVersionId::V11);
        let levels = json!({"users": {ALICE: 100}, "notifications": {"room": 20}});
        let event = room.send(ALICE, "m.room.power_levels", Some(""), levels);
        let create = room.state(&"m.room.create".into(), "").expect("create");
        let levels = PowerLevels::new(room.rules, &create, Some(&event)).expect("levels");
        Self { room, levels, members: 10 }
    }

    fn evaluate(&self, rules: &PushRules, event: &Pdu, owner: &str) -> Option<PushOutcome> {
        let context = PushContext {
            user: &user(owner),
            display_name: Some("Böb [m]"),
            member_count: self.members,
            power_levels: Some(&self.levels),
        };
        rules.evaluate(&PushEvent::new(event), &context).cloned()
    }

    fn message(&self, content: Value) -> Pdu {
        self.room.event(ALICE, "m.room.message", None, content)
    }

    /// The rule that an event of Alice's (or the given sender's) matches for Bob, by default.
    fn default_rule(&self, event: &Pdu) -> String {
        let outcome = self.evaluate(&PushRules::server_default(&user(BOB)), event, BOB);
        outcome.map_or_else(String::new, |outcome| {
            let flags = [(outcome.notify, " notify"), (outcome.highlight, " highlight")];
            let mut text = outcome.rule_id.to_string();
            text.extend(flags.iter().filter(|flag| flag.0).map(|flag| flag.1));
            text.extend(outcome.sound.map(|sound| format!(" {sound}")));
            text
        })
    }
}

#[test]
fn default_rules() {
    let mut world = World::new();
    let event = |kind: &str, state_key: Option<&str>, content: Value| world.room.event(ALICE, kind, state_key, content);
    let message = event("m.room.message", None, json!({"body": "hi bob"}));
    let encrypted = event("m.room.encrypted", None, json!({}));
    let cases = [
        (message.clone(), ".m.rule.message notify"),
        (encrypted.clone(), ".m.rule.encrypted notify"),
        (event("m.room.message", None, json!({"msgtype": "m.notice"})), ".m.rule.suppress_notices"),
        (event("m.room.member", Some(BOB), json!({"membership": "invite"})), ".m.rule.invite_for_me notify default"),
        (event("m.room.member", Some(CAROL), json!({"membership": "invite"})), ".m.rule.member_event"),
        (
            event("m.room.message", None, json!({"body": "x", "m.mentions": {"user_ids": [CAROL, BOB]}})),
            ".m.rule.is_user_mention notify highlight default",
        ),
        (event("m.room.message", None, json!({"m.mentions": {"user_ids": [CAROL]}})), ".m.rule.message notify"),
        (
            event("m.room.message", None, json!({"m.mentions": {"room": true}})),
            ".m.rule.is_room_mention notify highlight",
        ),
        (event("m.room.message", None, json!({"m.mentions": {"room": "true"}})), ".m.rule.message notify"),
        (event("m.room.tombstone", Some(""), json!({})), ".m.rule.tombstone notify highlight"),
        (event("m.room.tombstone", None, json!({})), ""),
        (event("m.reaction", None, json!({})), ".m.rule.reaction"),
        (event("m.room.server_acl", Some(""), json!({})), ".m.rule.room.server_acl"),
        (event("m.room.message", None, json!({"m.relates_to": {"rel_type": "m.replace"}})), ".m.rule.suppress_edits"),
        (event("m.call.invite", None, json!({})), ".m.rule.call notify ring"),
        (event("m.room.topic", Some(""), json!({})), ""),
        (world.room.event(BOB, "m.room.message", None, json!({"body": "my own"})), ""),
        (
            world.room.event(CAROL, "m.room.message", None, json!({"m.mentions": {"room": true}})),
            ".m.rule.message notify",
        ),
    ];
    for (event, expected) in &cases {
        assert_eq!(world.default_rule(event), *expected, "{}", event.json());
    }
    world.members = 2;
    assert_eq!(world.default_rule(&message), ".m.rule.room_one_to_one notify default");
    assert_eq!(world.default_rule(&encrypted), ".m.rule.encrypted_room_one_to_one notify default");
}

#[test]
fn users_with_the_same_rules_compile_alike() {
    assert_eq!(PushRules::server_default(&user(ALICE)), PushRules::server_default(&user(BOB)));
    let mut muted = Ruleset::server_default(&user(BOB));
    muted.set_enabled(ruma::push::RuleKind::Override, ".m.rule.master", true).expect("exists");
    let muted = PushRules::compile(&muted, &user(BOB));
    assert_ne!(muted, PushRules::server_default(&user(BOB)));
    let world = World::new();
    let outcome = world.evaluate(&muted, &world.message(json!({"body": "hi"})), BOB).expect("matches");
    assert_eq!((&*outcome.rule_id, outcome.notify), (".m.rule.master", false));
}

#[track_caller]
fn check(rules: &Value, event: &Pdu, expected: Option<&str>) {
    let ruleset: Ruleset = serde_json::from_value(rules.clone()).expect("rules");
    let rules = PushRules::compile(&ruleset, &user(BOB));
    let outcome = World::new().evaluate(&rules, event, BOB);
    assert_eq!(outcome.as_ref().map(|outcome| &*outcome.rule_id), expected, "{}", event.json());
}

fn rule(id: &str, extra: Value) -> Value {
    let mut rule = json!({"rule_id": id, "default": false, "enabled": true, "actions": ["notify"]});
    let extra = extra.as_object().expect("object").clone();
    rule.as_object_mut().expect("object").extend(extra);
    rule
}

#[track_caller]
fn holds(condition: Value, event: &Pdu, expected: bool) {
    let rules = json!({"override": [rule("r", json!({"conditions": [condition]}))]});
    check(&rules, event, expected.then_some("r"));
}

#[test]
fn kinds_in_their_order() {
    let world = World::new();
    let message = world.message(json!({"body": "time for tea"}));
    let room_id = world.room.room_id.as_str();
    let mut rules = json!({
        "underride": [rule("u", json!({"conditions": []}))],
        "sender": [rule(ALICE, json!({}))],
        "room": [rule(room_id, json!({}))],
        "content": [rule("off", json!({"pattern": "tea", "enabled": false})), rule("c", json!({"pattern": "TEA"}))],
        "override": [rule("o", json!({"conditions": []}))],
    });
    for (kind, expected) in
        [("override", "o"), ("content", "c"), ("room", room_id), ("sender", ALICE), ("underride", "u")]
    {
        check(&rules, &message, Some(expected));
        rules.as_object_mut().expect("object").remove(kind);
    }
    check(&rules, &message, None);
    let elsewhere = json!({"room": [rule("!other:a.org", json!({}))], "sender": [rule(CAROL, json!({}))]});
    check(&elsewhere, &message, None);
}

#[test]
fn conditions() {
    let world = World::new();
    let event = world.room.event(
        ALICE,
        "m.room.create",
        Some(""),
        json!({"topic": "Lunch plans", "body": "An example event.",
        "m.federate": true, "n": 5, "nothing": null, "alt": ["#a:b", 5, null, {"x": 1}], "a": {"b.c": {"d\\e": "f"}}}),
    );
    let matches = |key: &str, pattern: &str| json!({"kind": "event_match", "key": key, "pattern": pattern});
    holds(matches("content.topic", "lunc?*"), &event, true);
    holds(matches("content.topic", "lunch"), &event, false);
    holds(matches("content.body", "ex*ple"), &event, true);
    holds(matches("content.body", "xample"), &event, false);
    holds(matches("content.missing", "*"), &event, false);
    holds(matches("content.n", "*"), &event, false);
    holds(matches("content", "*"), &event, false);
    holds(matches("type", "M.ROOM.*"), &event, true);
    holds(matches("type.x", "*"), &event, false);
    holds(matches("state_key", ""), &event, true);
    holds(matches("sender", "*:a.org"), &event, true);
    holds(matches("room_id", world.room.room_id.as_str()), &event, true);
    holds(matches("event_id", "$*"), &event, true);
    holds(matches(r"content.a.b\.c.d\\e", "f"), &event, true);
    holds(matches("hashes.sha256", "*"), &event, false);

    let is = |key: &str, value: Value| json!({"kind": "event_property_is", "key": key, "value": value});
    holds(is(r"content.m\.federate", json!(true)), &event, true);
    holds(is(r"content.m\.federate", json!("true")), &event, false);
    holds(is(r"content.m\.federate", json!(1)), &event, false);
    holds(is("content.n", json!(5)), &event, true);
    holds(is("content.nothing", json!(null)), &event, true);
    holds(is("content.missing", json!(null)), &event, false);
    holds(is("content.topic", json!("lunch plans")), &event, false);
    holds(is("sender", json!(ALICE)), &event, true);
    holds(is("origin_server_ts", json!(event.origin_server_ts())), &event, true);

    let contains = |key: &str, value: Value| json!({"kind": "event_property_contains", "key": key, "value": value});
    holds(contains("content.alt", json!("#a:b")), &event, true);
    holds(contains("content.alt", json!("a:b")), &event, false);
    holds(contains("content.alt", json!(5)), &event, true);
    holds(contains("content.alt", json!(null)), &event, true);
    holds(contains("content.topic", json!("Lunch plans")), &event, false);

    for (is, expected) in [("10", true), ("==10", true), (">9", true), (">10", false), ("<=10", true), ("<10", false)] {
        holds(json!({"kind": "room_member_count", "is": is}), &event, expected);
    }
    let may = |key: &str| json!({"kind": "sender_notification_permission", "key": key});
    holds(may("room"), &event, true);
    let weak = world.room.event(CAROL, "m.room.message", None, json!({}));
    holds(may("room"), &weak, false);
    holds(json!({"kind": "org.example.unknown"}), &event, false);
}

#[test]
fn display_names() {
    let world = World::new();
    let condition = json!({"kind": "contains_display_name"});
    for (body, expected) in [("hey BÖB [M], tea?", true), ("böb [m]", true), ("böb m", false), ("xböb [m]", false)]
    {
        holds(condition.clone(), &world.message(json!({"body": body})), expected);
    }
    holds(condition, &world.message(json!({"body": 5})), false);
}

#[test]
fn actions_are_kept_for_push_gateways() {
    let ruleset = json!({"override": [rule("r", json!({"conditions": [], "actions":
        ["notify", "dont_notify", {"set_tweak": "highlight", "value": false}, {"set_tweak": "light", "value": "red"}]}))]});
    let ruleset: Ruleset = serde_json::from_value(ruleset).expect("rules");
    let world = World::new();
    let rules = PushRules::compile(&ruleset, &user(BOB));
    let outcome = world.evaluate(&rules, &world.message(json!({})), BOB).expect("matches");
    assert!(outcome.notify && !outcome.highlight && outcome.sound.is_none());
    assert!(outcome.actions.contains(&json!({"set_tweak": "light", "value": "red"})));
}

#[test]
fn patterns_that_are_too_long() {
    let long = "x".repeat(GLOB_LEN_MAX);
    for pattern in [format!("*{long}*"), format!("{long}x")] {
        assert!(!is_pattern_too_long(&pattern), "{pattern}");
    }
    for pattern in [format!("{long}?"), format!("*{long}x")] {
        assert!(is_pattern_too_long(&pattern), "{pattern}");
    }
}
