//! Module "Room tagging".

use axum::extract::State;
use haima_http::{Json, Session, WithBody};
use ruma::api::client::tag::{create_tag as set, delete_tag as delete, get_tags as get};
use serde_json::{Value, json};
use store::Store;
use users::Users;

use crate::{error::Result, require_self};

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags`
pub(crate) async fn get_room_tags(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: get::v3::Request,
) -> Result<Json<Value>> {
    require_self(&caller, &req.user_id)?;
    let tags = users.tags(&store.view().await?, &req.user_id, &req.room_id).await?;
    Ok(Json(json!({ "tags": tags })))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub(crate) async fn set_room_tag(
    State(users): State<Users>,
    caller: Session,
    req: WithBody<set::v3::Request>,
) -> Result<set::v3::Response> {
    let WithBody { request, body } = req;
    require_self(&caller, &request.user_id)?;
    users.set_tag(&request.user_id, &request.room_id, &request.tag, &body).await?;
    Ok(set::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub(crate) async fn delete_room_tag(
    State(users): State<Users>,
    caller: Session,
    req: delete::v3::Request,
) -> Result<delete::v3::Response> {
    require_self(&caller, &req.user_id)?;
    users.remove_tag(&req.user_id, &req.room_id, &req.tag).await?;
    Ok(delete::v3::Response::new())
}
