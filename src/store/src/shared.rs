//! What the committer, readers and followers share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{
    engine::Snapshot,
    log::Tail,
    position::Position,
    view::{Published, ReadLimits, View},
};

/// Published state. The committer alone changes it.
pub(crate) struct Shared {
    pub(crate) published: ArcSwap<Published>,
    /// Follows the published position; its sender is dropped when the committer stops.
    pub(crate) positions: watch::Receiver<Position>,
    pub(crate) tail: Tail,
    /// Writing failed and has not recovered.
    failing: watch::Sender<bool>,
}

impl Shared {
    /// State at `position`, and the sender that announces later positions.
    pub(crate) fn new(
        position: Position,
        snapshot: Arc<dyn Snapshot>,
        tail_bytes_max: usize,
    ) -> (Arc<Shared>, watch::Sender<Position>) {
        let (sender, positions) = watch::channel(position);
        let limits = Arc::new(ReadLimits::new());
        let shared = Shared {
            published: ArcSwap::from_pointee(Published { position, snapshot, limits }),
            positions,
            tail: Tail::new(position, tail_bytes_max),
            failing: watch::Sender::new(false),
        };
        (Arc::new(shared), sender)
    }

    pub(crate) fn view(&self) -> View {
        View::new(self.published.load_full())
    }

    pub(crate) fn publish(&self, position: Position, snapshot: Arc<dyn Snapshot>) {
        let limits = Arc::clone(&self.published.load().limits);
        self.published.store(Arc::new(Published { position, snapshot, limits }));
    }

    pub(crate) fn is_failing(&self) -> bool {
        *self.failing.borrow()
    }

    pub(crate) fn set_failing(&self, failing: bool) {
        self.failing.send_replace(failing);
    }

    pub(crate) async fn recovered(&self) {
        // An error would mean that the sender is gone, which is here.
        self.failing.subscribe().wait_for(|failing| !failing).await.ok();
    }
}
