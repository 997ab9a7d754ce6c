//! Messages to devices.
//!
//! Specification: client-server API, "Send-to-Device messaging".

use ::rooms::Rooms;
use store::{LogRecord, StoreError};
use users::ToDeviceQueued;

use crate::{
    hub::Router,
    inbox::{Item, Kind},
};

/// Routes messages to the devices that they are for.
pub(crate) fn route(router: &mut Router<'_>, _: &Rooms, record: &LogRecord) -> Result<(), StoreError> {
    let Some(entry) = record.decode::<ToDeviceQueued>()? else { return Ok(()) };
    for (user, devices) in &entry.to {
        let Some(user) = router.hub.residents.known_user(user) else { continue };
        for device in devices {
            router.tell_user(user, Item::device(device), Kind::ToDevice, record.position);
        }
    }
    Ok(())
}
