//! What is kept in memory of what the log tells, and never lags behind it.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use crate::log::LogRecord;

/// Something in memory to which each log entry is applied before its position is published: what a view shows is in it already.
/// What may lag is a [`Follower`](crate::Follower). See [`Store::project`](crate::Store::project).
///
/// A projection may be ahead of every view for a moment. So whoever fills it from a view checks that no later change was applied
/// meanwhile, and whoever is told of a change and wants to read what it changed waits for [`Store::reached`](crate::Store::reached).
pub trait Projection: Send + Sync + 'static {
    /// Applies the next records. They are on the disk as far as their batches demanded it, each comes once, in order, and none is left
    /// out, also when the store recovers after a failed write.
    ///
    /// The one thread that writes calls this, and everybody who commits waits for it: it must be short, must wait for nothing (locks that
    /// are held for moments aside), read nothing from the store, and not panic.
    fn apply(&self, records: &[LogRecord]);
}

/// The projections of a store.
#[derive(Default)]
pub(crate) struct Projections {
    /// Those that are dropped are taken out when they are next called.
    registered: Mutex<Vec<Weak<dyn Projection>>>,
}

/// Nobody registers as long as this is there.
pub(crate) type Applied<'a> = MutexGuard<'a, Vec<Weak<dyn Projection>>>;

impl Projections {
    /// Adds what `make` makes, while nothing is published.
    pub(crate) fn add(&self, make: impl FnOnce() -> Weak<dyn Projection>) {
        let mut registered = self.lock();
        registered.push(make());
    }

    /// Applies records to all. What this gives is kept until they are published, so that whoever registers gets them either in its first
    /// view or applied.
    pub(crate) fn apply(&self, records: &[LogRecord]) -> Applied<'_> {
        let mut registered = self.lock();
        if !records.is_empty() {
            registered.retain(|projection| match projection.upgrade() {
                Some(projection) => {
                    projection.apply(records);
                    true
                }
                None => false,
            });
        }
        registered
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn Projection>>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
