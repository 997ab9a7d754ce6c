//! Module "Client config", and the deletion of account data (MSC3391, unstable).

use axum::extract::State;
use flows::Flows;
use haima_http::{ApiError, Content, Incoming, Json, Session, path_arg};
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::config::{
        get_global_account_data as get_global, get_room_account_data as get_room,
        set_global_account_data as set_global, set_room_account_data as set_room,
    },
    exports::http::{Method, Request},
    serde::Raw,
};
use serde_json::{Value, json};
use store::Store;
use users::Users;

use crate::{error::Result, require_self};

/// `PUT /_matrix/client/v3/user/{userId}/account_data/{type}`
pub(crate) async fn set_account_data(
    State(flows): State<Flows>,
    caller: Session,
    Content(req): Content<set_global::v3::Request>,
) -> Result<set_global::v3::Response> {
    require_self(&caller, &req.user_id)?;
    let event_type = req.event_type.to_string();
    flows.set_account_data(&req.user_id, None, &event_type, req.data.json()).await?;
    Ok(set_global::v3::Response::new())
}

/// `GET /_matrix/client/v3/user/{userId}/account_data/{type}`
pub(crate) async fn get_account_data(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get_global::v3::Request,
) -> Result<get_global::v3::Response> {
    require_self(&caller, &req.user_id)?;
    let event_type = req.event_type.to_string();
    let data = users.account_data(&store.view().await?, &req.user_id, None, &event_type).await?;
    let data = data.ok_or(ApiError::not_found("There is no account data of this type"))?;
    Ok(get_global::v3::Response::new(Raw::from_json(data)))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn set_account_data_per_room(
    State(flows): State<Flows>,
    caller: Session,
    Content(req): Content<set_room::v3::Request>,
) -> Result<set_room::v3::Response> {
    require_self(&caller, &req.user_id)?;
    let event_type = req.event_type.to_string();
    flows.set_account_data(&req.user_id, Some(&req.room_id), &event_type, req.data.json()).await?;
    Ok(set_room::v3::Response::new())
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn get_account_data_per_room(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get_room::v3::Request,
) -> Result<get_room::v3::Response> {
    require_self(&caller, &req.user_id)?;
    let event_type = req.event_type.to_string();
    let data = users.account_data(&store.view().await?, &req.user_id, Some(&req.room_id), &event_type).await?;
    let data = data.ok_or(ApiError::not_found("There is no account data of this type"))?;
    Ok(get_room::v3::Response::new(Raw::from_json(data)))
}

/// Deletes account data of a type.
pub(crate) struct Delete {
    user_id: OwnedUserId,
    event_type: String,
}

impl Incoming for Delete {
    const METHOD: Method = Method::DELETE;

    fn paths() -> Vec<&'static str> {
        vec!["/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{event_type}"]
    }

    fn read(_: Request<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        Ok(Self { user_id: path_arg(path_args, 0)?, event_type: path_arg(path_args, 1)? })
    }
}

/// Deletes account data of a type that is about one room.
pub(crate) struct DeletePerRoom {
    user_id: OwnedUserId,
    room_id: OwnedRoomId,
    event_type: String,
}

impl Incoming for DeletePerRoom {
    const METHOD: Method = Method::DELETE;

    fn paths() -> Vec<&'static str> {
        vec!["/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{event_type}"]
    }

    fn read(_: Request<&[u8]>, path_args: &[&str]) -> std::result::Result<Self, ApiError> {
        let (user_id, room_id) = (path_arg(path_args, 0)?, path_arg(path_args, 1)?);
        Ok(Self { user_id, room_id, event_type: path_arg(path_args, 2)? })
    }
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}`
pub(crate) async fn delete_account_data(
    State(flows): State<Flows>,
    caller: Session,
    req: Delete,
) -> Result<Json<Value>> {
    require_self(&caller, &req.user_id)?;
    flows.delete_account_data(&req.user_id, None, &req.event_type).await?;
    Ok(Json(json!({})))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn delete_account_data_per_room(
    State(flows): State<Flows>,
    caller: Session,
    req: DeletePerRoom,
) -> Result<Json<Value>> {
    require_self(&caller, &req.user_id)?;
    flows.delete_account_data(&req.user_id, Some(&req.room_id), &req.event_type).await?;
    Ok(Json(json!({})))
}
