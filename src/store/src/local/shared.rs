//! What the committer shares with those who read and commit.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{
    local::{
        disk::{DiskSnapshot, NoSnapshot},
        published::Published,
        tail::Tail,
    },
    position::Position,
    projection::Projections,
};

/// Published state. The committer alone changes it.
pub(crate) struct Shared {
    pub(crate) published: ArcSwap<Published>,
    /// Follows the published position; its sender is dropped when the committer stops.
    pub(crate) positions: watch::Receiver<Position>,
    pub(crate) tail: Tail,
    pub(crate) projections: Projections,
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
        snapshot: Arc<dyn DiskSnapshot>,
        tail_bytes_max: usize,
    ) -> (Arc<Shared>, Senders) {
        let (announced, positions) = watch::channel(position);
        let (told, failing) = watch::channel(false);
        let shared = Shared {
            published: ArcSwap::from_pointee(Published::new(position, snapshot)),
            positions,
            tail: Tail::new(position, tail_bytes_max),
            projections: Projections::default(),
            failing,
        };
        (Arc::new(shared), Senders { positions: announced, failing: told })
    }

    pub(crate) fn publish(&self, position: Position, snapshot: Arc<dyn DiskSnapshot>) {
        let next = self.published.load().followed_by(position, snapshot);
        self.published.store(Arc::new(next));
    }

    /// Takes the snapshot back, so that the disk can be closed: from now on reads fail. The position stays, as nothing new can be read.
    pub(crate) fn withdraw_snapshot(&self) {
        let position = self.published.load().position;
        self.publish(position, Arc::new(NoSnapshot));
    }

    pub(crate) fn is_failing(&self) -> bool {
        *self.failing.borrow()
    }

    /// Waits until writing doesn't fail; an error once the committer has stopped.
    pub(crate) async fn recovered(&self) -> Result<(), watch::error::RecvError> {
        self.failing.clone().wait_for(|failing| !failing).await.map(drop)
    }
}
