//! Whose keys changed.
//!
//! Specification: client-server API, "Tracking the device list for a user".

mod reader;

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Serialize;
use store::{LogRecord, Position, StoreError};
use users::{Change, UserChanged};

use self::reader::DeviceListReader;
pub(crate) use self::reader::{Around, UserSet};
use super::{Stream, StreamId, Subject, changes::Changes, span::Span};
use crate::{
    Sync, SyncError,
    hub::{Hub, Router},
    inbox::{Item, Kind},
    sequence::Numbers,
};

/// See the module. Who shares a room with whom is rooms' and memberships' to tell: who asks for this stream asks for these too.
pub(crate) struct DeviceLists;

/// Changes of device lists (client-server API, "Extensions to /sync").
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DeviceListChanges {
    /// Users whose keys changed or who share a room with the user since then, by id.
    pub changed: Vec<OwnedUserId>,
    /// Users who share no room with the user any more, by id.
    pub left: Vec<OwnedUserId>,
}

impl DeviceListChanges {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// Of the user, or what their other devices signed.
const OWN_CHANGED: Kind = StreamId::DeviceLists.urgent();
/// Of somebody who shares a room with the user. They come in bursts: a login changes them several times.
const CHANGED: Kind = StreamId::DeviceLists.relaxed();

impl Stream for DeviceLists {
    const SUBJECT: Subject = Subject::Account;
    type Part = ();

    fn route(router: &mut Router<'_>, record: &LogRecord) -> Result<(), StoreError> {
        let Some(UserChanged { user, change }) = record.decode::<UserChanged>()? else { return Ok(()) };
        let position = record.position;
        match &change {
            Change::DeviceKeys => route_keys(router, &user, position),
            Change::RemoteDeviceKeys { rooms } => route_remote_keys(router, rooms, position),
            Change::SignedUser { .. } => {
                let user = router.hub.residents.user(&user);
                router.tell_user(user, Item::ACCOUNT, OWN_CHANGED, position);
            }
            Change::AccountData { .. }
            | Change::Account
            | Change::Deactivated
            | Change::Devices { .. }
            | Change::OneTimeKeys { .. }
            | Change::Sessions
            | Change::Profile { .. } => {}
        }
        Ok(())
    }
}

impl DeviceLists {
    /// The device lists of the range, and who was met in it, given the rooms in which the user's own membership changed. Nothing in a
    /// first sync. Rooms count whether they are wanted or not.
    pub(crate) async fn read(
        span: &Span<'_>,
        changes: &Changes,
        moved: BTreeSet<&RoomId>,
        since: Position,
    ) -> Result<Around, SyncError> {
        let Span { inner, reader, number, .. } = span;
        let (view, user) = (reader.view, reader.viewer.user);
        let reader = DeviceListReader::new(inner, view, (user, *number), (since, reader.now()));
        reader.read(changes, moved).await
    }
}

impl Sync {
    /// What device lists of a sync with the token `from` would have been, had it been answered with `to`: whose keys to ask for anew,
    /// whose to forget.
    ///
    /// # Errors
    ///
    /// [`SyncError::BadToken`]; otherwise fails only if the store does.
    pub async fn key_changes(&self, user: &UserId, from: &str, to: &str) -> Result<DeviceListChanges, SyncError> {
        let inner = &*self.inner;
        let (from, to) = (inner.since(Some(from))?, inner.since(Some(to))?);
        // The view reaches to both, and what was acknowledged to anybody before this request is in it.
        inner.hub.wait_for(Numbers::of_log(inner.store.published())).await;
        let published = inner.hub.published();
        let view = &published.view;
        let since = from.map_or(Position::ZERO, |token| token.position);
        let until = to.map_or(view.position(), |token| token.position);
        if until <= since {
            return Ok(DeviceListChanges::default());
        }
        let number = inner.hub.residents.user(user);
        Ok(DeviceListReader::new(inner, view, (user, number), (since, until)).read_all().await?.lists)
    }
}

/// Routes a change of a local user's keys to them and to everybody who may have to hear of it.
fn route_keys(router: &mut Router<'_>, user: &UserId, position: Position) {
    let hub = router.hub;
    let user = hub.residents.user(user);
    for other in hub.with_sharers(user, |room| tells_keys(hub, room)) {
        let kind = if other == user { OWN_CHANGED } else { CHANGED };
        router.tell_user(other, Item::ACCOUNT, kind, position);
    }
}

/// Routes a change of the keys of a user of another server, who is in these rooms.
fn route_remote_keys(router: &mut Router<'_>, rooms: &[OwnedRoomId], position: Position) {
    let hub = router.hub;
    let mut told = BTreeSet::new();
    for room in rooms.iter().filter_map(|room| hub.residents.known_room(room)) {
        if tells_keys(hub, room) {
            hub.residents.each_member(room, |user| told.extend([user]));
        }
    }
    for user in told {
        router.tell_user(user, Item::ACCOUNT, CHANGED, position);
    }
}

/// Whether those in a room may have to hear of each other's keys.
fn tells_keys(hub: &Hub, room: u32) -> bool {
    !hub.is_large(room) || hub.is_encrypted_now(room) != Some(false)
}
