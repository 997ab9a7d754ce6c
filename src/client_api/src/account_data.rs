//! Module "Client config".

use haima_http::{ApiError, Content, Session};
use ruma::{
    api::client::config::{
        get_global_account_data as get_global, get_room_account_data as get_room,
        set_global_account_data as set_global, set_room_account_data as set_room,
    },
    serde::Raw,
};

use crate::{ClientApi, error::Result, require_self};

/// `PUT /_matrix/client/v3/user/{userId}/account_data/{type}`
pub(crate) async fn set_account_data(
    api: ClientApi,
    caller: Session,
    Content(req): Content<set_global::v3::Request>,
) -> Result<set_global::v3::Response> {
    require_self(&caller, &req.user_id)?;
    let event_type = req.event_type.to_string();
    api.flows.set_account_data(&req.user_id, None, &event_type, req.data.json()).await?;
    Ok(set_global::v3::Response::new())
}

/// `GET /_matrix/client/v3/user/{userId}/account_data/{type}`
pub(crate) async fn get_account_data(
    api: ClientApi,
    caller: Session,
    req: get_global::v3::Request,
) -> Result<get_global::v3::Response> {
    require_self(&caller, &req.user_id)?;
    let event_type = req.event_type.to_string();
    let data = api.users.account_data(&api.store.view(), &req.user_id, None, &event_type).await?;
    let data = data.ok_or(ApiError::not_found("There is no account data of this type"))?;
    Ok(get_global::v3::Response::new(Raw::from_json(data)))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn set_account_data_per_room(
    api: ClientApi,
    caller: Session,
    Content(req): Content<set_room::v3::Request>,
) -> Result<set_room::v3::Response> {
    require_self(&caller, &req.user_id)?;
    let event_type = req.event_type.to_string();
    api.flows.set_account_data(&req.user_id, Some(&req.room_id), &event_type, req.data.json()).await?;
    Ok(set_room::v3::Response::new())
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn get_account_data_per_room(
    api: ClientApi,
    caller: Session,
    req: get_room::v3::Request,
) -> Result<get_room::v3::Response> {
    require_self(&caller, &req.user_id)?;
    let event_type = req.event_type.to_string();
    let data = api.users.account_data(&api.store.view(), &req.user_id, Some(&req.room_id), &event_type).await?;
    let data = data.ok_or(ApiError::not_found("There is no account data of this type"))?;
    Ok(get_room::v3::Response::new(Raw::from_json(data)))
}
