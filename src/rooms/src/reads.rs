//! What the readers keep in memory.

use crate::{format::FormatCache, summary::HeroCache, unread::TallyCache};

/// The caches of the readers: of what can't change, and of tallies that say how far they go.
pub(crate) struct Reads {
    pub(crate) formats: FormatCache,
    pub(crate) heroes: HeroCache,
    pub(crate) tallies: TallyCache,
}

impl Reads {
    pub(crate) fn new() -> Self {
        Self { formats: FormatCache::new(), heroes: HeroCache::new(), tallies: TallyCache::new() }
    }
}
