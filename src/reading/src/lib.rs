//! What readers see of rooms: events as clients get them, and everything that is answered from what rooms store.
//!
//! What users are shown is asked of a [`RoomReader`], which knows who reads which room in which view; the rest of [`Reading`].
//! Who may see which event is decided in one place (`visibility`), how it looks in another (`format`); pages of the timeline
//! (`messages`, `context`), relations and threads, unread counts (`unread`), members, summaries, the directory and spaces stand on
//! them. Nothing here writes events: the engine of [`rooms`] writes what has to be looked up into indices, in the batch of the event.

mod aggregations;
mod context;
mod directory;
mod filter;
mod format;
mod members;
mod messages;
mod reader;
mod relations;
mod spaces;
mod state;
mod summary;
mod tables;
mod threads;
mod timestamps;
mod token;
mod unread;
mod visibility;

use std::sync::Arc;

use event::Clock;
use rooms::Rooms;
use store::Store;

pub use self::{
    context::{CONTEXT_LIMIT_MAX, Context},
    directory::{DirectoryToken, Network, PublicRoomsPage, PublicRoomsQuery},
    filter::{RoomEventFilter, null_as_default},
    format::{AGE_SHARED_MS, Aggregations, ClientEvent, ClientFormat, Delivered, EventForm, stripped},
    members::{JoinedMember, MembersQuery},
    messages::{MESSAGES_LIMIT_MAX, MessagesPage, MessagesQuery},
    reader::{RoomReader, Viewer},
    relations::{RELATIONS_LIMIT_MAX, RelationsPage, RelationsQuery},
    spaces::{HierarchyPage, HierarchyQuery, HierarchyRoom, HierarchyToken, ServerHierarchy},
    summary::{MemberSummary, RoomDescription},
    tables::TABLES,
    threads::{ThreadsInclude, ThreadsPage},
    token::{BadToken, TimelineToken},
    unread::{Count, NewEvents, UnreadCounts, may_count},
    visibility::Sight,
};
pub use event::visibility::Visibility;

/// The reading side of all rooms. Cloning is cheap.
#[derive(Clone)]
pub struct Reading {
    rooms: Rooms,
    inner: Arc<Inner>,
}

/// What can't change, tallies that say how far they go, and an index that follows the log.
struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    formats: format::FormatCache,
    heroes: summary::HeroCache,
    tallies: unread::TallyCache,
    directory: directory::DirectoryIndex,
}

impl Reading {
    /// What is read of `rooms`, which are in `store`. What is kept in memory for it takes about `cache_bytes` bytes: events as
    /// clients get them, unread counts, descriptions of rooms.
    pub fn new(rooms: Rooms, store: Store, clock: Arc<dyn Clock>, cache_bytes: u64) -> Self {
        let sixth = cache_bytes / 6;
        let inner = Inner {
            formats: format::FormatCache::new(3 * sixth),
            heroes: summary::HeroCache::new(sixth),
            tallies: unread::TallyCache::new(2 * sixth),
            directory: directory::DirectoryIndex::new(&store),
            store,
            clock,
        };
        Self { rooms, inner: Arc::new(inner) }
    }

    /// The rooms that are read.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }
}
