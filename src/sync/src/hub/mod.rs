//! The hub: the tails of rooms and the inboxes of users, in memory. Who is where it asks [`Residents`].
//!
//! The notifier writes it as it follows the log; polls read it. Routing a change costs one step for each local user that it
//! concerns and who has an inbox, and never touches the disk. No lock is about all of it.

mod routing;
mod slots;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rooms::Residents;
use ruma::{RoomId, UserId};
use state_tree::Root;
use store::{Held, Position, View};
use tokio::{sync::watch, time::Instant};

pub(crate) use self::routing::Router;
use self::slots::Slots;
use crate::{
    Config,
    inbox::{Inbox, Kind},
    memo::Memo,
    sequence::{Numbers, Sequence},
    tail::{Advance, Tail, TailRange},
};

/// How long a request waits at its start for the notifier to catch up with what was written before.
const CATCH_UP_WAIT_MAX: Duration = Duration::from_secs(5);

/// What the tail of a room takes in memory.
const TAIL_BYTES: usize = 2_000;

/// What polls read from: everything up to the view's position has been routed to the inboxes.
#[derive(Clone)]
pub(crate) struct Published {
    /// All durable reads of a sync go through this view; its position is the sync's `now`.
    pub(crate) view: View,
    /// What was read through the view.
    pub(crate) memo: Arc<Memo>,
    /// Changes up to these are routed; that of the log is the view's position.
    pub(crate) numbers: Numbers,
}

impl Published {
    /// A view of which all is routed, with how far that is which is in no log.
    pub(crate) fn new(view: View, mut numbers: Numbers) -> Self {
        numbers[Sequence::Log] = view.position().get();
        Self { view, memo: Arc::default(), numbers }
    }
}

/// An inbox to be woken once what was put into it can be read.
pub(crate) struct Wakeup {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) urgent: bool,
}

/// One advance of a room, as the notifier reads it from the log.
pub(crate) struct RoomMove {
    /// The room's number.
    pub(crate) room: u32,
    pub(crate) advance: Advance,
    /// The state before.
    pub(crate) old_root: Root,
    /// Whether it is encrypted now, if that changed.
    pub(crate) encrypted: Option<bool>,
}

/// See the module.
pub(crate) struct Hub {
    pub(crate) residents: Residents,
    /// By the numbers that [`Residents`] give.
    rooms: Slots<RoomSlot>,
    /// By the numbers that [`Residents`] give.
    inboxes: Slots<Option<Arc<Inbox>>>,
    tailed: Mutex<Tailed>,
    pub(crate) typing: Mutex<TypingRooms>,
    /// Rooms with more members than [`Config::large_room_members`].
    large: Mutex<HashSet<u32>>,
    large_room_members: usize,
    /// Things put into inboxes.
    routed_count: AtomicU64,
    /// What is routed, or about to be: an inbox that is made lists all that comes after.
    routing: Mutex<Numbers>,
    /// Where the hub was filled from the tables; beyond everything while it is being filled.
    loaded: AtomicU64,
    /// What the slots take in memory, of which none can be given up.
    held: Mutex<Held>,
    pub(crate) published: watch::Sender<Arc<Published>>,
    pub(crate) closing: watch::Sender<bool>,
}

/// The rooms that have a tail, by when they were last found to advance.
struct Tailed {
    rooms: VecDeque<u32>,
    max: usize,
}

#[derive(Default)]
pub(crate) struct TypingRooms {
    /// Rooms in which somebody is typing.
    pub(crate) active: HashSet<u32>,
    /// Large rooms whose typing is to be routed, with the seconds until then.
    pub(crate) late: HashMap<u32, usize>,
}

#[derive(Default)]
struct RoomSlot {
    /// Position of its last advance.
    last: Position,
    receipts: Receipts,
    /// Position of the last change of its state; `None` if nobody has looked and none was routed.
    state_moved: Option<Position>,
    /// Whether it is encrypted, if that is known.
    encrypted: Option<bool>,
    /// Position of the last change of its encryption that was routed.
    encryption_moved: Position,
    tail: Option<Box<Tail>>,
    /// Whether it advanced since it was last looked whether its tail is worth keeping.
    has_advanced: bool,
}

/// What is known of the moves of a room's receipts: none after `quiet_from` and up to `last`, the last one known.
struct Receipts {
    quiet_from: Position,
    last: Position,
}

impl Default for Receipts {
    fn default() -> Self {
        Self { quiet_from: Position::MAX, last: Position::ZERO }
    }
}

impl Hub {
    /// An empty hub, to be filled before the notifier starts.
    pub(crate) fn new(residents: Residents, published: Published, config: &Config, held: Held) -> Self {
        let routing = published.numbers;
        Self {
            residents,
            rooms: Slots::new(),
            inboxes: Slots::new(),
            tailed: Mutex::new(Tailed { rooms: VecDeque::new(), max: config.half_of_cache() / TAIL_BYTES }),
            typing: Mutex::default(),
            large: Mutex::default(),
            large_room_members: config.large_room_members,
            routed_count: AtomicU64::new(0),
            routing: Mutex::new(routing),
            loaded: AtomicU64::new(Position::MAX.get()),
            held: Mutex::new(held),
            published: watch::Sender::new(Arc::new(published)),
            closing: watch::Sender::new(false),
        }
    }

    /// What polls read from now.
    pub(crate) fn published(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }

    /// Waits until everything up to `to` is routed and published, but not for ever if the notifier can't go on.
    pub(crate) async fn wait_for(&self, to: Numbers) {
        let reached = |published: &Arc<Published>| published.numbers.reach(&to);
        if reached(&self.published.borrow()) {
            return;
        }
        // Boxed, because hardly anybody has to wait here.
        let wait = Box::pin(async {
            let mut published = self.published.subscribe();
            tokio::select! {
                () = async { drop(published.wait_for(reached).await) } => {}
                () = self.over(Instant::now() + CATCH_UP_WAIT_MAX) => {}
            }
        });
        wait.await;
    }

    /// Waits until a deadline, or until no poll is to wait any more.
    pub(crate) async fn over(&self, deadline: Instant) {
        let mut closing = self.closing.subscribe();
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {}
            () = async { drop(closing.wait_for(|closing| *closing).await) } => {}
        }
    }

    /// Forgets what the rooms' slots say, but no inboxes. It is to be filled with what the tables say.
    pub(crate) fn clear(&self) {
        self.loaded.store(Position::MAX.get(), Ordering::SeqCst);
        self.tailed.lock().rooms.clear();
        self.rooms.each(|slot| *slot = RoomSlot::default());
    }

    /// Notes the last advance of a room at start.
    pub(crate) fn set_last(&self, room: &RoomId, last: Position) {
        self.rooms.with(self.residents.room(room), |slot| slot.last = last);
    }

    /// Notes that it holds what the tables say at `position`.
    pub(crate) fn filled(&self, position: Position) {
        let large = (0..self.residents.room_count()).filter(|room| self.is_large(*room)).collect();
        *self.large.lock() = large;
        self.loaded.store(position.get(), Ordering::SeqCst);
        self.count_held();
    }

    /// Counts what the slots take, of which none can be given up.
    fn count_held(&self) {
        let inboxes = self.inboxes.count() * size_of::<Option<Arc<Inbox>>>();
        self.held.lock().set(self.rooms.count() * size_of::<RoomSlot>() + inboxes);
    }

    fn loaded(&self) -> Position {
        Position::from_u64(self.loaded.load(Ordering::SeqCst))
    }

    /// Takes their tails from rooms that have not advanced for long, if there are too many with this one.
    fn keep_tail(&self, room: u32) {
        let mut tailed = self.tailed.lock();
        tailed.rooms.push_back(room);
        while tailed.rooms.len() > tailed.max {
            let Some(room) = tailed.rooms.pop_front() else { return };
            // Ends: each room is passed over once at most.
            let advanced = self.rooms.known(room, |slot| {
                let advanced = std::mem::take(&mut slot.has_advanced);
                if !advanced {
                    slot.tail = None;
                }
                advanced
            });
            if advanced == Some(true) {
                tailed.rooms.push_back(room);
            }
        }
    }

    /// The user's number and inbox, which is made if there is none. `wants_presence`: the poll wants it.
    pub(crate) fn inbox(&self, user: &UserId, now_ms: u64, wants_presence: bool) -> (u32, Arc<Inbox>) {
        let number = self.residents.user(user);
        let inbox = self.inboxes.with(number, |slot| {
            // What is about to be routed is noted before inboxes are looked for, so with the slot held this is not too late.
            let inbox = slot.get_or_insert_with(|| Arc::new(Inbox::new(*self.routing.lock(), now_ms)));
            inbox.touch(now_ms);
            if wants_presence {
                inbox.want_presence(now_ms, self.routing.lock()[Sequence::Presence]);
            }
            inbox.clone()
        });
        (number, inbox)
    }

    /// To be called now and then. Removes the inboxes that no poll has used since `before_ms` (Unix ms) and none waits at, and lists presence in those alone
    /// where it was wanted since then.
    pub(crate) fn drop_idle_inboxes(&self, before_ms: u64) {
        self.inboxes.each(|slot| {
            let Some(inbox) = slot else { return };
            // One waits no longer than that.
            inbox.forget_presence(before_ms);
            if inbox.used_ms() < before_ms && Arc::strong_count(inbox) == 1 {
                *slot = None;
            }
        });
        self.count_held();
    }

    /// How many things were put into inboxes so far.
    pub(crate) fn routed_count(&self) -> u64 {
        self.routed_count.load(Ordering::Relaxed)
    }

    /// The inboxes that exist.
    pub(crate) fn inboxes(&self) -> Vec<Arc<Inbox>> {
        let mut inboxes = Vec::new();
        self.inboxes.each(|slot| inboxes.extend(slot.clone()));
        inboxes
    }

    /// Notes that a sequence is about to be routed up to a number.
    pub(crate) fn routing(&self, sequence: Sequence, number: u64) {
        self.routing.lock()[sequence] = number;
    }

    /// Whether a room advanced after `since`.
    pub(crate) fn advanced_since(&self, room: u32, since: Position) -> bool {
        self.rooms.known(room, |slot| slot.last > since).unwrap_or(false)
    }

    /// Where the state of a room changed last, if that is known.
    pub(crate) fn state_moved(&self, room: u32) -> Option<Position> {
        self.rooms.known(room, |slot| slot.state_moved)?
    }

    /// Notes where the state of a room changed last, as a view at `read_at` says.
    pub(crate) fn learn_state_moved(&self, room: u32, moved: Position, read_at: Position) {
        // A view of before the hub was filled doesn't know what happened until then, and nobody routed it.
        if read_at >= self.loaded() {
            self.rooms.known(room, |slot| slot.state_moved = slot.state_moved.max(Some(moved)));
        }
    }

    /// Whether a room is encrypted, if that is known.
    pub(crate) fn is_encrypted_now(&self, room: u32) -> Option<bool> {
        self.rooms.known(room, |slot| slot.encrypted).flatten()
    }

    /// Whether a room is encrypted from `at` on, if that is known.
    pub(crate) fn encrypted_since(&self, room: u32, at: Position) -> Option<bool> {
        let loaded = self.loaded();
        self.rooms.known(room, |slot| slot.encrypted.filter(|_| slot.encryption_moved.max(loaded) <= at))?
    }

    /// Notes whether a room was encrypted at a position, as a view that reaches there says.
    pub(crate) fn learn_encrypted(&self, room: u32, at: Position, encrypted: bool) {
        let loaded = self.loaded();
        self.rooms.known(room, |slot| {
            if slot.encryption_moved.max(loaded) <= at {
                slot.encrypted = Some(encrypted);
            }
        });
    }

    /// The numbers of the user's large rooms in which a receipt may have moved after `since`: it was not routed to all of them.
    pub(crate) fn large_rooms_with_receipts(&self, user: u32, since: Position) -> Vec<u32> {
        let large: Vec<u32> = self.large.lock().iter().copied().collect();
        if large.is_empty() {
            return large;
        }
        let mut theirs = self.residents.joined_among(user, large.into_iter());
        theirs.retain(|room| self.receipts_since(*room, since));
        theirs.sort_unstable();
        theirs
    }

    /// Whether a receipt may have moved in a room after `since`.
    pub(crate) fn receipts_since(&self, room: u32, since: Position) -> bool {
        let may = |slot: &mut RoomSlot| since < slot.receipts.last || since < slot.receipts.quiet_from;
        self.rooms.known(room, may).unwrap_or(false)
    }

    /// Notes that the tables hold no receipt of a room in `(from, until]`.
    pub(crate) fn receipts_quiet(&self, room: u32, from: Position, until: Position) {
        self.rooms.known(room, |slot| {
            if slot.receipts.last <= until {
                slot.receipts.quiet_from = slot.receipts.quiet_from.min(from);
            }
        });
    }

    /// A position since when nothing of these kinds happened for a user in a room, if that is known.
    pub(crate) fn unmoved_since(&self, user: u32, room: u32, kinds: &[Kind]) -> Option<Position> {
        let inbox = self.inboxes.known(user, |slot| slot.clone())??;
        let since = inbox.shelves()[Sequence::Log].unchanged_since(room, kinds);
        Some(Position::from_u64(since))
    }

    /// What a room's tail knows of `(since, until]`.
    pub(crate) fn tail(&self, room: u32, since: Position, until: Position) -> Option<TailRange> {
        self.rooms.known(room, |slot| slot.tail.as_ref()?.range(since, until))?
    }

    /// Whether a room has so many members that what is volatile in it is not told to each at once.
    pub(crate) fn is_large(&self, room: u32) -> bool {
        self.residents.member_count(room) > self.large_room_members
    }
}
