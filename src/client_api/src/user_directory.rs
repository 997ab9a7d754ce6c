//! Module "User directory".

use std::sync::Arc;

use axum::extract::State;
use flows::Flows;
use haima_http::{Json, Session};
use ruma::{OwnedUserId, api::client::user_directory::search_users::v3::Request};
use serde_json::{Map, Value, json};
use store::Store;
use users::Users;

use crate::{Config, error::Result, events::page_size};

/// Matches returned if the client doesn't say.
const LIMIT_DEFAULT: usize = 10;
/// Matches returned at most.
const LIMIT_MAX: usize = 100;

/// `POST /_matrix/client/v3/user_directory/search`
pub(crate) async fn search_user_directory(
    State(config): State<Arc<Config>>,
    State(store): State<Store>,
    State(users): State<Users>,
    State(flows): State<Flows>,
    caller: Session,
    req: Request,
) -> Result<Json<Value>> {
    let view = store.view().await?;
    let limit = page_size(Some(req.limit), LIMIT_DEFAULT, LIMIT_MAX);
    let acquaintances = flows.acquaintances(&view, &caller.user).await?;
    let visible = |user: OwnedUserId| {
        let (config, acquaintances) = (&config, &acquaintances);
        async move { Result::Ok(config.show_all_local_users_in_user_directory || acquaintances.include(&user).await?) }
    };
    let found = users.search_directory(&view, &req.search_term, limit, visible).await?;
    let mut results = Vec::with_capacity(found.matches.len());
    for user in found.matches {
        let mut shown = Map::new();
        shown.insert("user_id".to_owned(), json!(user.user_id));
        for (name, value) in [("display_name", user.display_name), ("avatar_url", user.avatar_url)] {
            if let Some(value) = value {
                shown.insert(name.to_owned(), value.into());
            }
        }
        results.push(Value::Object(shown));
    }
    Ok(Json(json!({ "results": results, "limited": found.limited })))
}
