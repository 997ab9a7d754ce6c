//! Module "Filtering".

use bytes::Bytes;
use haima_http::{ApiError, Guest, JsonBytes, WithBody};
use ruma::api::client::filter::{create_filter as create, get_filter as get};

use crate::{ClientApi, error::Result, require_self};

/// `POST /_matrix/client/v3/user/{userId}/filter`. The definition is kept as it was sent, unknown fields included.
pub(crate) async fn define_filter(
    api: ClientApi,
    caller: Guest,
    req: WithBody<create::v3::Request>,
) -> Result<create::v3::Response> {
    require_self(&caller, &req.request.user_id)?;
    let id = api.users.create_filter(&caller.user, &req.body).await?;
    Ok(create::v3::Response::new(id))
}

/// `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
pub(crate) async fn get_filter(api: ClientApi, caller: Guest, req: get::v3::Request) -> Result<JsonBytes> {
    require_self(&caller, &req.user_id)?;
    let filter = api.users.filter(&api.store.view(), &req.user_id, &req.filter_id).await?;
    let filter = filter.ok_or(ApiError::not_found("There is no such filter"))?;
    Ok(JsonBytes(Bytes::copy_from_slice(filter.get().as_bytes())))
}
