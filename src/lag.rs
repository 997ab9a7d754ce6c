//! Followers of the log that stay behind.

use store::FollowerStatus;

use crate::wire::LOG_ENTRIES_KEPT;

/// Log entries that a follower may be behind.
const LAG_MAX: u64 = LOG_ENTRIES_KEPT / 10;

/// Who was behind at the last look.
#[derive(Default)]
pub(crate) struct Lag {
    behind: Vec<&'static str>,
}

impl Lag {
    /// Those that were far behind at the last look and still are: who is at one look alone may have had much to do.
    pub(crate) fn staying(&mut self, followers: Vec<FollowerStatus>) -> Vec<FollowerStatus> {
        let mut behind = followers;
        behind.retain(|follower| follower.lag > LAG_MAX);
        let before = std::mem::replace(&mut self.behind, behind.iter().map(|follower| follower.name).collect());
        behind.retain(|follower| before.contains(&follower.name));
        behind
    }
}

#[cfg(test)]
mod tests {
    use store::Position;

    use super::*;

    #[test]
    fn who_is_behind_at_two_looks_stays_behind() {
        let mut lag = Lag::default();
        let mut look = |lags: [u64; 2]| {
            let status = |(name, lag)| FollowerStatus { name, position: Position::ZERO, lag };
            let followers = ["guests", "push"].into_iter().zip(lags).map(status).collect();
            lag.staying(followers).into_iter().map(|follower| follower.name).collect::<Vec<_>>()
        };
        assert!(look([LAG_MAX + 1, LAG_MAX]).is_empty());
        assert_eq!(look([2 * LAG_MAX, LAG_MAX + 1]), ["guests"]);
        assert_eq!(look([0, LAG_MAX + 1]), ["push"]);
        assert!(look([LAG_MAX + 1, LAG_MAX]).is_empty());
    }
}
