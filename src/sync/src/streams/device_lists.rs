//! Whose keys changed, and how many one-time keys a device has.
//!
//! Specification: client-server API, "Tracking the device list for a user", "One-time and fallback keys".

use std::collections::BTreeSet;

use ::rooms::Rooms;
use ruma::{DeviceId, OwnedRoomId, UserId};
use store::{LogRecord, Position, StoreError};
use users::{Change, UserChanged};

use crate::{
    hub::Router,
    inbox::{Item, Kind},
};

/// Routes a change of keys to those who may have to hear of it.
pub(crate) fn route(router: &mut Router<'_>, _: &Rooms, record: &LogRecord) -> Result<(), StoreError> {
    let Some(UserChanged { user, change }) = record.decode::<UserChanged>()? else { return Ok(()) };
    let position = record.position;
    match &change {
        Change::DeviceKeys => route_keys(router, &user, position),
        Change::RemoteDeviceKeys { rooms } => route_remote_keys(router, rooms, position),
        Change::SignedUser { .. } => {
            let user = router.hub.residents.user(&user);
            router.tell_user(user, Item::ACCOUNT, Kind::OwnDeviceList, position);
        }
        Change::OneTimeKeys { device } => route_one_time_keys(router, &user, device, position),
        // Their keys went with them.
        Change::Devices { deleted, .. } => {
            deleted.iter().for_each(|device| route_one_time_keys(router, &user, device, position));
        }
        Change::AccountData { .. }
        | Change::Account
        | Change::Deactivated
        | Change::Sessions
        | Change::Profile { .. } => {}
    }
    Ok(())
}

/// Routes a change of a local user's keys to them and to everybody who may have to hear of it.
fn route_keys(router: &mut Router<'_>, user: &UserId, position: Position) {
    let hub = router.hub;
    let user = hub.residents.user(user);
    for other in hub.with_sharers(user, |room| hub.tells_keys(room)) {
        let kind = if other == user { Kind::OwnDeviceList } else { Kind::DeviceLists };
        router.tell_user(other, Item::ACCOUNT, kind, position);
    }
}

/// Routes a change of the keys of a user of another server, who is in these rooms.
fn route_remote_keys(router: &mut Router<'_>, rooms: &[OwnedRoomId], position: Position) {
    let hub = router.hub;
    let mut told = BTreeSet::new();
    for room in rooms.iter().filter_map(|room| hub.residents.known_room(room)) {
        if hub.tells_keys(room) {
            hub.residents.each_member(room, |user| told.extend([user]));
        }
    }
    for user in told {
        router.tell_user(user, Item::ACCOUNT, Kind::DeviceLists, position);
    }
}

fn route_one_time_keys(router: &mut Router<'_>, user: &UserId, device: &DeviceId, position: Position) {
    let user = router.hub.residents.user(user);
    router.tell_user(user, Item::device(device), Kind::OneTimeKeys, position);
}
