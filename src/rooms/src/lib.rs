//! Rooms: the one place that writes events.
//!
//! A room is a graph of events and, at each of them, a state. This crate decides what enters the graph (its own
//! users' events in `engine`, other servers' in `remote`) and follows the current state. What readers get of it is the crate above.
//! The files beside those two folders are what both stand on: what is stored of events and rooms, and the ports to other servers.
//!
//! Everything durable goes through batches of the store, each with entries in its log (`log`); everything that reacts
//! to rooms follows that log.

mod busy;
mod config;
mod cpu;
mod directory;
mod engine;
mod error;
mod events;
pub mod json;
mod keys;
mod log;
mod memberships;
pub mod notable;
mod ports;
mod receipts;
pub mod relations;
mod remote;
mod residents;
mod room;
pub mod rows;
mod shown;
mod state;
pub mod tables;
mod timeline;
mod types;
mod typing;

use std::sync::Arc;

use event::{Clock, Random};
use ruma::{RoomVersionId, ServerName, UserId};
use state_tree::StateTree;
use store::Store;

use self::{
    busy::Busy,
    engine::{head::Heads, resolve::Resolutions},
    events::EventStore,
    remote::{inbox, receive},
};
pub use self::{
    config::{Config, EncryptionByDefault},
    cpu::{Cpu, CpuShare},
    directory::Published,
    engine::{
        append::{Extra, Sender, Sent},
        create::{CreateRoom, INITIAL_STATE_MAX, INVITES_MAX, InitialState, Invitee, Preset},
        send::{NewState, SendOptions},
        txn_ids::TXN_KEPT_MS,
        upgrade::UpgradeRoom,
    },
    error::RoomsError,
    keys::OldSigningKey,
    log::{DirectoryChanged, EventRedacted, LoggedEvent, MembershipMoved, ReceiptMoved, RoomAdvanced},
    memberships::{StrippedState, membership_of},
    ports::{
        KeyAnswer, MissingEvents, NeededKeys, NoFederation, PolicySigner, Ports, PublishedKey, Reach, RemoteError,
        RemoteRooms, ServerKeys, StateEvents, StateIds,
    },
    receipts::{MAIN, NewReceipt, ROOM_RECEIPTS_MAX, Receipt, ReceiptType, USER_RECEIPTS_MAX, receipt_events},
    remote::{
        handshake::{JoinTemplate, RoomState},
        inbox::{
            ERRAND_WITHIN, INBOX_ATTEMPTS_MAX, INBOX_BYTES_MAX, INBOX_ORIGIN_BYTES_MAX, INBOX_ORIGIN_EVENTS_MAX,
            INBOX_ROOM_EVENTS_MAX, INBOX_SHARE_BYTES, INBOX_SHARE_EVENTS, InboxProgress, Inboxed,
            QUARANTINE_EVENTS_MAX, QUARANTINE_MS, QUARANTINE_ORIGIN_EVENTS_MAX, QUARANTINE_VISITS_MAX,
            TRANSACTION_EVENTS_MAX,
        },
        invite::ReceivedInvite,
        receive::Received,
        serve::{Asker, SERVED_EVENTS_MAX},
    },
    residents::Residents,
    room::RoomInfo,
    shown::{Envelope, Shown},
    state::StateView,
    tables::TABLES,
    timeline::{Direction, Gap, TIMELINE_PAGE_EVENTS_MAX, TimelinePage, TimelineRange},
    types::{
        EventMeta, EventStatus, Extremity, MEMBER, MemberChange, Membership, MembershipLogRow, MembershipRow,
        REDACTION, RoomHead, Sidelined, StoredEvent, TimelineIndex,
    },
    typing::{TYPING_TIMEOUT_MS_DEFAULT, TYPING_TIMEOUT_MS_MAX, Typing},
};
pub use state_tree::{EventNum, Root};

/// Forward extremities in a room's head: as many as an event may name (room versions, "Event format": `prev_events`), so that each
/// event of this server names them all and leaves one.
pub const EXTREMITIES_MAX: usize = event::PREV_EVENTS_MAX;

/// What the name of the server's identity is in the store.
const IDENTITY: &str = "server_name";

/// Rooms for which other servers are asked for history at one time.
const FILLING_ROOMS_MAX: usize = 50;

/// Name of the counter of event numbers.
const EVENT_COUNTER: &str = "event_num";

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
    pub(crate) residents: Residents,
    pub(crate) typing: typing::Typing,
    pub(crate) filling: Busy,
    pub(crate) upgrading: Busy,
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
        let residents = Residents::new(store.project(|_| Arc::new(residents::Inner::new(store.hold()))).await?);
        residents.fill(&store).await?;
        let inner = Inner {
            tree: StateTree::new(secret, config.node_cache_bytes),
            events: EventStore::new(counter, config.event_cache_bytes),
            heads: Heads::new(),
            resolutions: Resolutions::new(config.resolution_cache_bytes),
            inbox: inbox::Inboxes::load(&store).await?,
            allowances: receive::Allowances::default(),
            residents,
            typing: typing::Typing::new(clock.clone()),
            filling: Busy::new(FILLING_ROOMS_MAX),
            upgrading: Busy::new(usize::MAX),
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

    /// Who is where.
    pub fn residents(&self) -> &Residents {
        &self.inner.residents
    }

    /// Reads who is where anew, if an entry of the log that couldn't be read left it behind. For those who follow the log and have to begin
    /// again.
    pub async fn refill_residents(&self) -> Result<(), RoomsError> {
        self.inner.residents.refill(&self.inner.store).await
    }

    /// Writes down who is where, for the next start, if the log has as many records (or more) since that was last done. To be called now
    /// and then; says whether it did.
    pub async fn checkpoint_residents(&self, records: u64) -> Result<bool, RoomsError> {
        self.inner.residents.checkpoint(&self.inner.store, records).await
    }

    /// The room version of new rooms whose creator names none.
    pub fn default_room_version(&self) -> &RoomVersionId {
        &self.inner.config.default_room_version
    }

    /// Whether a user is one of this server's.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name()
    }
}
