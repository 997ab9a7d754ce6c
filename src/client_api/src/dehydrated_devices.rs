//! Dehydrated devices (MSC3814, unstable).

use axum::extract::State;
use haima_http::{ApiError, Json, Session};
use ruma::{
    OwnedDeviceId,
    api::client::dehydrated_device::{
        delete_dehydrated_device::unstable as delete, get_dehydrated_device::unstable as get,
        get_events::unstable as events, put_dehydrated_device::unstable as put,
    },
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::RawValue;
use store::{Position, Store};
use users::{KeyUpload, NewDehydratedDevice, Users};

use crate::{end_to_end_encryption::raw_keys, error::Result};

/// A dehydrated device as clients get it.
#[derive(Serialize)]
pub(crate) struct Device {
    device_id: OwnedDeviceId,
    device_data: Box<RawValue>,
}

/// Messages to it.
#[derive(Serialize)]
pub(crate) struct Events {
    events: Vec<Box<RawValue>>,
    next_batch: String,
}

fn no_device() -> ApiError {
    ApiError::not_found("There is no dehydrated device")
}

/// `PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub(crate) async fn put_dehydrated_device(
    State(users): State<Users>,
    caller: Session,
    req: put::Request,
) -> Result<put::Response> {
    let keys = KeyUpload {
        device_keys: Some(Raw::into_json(req.device_keys)),
        one_time_keys: raw_keys(req.one_time_keys),
        fallback_keys: raw_keys(req.fallback_keys),
    };
    let new = NewDehydratedDevice {
        device_id: &req.device_id,
        display_name: req.initial_device_display_name.as_deref(),
        data: req.device_data.json(),
        keys,
    };
    users.put_dehydrated_device(&caller.user, &new).await?;
    Ok(put::Response::new(req.device_id))
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub(crate) async fn get_dehydrated_device(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    _: get::Request,
) -> Result<Json<Device>> {
    let device = users.dehydrated_device(&store.view().await?, &caller.user).await?.ok_or_else(no_device)?;
    Ok(Json(Device { device_id: device.device_id, device_data: device.data }))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub(crate) async fn delete_dehydrated_device(
    State(users): State<Users>,
    caller: Session,
    _: delete::Request,
) -> Result<delete::Response> {
    Ok(delete::Response::new(users.delete_dehydrated_device(&caller.user).await?))
}

/// `POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events`
///
/// Messages stay until the device is deleted, so that a client that fails while it reads them can begin again. The last page is
/// empty.
pub(crate) async fn get_dehydrated_device_events(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Session,
    req: events::Request,
) -> Result<Json<Events>> {
    let view = store.view().await?;
    let device = users.dehydrated_device(&view, &caller.user).await?.ok_or_else(no_device)?;
    if device.device_id != req.device_id {
        return Err(ApiError::forbidden("This is not the dehydrated device").into());
    }
    let after = match req.next_batch.as_deref() {
        None => 0,
        Some(token) => {
            token.parse().map_err(|_| ApiError::invalid_param("next_batch is not a token of this endpoint"))?
        }
    };
    if after > view.position().get() {
        return Err(ApiError::invalid_param("next_batch is not a token of this endpoint").into());
    }
    let after = Position::from_u64(after);
    let page = users.to_device_messages(&caller.user, &req.device_id, after, view.position()).await?;
    let next_batch = page.last.unwrap_or(after).to_string();
    Ok(Json(Events { events: page.events, next_batch }))
}
