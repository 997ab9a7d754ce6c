//! Module "Push rules API".

use axum::extract::State;
use flows::Flows;
use haima_http::{ApiError, Incoming, Json, Session, read_with_default};
use ruma::{
    api::client::push::{
        PushRule, delete_pushrule as delete, get_pushrule as get, get_pushrule_actions as get_actions,
        get_pushrule_enabled as get_enabled, get_pushrules_all as get_all, get_pushrules_global_scope as get_global,
        set_pushrule as set, set_pushrule_actions as set_actions, set_pushrule_enabled as set_enabled,
    },
    exports::http::{Method, Request},
    push::{AnyPushRule, RuleKind},
};
use serde_json::Value;
use store::Store;
use users::{RulePlace, Users};

use crate::error::Result;

/// `GET /_matrix/client/v3/pushrules/`
pub(crate) async fn get_push_rules(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    _: get_all::v3::Request,
) -> Result<get_all::v3::Response> {
    let rules = users.push_rules(&store.view().await?, &caller.user).await?;
    Ok(get_all::v3::Response::new(rules))
}

/// `GET /_matrix/client/v3/pushrules/global/`
pub(crate) async fn get_push_rules_global(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    _: get_global::v3::Request,
) -> Result<get_global::v3::Response> {
    let rules = users.push_rules(&store.view().await?, &caller.user).await?;
    Ok(get_global::v3::Response::new(rules))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn get_push_rule(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get::v3::Request,
) -> Result<Json<PushRule>> {
    let rule = find(&store, &users, &caller, req.kind, &req.rule_id, PushRule::from).await?;
    Ok(Json(rule))
}

/// The request. A rule without conditions always matches; the library's type asks for an empty list of them then.
pub(crate) struct SetRule(set::v3::Request);

impl Incoming for SetRule {
    const METHOD: Method = <set::v3::Request as Incoming>::METHOD;

    fn paths() -> Vec<&'static str> {
        <set::v3::Request as Incoming>::paths()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        match path_args.first() {
            Some(&("override" | "underride")) => {
                read_with_default(request, path_args, ("conditions", Value::Array(Vec::new()))).map(Self)
            }
            _ => <set::v3::Request as Incoming>::read(request, path_args).map(Self),
        }
    }
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn set_push_rule(
    State(flows): State<Flows>,
    caller: Session,
    SetRule(req): SetRule,
) -> Result<set::v3::Response> {
    let place = RulePlace { after: req.after.as_deref(), before: req.before.as_deref() };
    flows.set_push_rule(&caller.user, req.rule, place).await?;
    Ok(set::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub(crate) async fn delete_push_rule(
    State(flows): State<Flows>,
    caller: Session,
    req: delete::v3::Request,
) -> Result<delete::v3::Response> {
    flows.delete_push_rule(&caller.user, req.kind, &req.rule_id).await?;
    Ok(delete::v3::Response::new())
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub(crate) async fn is_push_rule_enabled(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get_enabled::v3::Request,
) -> Result<get_enabled::v3::Response> {
    let rule = find(&store, &users, &caller, req.kind, &req.rule_id, PushRule::from).await?;
    Ok(get_enabled::v3::Response::new(rule.enabled))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub(crate) async fn set_push_rule_enabled(
    State(flows): State<Flows>,
    caller: Session,
    req: set_enabled::v3::Request,
) -> Result<set_enabled::v3::Response> {
    flows.set_push_rule_enabled(&caller.user, req.kind, &req.rule_id, req.enabled).await?;
    Ok(set_enabled::v3::Response::new())
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub(crate) async fn get_push_rule_actions(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get_actions::v3::Request,
) -> Result<get_actions::v3::Response> {
    let rule = find(&store, &users, &caller, req.kind, &req.rule_id, PushRule::from).await?;
    Ok(get_actions::v3::Response::new(rule.actions))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub(crate) async fn set_push_rule_actions(
    State(flows): State<Flows>,
    caller: Session,
    req: set_actions::v3::Request,
) -> Result<set_actions::v3::Response> {
    flows.set_push_rule_actions(&caller.user, req.kind, &req.rule_id, req.actions).await?;
    Ok(set_actions::v3::Response::new())
}

/// One of the caller's rules, as `shape` makes it.
async fn find<T>(
    store: &Store,
    users: &Users,
    caller: &Session,
    kind: RuleKind,
    id: &str,
    shape: impl FnOnce(AnyPushRule) -> T,
) -> Result<T> {
    let rules = users.push_rules(&store.view().await?, &caller.user).await?;
    let rule = rules.get(kind, id).ok_or(ApiError::not_found("There is no such push rule"))?;
    Ok(shape(rule.to_owned()))
}
