//! How many keys the device has left.
//!
//! Specification: client-server API, "One-time and fallback keys", "Extensions to /sync".

use ruma::DeviceId;
use store::{LogRecord, Position, StoreError};
use users::{Change, KeyCounts as Counts, UserChanged};

use super::{Stream, StreamId, Subject, span::Span};
use crate::{
    SyncError,
    hub::Router,
    inbox::{Inbox, Item, Kind},
    sequence::Sequence,
};

/// See the module.
pub(crate) struct KeyCounts;

// A new session in a room claims one key of each device.
const CHANGED: Kind = StreamId::KeyCounts.relaxed();

impl Stream for KeyCounts {
    const SUBJECT: Subject = Subject::Device;
    // Every answer tells the numbers.
    const IN_TABLES: bool = false;
    type Part = ();

    fn route(router: &mut Router<'_>, record: &LogRecord) -> Result<(), StoreError> {
        let Some(UserChanged { user, change }) = record.decode::<UserChanged>()? else { return Ok(()) };
        let devices = match &change {
            Change::OneTimeKeys { device } => std::slice::from_ref(device),
            // Their keys went with them.
            Change::Devices { deleted, .. } => deleted,
            Change::AccountData { .. }
            | Change::Account
            | Change::Deactivated
            | Change::DeviceKeys
            | Change::RemoteDeviceKeys { .. }
            | Change::SignedUser { .. }
            | Change::Sessions
            | Change::Profile { .. } => return Ok(()),
        };
        let user = router.hub.residents.user(&user);
        for device in devices {
            router.tell_user(user, Item::device(device), CHANGED, record.position);
        }
        Ok(())
    }
}

impl KeyCounts {
    /// The numbers of now. Reads only what the inbox doesn't know.
    pub(crate) async fn read(span: &Span<'_>, inbox: &Inbox) -> Result<Counts, SyncError> {
        let (device, now) = (span.device, span.reader.now());
        if let Some(counts) = Self::known(inbox, device, now) {
            return Ok(counts);
        }
        let counts = span.inner.users.key_counts(span.reader.view, span.reader.viewer.user, device).await?;
        inbox.learn_key_counts(device, now, counts.clone());
        Ok(counts)
    }

    /// The numbers at `now`, up to where everything is listed, if they were read before and are still so.
    fn known(inbox: &Inbox, device: &DeviceId, now: Position) -> Option<Counts> {
        let changed = inbox.shelves()[Sequence::Log].unchanged_since(Item::device(device), &[CHANGED]);
        let (at, counts) = inbox.known_key_counts(device)?;
        (at <= now && at.get() >= changed).then_some(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::Numbers;

    #[test]
    fn numbers_of_keys_hold_until_they_change() {
        let at = Position::from_u64;
        let counts = |number| Counts { one_time: [("x".to_owned(), number)].into(), ..Counts::default() };
        let (phone, tablet) = (<&DeviceId>::from("PHONE"), <&DeviceId>::from("TABLET"));
        let inbox = Inbox::new(Numbers::of_log(at(10)), 0);
        let known = |device, now| KeyCounts::known(&inbox, device, at(now));
        let change = |subject, kind, last| inbox.shelves()[Sequence::Log].push(subject, kind, last);
        assert_eq!(known(phone, 10), None);
        // Read before the inbox began to list what changes.
        inbox.learn_key_counts(phone, at(9), counts(1));
        assert_eq!(known(phone, 10), None);
        inbox.learn_key_counts(phone, at(11), counts(2));
        change(1, StreamId::Rooms.urgent(), 12);
        change(Item::device(tablet), CHANGED, 12);
        assert_eq!(known(phone, 12), Some(counts(2)));
        assert_eq!(known(phone, 10), None);
        assert_eq!(known(tablet, 12), None);
        change(Item::device(phone), CHANGED, 13);
        assert_eq!(known(phone, 13), None);
        inbox.learn_key_counts(phone, at(13), counts(3));
        assert_eq!(known(phone, 14), Some(counts(3)));
        inbox.shelves()[Sequence::Log].reset(15);
        assert_eq!(known(phone, 15), None);
    }
}
