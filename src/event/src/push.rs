//! Push rules: does an event notify a user, and how?
//!
//! Specification: client-server API, "Push Rules".
//!
//! An event is tried against the rules of many users, so both sides are prepared once: the event
//! as [`PushEvent`], a user's rules as [`PushRules`]. Rules that speak of their owner by user id
//! compile to "the owner", so users with the same rules (nearly all have the default ones) have
//! equal [`PushRules`], and a cache may keep one for all of them.

mod condition;
mod event;

use std::sync::LazyLock;

use ruma::push::{AnyPushRuleRef, Ruleset};
use ruma::{UserId, user_id};
use serde_json::Value;

use crate::auth::PowerLevels;
use crate::glob::Glob;

use self::condition::Condition;
pub use self::event::PushEvent;
pub use crate::glob::GLOB_LEN_MAX;

/// Whether a pattern is too long to match anything: it has wildcards and more than
/// [`GLOB_LEN_MAX`] other characters.
pub fn is_pattern_too_long(pattern: &str) -> bool {
    Glob::new(pattern) == Glob::TooLong
}

/// What the rules ask about the room and the user, at the time of the event.
#[derive(Debug, Clone, Copy)]
pub struct PushContext<'a> {
    /// Whose rules they are.
    pub user: &'a UserId,
    /// The user's display name in the room.
    pub display_name: Option<&'a str>,
    /// How many users are joined.
    pub member_count: u64,
    /// The room's power levels; without them nobody may notify the whole room.
    pub power_levels: Option<&'a PowerLevels>,
}

/// What the rule that matched wants.
#[derive(Debug, Clone, PartialEq)]
pub struct PushOutcome {
    /// The rule.
    pub rule_id: Box<str>,
    /// Whether the user is notified at all.
    pub notify: bool,
    /// Whether the event is highlighted; only of interest if it notifies.
    pub highlight: bool,
    /// The sound to play.
    pub sound: Option<Box<str>>,
    /// The actions as the rule has them, for clients and push gateways.
    pub actions: Vec<Value>,
}

/// A user's rules, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct PushRules {
    rules: Vec<Rule>,
    is_server_default: bool,
}

/// The default rules, which compile to the same for every user.
static SERVER_DEFAULT: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let nobody = user_id!("@nobody:nowhere.invalid");
    Rule::compile_all(&Ruleset::server_default(nobody), nobody)
});

#[derive(Debug, Clone, PartialEq)]
struct Rule {
    conditions: Vec<Condition>,
    outcome: PushOutcome,
}

impl Rule {
    fn compile_all(ruleset: &Ruleset, user: &UserId) -> Vec<Self> {
        let mut rules = Vec::new();
        for rule in ruleset {
            if !rule.enabled() {
                continue;
            }
            let conditions = match rule {
                AnyPushRuleRef::Override(rule) | AnyPushRuleRef::Underride(rule) => {
                    rule.conditions.iter().map(|condition| Condition::new(condition, user)).collect()
                }
                AnyPushRuleRef::Content(rule) => vec![Condition::body(&rule.pattern)],
                AnyPushRuleRef::Room(rule) => vec![Condition::room(&rule.rule_id)],
                AnyPushRuleRef::Sender(rule) => vec![Condition::sender(&rule.rule_id, user)],
                _ => continue,
            };
            rules.push(Rule { conditions, outcome: outcome(rule) });
        }
        rules
    }
}

impl PushRules {
    /// Compiles the rules of `user`. Disabled ones are left out.
    pub fn compile(ruleset: &Ruleset, user: &UserId) -> Self {
        let rules = Rule::compile_all(ruleset, user);
        Self { is_server_default: rules == *SERVER_DEFAULT, rules }
    }

    /// Whether these are the default rules, as they are for who changed nothing.
    pub fn is_server_default(&self) -> bool {
        self.is_server_default
    }

    /// The default rules, which are the same for every user.
    pub fn server_default(user: &UserId) -> Self {
        Self::compile(&Ruleset::server_default(user), user)
    }

    /// What the first matching rule wants; `None` if no rule matches. Users' own events match
    /// nothing.
    pub fn evaluate(&self, event: &PushEvent<'_>, context: &PushContext<'_>) -> Option<&PushOutcome> {
        if event.sender() == context.user {
            return None;
        }
        let rule = self.rules.iter().find(|rule| rule.matches(event, context))?;
        Some(&rule.outcome)
    }
}

impl Rule {
    fn matches(&self, event: &PushEvent<'_>, context: &PushContext<'_>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(event, context))
    }
}

fn outcome(rule: AnyPushRuleRef<'_>) -> PushOutcome {
    let sound = rule.triggers_sound().map(|sound| sound.as_str().into());
    // Actions are strings and objects of JSON already; one that can't be written is left out.
    let actions = rule.actions().iter().flat_map(serde_json::to_value).collect();
    PushOutcome {
        rule_id: rule.rule_id().into(),
        notify: rule.triggers_notification(),
        highlight: rule.triggers_highlight(),
        sound,
        actions,
    }
}
