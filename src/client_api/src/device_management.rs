//! Module "Device management".

use std::{slice::from_ref, sync::Arc};

use axum::extract::State;
use haima_http::{ApiError, Guest, Interactive, Json, JsonBytes, Session};
use ruma::{
    OwnedDeviceId,
    api::client::device::{
        delete_device as delete_one, delete_devices as delete_many, get_device as get_one, get_devices as get_all,
        update_device as update,
    },
};
use serde::Serialize;
use serde_json::json;
use store::Store;
use users::Users;

use crate::{
    error::Result,
    uia::{Ask, Uia},
};

/// A device; what isn't known of it is null. Clients take all fields for granted: matrix-nio reads no list in which one is missing.
#[derive(Serialize)]
pub(crate) struct Device {
    device_id: OwnedDeviceId,
    display_name: Option<String>,
    last_seen_ip: Option<String>,
    last_seen_ts: Option<u64>,
}

/// All devices of a user.
#[derive(Serialize)]
pub(crate) struct Devices {
    devices: Vec<Device>,
}

/// `GET /_matrix/client/v3/devices`
pub(crate) async fn get_devices(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Guest,
    _: get_all::v3::Request,
) -> Result<Json<Devices>> {
    let devices = users.devices(&store.view().await?, &caller.user).await?;
    Ok(Json(Devices { devices: devices.into_iter().map(shape).collect() }))
}

/// `GET /_matrix/client/v3/devices/{deviceId}`
pub(crate) async fn get_device(
    State(store): State<Store>,
    State(users): State<Users>,
    caller: Guest,
    req: get_one::v3::Request,
) -> Result<Json<Device>> {
    let device = users.device(&store.view().await?, &caller.user, &req.device_id).await?;
    let device = device.ok_or(ApiError::not_found("There is no such device"))?;
    Ok(Json(shape(device)))
}

/// `PUT /_matrix/client/v3/devices/{deviceId}`
pub(crate) async fn update_device(
    State(users): State<Users>,
    caller: Guest,
    req: update::v3::Request,
) -> Result<update::v3::Response> {
    users.rename_device(&caller.user, &req.device_id, req.display_name.as_deref()).await?;
    Ok(update::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/devices/{deviceId}`
pub(crate) async fn delete_device(
    State(users): State<Users>,
    State(uia): State<Arc<Uia>>,
    caller: Session,
    mut req: Interactive<delete_one::v3::Request>,
) -> Result<JsonBytes> {
    uia.recall(Some(&caller.user), &mut req);
    let device = req.request()?.device_id;
    let delete = |_| async {
        users.delete_devices(&caller.user, from_ref(&device)).await?;
        Ok(json!({}))
    };
    uia.confirm(&Ask::password(&req, &caller.user), delete).await
}

/// `POST /_matrix/client/v3/delete_devices`
pub(crate) async fn delete_devices(
    State(users): State<Users>,
    State(uia): State<Arc<Uia>>,
    caller: Session,
    mut req: Interactive<delete_many::v3::Request>,
) -> Result<JsonBytes> {
    uia.recall(Some(&caller.user), &mut req);
    let devices = req.request()?.devices;
    let delete = |_| async {
        users.delete_devices(&caller.user, &devices).await?;
        Ok(json!({}))
    };
    uia.confirm(&Ask::password(&req, &caller.user), delete).await
}

fn shape(device: users::Device) -> Device {
    Device {
        device_id: device.device_id,
        display_name: device.display_name,
        last_seen_ip: device.last_seen_ip,
        last_seen_ts: device.last_seen_ms,
    }
}
