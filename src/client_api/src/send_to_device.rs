//! Module "Send-to-Device messaging".

use haima_http::Guest;
use ruma::{
    api::client::to_device::send_event_to_device::v3::{Request, Response},
    to_device::DeviceIdOrAllDevices,
};
use users::{ToDeviceMessage, ToDeviceRequest};

use crate::{ClientApi, error::Result};

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
///
/// This server doesn't talk to others yet, so what is for users of others goes nowhere, and the log says so. The request isn't
/// refused for it: clients send to all devices of a room at once, and those of this server must get theirs.
pub(crate) async fn send_to_device(api: ClientApi, caller: Guest, req: Request) -> Result<Response> {
    let event_type = req.event_type.to_string();
    let request = ToDeviceRequest {
        sender: &caller.user,
        device: &caller.device,
        txn_id: req.txn_id.as_str(),
        event_type: &event_type,
    };
    let mut messages = Vec::new();
    let mut elsewhere = 0;
    for (user, devices) in &req.messages {
        if user.server_name() != api.config.server_name {
            elsewhere += devices.len();
            continue;
        }
        for (device, content) in devices {
            let device = match device {
                DeviceIdOrAllDevices::DeviceId(device) => Some(&**device),
                DeviceIdOrAllDevices::AllDevices => None,
            };
            messages.push(ToDeviceMessage { user, device, content: content.json() });
        }
    }
    let sent = api.users.send_to_device(&request, &messages).await?;
    if elsewhere > 0 {
        tracing::warn!(user = %caller.user, elsewhere, "messages to devices of other servers are not sent: no federation yet");
    }
    if sent.refused > 0 {
        tracing::warn!(user = %caller.user, refused = sent.refused, "messages to devices whose queues are full are dropped");
    }
    Ok(Response::new())
}
