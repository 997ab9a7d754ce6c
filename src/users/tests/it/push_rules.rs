//! Push rules.

use std::sync::Arc;

use event::push::GLOB_LEN_MAX;
use ruma::{
    UserId,
    push::{
        Action, EventMatchConditionData, NewConditionalPushRule, NewPatternedPushRule, NewPushRule, NewSimplePushRule,
        RuleKind, Ruleset,
    },
    room_id,
};
use serde_json::json;
use store::Batch;
use users::{Error, Result, RulePlace};

use crate::world::{World, user, world};

const TOP: RulePlace<'static> = RulePlace { after: None, before: None };

fn override_rule(id: &str, actions: Vec<Action>) -> NewPushRule {
    NewPushRule::Override(NewConditionalPushRule::new(id.to_owned(), vec![], actions))
}

async fn put(world: &World, id: &str, place: RulePlace<'_>) -> Result<()> {
    world.users.set_push_rule(&user("alice"), override_rule(id, vec![Action::Notify]), place).await
}

async fn rules(world: &World, who: &UserId) -> Ruleset {
    world.users.push_rules(&world.view().await, who).await.unwrap()
}

/// The override rules down to the first default one below the master rule.
async fn own(world: &World) -> String {
    let rules = rules(world, &user("alice")).await;
    let mut names = rules.override_.iter().map(|rule| rule.rule_id.as_str());
    assert_eq!(names.next(), Some(".m.rule.master"));
    names.take_while(|name| !name.starts_with('.')).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn everybody_has_the_default_rules() {
    let world = world().await;
    let alice = world.register("alice").await;
    let defaults = Ruleset::server_default(&alice);
    let as_json = |rules: &Ruleset| serde_json::to_value(rules).unwrap();
    assert_eq!(as_json(&rules(&world, &alice).await), as_json(&defaults));
    let stored = world.users.account_data(&world.view().await, &alice, None, "m.push_rules").await.unwrap().unwrap();
    let stored: serde_json::Value = serde_json::from_str(stored.get()).unwrap();
    assert_eq!(stored, json!({"global": as_json(&defaults)}));
    let all = world.users.account_data_all(&world.view().await, &alice).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].event_type, "m.push_rules");
}

#[tokio::test]
async fn rules_go_to_their_places() {
    let world = world().await;
    world.register("alice").await;
    let after = |id| RulePlace { after: Some(id), before: None };
    let before = |id| RulePlace { after: None, before: Some(id) };
    // (rule, place, order then)
    let steps = [
        ("a", TOP, "a"),
        ("b", TOP, "b a"),
        ("c", after("b"), "b c a"),
        ("d", before("b"), "d b c a"),
        ("e", RulePlace { after: Some("d"), before: Some("a") }, "d b c e a"),
        ("d", TOP, "d b c e a"),
        ("d", after("a"), "b c e a d"),
        ("a", before("b"), "a b c e d"),
        ("b", after("d"), "a c e d b"),
        ("c", before("b"), "a e d c b"),
        ("f", after("b"), "a e d c b f"),
        ("f", before("f2"), ""),
    ];
    for (id, place, order) in steps {
        let put = put(&world, id, place).await;
        if order.is_empty() {
            assert!(matches!(put, Err(Error::UnknownRelativePushRule(_))));
        } else {
            put.unwrap();
            assert_eq!(own(&world).await, order, "{id} {place:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_put() {
    let world = world().await;
    world.register("alice").await;
    for id in ["a", "b", "c"] {
        put(&world, id, TOP).await.unwrap();
    }
    for id in ["", ".mine", ".m.rule.master", "a/b", "a\\b"] {
        assert!(matches!(put(&world, id, TOP).await, Err(Error::InvalidPushRuleId)), "{id}");
    }
    assert!(matches!(put(&world, &"x".repeat(256), TOP).await, Err(Error::TooLarge { .. })));
    let to_default = RulePlace { after: Some(".m.rule.master"), before: None };
    assert!(matches!(put(&world, "d", to_default).await, Err(Error::DefaultPushRule)));
    let to_itself = RulePlace { after: None, before: Some("a") };
    assert!(matches!(put(&world, "a", to_itself).await, Err(Error::UnknownRelativePushRule(id)) if id == "a"));
    let inverted = RulePlace { after: Some("a"), before: Some("c") };
    assert!(matches!(put(&world, "d", inverted).await, Err(Error::ContradictoryPushRuleOrder)));
    assert_eq!(own(&world).await, "c b a");
}

#[tokio::test]
async fn patterns_that_could_never_match_are_refused() {
    let world = world().await;
    let alice = world.register("alice").await;
    let pattern = |length: usize| format!("*{}", "x".repeat(length));
    let rules = |length: usize| {
        let matching = EventMatchConditionData::new("content.topic".into(), pattern(length));
        [
            NewPushRule::Content(NewPatternedPushRule::new("c".into(), pattern(length), vec![])),
            NewPushRule::Override(NewConditionalPushRule::new("o".into(), vec![matching.into()], vec![])),
        ]
    };
    for rule in rules(GLOB_LEN_MAX) {
        world.users.set_push_rule(&alice, rule, TOP).await.unwrap();
    }
    for rule in rules(GLOB_LEN_MAX + 1) {
        assert!(matches!(world.users.set_push_rule(&alice, rule, TOP).await, Err(Error::TooLarge { .. })));
    }
}

#[tokio::test]
async fn all_kinds_of_rules_are_kept() {
    let world = world().await;
    let alice = world.register("alice").await;
    let room = room_id!("!room:example.org").to_owned();
    let rules_of_all_kinds = [
        NewPushRule::Override(NewConditionalPushRule::new("o".into(), vec![], vec![])),
        NewPushRule::Underride(NewConditionalPushRule::new("u".into(), vec![], vec![])),
        NewPushRule::Content(NewPatternedPushRule::new("c".into(), "cake*lie".into(), vec![Action::Notify])),
        NewPushRule::Room(NewSimplePushRule::new(room.clone(), vec![])),
        NewPushRule::Sender(NewSimplePushRule::new(user("bob"), vec![])),
    ];
    for rule in rules_of_all_kinds {
        let (kind, id) = (rule.kind(), rule.rule_id().to_owned());
        world.users.set_push_rule(&alice, rule, TOP).await.unwrap();
        assert!(rules(&world, &alice).await.get(kind.clone(), &id).unwrap().enabled());
        world.users.delete_push_rule(&alice, kind.clone(), &id).await.unwrap();
        let again = world.users.delete_push_rule(&alice, kind, &id).await;
        assert!(matches!(again, Err(Error::UnknownPushRule)));
    }
    let default = world.users.delete_push_rule(&alice, RuleKind::Override, ".m.rule.master").await;
    assert!(matches!(default, Err(Error::DefaultPushRule)));
    let custom = world.users.delete_push_rule(&alice, RuleKind::from("other"), "x").await;
    assert!(matches!(custom, Err(Error::UnknownPushRule)));
}

#[tokio::test]
async fn rules_are_enabled_disabled_and_given_actions() {
    let world = world().await;
    let alice = world.register("alice").await;
    put(&world, "mine", TOP).await.unwrap();
    for id in ["mine", ".m.rule.suppress_notices"] {
        let kind = RuleKind::Override;
        world.users.set_push_rule_enabled(&alice, kind.clone(), id, false).await.unwrap();
        world.users.set_push_rule_actions(&alice, kind.clone(), id, vec![Action::Notify]).await.unwrap();
        let rules = rules(&world, &alice).await;
        let rule = rules.get(kind, id).unwrap();
        assert!(!rule.enabled());
        assert!(matches!(rule.actions(), [Action::Notify]));
    }
    put(&world, "mine", TOP).await.unwrap();
    assert!(!rules(&world, &alice).await.get(RuleKind::Override, "mine").unwrap().enabled(), "stays disabled");

    let unknown = world.users.set_push_rule_enabled(&alice, RuleKind::Room, "mine", true).await;
    assert!(matches!(unknown, Err(Error::UnknownPushRule)));
    let unknown = world.users.set_push_rule_actions(&alice, RuleKind::Override, "other", vec![]).await;
    assert!(matches!(unknown, Err(Error::UnknownPushRule)));
}

#[tokio::test]
async fn historical_actions_are_dropped() {
    let world = world().await;
    let alice = world.register("alice").await;
    let actions = || -> Vec<Action> {
        serde_json::from_value(json!(["dont_notify", "coalesce", "notify", {"set_tweak": "highlight"}])).unwrap()
    };
    world.users.set_push_rule(&alice, override_rule("mine", actions()), TOP).await.unwrap();
    let master = ".m.rule.master";
    world.users.set_push_rule_actions(&alice, RuleKind::Override, master, actions()).await.unwrap();
    for id in ["mine", master] {
        let rules = rules(&world, &alice).await;
        assert_eq!(rules.get(RuleKind::Override, id).unwrap().actions().len(), 2, "{id}");
    }
}

#[tokio::test]
async fn changes_reach_the_sync_and_the_compiled_rules() {
    let world = world().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let default = world.users.compiled_push_rules(&world.view().await, &alice).await.unwrap();
    let of_bob = world.users.compiled_push_rules(&world.view().await, &bob).await.unwrap();
    assert!(Arc::ptr_eq(&default, &of_bob), "default rules are kept once");
    world.settle().await;

    let start = world.store.published();
    put(&world, "mine", TOP).await.unwrap();
    let view = world.view().await;
    let changed = world.users.account_data_since(&view, &alice, start, view.position()).await.unwrap();
    assert_eq!(changed.len(), 1);
    assert!(changed[0].content.get().contains("\"mine\""));
    for _ in 0..3 {
        let compiled = world.users.compiled_push_rules(&view, &alice).await.unwrap();
        assert_ne!(*compiled, *default);
        world.settle().await;
    }
    world.users.delete_push_rule(&alice, RuleKind::Override, "mine").await.unwrap();
    let compiled = world.users.compiled_push_rules(&world.view().await, &alice).await.unwrap();
    assert!(Arc::ptr_eq(&compiled, &default));
}

#[tokio::test]
async fn a_rule_follows_an_upgrade() {
    let world = world().await;
    let alice = world.register("alice").await;
    let (old, new) = (room_id!("!old:example.org"), room_id!("!new:example.org"));
    let rule = NewPushRule::Room(NewSimplePushRule::new(old.to_owned(), vec![Action::Notify]));
    world.users.set_push_rule(&alice, rule, TOP).await.unwrap();
    world.users.set_push_rule_enabled(&alice, RuleKind::Room, old.as_str(), false).await.unwrap();
    let (view, mut batch) = (world.view().await, Batch::new());
    world.users.prepare_copy_room_rule(&view, &mut batch, &alice, old, new).await.unwrap();
    world.store.commit(batch).await.unwrap();
    let rules = rules(&world, &alice).await;
    let copy = rules.get(RuleKind::Room, new.as_str()).unwrap();
    assert!(!copy.enabled());
    assert_eq!(copy.actions().len(), 1);
}
