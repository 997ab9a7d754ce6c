//! What streams read from: a range of what happened, for one device of a user.

use std::{collections::HashSet, sync::Arc};

use reading::Viewer;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId};
use store::{Position, View};

use super::{StreamSet, token::Token};
use crate::{Inner, memo::Memo, reader::Reader};

/// From what a device has seen to what is published. See the module.
#[derive(Copy, Clone)]
pub(crate) struct Span<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    /// Reads what is published, for the user.
    pub(crate) reader: Reader<'a>,
    pub(crate) device: &'a DeviceId,
    /// The user's number in the hub.
    pub(crate) number: u32,
    /// What the device has seen; `None` if nothing.
    pub(crate) since: Option<Token>,
    /// The streams that are asked for.
    pub(crate) wanted: StreamSet,
}

impl Span<'_> {
    /// The position of the log up to which the device has seen everything; `None` in a first sync.
    pub(crate) fn since_position(&self) -> Option<Position> {
        self.since.map(|since| since.position)
    }
}

/// A [`Span`] for work that outlives who asks for it. It has no view: the work is given one.
pub(crate) struct OwnedSpan {
    inner: Arc<Inner>,
    user: OwnedUserId,
    device: OwnedDeviceId,
    number: u32,
    since: Option<Token>,
    wanted: StreamSet,
    memo: Arc<Memo>,
    ignored: HashSet<OwnedUserId>,
    erased: HashSet<OwnedUserId>,
}

impl OwnedSpan {
    pub(crate) fn new(span: &Span<'_>) -> Self {
        let Span { inner, reader: Reader { memo, viewer, .. }, device, number, since, wanted } = *span;
        Self {
            inner: Arc::clone(inner),
            user: viewer.user.to_owned(),
            device: device.to_owned(),
            number,
            since,
            wanted,
            memo: Arc::clone(memo),
            ignored: viewer.ignored.clone(),
            erased: viewer.erased.clone(),
        }
    }

    pub(crate) fn span<'a>(&'a self, view: &'a View) -> Span<'a> {
        let viewer = Viewer {
            user: &self.user,
            device: Some(&self.device),
            ignored: &self.ignored,
            erased: &self.erased,
            joined_in: None,
        };
        let Inner { rooms, reading, .. } = &*self.inner;
        let reader = Reader { rooms, reading, view, memo: &self.memo, viewer };
        let Self { ref inner, ref device, number, since, wanted, .. } = *self;
        Span { inner, reader, device, number, since, wanted }
    }
}
