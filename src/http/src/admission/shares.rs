//! What each of many holds at a time of something that is bounded: connections, bytes of bodies.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::shards::Shards;

/// An amount that is handed out, with a limit for each key and one for all.
pub(crate) struct Shares {
    held: Shards<u64>,
    total: AtomicU64,
    each_max: u64,
    total_max: u64,
}

impl Shares {
    pub(crate) fn new(each_max: u64, total_max: u64) -> Arc<Self> {
        Arc::new(Self { held: Shards::default(), total: AtomicU64::new(0), each_max, total_max })
    }

    /// Hands out `amount` to a key, if that is within its limit and that of all.
    pub(crate) fn take(self: &Arc<Self>, key: u64, amount: u64) -> Option<Share> {
        let mut share = Share { of: self.clone(), key, amount: 0 };
        share.grow(amount).then_some(share)
    }

    /// What one key may hold.
    pub(crate) fn each_max(&self) -> u64 {
        self.each_max
    }

    /// What all hold.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// What one holder has; given back when dropped.
pub(crate) struct Share {
    of: Arc<Shares>,
    key: u64,
    amount: u64,
}

impl Share {
    /// Takes more. Tells whether it was there; if not, nothing changes.
    pub(crate) fn grow(&mut self, amount: u64) -> bool {
        if amount == 0 {
            return true;
        }
        let total = self.of.total.fetch_add(amount, Ordering::Relaxed).saturating_add(amount);
        let fits = total <= self.of.total_max && {
            let mut shard = self.of.held.of(self.key);
            let held = shard.entry(self.key).or_insert(0);
            let fits = held.saturating_add(amount) <= self.of.each_max;
            if fits {
                *held = held.saturating_add(amount);
            } else if *held == 0 {
                shard.remove(&self.key);
            }
            fits
        };
        if fits {
            self.amount = self.amount.saturating_add(amount);
        } else {
            self.of.total.fetch_sub(amount, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.amount == 0 {
            return;
        }
        let mut shard = self.of.held.of(self.key);
        if let Some(held) = shard.get_mut(&self.key) {
            *held = held.saturating_sub(self.amount);
            if *held == 0 {
                shard.remove(&self.key);
            }
        }
        drop(shard);
        self.of.total.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_more_than_a_share_nor_all_more_than_there_is() {
        let shares = Shares::new(10, 25);
        let mut first = shares.take(1, 6).expect("a share");
        assert!(shares.take(1, 5).is_none());
        assert!(first.grow(4) && !first.grow(1));
        let _second = shares.take(2, 10).expect("a share");
        assert!(shares.take(3, 6).is_none(), "more than there is");
        assert_eq!(shares.total(), 20);
        drop(first);
        assert_eq!(shares.total(), 10);
        assert!(shares.held.of(1).is_empty(), "nothing is kept of who holds nothing");
        assert!(shares.take(1, 10).is_some());
        assert!(shares.take(1, 11).is_none() && shares.held.of(1).is_empty());
    }
}
