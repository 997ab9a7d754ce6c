//! Who reads which room, and in which view: the value that all begins with which users are shown of rooms.

use std::{collections::HashSet, sync::LazyLock};

use rooms::{Rooms, StateView};
use ruma::{DeviceId, OwnedUserId, RoomId, UserId};
use state_tree::Root;
use store::View;

use crate::Reading;

static NOBODY: LazyLock<HashSet<OwnedUserId>> = LazyLock::new(HashSet::new);

/// On whose behalf events are read.
#[derive(Copy, Clone, Debug)]
pub struct Viewer<'a> {
    /// The user.
    pub user: &'a UserId,
    /// The device, for the transaction ids of what it sent.
    pub device: Option<&'a DeviceId>,
    /// Users that the viewer ignores.
    pub ignored: &'a HashSet<OwnedUserId>,
    /// Users of this server who asked for their messages to be erased.
    pub erased: &'a HashSet<OwnedUserId>,
    /// A state in which the user is known to be joined, so that nobody looks it up.
    pub joined_in: Option<Root>,
}

impl<'a> Viewer<'a> {
    /// A viewer who ignores nobody, on a server where nobody is erased. That is enough where no events are shown but only what
    /// they come to, such as a list of members.
    pub fn new(user: &'a UserId) -> Self {
        Self { user, device: None, ignored: &NOBODY, erased: &NOBODY, joined_in: None }
    }
}

/// A room as one user may read it, at the position of one view ([`Reading::room`]). A few references, cheap to copy.
///
/// | about | what can be asked |
/// | --- | --- |
/// | the timeline | [`messages`](Self::messages), [`context`](Self::context), [`one_event`](Self::one_event), [`event_by_timestamp`](Self::event_by_timestamp) |
/// | relations | [`relations`](Self::relations), [`threads`](Self::threads) |
/// | the state | [`current_state`](Self::current_state), [`state_event`](Self::state_event), [`state_content`](Self::state_content), [`readable_root`](Self::readable_root) |
/// | members | [`members`](Self::members), [`joined_profiles`](Self::joined_profiles), [`member_summary`](Self::member_summary) |
/// | a space | [`hierarchy`](Self::hierarchy) |
/// | unread counts | [`unread`](Self::unread), [`unread_with`](Self::unread_with), [`unread_counted_at`](Self::unread_counted_at) |
/// | events at hand | [`visible_event`](Self::visible_event), [`sights`](Self::sights), [`wants`](Self::wants), [`wanted`](Self::wanted), [`deliver`](Self::deliver), [`client_event`](Self::client_event) |
///
/// What doesn't depend on one reader of one room (descriptions, the directory, what other servers may know) is asked of [`Reading`].
#[derive(Copy, Clone)]
pub struct RoomReader<'a> {
    pub(crate) reading: &'a Reading,
    /// What happened after it isn't seen.
    pub(crate) view: &'a View,
    pub(crate) viewer: Viewer<'a>,
    pub(crate) room: &'a RoomId,
}

impl Reading {
    /// A room as a viewer may read it. Nothing is looked up yet, not even whether there is such a room.
    pub fn room<'a>(&'a self, view: &'a View, viewer: Viewer<'a>, room: &'a RoomId) -> RoomReader<'a> {
        RoomReader { reading: self, view, viewer, room }
    }
}

impl<'a> RoomReader<'a> {
    pub(crate) fn rooms(&self) -> &'a Rooms {
        &self.reading.rooms
    }

    /// A state of the room, whether the viewer may see it or not.
    pub(crate) fn state(&self, root: Root) -> StateView<'a> {
        self.reading.rooms.state(self.view, self.room, root)
    }
}
