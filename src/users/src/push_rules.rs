//! Push rules: which events notify a user. Stored as the account data `m.push_rules`, so that clients see
//! changes in their sync.
//!
//! Specification: client-server API, "Push Rules". Who never changed a rule has no row; stored rulesets are
//! brought up to the server's present defaults when they are read.

use std::sync::{Arc, OnceLock};

use event::push::{GLOB_LEN_MAX, PushRules, is_pattern_too_long};
use ruma::{
    OwnedUserId, RoomId, UserId,
    push::{Action, NewPushRule, NewSimplePushRule, PushCondition, RuleKind, Ruleset},
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use store::{Batch, Position, View};

use crate::{
    AccountDataEntry, Error, Result, Users, error::too_many, group_cache::GroupCache, rows::AccountDataKey, tables,
};

pub(crate) const TYPE: &str = "m.push_rules";

/// The greatest number of bytes of the name of a rule.
const RULE_ID_BYTES_MAX: usize = 255;
/// How many times as much memory compiled rules take as their JSON, about.
const COMPILED_RULES_FACTOR: usize = 3;
/// Actions of older versions of the specification, which mean nothing.
const HISTORICAL_ACTIONS: [&str; 2] = ["dont_notify", "coalesce"];

/// The compiled rules of users; those with the default rules share one.
pub(crate) struct RulesCache {
    pub(crate) users: GroupCache<OwnedUserId, OwnedUserId, Arc<PushRules>>,
    defaults: OnceLock<Arc<PushRules>>,
}

impl RulesCache {
    pub(crate) fn new(bytes_max: u64, from: Position) -> Self {
        Self { users: GroupCache::new(bytes_max, from), defaults: OnceLock::new() }
    }

    /// The default rules, which compile to the same for every user.
    fn defaults(&self, user: &UserId) -> Arc<PushRules> {
        let defaults = self.defaults.get_or_init(|| Arc::new(PushRules::server_default(user)));
        defaults.clone()
    }
}

/// Where a rule goes among the user's own rules of its kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct RulePlace<'a> {
    /// Just below this rule.
    pub after: Option<&'a str>,
    /// Just above this rule; goes before `after`.
    pub before: Option<&'a str>,
}

#[derive(Deserialize, Serialize)]
struct Content {
    global: Ruleset,
}

/// The ruleset of a user who changed nothing.
pub(crate) fn defaults(user: &UserId) -> Ruleset {
    Ruleset::server_default(user)
}

pub(crate) fn to_content(ruleset: &Ruleset) -> Result<Box<RawValue>> {
    let global = ruleset.clone();
    to_raw_value(&Content { global }).map_err(|source| Error::Damaged { what: "push rules", source })
}

pub(crate) fn from_content(user: &UserId, content: &str) -> Result<Ruleset> {
    let Content { mut global } =
        serde_json::from_str(content).map_err(|source| Error::Damaged { what: "push rules", source })?;
    global.update_with_server_default(defaults(user));
    Ok(global)
}

/// Without the historical actions, which must be ignored.
fn current_actions(actions: Vec<Action>) -> Vec<Action> {
    let mut kept = Vec::with_capacity(actions.len());
    for action in actions {
        let name = serde_json::to_value(&action).unwrap_or_default();
        let historical = name.as_str().is_some_and(|name| HISTORICAL_ACTIONS.contains(&name));
        if !historical {
            kept.push(action);
        }
    }
    kept
}

fn strip_actions(rule: &mut NewPushRule) {
    let actions = match rule {
        NewPushRule::Override(rule) | NewPushRule::Underride(rule) => &mut rule.actions,
        NewPushRule::Content(rule) => &mut rule.actions,
        NewPushRule::Room(rule) => &mut rule.actions,
        NewPushRule::Sender(rule) => &mut rule.actions,
        // A kind that this crate doesn't know; adding it is refused.
        _ => return,
    };
    *actions = current_actions(std::mem::take(actions));
}

fn check_rule_id(id: &str) -> Result<()> {
    if id.is_empty() || id.starts_with('.') || id.contains(['/', '\\']) {
        return Err(Error::InvalidPushRuleId);
    }
    if id.len() > RULE_ID_BYTES_MAX {
        return Err(Error::TooLarge { what: "the name of the push rule", max: RULE_ID_BYTES_MAX });
    }
    Ok(())
}

/// Refuses patterns that would never match.
fn check_patterns(rule: &NewPushRule) -> Result<()> {
    let too_long = match rule {
        NewPushRule::Override(rule) | NewPushRule::Underride(rule) => rule.conditions.iter().any(
            |condition| matches!(condition, PushCondition::EventMatch(data) if is_pattern_too_long(&data.pattern)),
        ),
        NewPushRule::Content(rule) => is_pattern_too_long(&rule.pattern),
        _ => false,
    };
    if too_long {
        return Err(Error::TooLarge { what: "the pattern of a push rule", max: GLOB_LEN_MAX });
    }
    Ok(())
}

/// The names of the rules of a kind, highest first; none for a kind that doesn't exist.
fn rule_ids(ruleset: &Ruleset, kind: &RuleKind) -> Vec<String> {
    fn ids<'r>(names: impl Iterator<Item = &'r str>) -> Vec<String> {
        names.map(str::to_owned).collect()
    }
    match kind {
        RuleKind::Override => ids(ruleset.override_.iter().map(|rule| rule.rule_id.as_str())),
        RuleKind::Content => ids(ruleset.content.iter().map(|rule| rule.rule_id.as_str())),
        RuleKind::Room => ids(ruleset.room.iter().map(|rule| rule.rule_id.as_str())),
        RuleKind::Sender => ids(ruleset.sender.iter().map(|rule| rule.rule_id.as_str())),
        RuleKind::Underride => ids(ruleset.underride.iter().map(|rule| rule.rule_id.as_str())),
        _ => Vec::new(),
    }
}

/// Moves a rule from one place to another among the rules of its kind. Both must exist.
fn move_rule(ruleset: &mut Ruleset, kind: &RuleKind, from: usize, to: usize) {
    match kind {
        RuleKind::Override => ruleset.override_.move_index(from, to),
        RuleKind::Content => ruleset.content.move_index(from, to),
        RuleKind::Room => ruleset.room.move_index(from, to),
        RuleKind::Sender => ruleset.sender.move_index(from, to),
        RuleKind::Underride => ruleset.underride.move_index(from, to),
        _ => {}
    }
}

/// The place of the rule `id` among the rules of its kind, where `ids` are the others.
fn place_among(ids: &[String], place: RulePlace<'_>) -> Result<Option<usize>> {
    let index_of = |relative: &str| {
        if relative.starts_with('.') {
            return Err(Error::DefaultPushRule);
        }
        let index = ids.iter().position(|id| id == relative);
        index.ok_or_else(|| Error::UnknownRelativePushRule(relative.to_owned()))
    };
    let after = place.after.map(index_of).transpose()?;
    let before = place.before.map(index_of).transpose()?;
    match (after, before) {
        (Some(after), Some(before)) if before <= after => Err(Error::ContradictoryPushRuleOrder),
        (_, Some(before)) => Ok(Some(before)),
        (Some(after), None) => Ok(Some(after + 1)),
        (None, None) => Ok(None),
    }
}

/// Adds or replaces a rule and puts it in its place. A rule that is replaced stays as enabled as it was,
/// and where it was unless a place is given.
fn put_rule(ruleset: &mut Ruleset, rule: NewPushRule, place: RulePlace<'_>) -> Result<()> {
    let kind = rule.kind();
    let id = rule.rule_id().to_owned();
    check_rule_id(&id)?;
    check_patterns(&rule)?;
    let mut others = rule_ids(ruleset, &kind);
    others.retain(|known| *known != id);
    let to = place_among(&others, place)?;
    // Without a place a new rule goes to the top, but below the master rule.
    let inserted = ruleset.insert(rule, None, None);
    inserted.map_err(|_| Error::InvalidPushRuleId)?;
    let from = rule_ids(ruleset, &kind).iter().position(|known| *known == id);
    if let (Some(from), Some(to)) = (from, to) {
        move_rule(ruleset, &kind, from, to);
    }
    Ok(())
}

impl Users {
    /// The push rules of a user as clients see them.
    ///
    /// # Errors
    ///
    /// Fails only if the store does or what is stored is damaged.
    pub async fn push_rules(&self, view: &View, user: &UserId) -> Result<Ruleset> {
        match self.stored_rules(view, user).await? {
            Some(content) => from_content(user, &content),
            None => Ok(defaults(user)),
        }
    }

    /// The push rules of a user, compiled. Costs one look-up in memory, or one point read and the
    /// compilation.
    ///
    /// # Errors
    ///
    /// As [`Users::push_rules`].
    pub async fn compiled_push_rules(&self, view: &View, user: &UserId) -> Result<Arc<PushRules>> {
        if let Some(rules) = self.inner.rules.users.get(view.position(), user) {
            return Ok(rules);
        }
        // Boxed, as hardly ever anything is to be read.
        Box::pin(self.compile_push_rules(view, user)).await
    }

    async fn compile_push_rules(&self, view: &View, user: &UserId) -> Result<Arc<PushRules>> {
        let cache = &self.inner.rules;
        let mut rules = cache.defaults(user);
        let mut bytes = 2 * user.as_str().len();
        if let Some(content) = self.stored_rules(view, user).await? {
            let own = PushRules::compile(&from_content(user, &content)?, user);
            if own != *rules {
                bytes += COMPILED_RULES_FACTOR * content.len();
                rules = Arc::new(own);
            }
        }
        cache.users.insert(view.position(), user.to_owned(), user.to_owned(), rules.clone(), bytes);
        Ok(rules)
    }

    async fn stored_rules(&self, view: &View, user: &UserId) -> Result<Option<String>> {
        let row = view.get::<tables::AccountData>(&AccountDataKey::global(user, TYPE)).await?;
        Ok(row.map(|row| row.content))
    }

    async fn prepare_ruleset(&self, view: &View, batch: &mut Batch, user: &UserId, ruleset: &Ruleset) -> Result<()> {
        let content = to_content(ruleset)?;
        let entry = AccountDataEntry::new(None, TYPE, &content);
        self.prepare_account_data(view, batch, user, entry).await.map_err(too_many("push rules"))
    }

    async fn change_rules(&self, user: &UserId, change: impl Fn(&mut Ruleset) -> Result<()>) -> Result<()> {
        let change = &change;
        let decide = |view: View| async move {
            let mut batch = Batch::new();
            let mut ruleset = self.push_rules(&view, user).await?;
            change(&mut ruleset)?;
            self.prepare_ruleset(&view, &mut batch, user, &ruleset).await?;
            Ok((batch, ()))
        };
        self.inner.store.retry(decide).await
    }

    /// Adds a rule or replaces one of the same kind and name. A new rule is enabled and, without a place,
    /// the highest of the user's own rules of its kind.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPushRuleId`], [`Error::DefaultPushRule`], [`Error::UnknownRelativePushRule`],
    /// [`Error::ContradictoryPushRuleOrder`], [`Error::TooLarge`], [`Error::UserLimit`], [`Error::Contended`].
    pub async fn set_push_rule(&self, user: &UserId, mut rule: NewPushRule, place: RulePlace<'_>) -> Result<()> {
        strip_actions(&mut rule);
        self.change_rules(user, |ruleset| put_rule(ruleset, rule.clone(), place)).await
    }

    /// Deletes one of the user's own rules.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPushRule`], [`Error::DefaultPushRule`], [`Error::Contended`].
    pub async fn delete_push_rule(&self, user: &UserId, kind: RuleKind, id: &str) -> Result<()> {
        let delete = |ruleset: &mut Ruleset| {
            use ruma::push::RemovePushRuleError::ServerDefault;
            match ruleset.remove(kind.clone(), id) {
                Ok(()) => Ok(()),
                Err(ServerDefault) => Err(Error::DefaultPushRule),
                Err(_) => Err(Error::UnknownPushRule),
            }
        };
        self.change_rules(user, delete).await
    }

    /// Enables or disables a rule, a default one as well.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPushRule`], [`Error::Contended`].
    pub async fn set_push_rule_enabled(&self, user: &UserId, kind: RuleKind, id: &str, enabled: bool) -> Result<()> {
        let set = |ruleset: &mut Ruleset| {
            let set = ruleset.set_enabled(kind.clone(), id, enabled);
            set.map_err(|_| Error::UnknownPushRule)
        };
        self.change_rules(user, set).await
    }

    /// Sets what a rule does, a default one as well.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPushRule`], [`Error::UserLimit`], [`Error::Contended`].
    pub async fn set_push_rule_actions(
        &self,
        user: &UserId,
        kind: RuleKind,
        id: &str,
        actions: Vec<Action>,
    ) -> Result<()> {
        let actions = current_actions(actions);
        let set = |ruleset: &mut Ruleset| {
            let set = ruleset.set_actions(kind.clone(), id, actions.clone());
            set.map_err(|_| Error::UnknownPushRule)
        };
        self.change_rules(user, set).await
    }

    /// Copies the user's rule for a room that was upgraded to the room that replaces it.
    ///
    /// # Errors
    ///
    /// The errors of account data.
    pub async fn prepare_copy_room_rule(
        &self,
        view: &View,
        batch: &mut Batch,
        user: &UserId,
        old: &RoomId,
        new: &RoomId,
    ) -> Result<()> {
        let mut ruleset = self.push_rules(view, user).await?;
        let Some(rule) = ruleset.room.get(old.as_str()).cloned() else {
            return Ok(());
        };
        let copy = NewSimplePushRule::new(new.to_owned(), rule.actions);
        put_rule(&mut ruleset, NewPushRule::Room(copy), RulePlace::default())?;
        ruleset.set_enabled(RuleKind::Room, new.as_str(), rule.enabled).map_err(|_| Error::UnknownPushRule)?;
        self.prepare_ruleset(view, batch, user, &ruleset).await
    }
}
