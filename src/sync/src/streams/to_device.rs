//! Messages to the device.
//!
//! Specification: client-server API, "Send-to-Device messaging", "Extensions to /sync".

use std::fmt;

use serde_json::value::RawValue;
use store::{LogRecord, Position, StoreError};
use users::ToDeviceQueued;

use super::{
    Stream, StreamId, Subject,
    changes::Changes,
    span::Span,
    token::{BadToken, Part, TokenNumbers},
};
use crate::{
    SyncError,
    hub::Router,
    inbox::{Item, Kind},
    sequence::Numbers,
};

/// See the module.
pub(crate) struct ToDevice;

const QUEUED: Kind = StreamId::ToDevice.urgent();

impl Stream for ToDevice {
    const SUBJECT: Subject = Subject::Device;
    type Part = ToDevicePart;

    fn route(router: &mut Router<'_>, record: &LogRecord) -> Result<(), StoreError> {
        let Some(entry) = record.decode::<ToDeviceQueued>()? else { return Ok(()) };
        for (user, devices) in &entry.to {
            let Some(user) = router.hub.residents.known_user(user) else { continue };
            for device in devices {
                router.tell_user(user, Item::device(device), QUEUED, record.position);
            }
        }
        Ok(())
    }
}

/// Up to where the device has its messages: to the token's position, or below it if more wait than one answer holds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct ToDevicePart {
    pub(crate) up_to: Position,
}

impl Part for ToDevicePart {
    fn told(since: Option<Self>, numbers: &Numbers) -> Self {
        // A view that lags behind must not send the client back.
        let up_to = since.map_or(Position::ZERO, |since| since.up_to).max(numbers.position());
        Self { up_to }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "_{}", self.up_to.get())
    }

    fn read(numbers: &mut TokenNumbers<'_>) -> Result<Self, BadToken> {
        Ok(Self { up_to: numbers.position()? })
    }

    fn is_possible(&self, position: Position) -> bool {
        self.up_to <= position
    }

    fn is_behind(&self, position: Position) -> bool {
        self.up_to < position
    }
}

/// What waits for a device.
#[derive(Default)]
pub(crate) struct Messages {
    /// As they are sent, the oldest first.
    pub(crate) events: Vec<Box<RawValue>>,
    /// Up to where the device has its messages with these, if more wait.
    pub(crate) up_to: Option<Position>,
}

impl ToDevice {
    /// The messages that wait for the device after a position, as many as one answer holds.
    pub(crate) async fn read(span: &Span<'_>, changes: &Changes, after: Position) -> Result<Messages, SyncError> {
        if !changes.has(StreamId::ToDevice) {
            return Ok(Messages::default());
        }
        let (users, user, now) = (&span.inner.users, span.reader.viewer.user, span.reader.now());
        let page = users.to_device_messages(user, span.device, after, now).await?;
        Ok(Messages { events: page.events, up_to: page.last.filter(|_| page.more) })
    }
}
