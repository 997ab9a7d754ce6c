//! Rooms: the one place that writes events.
//!
//! A room is a graph of events and, at each of them, a state. This crate decides what enters the graph (its own
//! users' events in `append`, other servers' in `receive`), follows the current state
//! (`head`, `advance`, `resolve`), and answers what is in a room for whom (`timeline`, `visibility`, `format` and the
//! features beside them).
//!
//! Everything durable goes through batches of the store, each with entries in its log (`log`); everything that reacts
//! to rooms follows that log.

mod advance;
mod aggregations;
mod aliases;
mod annotations;
mod append;
mod context;
mod cpu;
mod create;
mod directory;
mod error;
mod events;
mod extremities;
mod filter;
mod format;
mod handshake;
mod head;
mod inbox;
mod invite;
mod keys;
mod log;
mod members;
mod membership;
mod memberships;
mod messages;
mod ports;
mod reads;
mod receipts;
mod receive;
mod redact;
mod relations;
mod resolve;
mod room;
mod serve;
mod shown;
mod spaces;
mod state;
mod summary;
mod tables;
mod threads;
mod timeline;
mod timestamps;
mod turn;
mod txn_ids;
mod types;
mod typing;
mod unread;
mod upgrade;
mod visibility;

use std::sync::Arc;

use event::{Clock, DEFAULT_ROOM_VERSION, Random};
use ruma::{OwnedServerName, RoomVersionId, ServerName, UserId};
use state_tree::StateTree;
use store::Store;

pub use self::{
    append::{Extra, Sender, Sent},
    context::{CONTEXT_LIMIT_MAX, Context},
    cpu::{Cpu, CpuShare},
    create::{CreateRoom, EncryptionByDefault, INITIAL_STATE_MAX, INVITES_MAX, InitialState, Invitee, Preset},
    directory::{DirectoryToken, Network, PublicRoomsPage, PublicRoomsQuery},
    error::RoomsError,
    filter::{RoomEventFilter, null_as_default},
    format::{Aggregations, ClientEvent, ClientFormat, Delivered, EventForm, stripped},
    handshake::{JoinTemplate, RoomState},
    inbox::{
        ERRAND_WITHIN, INBOX_ATTEMPTS_MAX, INBOX_BYTES_MAX, INBOX_ORIGIN_BYTES_MAX, INBOX_ORIGIN_EVENTS_MAX,
        INBOX_ROOM_EVENTS_MAX, INBOX_SHARE_BYTES, INBOX_SHARE_EVENTS, InboxProgress, Inboxed, QUARANTINE_EVENTS_MAX,
        QUARANTINE_MS, QUARANTINE_ORIGIN_EVENTS_MAX, QUARANTINE_VISITS_MAX, TRANSACTION_EVENTS_MAX,
    },
    invite::ReceivedInvite,
    keys::OldSigningKey,
    log::{DirectoryChanged, EventRedacted, MembershipMoved, ReceiptMoved, RoomAdvanced},
    members::{JoinedMember, MembersQuery},
    messages::{MESSAGES_LIMIT_MAX, MessagesPage, MessagesQuery},
    ports::{
        KeyAnswer, MissingEvents, NeededKeys, NoFederation, PolicySigner, Ports, PublishedKey, Reach, RemoteError,
        RemoteRooms, ServerKeys, StateEvents, StateIds,
    },
    receipts::{NewReceipt, ROOM_RECEIPTS_MAX, Receipt, ReceiptType, USER_RECEIPTS_MAX, receipt_events},
    receive::Received,
    relations::{RELATIONS_LIMIT_MAX, RelationsPage, RelationsQuery},
    room::RoomInfo,
    serve::{Asker, SERVED_EVENTS_MAX},
    shown::{Envelope, Shown},
    spaces::{HierarchyPage, HierarchyQuery, HierarchyRoom, HierarchyToken, ServerHierarchy},
    state::SendOptions,
    summary::{MemberSummary, RoomDescription},
    tables::TABLES,
    threads::{ThreadsInclude, ThreadsPage},
    timeline::{BadToken, Direction, Gap, TIMELINE_PAGE_EVENTS_MAX, TimelinePage, TimelineRange, TimelineToken},
    txn_ids::TXN_KEPT_MS,
    types::{
        EventMeta, EventStatus, Extremity, MemberChange, Membership, MembershipLogRow, MembershipRow, RoomHead,
        Sidelined, StoredEvent, TimelineIndex,
    },
    typing::{TYPING_TIMEOUT_MS_DEFAULT, TYPING_TIMEOUT_MS_MAX, Typing},
    unread::{Count, NewEvents, UnreadCounts},
    upgrade::UpgradeRoom,
    visibility::{Sight, Viewer},
};
use self::{events::EventStore, head::Heads, resolve::Resolutions};
pub use event::visibility::Visibility;
pub use state_tree::{EventNum, Root};

/// Forward extremities in a room's head: as many as an event may name (room versions, "Event format": `prev_events`), so that each
/// event of this server names them all and leaves one.
pub const EXTREMITIES_MAX: usize = event::PREV_EVENTS_MAX;

/// What the name of the server's identity is in the store.
const IDENTITY: &str = "server_name";

/// Name of the counter of event numbers.
const EVENT_COUNTER: &str = "event_num";

/// What the room engine needs to be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this server: the part after the colon in its users' ids.
    pub server_name: OwnedServerName,
    /// The room version of new rooms for which nobody asks for another.
    pub default_room_version: RoomVersionId,
    /// Which new rooms are encrypted where their creator doesn't say how.
    pub encryption_by_default: EncryptionByDefault,
    /// Whether new rooms are open to users of other servers (`m.federate`) where their creator doesn't say.
    pub federate_by_default: bool,
    /// Memory for events, in bytes.
    pub event_cache_bytes: u64,
    /// Memory for nodes of state trees, in bytes.
    pub node_cache_bytes: u64,
    /// Who may compute for long, resolving states: the bound may be shared with others.
    pub cpu: Cpu,
    /// Memory for what is worked out from both, in bytes: events as clients get them, unread counts, descriptions, resolutions.
    pub derived_cache_bytes: u64,
}

impl Config {
    /// The defaults for a server of this name.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            default_room_version: DEFAULT_ROOM_VERSION,
            encryption_by_default: EncryptionByDefault::Off,
            federate_by_default: true,
            event_cache_bytes: 32 << 20,
            node_cache_bytes: 32 << 20,
            cpu: Cpu::default(),
            derived_cache_bytes: 32 << 20,
        }
    }
}

/// All rooms of this server. Cloning is cheap.
#[derive(Clone)]
pub struct Rooms {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) keys: keys::OwnKeys,
    pub(crate) ports: Ports,
    pub(crate) tree: StateTree,
    pub(crate) events: EventStore,
    pub(crate) heads: Heads,
    pub(crate) resolutions: Resolutions,
    pub(crate) inbox: inbox::Inboxes,
    pub(crate) allowances: receive::Allowances,
    pub(crate) typing: typing::Typing,
    pub(crate) reads: reads::Reads,
    pub(crate) directory: directory::DirectoryIndex,
}

impl Rooms {
    /// Opens the rooms of `store`, making the signing key and the database's secret if there are none yet.
    ///
    /// Fails with [`RoomsError::Open`] if the store belongs to a server of another name.
    pub async fn open(
        config: Config,
        store: Store,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        ports: Ports,
    ) -> Result<Self, RoomsError> {
        store.claim_identity(IDENTITY, config.server_name.as_str()).await?;
        let keys = keys::OwnKeys::load(&store, &*clock, &*random).await?;
        let secret = keys::tree_secret(&store, &*random).await?;
        let counter = store.counter(EVENT_COUNTER).await?;
        let inner = Inner {
            tree: StateTree::new(secret, config.node_cache_bytes),
            events: EventStore::new(counter, config.event_cache_bytes),
            heads: Heads::new(),
            resolutions: Resolutions::new(config.derived_cache_bytes / 20),
            inbox: inbox::Inboxes::load(&store).await?,
            allowances: receive::Allowances::default(),
            typing: typing::Typing::new(clock.clone()),
            reads: reads::Reads::new(config.derived_cache_bytes / 20 * 19),
            directory: directory::DirectoryIndex::new(store.hold()),
            config,
            store,
            clock,
            random,
            keys,
            ports,
        };
        let rooms = Self { inner: Arc::new(inner) };
        rooms.catch_up_all().await?;
        Ok(rooms)
    }

    /// This server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.inner.config.server_name
    }

    /// Whether a user is one of this server's.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name()
    }
}
