//! Module "Send-to-Device messaging".

use std::sync::Arc;

use axum::extract::State;
use haima_http::{ApiError, Guest};
use ruma::{
    api::client::to_device::send_event_to_device::v3::{Request, Response},
    to_device::DeviceIdOrAllDevices,
};
use users::{ToDeviceMessage, ToDeviceRequest, Users};

use crate::{Config, error::Result};

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
///
/// This server doesn't talk to others yet, so a request with messages for users of others is refused whole, and nobody gets
/// anything of it: it must not be thought to have arrived. Room members are all of this server, so no client is kept from
/// sending a room's key by it.
pub(crate) async fn send_to_device(
    State(config): State<Arc<Config>>,
    State(users): State<Users>,
    caller: Guest,
    req: Request,
) -> Result<Response> {
    let event_type = req.event_type.to_string();
    let request = ToDeviceRequest {
        sender: &caller.user,
        device: &caller.device,
        txn_id: req.txn_id.as_str(),
        event_type: &event_type,
    };
    let mut messages = Vec::new();
    for (user, devices) in &req.messages {
        if user.server_name() != config.server_name && !devices.is_empty() {
            return Err(
                ApiError::forbidden(format!("{user} can't be reached: this server does not talk to others")).into()
            );
        }
        for (device, content) in devices {
            let device = match device {
                DeviceIdOrAllDevices::DeviceId(device) => Some(&**device),
                DeviceIdOrAllDevices::AllDevices => None,
            };
            messages.push(ToDeviceMessage { user, device, content: content.json() });
        }
    }
    users.send_to_device(&request, &messages).await?;
    Ok(Response::new())
}
