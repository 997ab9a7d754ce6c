//! Module "Profiles".

use std::collections::BTreeMap;

use axum::extract::State;
use flows::Flows;
use haima_http::{Anyone, ApiError, Guest, Incoming, Json, Unsuspended, json_object, path_arg};
use ruma::{
    OwnedUserId,
    api::client::profile::{
        delete_profile_field as delete, get_profile as get_all, get_profile_field as get, set_profile_field as set,
    },
    exports::http::{Method, Request},
};
use serde_json::value::RawValue;
use store::Store;
use users::{Profile, ProfileChange, Users};

use crate::{error::Result, require_self};

/// The one field that guests may change.
const DISPLAY_NAME: &str = "displayname";

/// A request to set a field, with the value as it was sent.
pub(crate) struct SetField {
    user_id: OwnedUserId,
    key: String,
    value: Box<RawValue>,
}

impl Incoming for SetField {
    const METHOD: Method = Method::PUT;
    const BODY_IS_CONTENT: bool = true;

    fn paths() -> Vec<&'static str> {
        <set::v3::Request as Incoming>::paths()
    }

    fn read(request: Request<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        let user_id = path_arg(path_args, 0)?;
        let key: String = path_arg(path_args, 1)?;
        let value = match json_object(request.body())?.remove(&key) {
            Some(value) => value,
            None => return Err(ApiError::missing_param(format!("Missing `{key}`"))),
        };
        Ok(Self { user_id, key, value })
    }
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
pub(crate) async fn set_profile_field(
    State(flows): State<Flows>,
    caller: Unsuspended<Guest>,
    req: SetField,
) -> Result<set::v3::Response> {
    require_self(&caller, &req.user_id)?;
    if caller.guest && req.key != DISPLAY_NAME {
        return Err(ApiError::forbidden("Guests may change their display name alone").into());
    }
    let change = ProfileChange::Set { key: req.key, value: req.value };
    flows.change_profile(&caller.user, &change).await?;
    Ok(set::v3::Response::new())
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
pub(crate) async fn get_profile_field(
    State(store): State<Store>,
    State(users): State<Users>,
    _: Anyone,
    req: get::v3::Request,
) -> Result<Json<BTreeMap<String, Box<RawValue>>>> {
    let profile = find(&store, &users, &req.user_id).await?;
    let key = req.field.to_string();
    let value = profile.get(&key).ok_or(ApiError::not_found("The field is not set"))?;
    Ok(Json(BTreeMap::from([(key, value.to_owned())])))
}

/// `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
pub(crate) async fn delete_profile_field(
    State(flows): State<Flows>,
    caller: Unsuspended<Guest>,
    req: delete::v3::Request,
) -> Result<delete::v3::Response> {
    require_self(&caller, &req.user_id)?;
    let key = req.field.to_string();
    if caller.guest && key != DISPLAY_NAME {
        return Err(ApiError::forbidden("Guests may change their display name alone").into());
    }
    flows.change_profile(&caller.user, &ProfileChange::Delete { key }).await?;
    Ok(delete::v3::Response::new())
}

/// `GET /_matrix/client/v3/profile/{userId}`
pub(crate) async fn get_user_profile(
    State(store): State<Store>,
    State(users): State<Users>,
    _: Anyone,
    req: get_all::v3::Request,
) -> Result<Json<BTreeMap<String, Box<RawValue>>>> {
    let profile = find(&store, &users, &req.user_id).await?;
    Ok(Json(profile.fields().clone()))
}

/// The profile of an active local user.
async fn find(store: &Store, users: &Users, user: &OwnedUserId) -> Result<Profile> {
    let view = store.view().await?;
    let account = users.account(&view, user).await?;
    if account.is_none_or(|account| account.deactivated) {
        return Err(ApiError::not_found("There is no such user").into());
    }
    Ok(users.profile(&view, user).await?)
}
