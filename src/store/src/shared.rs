//! What the committer, readers and followers share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{
    engine::{NoSnapshot, Snapshot},
    follow::Followers,
    log::Tail,
    position::Position,
    projection::Projections,
    view::{Published, ReadLimits, View},
};

/// Published state. The committer alone changes it.
pub(crate) struct Shared {
    pub(crate) published: ArcSwap<Published>,
    /// Follows the published position; its sender is dropped when the committer stops.
    pub(crate) positions: watch::Receiver<Position>,
    pub(crate) tail: Tail,
    pub(crate) projections: Projections,
    pub(crate) followers: Followers,
    /// Writing failed and has not recovered. Its sender is dropped with that of the positions.
    failing: watch::Receiver<bool>,
}

/// What only the committer says.
pub(crate) struct Senders {
    pub(crate) positions: watch::Sender<Position>,
    pub(crate) failing: watch::Sender<bool>,
}

impl Shared {
    /// State at `position`, and what announces how it goes on.
    pub(crate) fn new(
        position: Position,
        snapshot: Arc<dyn Snapshot>,
        tail_bytes_max: usize,
    ) -> (Arc<Shared>, Senders) {
        let (announced, positions) = watch::channel(position);
        let (told, failing) = watch::channel(false);
        let limits = Arc::new(ReadLimits::new());
        let shared = Shared {
            published: ArcSwap::from_pointee(Published { position, snapshot, limits }),
            positions,
            tail: Tail::new(position, tail_bytes_max),
            projections: Projections::default(),
            followers: Followers::default(),
            failing,
        };
        (Arc::new(shared), Senders { positions: announced, failing: told })
    }

    pub(crate) fn view(&self) -> View {
        View::new(self.published.load_full())
    }

    pub(crate) fn publish(&self, position: Position, snapshot: Arc<dyn Snapshot>) {
        let limits = Arc::clone(&self.published.load().limits);
        self.published.store(Arc::new(Published { position, snapshot, limits }));
    }

    /// Takes the snapshot back, so that the engine can be closed: from now on reads fail. The position stays, as nothing new can be read.
    pub(crate) fn withdraw_snapshot(&self) {
        let position = self.published.load().position;
        self.publish(position, Arc::new(NoSnapshot));
    }

    pub(crate) fn is_failing(&self) -> bool {
        *self.failing.borrow()
    }

    /// Waits until a position is published; an error once the committer has stopped.
    pub(crate) async fn reached(&self, position: Position) -> Result<(), watch::error::RecvError> {
        if self.published.load().position >= position {
            return Ok(());
        }
        self.positions.clone().wait_for(|published| *published >= position).await.map(drop)
    }

    /// Waits until writing doesn't fail; an error once the committer has stopped.
    pub(crate) async fn recovered(&self) -> Result<(), watch::error::RecvError> {
        self.failing.clone().wait_for(|failing| !failing).await.map(drop)
    }
}
