//! What decides which events notify a user: their push rules, and whom they ignore.
//!
//! Specification: client-server API, "Push Rules", "Ignoring Users". Events are judged by what was set when they came, but
//! counted only when somebody asks. So before any of it changes, all that has come is counted and stored. An event that comes
//! while the change is made may be judged by either.

use reading::Viewer;
use ruma::{
    RoomId, UserId,
    push::{Action, NewPushRule, RuleKind},
};
use serde_json::value::RawValue;
use users::RulePlace;

use crate::{Flows, FlowsError};

/// The account data that lists whom a user ignores.
const IGNORED: &str = "m.ignored_user_list";

impl Flows {
    /// Adds or replaces a push rule.
    ///
    /// # Errors
    /// As [`users::Users::set_push_rule`].
    pub async fn set_push_rule(
        &self,
        user: &UserId,
        rule: NewPushRule,
        place: RulePlace<'_>,
    ) -> Result<(), FlowsError> {
        self.settle_unread(user).await?;
        Ok(self.inner.users.set_push_rule(user, rule, place).await?)
    }

    /// Deletes one of the user's own push rules.
    ///
    /// # Errors
    /// As [`users::Users::delete_push_rule`].
    pub async fn delete_push_rule(&self, user: &UserId, kind: RuleKind, id: &str) -> Result<(), FlowsError> {
        self.settle_unread(user).await?;
        Ok(self.inner.users.delete_push_rule(user, kind, id).await?)
    }

    /// Enables or disables a push rule.
    ///
    /// # Errors
    /// As [`users::Users::set_push_rule_enabled`].
    pub async fn set_push_rule_enabled(
        &self,
        user: &UserId,
        kind: RuleKind,
        id: &str,
        enabled: bool,
    ) -> Result<(), FlowsError> {
        self.settle_unread(user).await?;
        Ok(self.inner.users.set_push_rule_enabled(user, kind, id, enabled).await?)
    }

    /// Sets what a push rule does.
    ///
    /// # Errors
    /// As [`users::Users::set_push_rule_actions`].
    pub async fn set_push_rule_actions(
        &self,
        user: &UserId,
        kind: RuleKind,
        id: &str,
        actions: Vec<Action>,
    ) -> Result<(), FlowsError> {
        self.settle_unread(user).await?;
        Ok(self.inner.users.set_push_rule_actions(user, kind, id, actions).await?)
    }

    /// Sets account data on behalf of a client.
    ///
    /// # Errors
    /// As [`users::Users::set_account_data`].
    pub async fn set_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
        content: &RawValue,
    ) -> Result<(), FlowsError> {
        if room.is_none() && event_type == IGNORED {
            self.settle_unread(user).await?;
        }
        Ok(self.inner.users.set_account_data(user, room, event_type, content).await?)
    }

    /// Deletes account data on behalf of a client.
    ///
    /// # Errors
    /// As [`users::Users::delete_account_data`].
    pub async fn delete_account_data(
        &self,
        user: &UserId,
        room: Option<&RoomId>,
        event_type: &str,
    ) -> Result<(), FlowsError> {
        if room.is_none() && event_type == IGNORED {
            self.settle_unread(user).await?;
        }
        Ok(self.inner.users.delete_account_data(user, room, event_type).await?)
    }

    /// Counts what notifies a user by what is set now.
    pub(crate) async fn settle_unread(&self, user: &UserId) -> Result<(), FlowsError> {
        let (users, view) = (&self.inner.users, self.inner.store.view().await?);
        let rules = users.compiled_push_rules(&view, user).await?;
        let ignored = users.ignored_users(&view, user).await?;
        let viewer = Viewer { ignored: &ignored, ..Viewer::new(user) };
        Ok(self.inner.reading.settle_unread(&view, &viewer, &rules).await?)
    }
}
